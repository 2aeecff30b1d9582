"""The front end learns the spectrum, and only the front end learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asr import checkpoint
from asr.normalise import normalise
from offline.pretrain import LogMel, main, parser, run
from offline.train import new_model
from tests.offline.test_train import tones  # noqa: F401 - a fixture

OPTIONS = ["--cpu", "--batch_seconds", "2", "--workers", "0", "--augment_strength", "0"]


def command(folder: Path, steps: int) -> list[str]:
    paths = ["--train_manifest", str(folder / "tones.jsonl"), "--model_config", str(folder / "tiny.json")]
    return [*paths, "--output_dir", str(folder / "out"), "--max_steps", str(steps), *OPTIONS]


def test_the_error_falls_and_the_layers_behind_stay_as_they_were(tones: Path) -> None:  # noqa: F811
    args = parser().parse_args(command(tones, 60))
    assert run(args) < 0.6
    report = json.loads((tones / "out" / "report.json").read_text())
    assert report["steps"] == 60 and report["options"]["learning_rate"] == args.learning_rate
    assert list(report["manifests_sha256"]) == [str(tones / "tones.jsonl")] and report["versions"]["torch"]
    torch.manual_seed(args.seed)
    before, after = new_model(args)[0].state_dict(), checkpoint.load(tones / "out")[0].state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"feature_extractor", "feature_projection"}
    assert torch.equal(
        before["feature_projection.projection.weight"], after["feature_projection.projection.weight"]
    )


def test_a_tone_is_loudest_in_its_own_band_and_frames_are_the_front_ends() -> None:
    target = LogMel(400, 320)
    time_s = torch.arange(16_000) / 16_000
    peaks = []
    for hz in (300, 1_000, 3_000):
        wave = normalise(torch.sin(2 * torch.pi * hz * time_s)[None], torch.tensor([16_000]))
        energies = target(wave)
        assert energies.shape == (1, 49, 80)
        peaks.append(int(energies[0, 20].argmax()))
    assert peaks == sorted(set(peaks))
    centres = [float(np.average(np.arange(201) * 40, weights=target.bank[:, peak])) for peak in peaks]
    assert centres == pytest.approx([300, 1_000, 3_000], rel=0.1)


def test_long_recordings_are_left_out(tones: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert main([*command(tones, 3), "--max_duration_s", "0.3"]) == 0
    assert "2 of 4 recordings left out" in capsys.readouterr().out


def test_a_missing_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--train_manifest", str(tmp_path / "none.jsonl"), "--output_dir", str(tmp_path)])
    assert "none.jsonl" in capsys.readouterr().err
