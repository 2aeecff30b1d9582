"""One batch of clips on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from service import stepper
from service.batcher import Batch

WARM_UP_SAMPLES = 16_000


class FrameCount(Protocol):
    def frames(self, samples: int) -> int: ...


class Model(stepper.StreamModel, Protocol):
    """What the engine runs: `asr.Transcriber`, or a test's stand-in."""

    @property
    def config(self) -> FrameCount:
        """Tells how many frames so many samples give."""

    def transcribe(self, waves: list[np.ndarray]) -> Sequence[Any]:
        """float32 [samples] at 16 kHz each -> one transcript each."""

    def log_probs(self, waves: list[np.ndarray], *, normalised: bool = False) -> list[np.ndarray]:
        """The same, but scores [frames, vocabulary] each; or of windows of long clips, which are `normalised`."""

    def transcript(self, log_probs: np.ndarray, duration_s: float) -> Any:
        """What the scores of a clip say: `transcribe` is `log_probs` and then this."""


def run(model: Model, batch: Batch) -> Sequence[Any]:
    """One transcript a job, or its scores where it asks for them. Raises whatever the model does."""
    waves = [job.wave for job in batch.jobs]
    if any(job.as_scores for job in batch.jobs):
        scores = model.log_probs(waves, normalised=batch.jobs[0].normalised)
        answers: Sequence[Any] = [
            clip if job.as_scores else model.transcript(clip, job.audio_s)
            for job, clip in zip(batch.jobs, scores, strict=True)
        ]
    else:
        answers = model.transcribe(waves)
    if len(answers) != len(batch.jobs):
        raise RuntimeError(f"{len(batch.jobs)} clips gave {len(answers)} transcripts")
    return answers


def warm_up(model: Model) -> None:
    """Run a second of noise and an empty clip, so that the first client does not wait for what only the first pays."""
    wave = np.random.default_rng(0).normal(0, 0.05, WARM_UP_SAMPLES).astype(np.float32)
    model.transcribe([wave, np.zeros(0, np.float32)])
