"""Manifests, the recordings that they name, whole or in part, and batches of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.ctc import Vocabulary
from offline.data import ManifestError, batches_of, load_wave, read_manifest
from offline.train import TOKENS

VOCABULARY = Vocabulary(TOKENS)


def manifest(folder: Path, texts: list[str], duration_s: float = 1.0) -> Path:
    lines = []
    for number, text in enumerate(texts):
        wave = np.random.default_rng(number).normal(0, 0.1, int(duration_s * 16_000))
        soundfile.write(folder / f"{number}.flac", wave, 16_000)
        lines.append(json.dumps({"audio_filepath": f"{number}.flac", "duration": duration_s, "text": text}))
    path = folder / "some.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_reads_paths_relative_to_the_manifest(tmp_path: Path) -> None:
    first, second = read_manifest(manifest(tmp_path, ["ONE", "TWO"]), VOCABULARY)
    assert (first.text, first.duration_s, second.audio) == ("ONE", 1.0, tmp_path / "1.flac")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"audio_filepath": "0.flac", "duration": 1, "text": "A"', "line 2: not JSON"),
        ('{"audio_filepath": "0.flac", "duration": "1", "text": "A"}', "line 2: duration is '1'"),
        ('{"audio_filepath": "0.flac", "duration": -1, "text": "A"}', "line 2: duration is -1"),
        ('{"audio_filepath": "0.flac", "duration": 1}', "line 2: text is None"),
        ('{"audio_filepath": "no.flac", "duration": 1, "text": "A"}', "line 2: no such file.*no.flac"),
        ('{"audio_filepath": "0.flac", "duration": 1, "text": "A1"}', "line 2: .*'1'"),
        ("[1]", "line 2: not a JSON object"),
        ('{"audio_filepath": "0.flac", "duration": 1, "text": "A", "offset": "1"}', "line 2: offset is '1'"),
        ('{"audio_filepath": "0.flac", "duration": 1, "text": "A", "offset": -1}', "line 2: offset is -1"),
        ('{"audio_filepath": "0.flac", "duration": NaN, "text": "A"}', "line 2: duration is nan"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = manifest(tmp_path, ["ONE"])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ManifestError, match=reason):
        read_manifest(path, VOCABULARY)


def test_a_manifest_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["ONE"])
    path.write_bytes(path.read_bytes() + "é".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"jsonl: not UTF-8 \(.* at byte \d+\)"):
        read_manifest(path)


def test_nobody_is_no_speaker(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["ONE"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"speaker": None, "voice": 7}))
    (one,) = read_manifest(path)
    assert (one.speaker, one.voice) == ("", "7")


def test_an_offset_makes_a_recording_a_part_of_its_file(tmp_path: Path) -> None:
    """As NeMo has it: of a long file the `duration` seconds that begin at `offset`, 0 included; null is none."""
    path = manifest(tmp_path, ["ONE"], duration_s=2.0)
    line = json.loads(path.read_text())
    parts = [line | {"offset": at, "duration": 0.5} for at in (0, 0.25, 1.5, None)]
    path.write_text("\n".join(map(json.dumps, parts)))
    whole = load_wave(tmp_path / "0.flac")
    first, second, last, none = read_manifest(path, VOCABULARY)
    assert np.array_equal(first.wave(), whole[:8_000]) and first.duration_s == 0.5
    assert np.array_equal(second.wave(), whole[4_000:12_000])
    assert np.array_equal(last.wave(), whole[24_000:])
    assert np.array_equal(none.wave(), whole)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ManifestError, match="no recordings"):
        read_manifest(tmp_path / "none.jsonl")


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:9_000])
    soundfile.write(tmp_path / "nan.wav", np.full(1_600, np.nan, np.float32), 16_000, subtype="FLOAT")
    for name, reason in (("cut.flac", "damaged"), ("nan.wav", "not numbers"), ("no.flac", "No such file")):
        with pytest.raises(ManifestError, match=f"{reason}.*{name}|{name}.*{reason}"):
            load_wave(tmp_path / name)


def test_batches_end_at_either_limit() -> None:
    assert batches_of(range(5), [1.0] * 5, batch_size=2) == [[0, 1], [2, 3], [4]]
    assert batches_of(range(5), [1.0, 1.0, 2.0, 9.0, 1.0], 4.0, 8) == [[0, 1], [2], [3], [4]]
    assert batches_of([4, 0, 1, 2], [1.0, 1.0, 1.0, 1.0, 1.4], 3.0) == [[4, 0], [1, 2]]  # of 1.5 s padded
    assert batches_of([], []) == []
