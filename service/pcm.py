"""A stream's bytes to samples at 16 kHz, however they are cut into messages.

A sample whose bytes lie in two messages waits for its other half. The resampler's output does not depend on the cuts
either: bit for bit it is that of one call over everything.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import soxr

from asr.audio import MAX_PEAK, SAMPLE_RATE
from service.errors import BadRequest

Encoding = Literal["pcm_s16le", "pcm_f32le"]
TYPES: dict[str, np.dtype[Any]] = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}
LOWEST_RATE, HIGHEST_RATE = 8_000, 48_000
# What the resampler holds back is less than this much of its input.
MEMORY_S = 0.25


class PcmReader:
    """Reads one stream: mono samples of this encoding, at this rate in Hz."""

    def __init__(self, encoding: Encoding, sample_rate: int) -> None:
        self._type = TYPES[encoding]
        self._half = b""
        self._resampler = _Resampler(sample_rate) if sample_rate != SAMPLE_RATE else None

    def read(self, data: bytes) -> np.ndarray:
        """The next bytes to float32 [samples], of which some may be kept back until more comes.

        Raises:
            BadRequest: a sample that is no number, or out of all proportion.
        """
        data = self._half + data
        whole = len(data) - len(data) % self._type.itemsize
        self._half = data[whole:]
        samples = _floats(np.frombuffer(data[:whole], self._type))
        return self._resampler.feed(samples) if self._resampler else samples

    def rest(self) -> np.ndarray:
        """The samples that are kept back, as they would be if the stream ended here. It may go on."""
        return self._resampler.rest() if self._resampler else np.zeros(0, np.float32)


def _floats(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 32_768
    # Not `peak > limit`: that is false of NaN.
    if not np.abs(samples).max(initial=0.0) <= MAX_PEAK:
        raise BadRequest("the audio holds samples that are no numbers, or far too large", code="bad_audio")
    return samples.astype(np.float32)


class _Resampler:
    """Any rate to 16 kHz, piece by piece."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = _stream(rate)
        self._given = 0  # samples given out
        # The end of the input, from a sample on that coincides with one of the output, so that `rest` can start there.
        self._recent = np.zeros(0, np.float32)
        self._recent_start = 0
        self._stride = rate // math.gcd(rate, SAMPLE_RATE)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        out: np.ndarray = self._stream.resample_chunk(samples)
        self._given += len(out)
        self._recent = np.concatenate((self._recent, samples))
        surplus = max(0, len(self._recent) - math.ceil(MEMORY_S * self._rate)) // self._stride * self._stride
        self._recent, self._recent_start = self._recent[surplus:], self._recent_start + surplus
        return out

    def rest(self) -> np.ndarray:
        """A second resampler runs over the end of the input: one that has ended cannot go on."""
        out: np.ndarray = _stream(self._rate).resample_chunk(self._recent, last=True)
        return out[self._given - self._recent_start * SAMPLE_RATE // self._rate :]


def _stream(rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
