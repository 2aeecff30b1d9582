"""Whatever happens on the device thread, every request gets its own answer or an error."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from service.batcher import Batcher, Job, Limits
from service.clips import Model
from service.engine import Engine, ModelState
from service.errors import ApiError, NotServing, Unavailable
from service.metrics import Metrics
from service.scheduler import Scheduler
from tests.fakes import FakeTranscriber
from tests.service.conftest import wait_until

WAIT_S = 120


def job(samples: int, model: str = "mha", value: float = 0.0) -> Job:
    wave = np.full(samples, value, np.float32)
    return Job(model, wave, samples // 320, samples / 16_000, time.monotonic() + 60)


@contextmanager
def running(
    limit_s: float = WAIT_S, loaded: Callable[[], None] = lambda: None, **loaders: Callable[[], Model]
) -> Iterator[tuple[Engine, Batcher, Metrics]]:
    metrics, batcher = Metrics({}), Batcher(loaders, Limits(window=64))
    engine = Engine(loaders, Scheduler(batcher), metrics, heartbeat_limit_s=limit_s, loaded=loaded)
    engine.start()
    assert engine.wait_loaded(WAIT_S)
    try:
        yield engine, batcher, metrics
    finally:
        assert engine.stop(WAIT_S)


def spied(batcher: Batcher) -> AbstractContextManager[Mock]:
    return patch.object(batcher, "finish", wraps=batcher.finish)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_each_job_gets_its_own_answer(fake: FakeTranscriber) -> None:
    jobs = [job(1000 * n) for n in range(1, 20)]
    with running(mha=lambda: fake) as (_, batcher, _):
        for one in jobs:
            batcher.submit(one)
        texts = [one.future.result(WAIT_S).transcript.text for one in jobs]
    assert texts == [f"SAMPLES {1000 * n}" for n in range(1, 20)]
    assert fake.threads == {"engine"}


def test_what_waits_meanwhile_runs_together(held: FakeTranscriber) -> None:
    held.gate.set()
    with running(mha=lambda: held) as (_, batcher, metrics):
        held.gate.clear()
        held.entered.clear()
        first, others = job(3200), [job(3200 + n) for n in range(5)]
        batcher.submit(first)
        assert held.entered.wait(WAIT_S)
        for one in others:
            batcher.submit(one)
        held.gate.set()
        sizes = [one.future.result(WAIT_S).batch_size for one in [first, *others]]
    assert sizes == [1, 5, 5, 5, 5, 5]
    frames = value(metrics, "asr_frames_total", model="mha")
    assert frames == sum(one.frames for one in [first, *others])
    assert value(metrics, "asr_padding_frames_total", model="mha") == 0
    assert value(metrics, "asr_batch_size_sum", model="mha") == 6
    assert value(metrics, "asr_batch_size_count", model="mha") == 2


def test_one_bad_clip_does_not_fail_its_neighbours(
    held: FakeTranscriber, caplog: pytest.LogCaptureFixture
) -> None:
    held.gate.set()
    with running(mha=lambda: held) as (engine, batcher, _):
        held.gate.clear()
        held.entered.clear()
        jobs = [job(800), job(801), job(802, value=held.POISON), job(803)]
        for one in jobs:
            batcher.submit(one)
        held.gate.set()
        with pytest.raises(ApiError) as failed:
            jobs[2].future.result(WAIT_S)
        assert [one.future.result(WAIT_S).transcript.text for one in jobs if one is not jobs[2]] == [
            "SAMPLES 800",
            "SAMPLES 801",
            "SAMPLES 803",
        ]
        assert engine.ready
    assert "secret" not in failed.value.message
    assert "poisoned" in caplog.text


def test_a_wrong_number_of_transcripts_is_an_error() -> None:
    class Short(FakeTranscriber):
        def transcribe(self, waves: list) -> list:  # type: ignore[override]
            return super().transcribe(waves)[:-1] if len(self.batches) else super().transcribe(waves)

    with running(mha=Short) as (_, batcher, _):
        one = job(800)
        batcher.submit(one)
        with pytest.raises(ApiError, match="failed"):
            one.future.result(WAIT_S)


def test_out_of_memory_is_counted_and_tried_clip_by_clip(held: FakeTranscriber) -> None:
    class Small(FakeTranscriber):
        def transcribe(self, waves: list) -> list:  # type: ignore[override]
            if len(waves) > 1 and len(waves[1]):  # the warm-up's second clip is empty
                self.gate.wait(WAIT_S)
                raise MemoryError
            return super().transcribe(waves)

    model = Small(held=True)
    model.gate.set()
    with running(mha=lambda: model) as (_, batcher, metrics), spied(batcher) as finish:
        model.gate.clear()
        model.entered.clear()
        jobs = [job(800)]
        batcher.submit(jobs[0])
        assert model.entered.wait(WAIT_S)
        jobs += [job(800) for _ in range(4)]  # these wait for the first one, and so run together
        for one in jobs[1:]:
            batcher.submit(one)
        model.gate.set()
        assert all(one.future.result(WAIT_S).transcript.text == "SAMPLES 800" for one in jobs)
        assert value(metrics, "asr_out_of_memory_total", model="mha") == 1
        assert len(model.batches) == 6  # and no second warm-up: the device is well
    well = [call.kwargs["well"] for call in finish.call_args_list]
    assert well == [True, False]  # what was run again says nothing about a batch's cost


@pytest.mark.parametrize("what", ["torch on a CPU", "python", "CUDA"])
def test_all_ways_to_lack_memory_are_known(what: str) -> None:
    class OutOfMemoryError(RuntimeError):
        """Called as torch's own."""

    class Small(FakeTranscriber):
        def transcribe(self, waves: list) -> list:  # type: ignore[override]
            answers = super().transcribe(waves)
            if len(self.batches) == 2 and what == "torch on a CPU":
                torch.empty(2**60)
            if len(self.batches) == 2:
                raise MemoryError if what == "python" else OutOfMemoryError
            return answers

    model = Small()
    with running(mha=lambda: model) as (_, batcher, metrics):
        one = job(800)
        batcher.submit(one)
        with pytest.raises(ApiError, match="the transcription failed"):
            one.future.result(WAIT_S)
        after = job(801)
        batcher.submit(after)
        after.future.result(WAIT_S)
        assert value(metrics, "asr_out_of_memory_total", model="mha") == 1
    assert len(model.batches) == 3  # it need not prove itself


