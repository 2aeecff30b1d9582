"""A long clip takes its turns window by window: others go between, and it ends where nobody waits for it any more."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from asr import Transcript
from asr.windows import Window
from service.batcher import Batcher, Limits
from service.engine import Answer, Engine
from service.errors import DeadlineExceeded, Overloaded
from service.hearing import Clip, hear
from service.metrics import Metrics
from service.scheduler import Scheduler
from tests.fakes import HOP_SAMPLES, FakeTranscriber
from tests.service.conftest import WAIT_S

WINDOW_FRAMES = 10


class Windowed(FakeTranscriber):
    """Hears clips of over ten frames in windows of ten; a frame's score is its first sample."""

    def is_long(self, samples: int) -> bool:
        return samples > WINDOW_FRAMES * HOP_SAMPLES

    def windows(self, wave: np.ndarray) -> Iterator[Window]:
        for first in range(0, len(wave), WINDOW_FRAMES * HOP_SAMPLES):
            samples = wave[first : first + WINDOW_FRAMES * HOP_SAMPLES]
            yield Window(samples, slice(0, len(samples) // HOP_SAMPLES))

    def log_probs(self, waves: list[np.ndarray], *, normalised: bool = False) -> list[np.ndarray]:
        assert normalised
        self.transcribe(waves)
        return [wave[::HOP_SAMPLES, None] for wave in waves]

    def transcript(self, log_probs: np.ndarray, duration_s: float) -> Transcript:
        return Transcript(" ".join(f"{score:.0f}" for score in log_probs[:, 0]), [], duration_s)


@contextmanager
def running(model: Windowed, limits: Limits) -> Iterator[Batcher]:
    batcher = Batcher(["mha"], limits)
    engine = Engine({"mha": lambda: model}, Scheduler(batcher), Metrics({}))
    gate_set = model.gate.is_set()
    model.gate.set()
    engine.start()
    assert engine.wait_loaded(WAIT_S)
    if not gate_set:
        model.gate.clear()
    model.entered.clear()
    model.batches.clear()
    try:
        yield batcher
    finally:
        model.gate.set()
        assert engine.stop(WAIT_S)


def clip(model: Windowed, frames: int, *, as_scores: bool = False, in_s: float = WAIT_S) -> Clip:
    wave = np.repeat(np.arange(frames, dtype=np.float32), HOP_SAMPLES)
    return Clip("mha", model, wave, time.monotonic() + in_s, as_scores)


async def entered(model: Windowed) -> None:
    assert await asyncio.to_thread(model.entered.wait, WAIT_S)


async def test_the_answer_is_of_all_windows_and_each_is_told() -> None:
    model = Windowed()
    told: list[np.ndarray] = []
    with running(model, Limits()) as batcher:
        answer = await hear(batcher, clip(model, 25), told.append)
        scores = await hear(batcher, clip(model, 25, as_scores=True))
    assert answer.transcript.text == " ".join(map(str, range(25))) and answer.transcript.duration_s == 0.5
    assert [len(scores) for scores in told] == [10, 10, 5]
    assert scores.transcript[:, 0].tolist() == list(range(25))


async def test_others_have_their_turn_between_two_windows() -> None:
    model = Windowed(held=True)
    with running(model, Limits()) as batcher:
        long = asyncio.create_task(hear(batcher, clip(model, 35)))
        await entered(model)
        short = asyncio.create_task(hear(batcher, clip(model, 3)))
        while not batcher.busy:
            await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(long, short)
    window, small = WINDOW_FRAMES * HOP_SAMPLES, 3 * HOP_SAMPLES
    assert model.batches == [[window], [small], [window], [window], [window // 2]]


async def test_a_clip_that_nobody_waits_for_ends_at_its_window() -> None:
    model = Windowed(held=True)
    with running(model, Limits(max_queue_audio_s=1.0)) as batcher:
        long = asyncio.create_task(hear(batcher, clip(model, 60)))
        await entered(model)
        with pytest.raises(Overloaded):
            await hear(batcher, clip(model, 60))
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        model.gate.set()
        answer: Answer = await hear(batcher, clip(model, 12))  # there is room again
    assert answer.batch_size == 1 and len(model.batches) == 3


async def test_a_deadline_ends_it_between_windows() -> None:
    model = Windowed(held=True)
    with running(model, Limits()) as batcher:
        long = asyncio.create_task(hear(batcher, clip(model, 60, in_s=0.3)))
        await entered(model)
        await asyncio.sleep(0.4)
        model.gate.set()
        with pytest.raises(DeadlineExceeded):
            await long
    assert len(model.batches) == 1
