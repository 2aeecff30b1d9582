"""Recordings and their texts: read, joined, mixed, and words counted."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtests import clips
from loadtests.clips import Clip, ClipsError
from tests.loadtests.conftest import TEXTS


def test_the_tests_recordings_can_be_sent() -> None:
    sounds = clips.read(clips.SPEECH)
    assert len(sounds) == 60 and all(clip.text for clip in sounds)
    samples, rate = sounds[0].decoded
    assert len(samples) / rate == pytest.approx(sounds[0].audio_s, abs=1e-3)


def test_joined_clips_keep_their_words_and_have_silence_after_each(manifest: Path) -> None:
    one, two, _ = clips.read(manifest)
    both = clips.join([one, two], gap_s=0.5)
    assert both.text == f"{TEXTS[0]} {TEXTS[1]}" and both.name == "0.flac+1.flac"
    samples, rate = both.decoded
    first = len(one.decoded[0])
    assert both.audio_s == len(samples) / rate == pytest.approx(one.audio_s + two.audio_s + 1.0)
    assert samples[:first] == pytest.approx(one.decoded[0], abs=1e-4)
    assert not samples[first : first + 8000].any()


def test_joining_ends_before_or_after_a_length(manifest: Path) -> None:
    sounds, generator = clips.read(manifest), random.Random(0)
    longest_s = max(clip.audio_s for clip in sounds)
    for _ in range(20):
        assert clips.joined(sounds, 5.0, generator).audio_s <= 5.0
        assert 5.0 <= clips.joined(sounds, 5.0, generator, over=True).audio_s <= 5.0 + longest_s + clips.GAP_S
    assert clips.joined(sounds, 0.1, generator).text in TEXTS


def test_a_mix_hangs_on_its_seed_alone_and_has_short_and_longer_clips() -> None:
    sounds = clips.read(clips.SPEECH)
    mix = clips.mixed(sounds, 60, seed=3)
    assert mix == clips.mixed(sounds, 60, seed=3) != clips.mixed(sounds, 60, seed=4)
    alone = sum("+" not in clip.name for clip in mix)
    assert 24 <= alone <= 50 and max(clip.audio_s for clip in mix) <= 15.0


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("Hello, world!", 0),
        ("hello word", 1),
        ("hello", 1),
        ("oh hello world", 1),
        ("", 2),
    ],
)
def test_words_are_counted_without_case_and_punctuation(text: str, errors: int) -> None:
    assert clips.word_errors("HELLO WORLD", text) == (errors, 2)


def test_where_nothing_is_said_every_word_is_wrong() -> None:
    assert clips.word_errors("...", "a b") == (2, 0)
    assert clips.words("Don't STOP, now_then.") == ["don't", "stop", "now", "then"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no clips"),
        ("{", "line 1: JSONDecodeError"),
        ('{"audio_filepath": "x.wav", "duration": 1}', "line 1: KeyError: 'text'"),
        ('{"audio_filepath": "none.wav", "duration": 1, "text": "A"}', "none.wav"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "m.jsonl").write_text(lines)
    with pytest.raises(ClipsError, match=said):
        clips.read(tmp_path / "m.jsonl")


def test_a_folder_or_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClipsError, match="no clips"):
        clips.read(tmp_path)
    with pytest.raises(ClipsError, match="No such file"):
        clips.read(tmp_path / "none.jsonl")


def test_clips_of_two_rates_are_not_joined(tmp_path: Path) -> None:
    made = []
    for rate in (8_000, 16_000):
        soundfile.write(tmp_path / "a.wav", np.zeros(rate), rate)
        made.append(Clip(json.dumps(rate), 1.0, "A", (tmp_path / "a.wav").read_bytes()))
    with pytest.raises(ClipsError, match="8000, 16000"):
        clips.join(made)
