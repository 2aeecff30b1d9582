"""A decoded clip through the queue and the engine: a short one as one job, a long one window by window.

Between two windows others have their turn on the device, and a client that left, or a deadline that passed, ends the
clip there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asr.audio import SAMPLE_RATE
from service.batcher import Batcher, Job
from service.engine import Answer

Told = Callable[[Any], None]  # gets the scores [frames, vocabulary] of each window of a long clip, in order


@dataclass(frozen=True)
class Clip:
    """Samples at 16 kHz for the model called `name`; `as_scores`, `deadline`: as a `batcher.Job` has them."""

    name: str
    model: Any
    wave: np.ndarray
    deadline: float
    as_scores: bool

    @property
    def duration_s(self) -> float:
        return len(self.wave) / SAMPLE_RATE

    def job(self, wave: np.ndarray, audio_s: float, *, as_scores: bool, normalised: bool = False) -> Job:
        frames = self.model.config.frames(len(wave))
        return Job(
            self.name, wave, frames, audio_s, self.deadline, as_scores=as_scores, normalised=normalised
        )


async def hear(batcher: Batcher, clip: Clip, told: Told | None = None) -> Answer:
    """Returns what the engine says of the clip; raises what the batcher or the engine does."""
    if not clip.model.is_long(len(clip.wave)):
        return await _run(batcher, clip.job(clip.wave, clip.duration_s, as_scores=clip.as_scores))
    with batcher.long_clip(clip.duration_s):
        answers = await _hear_windows(batcher, clip, told)
    scores = np.concatenate([answer.transcript for answer in answers])
    return Answer(
        scores if clip.as_scores else await asyncio.to_thread(clip.model.transcript, scores, clip.duration_s),
        sum(answer.queue_s for answer in answers),
        sum(answer.inference_s for answer in answers),
        max(answer.batch_size for answer in answers),
    )


async def _hear_windows(batcher: Batcher, clip: Clip, told: Told | None) -> list[Answer]:
    answers: list[Answer] = []
    windows = await asyncio.to_thread(clip.model.windows, clip.wave)
    # In threads: making a window takes milliseconds, and reads what was spooled.
    while window := await asyncio.to_thread(next, windows, None):
        kept_s = (window.kept.stop - window.kept.start) * clip.model.seconds_per_frame
        job = clip.job(window.samples, kept_s, as_scores=True, normalised=True)
        answer = await _run(batcher, job, admitted=bool(answers))
        answers.append(replace(answer, transcript=answer.transcript[window.kept]))
        if told:
            told(answers[-1].transcript)
    return answers


async def _run(batcher: Batcher, job: Job, *, admitted: bool = False) -> Answer:
    batcher.submit(job, admitted=admitted)
    answer: Answer = await asyncio.wrap_future(job.future)
    return answer
