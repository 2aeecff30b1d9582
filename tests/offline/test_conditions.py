"""Worse copies of test recordings: each is what it says, and the same again."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from offline.conditions import CONDITIONS, main, under

SOURCE = Path("tests/speech/test-seen-voices.jsonl")
RNG = np.random.default_rng(3)
TONES = sum(np.sin(2 * np.pi * hz * np.arange(SAMPLE_RATE) / SAMPLE_RATE) for hz in (100, 1000, 6000))
WAVE = np.asarray(0.2 * TONES, np.float32)


def energy(wave: np.ndarray, hz: int) -> float:
    return float(np.abs(np.fft.rfft(wave))[hz] ** 2)


def test_a_telephone_passes_its_band_only() -> None:
    heard = under("telephone", WAVE, "a", 1)
    assert energy(heard, 1000) > 0.25 * energy(WAVE, 1000)
    for hz in (100, 6000):
        assert energy(heard, hz) < 0.01 * energy(heard, 1000)


def test_noise_lies_10_db_below_the_speech() -> None:
    heard = under("noise", WAVE, "a", 1)
    scale = energy(heard, 1000) ** 0.5 / energy(WAVE, 1000) ** 0.5
    noise = heard / scale - WAVE
    assert 10 * np.log10(np.mean(WAVE**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.5)


def test_a_room_rings_on_after_the_sound() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[100] = 0.9
    heard = under("room", click, "a", 1)
    assert np.abs(heard[101:1500]).max() > 0.001 and np.abs(heard[:100]).max() < 1e-6


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_recording_is_heard_the_same_again(condition: str) -> None:
    first = under(condition, WAVE, "a", 1)
    np.testing.assert_array_equal(first, under(condition, WAVE, "a", 1))
    assert first.shape == WAVE.shape and np.abs(first).max() <= 0.95 + 1e-6
    if condition in ("noise", "room"):
        assert not np.array_equal(first, under(condition, WAVE, "b", 1))


def test_the_command_writes_every_recording_under_every_condition(tmp_path: Path) -> None:
    assert main(["--manifest", str(SOURCE), "--max_samples", "2", "--output_dir", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert [row["domain"] for row in rows] == 2 * [
        f"speech-{SOURCE.stem}, {condition}" for condition in CONDITIONS
    ]
    for row in rows:
        assert soundfile.info(tmp_path / row["audio_filepath"]).duration == pytest.approx(
            row["duration"], abs=1e-3
        )
    assert len({row["audio_filepath"] for row in rows}) == len(rows)


def test_recordings_of_one_name_and_parts_of_one_file_have_files_of_their_own(tmp_path: Path) -> None:
    for folder, scale in (("a", 0.25), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "x.flac", scale * WAVE, SAMPLE_RATE)
    lines = [
        {"audio_filepath": "a/x.flac", "duration": 1.0, "text": "ONE"},
        {"audio_filepath": "b/x.flac", "duration": 1.0, "text": "TWO", "speaker": "84"},
        {"audio_filepath": "a/x.flac", "duration": 0.5, "text": "THREE", "offset": 0.5},
    ]
    source, output = tmp_path / "sets.jsonl", tmp_path / "out"
    source.write_text("\n".join(map(json.dumps, lines)))
    assert main(["--manifest", str(source), "--output_dir", str(output)]) == 0
    rows = [json.loads(line) for line in (output / "test.jsonl").read_text().splitlines()]
    assert len({row["audio_filepath"] for row in rows}) == len(rows) == 3 * len(CONDITIONS)
    assert {row.get("speaker") for row in rows if row["text"] == "TWO"} == {"84"}
    plain = {row["text"]: output / row["audio_filepath"] for row in rows if "as it is" in row["domain"]}
    for text, wave in {"ONE": WAVE / 4, "TWO": WAVE / 2, "THREE": WAVE[8_000:] / 4}.items():
        np.testing.assert_allclose(soundfile.read(plain[text])[0], wave, atol=1e-4)


def test_two_sets_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--manifest", f"{SOURCE},{SOURCE}", "--output_dir", str(tmp_path)]) == 2
    assert "the same name" in capsys.readouterr().err
