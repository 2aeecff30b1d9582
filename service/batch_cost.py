"""What a batch costs on the device: so much however small it is, and so much for every padded frame.

Knows no model, no torch and no web framework. It is learnt from the batches that ran, since it differs a thousandfold
between a small model on a CPU, where clips hardly gain from company, and a large one on a GPU.
"""

from __future__ import annotations

import math

FADE = 0.98  # of what a batch told, with each batch after it
FIRST = 3  # batches that do not count: with them a device loads what it runs
LEAST = 8  # batches before anything is said
LEAST_SPREAD = (
    1e-3  # variance of their frames, in squares of the mean, under which a line through them is chance
)


class BatchCost:
    """Least squares of device time over padded frames; older batches count less."""

    def __init__(self) -> None:
        self._batches = 0
        self._weight = self._frames = self._time = self._frames_squared = self._both = 0.0

    def learn(self, padded_frames: int, device_s: float) -> None:
        """Take in a batch that ran."""
        self._batches += 1
        if self._batches <= FIRST:
            return
        self._weight = FADE * self._weight + 1
        self._frames = FADE * self._frames + padded_frames
        self._time = FADE * self._time + device_s
        self._frames_squared = FADE * self._frames_squared + padded_frames**2
        self._both = FADE * self._both + padded_frames * device_s

    @property
    def overhead_frames(self) -> float:
        """How many frames take as long as a batch does before its first one; infinite while that is not known."""
        spread = self._weight * self._frames_squared - self._frames**2
        if self._batches < LEAST or spread <= LEAST_SPREAD * self._frames**2:
            return math.inf
        per_frame = (self._weight * self._both - self._frames * self._time) / spread
        if per_frame <= 0:
            return math.inf
        return max(0.0, (self._time / per_frame - self._frames) / self._weight)
