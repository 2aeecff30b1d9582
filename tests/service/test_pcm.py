"""Bytes to samples: however they are cut, the samples are the same."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest
from service.pcm import TYPES, PcmReader

RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 47_999, 48_000)


def sound(samples: int, kind: str, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.1, samples).clip(-1, 0.999)
    return (noise * 32_768).astype("<i2") if kind == "pcm_s16le" else noise.astype("<f4")


def read(data: bytes, cuts: list[int], *how: Any) -> tuple[np.ndarray, PcmReader]:
    """The samples of data that comes in pieces, and the reader behind them."""
    reader = PcmReader(*how)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return np.concatenate([reader.read(data[first:last]) for first, last in pairwise(bounds)]), reader


def test_whole_numbers_become_fractions() -> None:
    data = np.array([-32_768, -1, 0, 1, 16_384, 32_767], "<i2").tobytes()
    samples = PcmReader("pcm_s16le", 16_000).read(data)
    assert samples.dtype == np.float32
    assert samples.tolist() == [-1.0, -1 / 32_768, 0.0, 1 / 32_768, 0.5, 32_767 / 32_768]


def test_floats_stay_as_they_are() -> None:
    data = np.array([-1.5, 0.25, 3.0], "<f4")
    assert PcmReader("pcm_f32le", 16_000).read(data.tobytes()).tolist() == data.tolist()


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(sorted(TYPES)),
    rate=st.sampled_from(RATES),
    samples=st.integers(0, 12_000),
    cuts=st.lists(st.integers(0, 48_000), max_size=12),
)
def test_any_cut_gives_the_same_samples(kind: Any, rate: int, samples: int, cuts: list[int]) -> None:
    data = sound(samples, kind).tobytes()
    whole, reader = read(data, [], kind, rate)
    pieces, other = read(data, cuts, kind, rate)
    assert pieces.tobytes() == whole.tobytes()
    assert other.rest().tobytes() == reader.rest().tobytes()


@settings(deadline=None, max_examples=60)
@given(rate=st.sampled_from(RATES), samples=st.integers(0, 100_000), seed=st.integers(0, 9))
def test_with_the_rest_it_is_what_the_whole_is_resampled_to(rate: int, samples: int, seed: int) -> None:
    wave = sound(samples, "pcm_f32le", seed)
    stream = soxr.ResampleStream(rate, 16_000, 1, dtype="float32")
    expected = wave if rate == 16_000 else stream.resample_chunk(wave, last=True)
    got, reader = read(wave.tobytes(), [samples], "pcm_f32le", rate)
    got = np.concatenate((got, reader.rest()))
    assert len(got) == len(expected)
    assert np.abs(got - expected).max(initial=0.0) < 1e-6


def test_asking_for_the_rest_changes_nothing() -> None:
    data = sound(30_000, "pcm_s16le").tobytes()
    plain, _ = read(data, [20_000], "pcm_s16le", 44_100)
    reader = PcmReader("pcm_s16le", 44_100)
    first = reader.read(data[:20_000])
    assert len(reader.rest()) > 0
    assert np.concatenate((first, reader.read(data[20_000:]))).tobytes() == plain.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_what_is_no_sound_is_refused(value: float) -> None:
    with pytest.raises(BadRequest, match="no numbers"):
        PcmReader("pcm_f32le", 16_000).read(np.array([0.0, value], "<f4").tobytes())
