"""Speech is drawn the same every time, in pieces; held-out speech is refused."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from offline import calibration_speech
from offline.calibration_speech import CLIP_S
from offline.data import ManifestError, Utterance
from tests.conftest import noise


def write_manifest(folder: Path, name: str, audio: str = "audio", **more: str) -> str:
    (folder / audio).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(3):
        soundfile.write(folder / audio / f"{index}.flac", noise(8_000, index), 16_000)
        rows.append({"audio_filepath": f"{audio}/{index}.flac", "duration": 0.5, "text": "A"} | more)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "audio", "more", "said"),
    [
        ("test-seen-voices.jsonl", "audio", {}, "test-seen-voices"),
        ("my_dev.jsonl", "audio", {}, "my_dev"),
        ("all.jsonl", "audio", {"split": "test-clean"}, "lines of the split 'test-clean'"),
        ("all.jsonl", "audio", {"subset": "validation"}, "validation"),
        ("all.jsonl", "audio/dev", {}, "folder 'dev'"),
    ],
)
def test_held_out_speech_is_refused_unless_forced(
    name: str, audio: str, more: dict, said: str, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, name, audio, **more)
    with pytest.raises(ManifestError, match=f"{said}.*--force_calibration"):
        calibration_speech.read([manifest])
    assert len(calibration_speech.read([manifest], force=True)) == 3


@pytest.mark.parametrize("name", ["train.jsonl", "latest.jsonl", "attested-devices.jsonl"])
def test_training_speech_is_taken(name: str, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, name, split="train")
    assert len(calibration_speech.read([manifest, manifest])) == 6


def test_names_of_splits_are_read_as_well() -> None:
    assert calibration_speech.held_out("test-clean", []) and calibration_speech.held_out(
        "hf:owner/set:clean:validation", []
    )
    assert calibration_speech.held_out("train-clean-100", []) is None
    elsewhere = [Utterance(Path("/data/LibriSpeech/test-clean/1089/134686/a.flac"), 1.0, "A")]
    assert "test-clean" in (calibration_speech.held_out("mine.jsonl", elsewhere) or "")


def test_a_part_of_a_test_split_is_still_held_out(tmp_path: Path) -> None:
    chapter = tmp_path / "test-clean" / "84" / "1"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-1-0.flac", noise(8_000, 0), 16_000)
    (chapter / "84-1.trans.txt").write_text("84-1-0 HELLO\n")
    for folder in (chapter, chapter.parent):
        with pytest.raises(ManifestError, match="folder 'test-clean'"):
            calibration_speech.read([str(folder)])


def test_a_manifest_that_is_not_there_names_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone.jsonl: no such manifest; `make speech`"):
        calibration_speech.read([str(tmp_path / "gone.jsonl")])


def test_so_much_speech_is_drawn_in_pieces_the_same_every_time(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", noise(round(16_000 * (CLIP_S + 5))), 16_000)
    short = calibration_speech.read([write_manifest(tmp_path, "train.jsonl")])
    utterances = [*short, Utterance(tmp_path / "long.flac", CLIP_S + 5, "A")]
    everything = calibration_speech.draw(utterances, 1e3)
    assert sum(map(len, everything)) == 3 * 8_000 + 16_000 * (CLIP_S + 5)
    assert max(map(len, everything)) == 16_000 * CLIP_S
    some = calibration_speech.draw(utterances, 1.2)
    assert sum(map(len, some)) == 16_000 * 1.2
    assert all(torch.equal(a, b) for a, b in zip(some, calibration_speech.draw(utterances, 1.2), strict=True))
