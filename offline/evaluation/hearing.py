"""Scores of recordings, heard as a profile says. A live stream is run as it is served: by the streaming operator.

C frames a chunk, F frames of left context, R frames of look-ahead.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import asr
from asr.audio import SAMPLE_RATE
from asr.cache import StreamCache
from asr.search import Beam
from offline.data import batches_of
from offline.evaluation.profiles import Profile

Wave = NDArray[np.float32]
NAIVE_BATCH_S = 60.0  # of windows in one batch


def texts(
    model: asr.Transcriber, waves: list[Wave], profile: Profile, decoding: Beam | None = None
) -> list[str]:
    """Returns what the model says to each of the waves, float32 [samples] at 16 kHz; greedy without `decoding`."""
    if profile.chunk_frames is None:
        return [transcript.text for transcript in model.transcribe(waves, decoding=decoding)]
    hear = naive if profile.naive else streamed
    scores = hear(model, waves, profile)
    pairs = zip(scores, waves, strict=True)
    return [model.transcript(clip, len(wave) / SAMPLE_RATE, decoding).text for clip, wave in pairs]


def streamed(model: asr.Transcriber, waves: list[Wave], profile: Profile) -> list[Wave]:
    """Returns the log-probabilities [frames, vocabulary] of each wave as a live stream, all in one cache.

    In float32 they are those of the whole forward with the same chunks (`log_probs(chunk_frames=...)`), whose time and
    memory grow with the square of the length.
    """
    size = _chunk(profile)
    cache = new_cache(model, len(waves), profile, max(model.config.frames(len(wave)) for wave in waves))
    pieces = [model.chunks(wave, chunk_frames=size) for wave in waves]
    found: list[list[Wave]] = [[] for _ in waves]
    for turn in range(max(map(len, pieces))):
        going = [slot for slot, chunks in enumerate(pieces) if turn < len(chunks)]
        scores = model.step(cache, going, [pieces[slot][turn] for slot in going])
        for slot, score in zip(going, scores, strict=True):
            found[slot].append(score)
    return [np.concatenate(scores) for scores in found]


def new_cache(model: asr.Transcriber, slots: int, profile: Profile, frames: int | None = None) -> StreamCache:
    """Returns a cache for streams of at most so many frames: no left context beyond those is allocated and read."""
    size, left, ahead = _chunk(profile), profile.left_context_frames, profile.lookahead_frames
    if frames is not None:
        last = (
            (frames if ahead else frames - 1) // size * size
        )  # without look-ahead an empty last block reads nothing
        left = min(left, max(last - ahead, 0))
    dtype = "int8" if profile.int8 else None
    sizes = {"chunk_frames": size, "left_context_frames": left, "lookahead_frames": ahead}
    return model.new_cache(slots, **sizes, dtype=dtype)


def naive(model: asr.Transcriber, waves: list[Wave], profile: Profile) -> list[Wave]:
    """Returns the log-probabilities [frames, vocabulary] of each wave without any cache: overlap and drop.

    Each chunk runs with at most F frames before it as a clip of its own through the full-context model, normalised by
    itself; only the chunk's frames are kept. It sees nothing behind it, so it waits no longer than a live stream.
    """
    config = model.config
    cuts = [
        _windows(config.frames(len(wave)), _chunk(profile), profile.left_context_frames) for wave in waves
    ]
    clips = [
        wave[begin * config.hop_samples : end * config.hop_samples + config.tail_samples]
        for wave, windows in zip(waves, cuts, strict=True)
        for begin, _, end in windows
    ]
    scores = iter(_in_batches(model, clips))
    return [
        np.concatenate([next(scores)[first - begin :] for begin, first, _ in windows]) for windows in cuts
    ]


def _windows(frames: int, size: int, left: int) -> list[tuple[int, int, int]]:
    """(begin, first frame to keep, end) of each chunk; one that is empty for a clip without a frame."""
    firsts = range(0, max(frames, 1), size)
    return [(max(first - left, 0), first, min(first + size, frames)) for first in firsts]


def _in_batches(model: asr.Transcriber, clips: Sequence[Wave]) -> list[Wave]:
    durations_s = [len(clip) / SAMPLE_RATE for clip in clips]
    order = sorted(range(len(clips)), key=durations_s.__getitem__, reverse=True)
    found: dict[int, Wave] = {}
    for batch in batches_of(order, durations_s, NAIVE_BATCH_S):
        found |= zip(batch, model.log_probs([clips[index] for index in batch]), strict=True)
    return [found[index] for index in range(len(clips))]


def _chunk(profile: Profile) -> int:
    assert profile.chunk_frames is not None, "the whole recording has no chunks"
    return profile.chunk_frames
