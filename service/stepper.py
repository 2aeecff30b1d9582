"""One step of live streams on the device: each of them gets its scores, or the error.

A step that fails is not tried again. It may have written into some layers' caches, so what its streams would say from
there on is unknown: all of them get the error, and may begin anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.errors import ApiError
from service.metrics import Metrics
from service.scheduler import Piece, Step
from service.slots import Slots

log = logging.getLogger(__name__)


class StreamModel(Protocol):
    """What steps need of a model: `asr.Transcriber`, or a test's stand-in."""

    def step(
        self, cache: Any, slots: Sequence[int], chunks: Sequence[np.ndarray], *, keep: bool = True
    ) -> Sequence[np.ndarray]:
        """The next chunk of each of these streams -> scores [frames, vocabulary] each."""


@dataclass(frozen=True)
class ChunkScores:
    """A chunk's scores [frames, vocabulary]; `late` when they came after its deadline."""

    log_probs: np.ndarray
    late: bool


def run(model: StreamModel, slots: Slots, step: Step, metrics: Metrics) -> Exception | None:
    """Run `step` and answer its pieces; the error where it failed."""
    started = time.monotonic()
    try:
        scores = _scores(model, slots, step.pieces, step.keep)
    except Exception as error:
        log.exception("a step of %d streams failed on %s/%s", len(step.pieces), *step.lane)
        for piece in step.pieces:
            piece.future.set_exception(ApiError("a step of the stream failed", code="inference_failed"))
        return error.with_traceback(None)  # a traceback would hold memory
    done = time.monotonic()
    late = [step.keep and done > piece.deadline for piece in step.pieces]
    metrics.step_done(step.lane, audio_s=step.audio_s * step.keep, late=sum(late), duration_s=done - started)
    for piece, log_probs, is_late in zip(step.pieces, scores, late, strict=True):
        piece.future.set_result(ChunkScores(log_probs, is_late))
    return None


def _scores(model: StreamModel, slots: Slots, pieces: Sequence[Piece], keep: bool) -> Sequence[np.ndarray]:
    if fresh := [piece.slot for piece in pieces if piece.fresh]:
        slots.cache.reset(fresh)
    where, chunks = [piece.slot for piece in pieces], [piece.samples for piece in pieces]
    scores = model.step(slots.cache, where, chunks, keep=keep)
    if len(scores) != len(pieces):
        raise RuntimeError(f"{len(pieces)} chunks gave {len(scores)} scores")
    return scores
