"""Short recordings joined to long ones: nothing is lost, nothing is there twice."""

from argparse import Namespace
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from offline.data import Utterance
from offline.evaluation import measure
from offline.evaluation.joined import Joined, join
from tests.conftest import noise


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Ten of 1 s to 1.9 s; the last domain's two are 3 s in all."""
    found = []
    for number in range(10):
        path, seconds = tmp_path / f"u{number}.flac", 1 + number / 10
        soundfile.write(path, noise(round(seconds * 16_000), number), 16_000)
        domain = "b" if number in (0, 9) else "a"
        found.append(Utterance(path, seconds, f"W{number} X", domain, "e", f"v{number % 3}", "s"))
    return found


def test_each_utterance_is_in_one_recording_that_is_long_enough(utterances: list[Utterance]) -> None:
    found = join(utterances, 4.0)
    assert sorted(name for one in found for name in one.ids) == [f"u{number}" for number in range(10)]
    assert [one.duration_s >= 4.0 for one in found] == [one.domain == "a" for one in found]
    assert {one.domain for one in found} == {"a", "b"} and len({one.id for one in found}) == len(found) > 2
    assert all((one.engine, one.speaker) == ("e", "s") for one in found)
    assert [one.ids for one in join(utterances, 4.0)] == [one.ids for one in found]
    spoken = [int(name[1:]) % 3 for one in found if one.domain == "a" for name in one.ids]
    assert len(list(groupby(spoken))) == 3, "a voice says all that it has to say before the next one speaks"
    assert {one.voice for one in found} > {""}, "of several voices it has none"


def test_samples_and_texts_follow_each_other(utterances: list[Utterance]) -> None:
    (first, *_) = join(utterances, 4.0)
    wave = first.wave()
    assert len(wave) == round(first.duration_s * 16_000)
    at = 0
    for name, text in zip(first.ids, first.text.split(" X"), strict=False):
        (part,) = [one for one in utterances if one.audio.stem == name]
        assert part.text == f"{text.strip()} X"
        np.testing.assert_array_equal(wave[at : at + len(part.wave())], part.wave())
        at += len(part.wave())
        assert not wave[at : at + 4_800].any()
        at += 4_800
    assert at == len(wave) + 4_800


def test_a_little_too_little_goes_to_the_last(utterances: list[Utterance]) -> None:
    """Of 8 recordings of at least 1.1 s, two make up 2.4 s: the count is at most four, and none is short."""
    same = [Utterance(one.audio, 1.0, one.text) for one in utterances[:7]]
    found = join(same, 2.0)
    assert [len(one.ids) for one in found] == [2, 2, 3]
    assert [len(one.ids) for one in join(same, 100.0)] == [7]


@dataclass(frozen=True)
class Heard(Utterance):
    """An utterance that is in memory."""

    samples: int = 0

    def own_wave(self) -> np.ndarray:
        return noise(self.samples, self.samples)


def joined_of(*samples: int) -> Joined:
    parts = tuple(Heard(Path("x.flac"), n / 16_000, "X", samples=n) for n in samples)
    return Joined(Path("x.flac"), sum(samples) / 16_000 + 0.3 * (len(samples) - 1), "X", parts=parts)


@pytest.mark.parametrize("samples", [(500,), (501, 77, 1_000), (0, 300), (300, 0, 200), (0, 0, 5)])
def test_a_pause_lies_between_any_two_parts(samples: tuple[int, ...]) -> None:
    pieces = [piece for n in samples for piece in (np.zeros(4_800, np.float32), noise(n, n))][1:]
    wave = joined_of(*samples).wave()
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, np.concatenate(pieces))


def test_a_warm_up_keeps_no_long_recording_in_memory() -> None:
    heard, rows = list[np.ndarray](), list[Any]()

    class Arm:
        name = "m"

        def run(self, waves: list[np.ndarray]) -> measure.Heard:
            heard.extend(waves)
            return measure.Heard(["X"] * len(waves), 1.0, 1.0, [1])

    record: Any = Namespace(keep=lambda batches: 0, append=rows.extend)
    long, arm = joined_of(100_000, 100_000), Arm()
    args = Namespace(join_s=10.0, batch_seconds=60.0, batch_size=1)
    arms: Any = [arm]
    measure.measure(arms, [("c", long)], record, args)
    warm_up, whole = heard
    assert len(whole) == 204_800 and len(rows) == 1
    np.testing.assert_array_equal(warm_up, whole[:160_000])
    assert warm_up.base is None, "no view of the whole"
