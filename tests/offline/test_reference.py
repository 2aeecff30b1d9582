"""The reference workflow on a small model in the hub's cache layout, offline: every step, resumed, and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

import asr
from offline.reference import main, missing, parser, serving
from tests.conftest import in_the_hubs_cache, noise

NAME, REVISION = "someone/some-model", "refs/pr/3"


@pytest.fixture
def hub(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the tiny model under a revision, and no network."""
    from huggingface_hub import constants

    in_the_hubs_cache(tiny_folder("mha"), tmp_path / "hub", REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for split in ("test-clean", "train-clean-100"):
        folder = tmp_path / "LibriSpeech" / split / "84" / "1"
        folder.mkdir(parents=True)
        for number in range(3):
            soundfile.write(folder / f"84-1-{number}.flac", noise(16_000, seed=number), 16_000)
        lines = [f"84-1-{number} HELLO THERE" for number in range(3)]
        (folder / "84-1.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def options(folder: Path, *more: str) -> list[str]:
    words = f"--model_name {NAME} --revision {REVISION} --data_dir {folder} --output_dir {folder}/out --dtype float32"
    return [*words.split(), *more]


def test_every_step_and_then_nothing_again(
    hub: Path, librispeech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(hub, "--calibration", "train-clean-360")) == 2
    assert "train-clean-360" in capsys.readouterr().err and not (hub / "out").exists()
    calibration = "train-clean-100"
    assert main(options(hub, "--calibration", calibration)) == 0
    results = json.loads((hub / "out" / "results.json").read_text())["results"]
    assert len(results) == 3
    texts = [
        list(json.loads(line)["models"].values())
        for line in (hub / "out" / "results.jsonl").read_text().splitlines()
    ]
    assert all(mha["text"] == lossless["text"] for mha, lossless, _ in texts)
    assert (hub / "out" / "report" / "report.md").is_file()
    attention = asr.load(hub / "out" / "mla-75", device="cpu").config.attention
    command = json.loads((hub / "out" / "mla-75" / "report.json").read_text())["command"]
    assert command.startswith(f"python -m offline.convert --model_name {NAME}@{REVISION} ")
    assert (attention.method, attention.source) == ("attention", "some-model")  # not the revision's last part
    written = {path: path.stat().st_mtime_ns for path in (hub / "out").glob("*/model.safetensors")}
    assert main(options(hub, "--calibration", calibration)) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    (hub / "out" / "lossless" / "report.json").unlink()  # killed before it was written
    assert main(options(hub, "--calibration", calibration)) == 0
    assert main(options(hub)) == 2  # the same folder, another conversion
    assert "calibration_manifest ['train-clean-100'], not None" in capsys.readouterr().err
    assert main(options(hub, "--calibration", calibration)) == 0
    served = f"mha={NAME}@{REVISION},lossless={hub}/out/lossless,mla-75={hub}/out/mla-75"
    assert f"make serve MODELS={served}" in capsys.readouterr().out
    assert serving(parser().parse_args(options(hub))) == ["-m", "service", "--models", served]


def test_nothing_is_fetched_unasked(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is here, the split is not: without --yes, and nobody at the terminal, that is the end."""
    args = parser().parse_args(options(hub))
    assert missing(args) == ["LibriSpeech test-clean: 346 MB"]
    assert main(options(hub)) == 2
    said = capsys.readouterr()
    assert "To fetch: LibriSpeech test-clean" in said.out and "--yes" in said.err
    assert not (hub / "out").exists()


def test_a_data_set_of_the_hub_is_announced_and_a_dtype_checked_first(
    hub: Path, librispeech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (announced,) = missing(parser().parse_args(options(hub, "--dataset", "hf:owner/set:test")))
    assert announced.startswith("hf:owner/set:test: ")
    assert missing(parser().parse_args(options(hub, "--dataset", f"hf:{librispeech}:test"))) == []
    with pytest.raises(SystemExit):
        main(options(hub, "--dtype", "int8"))
    assert "'int8'" in capsys.readouterr().err and not (hub / "out").exists()


def test_a_model_that_is_nowhere_is_named(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(hub), "--model_name", "someone/else"]) == 2
    assert "someone/else is not in the hub's cache" in capsys.readouterr().err