def test_a_bad_clip_alone_makes_the_model_prove_itself(fake: FakeTranscriber) -> None:
    with running(mha=lambda: fake) as (engine, batcher, _):
        bad, good = job(800, value=fake.POISON), job(801)
        batcher.submit(bad)
        with pytest.raises(ApiError, match="the transcription failed"):
            bad.future.result(WAIT_S)
        batcher.submit(good)
        assert good.future.result(WAIT_S).transcript.text == "SAMPLES 801"
        assert [len(batch) for batch in fake.batches] == [2, 1, 2, 1]
        assert engine.ready and engine.states["mha"].status == "ready"


def test_a_broken_device_ends_the_engine_and_answers_everyone(fake: FakeTranscriber) -> None:
    class Breaking(FakeTranscriber):
        def transcribe(self, waves: list) -> list:  # type: ignore[override]
            answers = super().transcribe(waves)
            if len(self.batches) > 1:
                raise RuntimeError("device-side assert triggered")
            return answers

    model = Breaking()
    with running(mha=lambda: model, mla=lambda: fake) as (engine, batcher, _):
        model.gate.clear()
        model.entered.clear()
        jobs = [job(800)]
        batcher.submit(jobs[0])
        assert model.entered.wait(WAIT_S)
        jobs += [job(800), job(800), job(800, "mla")]
        for one in jobs[1:]:
            batcher.submit(one)
        model.gate.set()
        errors = [one.future.exception(WAIT_S) for one in jobs]
        assert [getattr(error, "code", None) for error in errors] == [
            "inference_failed",
            *["engine_stopped"] * 3,
        ]
        assert engine.stop(WAIT_S)
        assert {name: state.status for name, state in engine.states.items()} == {
            "mha": "failed",
            "mla": "failed",
        }
        assert not engine.ready and not engine.alive
        with pytest.raises(NotServing, match="the engine has stopped"):
            batcher.submit(job(800, "mla"))


