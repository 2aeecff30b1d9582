"""A long clip as overlapping windows, so that memory stays bounded and other work finds its turn between them.

Attention is quadratic in a clip's length, and what a window says near a cut, where it lacks context, is left to its
neighbour. The clip is normalised as a whole: window by window, a pause would be as loud as speech.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr.config import ModelConfig
from asr.normalise import moments

LONG_FRAMES = 3_000
# As long as what models are trained on: longer windows hear no better and take more time (EXPERIMENTS.md).
WINDOW_FRAMES = 1_000
MARGIN_FRAMES = 150


@dataclass(frozen=True)
class Window:
    """`samples` [N] float32, normalised with their clip; of the frames they give, `kept` are the window's own."""

    samples: np.ndarray
    kept: slice


def is_long(config: ModelConfig, samples: int) -> bool:
    """Whether a clip of so many samples is heard in windows."""
    return config.frames(samples) > LONG_FRAMES


def windows_of(config: ModelConfig, wave: np.ndarray) -> Iterator[Window]:
    """Yields the windows of a clip [N]; the frames that they keep, joined, are the clip's."""
    frames, step = config.frames(len(wave)), WINDOW_FRAMES - 2 * MARGIN_FRAMES
    mean, deviation = moments(wave)
    for first in range(0, frames, step):
        last = min(first + step, frames)
        end = min(last + MARGIN_FRAMES, frames)
        begin = max(min(first - MARGIN_FRAMES, end - WINDOW_FRAMES), 0)  # the last window is a whole one, too
        samples = wave[begin * config.hop_samples : end * config.hop_samples + config.tail_samples]
        normed = ((samples - np.float64(mean)) / deviation).astype(np.float32)
        yield Window(normed, slice(first - begin, last - begin))
