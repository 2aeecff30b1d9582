"""Live streams in the middle of their talk: every ring full, every stream at another place in it, ready to step.

A step of a stream that has been heard for minutes is what a server does nearly always. No such minutes are played here:
the rings, the convolution's frames and the tails are filled with seeded noise of the size that real ones have, and the
counts of heard frames are set to differ by a chunk from stream to stream. A step's arithmetic and bytes do not depend
on what the frames hold.

S streams, C frames a chunk, F frames of left context, R frames of look-ahead.
"""

import re
import time
from argparse import ArgumentTypeError
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.cache import INT8_LIMIT, Ring, StreamCache
from asr.transcriber import Transcriber
from offline.evaluation.profiles import NAMED
from offline.evaluation.stopwatch import forward_stopwatch
from offline.speed.arms import Wave
from offline.speed.rounds import Row

FRAME_MS = 20
RMS = 0.05


class Profile(NamedTuple):
    """Milliseconds of audio that a step takes of each stream, seconds before them that it still sees, and milliseconds
    for which what was heard waits to be said.
    """

    chunk_ms: int
    left_context_s: float
    lookahead_ms: int = 0

    @property
    def chunk_frames(self) -> int:
        return self.chunk_ms // FRAME_MS

    @property
    def left_context_frames(self) -> int:
        return round(self.left_context_s * 1000 / FRAME_MS)

    @property
    def lookahead_frames(self) -> int:
        return self.lookahead_ms // FRAME_MS

    def __str__(self) -> str:
        ahead = f"+{self.lookahead_ms}" if self.lookahead_ms else ""
        return f"{self.chunk_ms}{ahead}x{self.left_context_s:g}"


def profile(text: str) -> Profile:
    """Parses "640x10", chunks of 640 ms after 10 s of left context, "480+160x10", 160 ms of look-ahead beside chunks of
    480, or one of the service's names.

    >>> profile("320x2.5").left_context_frames
    125
    """
    named = re.fullmatch(r"(\d+)(?:\+(\d+))?x(\d+(?:\.\d+)?)", NAMED.get(text, text), re.ASCII)
    found = Profile(int(named[1]), float(named[3]), int(named[2] or 0)) if named else Profile(0, 0.0)
    frames = found.left_context_s * 1000 / FRAME_MS
    fits = found.chunk_ms > 0 and found.chunk_ms % FRAME_MS == found.lookahead_ms % FRAME_MS == 0
    if not (fits and frames == round(frames)):
        raise ArgumentTypeError(
            f"{text!r} is no profile; give milliseconds x seconds, both in whole frames of 20 ms: 640x10, or "
            f"480+160x10 with 160 ms of look-ahead; or {', '.join(NAMED)}"
        )
    return found


def sizes_of(row: Row) -> Profile:
    """The profile that a row of figures is of."""
    return Profile(row["chunk_ms"], row["left_context_s"], row.get("lookahead_ms", 0))


def tables(model: Transcriber, sizes: Profile) -> list[Tensor]:
    """The position tables of a profile, which do not depend on how K and V are made: all arms of a model share them."""
    return model.new_cache(
        1,
        chunk_frames=sizes.chunk_frames,
        left_context_frames=sizes.left_context_frames,
        lookahead_frames=sizes.lookahead_frames,
    ).tables


def new_cache(
    model: Transcriber, sizes: Profile, streams: int, int8: bool, shared: list[Tensor]
) -> StreamCache:
    """What `model.new_cache` gives, with the tables that are there already."""
    like = model.model.lm_head.weight
    frames = sizes.chunk_frames, sizes.left_context_frames, sizes.lookahead_frames
    return StreamCache(model.config, streams, *frames, shared, int8, like)


@torch.no_grad()
def fill(cache: StreamCache) -> None:
    """Makes every slot one of a stream that has been heard for longer than its context, each by a chunk more."""
    generator = torch.Generator().manual_seed(0)
    for ring in cache.rings:
        _fill_ring(ring, generator)
    for tensor in (cache.convolution, cache.waiting, cache.pcm_tail):
        _repeat(tensor, torch.randn(tensor.shape[-1], generator=generator))
    full = cache.left_context_frames + cache.lookahead_frames
    chunks = -(-full // cache.chunk_frames) + 1 + np.arange(cache.slots)
    cache.frames[:] = chunks * cache.chunk_frames
    heard = torch.from_numpy(chunks * float(cache.chunk_samples))
    cache.sums.copy_(torch.stack((heard * 0, heard * RMS**2), -1))


def _fill_ring(ring: Ring, generator: torch.Generator) -> None:
    """One stream's noise, in all slots: seconds are saved that tell nothing."""
    frames = torch.randn(ring.values.shape[1:], generator=generator)
    if ring.scales is None:
        _repeat(ring.values, frames)
        return
    whole = (frames * INT8_LIMIT / 4).round().clamp(-INT8_LIMIT, INT8_LIMIT)
    _repeat(ring.values, whole)
    ring.scales.fill_(4 / INT8_LIMIT)


def _repeat(tensor: Tensor, values: Tensor) -> None:
    """Fills a tensor with values that its last dimensions hold; on its device, so that they travel once."""
    tensor.copy_(values.to(tensor.device).expand(tensor.shape))


class Step(NamedTuple):
    """A chunk of every stream: samples in memory to log-probs in memory, and the network's part of that."""

    whole_s: float
    network_s: float


class Placed:
    """S streams of one model, which step together, at most `batch` of them at a time."""

    def __init__(self, model: Transcriber, cache: StreamCache, sound: Wave, batch: int) -> None:
        self.model, self.cache = model, cache
        order = np.random.default_rng(0).permutation(cache.slots).tolist()
        self._batches = [order[first : first + batch] for first in range(0, cache.slots, batch)]
        size = cache.chunk_samples
        starts = [slot * 977 % (len(sound) - size) for slot in range(cache.slots)]
        self._chunks = [sound[start : start + size] for start in starts]

    def step(self) -> Step:
        """Takes the next chunk of every stream; the sound is the same again, which nothing depends on."""
        with forward_stopwatch(self.model) as laps:
            started = time.perf_counter()
            for slots in self._batches:
                self.model.step(self.cache, slots, [self._chunks[slot] for slot in slots])
            return Step(time.perf_counter() - started, sum(laps))


def sound_for(sizes: Profile) -> Wave:
    """Seeded noise to cut chunks from, somewhat longer than one."""
    samples = sizes.chunk_ms * SAMPLE_RATE // 1000 + 5 * SAMPLE_RATE
    return np.random.default_rng(0).normal(0, RMS, samples).astype(np.float32)