def test_an_engine_that_ends_by_a_fault_of_its_own_says_so(
    fake: FakeTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the fault is meant
    with running(mha=lambda: fake) as (engine, batcher, _):
        monkeypatch.setattr(batcher, "take", lambda **_: 1 / 0)
        batcher.submit(job(800))
        wait_until(lambda: not engine.alive, "the engine's end")
        assert engine.states["mha"] == ModelState("failed", "the engine ended: ZeroDivisionError")


def test_a_model_that_does_not_load_is_told_and_the_other_serves(fake: FakeTranscriber) -> None:
    def broken() -> Model:
        raise ValueError("config.json: no such file")

    with running(mha=broken, mla=lambda: fake) as (engine, batcher, _):
        assert engine.ready
        assert (engine.states["mha"].status, engine.states["mha"].reason) == (
            "failed",
            "config.json: no such file",
        )
        one = job(800, "mla")
        batcher.submit(one)
        assert one.future.result(WAIT_S).transcript.text == "SAMPLES 800"


def test_warm_up_runs_before_ready(fake: FakeTranscriber) -> None:
    with running(mha=lambda: fake):
        assert [len(batch) for batch in fake.batches] == [2]
        assert fake.batches[0][1] == 0


def test_loaded_is_told_after_the_warm_up_and_before_work(fake: FakeTranscriber) -> None:
    """A GPU's peak is counted from there, by the thread that owns it."""
    seen: list[tuple[int, str]] = []

    def loaded() -> None:
        seen.append((len(fake.batches), threading.current_thread().name))

    with running(mha=lambda: fake, loaded=loaded):
        assert seen == [(1, "engine")]


def test_while_models_load_the_engine_may_take_for_ever(held: FakeTranscriber) -> None:
    held.gate.clear()
    batcher = Batcher(["mha"], Limits())
    engine = Engine({"mha": lambda: held}, Scheduler(batcher), Metrics({}), heartbeat_limit_s=0.0)
    engine.start()
    assert held.entered.wait(WAIT_S)  # its warm-up, which the gate holds
    assert engine.heartbeat_limit_s() == math.inf
    assert engine.alive and not engine.ready
    held.gate.set()
    assert engine.wait_loaded(WAIT_S)
    assert engine.heartbeat_limit_s() == 0.0
    assert engine.stop(WAIT_S)


def test_nothing_loaded_is_not_ready_but_alive() -> None:
    def broken() -> Model:
        raise RuntimeError("no device")

    with running(mha=broken) as (engine, _, _):
        assert not engine.ready
        assert engine.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_dies_nobody_hangs(held: FakeTranscriber) -> None:
    class Dying(FakeTranscriber):
        def transcribe(self, waves: list) -> list:  # type: ignore[override]
            answers = super().transcribe(waves)
            if len(self.batches) > 1:
                raise SystemExit
            return answers

    model = Dying()
    with running(mha=lambda: model) as (engine, batcher, _):
        model.gate.clear()
        model.entered.clear()
        jobs = [job(800)]
        batcher.submit(jobs[0])
        assert model.entered.wait(WAIT_S)
        jobs += [job(800) for _ in range(3)]
        for one in jobs[1:]:
            batcher.submit(one)
        model.gate.set()
        for one in jobs:
            with pytest.raises(Unavailable):
                one.future.result(WAIT_S)
        assert engine.stop(WAIT_S)
        assert not engine.ready and not engine.alive
        with pytest.raises(Unavailable):
            batcher.submit(job(800))


def test_a_stuck_device_shows_in_the_heartbeat(held: FakeTranscriber) -> None:
    held.gate.set()
    with running(limit_s=0.01, mha=lambda: held) as (engine, batcher, _):
        held.gate.clear()
        held.entered.clear()
        one = job(800)
        batcher.submit(one)
        assert held.entered.wait(WAIT_S)
        before = engine.heartbeat_age_s()
        time.sleep(0.08)  # 0.01 s and the clip's 0.05 s are over
        assert engine.heartbeat_age_s() > before
        assert not engine.alive and not engine.ready
        held.gate.set()
        one.future.result(WAIT_S)


def test_a_long_clip_may_take_as_long_as_it_lasts(held: FakeTranscriber) -> None:
    held.gate.set()
    with running(limit_s=0.01, mha=lambda: held) as (engine, batcher, _):
        held.gate.clear()
        held.entered.clear()
        one = job(16_000 * 600)
        batcher.submit(one)
        assert held.entered.wait(WAIT_S)
        time.sleep(0.05)
        assert engine.alive and engine.ready
        assert engine.heartbeat_limit_s() == 600.01
        held.gate.set()
        one.future.result(WAIT_S)


def test_stop_runs_what_is_queued(held: FakeTranscriber) -> None:
    held.gate.set()
    with running(mha=lambda: held) as (engine, batcher, _):
        held.gate.clear()
        held.entered.clear()
        jobs = [job(800 * n) for n in range(1, 6)]
        for one in jobs:
            batcher.submit(one)
        held.gate.set()
        assert engine.stop(WAIT_S)
        assert all(one.future.done() and one.future.exception() is None for one in jobs)
        assert not engine.ready
