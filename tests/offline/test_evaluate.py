"""Evaluation, run for real on a tiny random model, and its figures on texts with known errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr import checkpoint
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline.data import Utterance
from offline.evaluate import figures, main
from offline.train import TOKENS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random model and a manifest of five recordings of two domains."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                         conv_depthwise_kernel_size=3, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=1)  # fmt: skip
    checkpoint.save(ConformerCTC(config), Vocabulary(TOKENS), tmp_path / "tiny", dtype=torch.float32)
    lines = []
    for number in range(5):
        seconds = 0.5 + 0.3 * number
        soundfile.write(
            tmp_path / f"{number}.flac",
            np.random.default_rng(number).normal(0, 0.1, int(seconds * 16_000)),
            16_000,
        )
        extras = {"domain": "open" if number % 2 else "everyday", "engine": "none", "voice": f"v{number}"}
        lines.append({"audio_filepath": f"{number}.flac", "duration": seconds, "text": "ONE TWO"} | extras)
    (tmp_path / "five.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_the_file_holds_every_text_and_the_figures_that_follow(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--model",
        f"{folder / 'tiny'}",
        "--manifest",
        f"{folder / 'five.jsonl'}",
        "--batch-seconds",
        "3",
    ]
    assert main([*options, "--output_file", f"{folder / 'new' / 'out.json'}", "--device", "cpu"]) == 0
    assert "everyday" in capsys.readouterr().out
    written = json.loads((folder / "new/out.json").read_text())
    name = str(folder / "tiny")
    result, facts = written["results"][name], written["what"]["models"][name]
    assert result["total"]["utterances"] == 5 and result["total"]["words"] == 10
    assert result["by_domain"]["everyday"]["utterances"] == 3 and set(result["by_voice"]) == {
        f"v{i}" for i in range(5)
    }
    assert result["by_manifest"]["five"] == result["total"]
    assert result["speed"]["rtfx"] > 0 and result["memory"]["peak_process_bytes"] > 1e7
    model = asr.load(folder / "tiny", device="cpu")
    assert facts["folder_hash"] == model.folder_hash and facts["parameters"] == model.parameters
    for entry in written["utterances"]:
        wave, _ = soundfile.read(entry["audio"], dtype="float32")
        assert entry["hypotheses"][name] == model.transcribe([wave])[0].text
    pairs = [(Utterance(Path(), 1.0, e["reference"]), e["hypotheses"][name]) for e in written["utterances"]]
    assert figures(pairs)["cer"] == result["total"]["cer"]


def test_the_workflows_spellings_and_the_streaming_operator(folder: Path) -> None:
    options = [
        "--model_name",
        f"{folder / 'tiny'}",
        "--dataset",
        f"{folder / 'five.jsonl'}",
        "--batch_size",
        "2",
    ]
    output = folder / "chunked.json"
    assert (
        main([*options, "--output_file", str(output), "--chunk-frames", "8", "--left-context-frames", "4"])
        == 0
    )
    written = json.loads(output.read_text())
    assert (written["how"]["chunk_frames"], written["how"]["left_context_frames"]) == (8, 4)
    model = asr.load(folder / "tiny")
    entry = max(written["utterances"], key=lambda e: e["duration_s"])
    wave, _ = soundfile.read(entry["audio"], dtype="float32")
    assert list(entry["hypotheses"].values()) == [
        model.transcribe([wave], chunk_frames=8, left_context_frames=4)[0].text
    ]


def test_figures_count_substitutions_deletions_and_insertions() -> None:
    said = ["ONE TWO THREE FOUR", "FIVE SIX"]
    heard = ["one too three", "FIVE SIX SEVEN"]  # one wrong, one missing; one too many
    result = figures([(Utterance(Path(), 2.0, r), h) for r, h in zip(said, heard, strict=True)])
    assert result["wer"] == 50.0 and result["words"] == 6 and result["audio_s"] == 4.0
    assert result["cer"] == pytest.approx(100 * (1 + 5 + 6) / 26, abs=1e-3)
    assert result["wer_95"] == [50.0, 50.0]


def test_what_cannot_be_used_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--manifest", f"{folder / 'five.jsonl'}", "--output_file", f"{folder / 'out.json'}"]
    assert main(["--model", f"{folder / 'none'}", *rest]) == 2
    assert "none" in capsys.readouterr().err
    (folder / "five.jsonl").write_text('{"audio_filepath": "0.flac", "duration": 0.5, "text": " "}')
    assert main(["--model", f"{folder / 'tiny'}", *rest]) == 2
    assert "no text to compare with" in capsys.readouterr().err
    assert not (folder / "out.json").exists()
    (folder / "five.jsonl").write_text('{"audio_filepath": "0.flac", "duration": 0.5, "text": "A"}')
    (folder / "0.flac").write_bytes(b"nothing")
    assert main(["--model", f"{folder / 'tiny'}", *rest]) == 2
    assert "0.flac: not a sound file" in capsys.readouterr().err
