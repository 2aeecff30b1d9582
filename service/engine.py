"""The one thread that owns the device: it loads the models, warms them up, and runs every batch and every step.

Whatever happens to a batch, each of its requests gets an answer: its transcript, or the error. A batch that fails is
run again clip by clip, so that one bad clip, or too little memory for all at once, does not fail its neighbours. Where
a clip fails by itself, the model is warmed up again, and the thread ends if that fails: a broken device stays broken.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from service import clips, stepper
from service.batcher import Batch, Job
from service.clips import Model
from service.errors import ApiError, Unavailable
from service.metrics import Metrics
from service.scheduler import Lane, Piece, Scheduler, Step
from service.slots import Slots

log = logging.getLogger(__name__)

IDLE_S = 0.25  # how often an idle engine shows that it lives
# What torch says in a plain RuntimeError: of the CPU's memory, and of what CUDA's libraries allocate for themselves.
NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Answer:
    """A transcript, or the scores if the job asks for them; and the wait, the time on the device, the batch's size."""

    transcript: Any
    queue_s: float
    inference_s: float
    batch_size: int


@dataclass
class ModelState:
    """Where a configured model stands; `reason` says why it failed."""

    status: Literal["loading", "ready", "failed"] = "loading"
    reason: str | None = None


class _Failure(Enum):
    MEMORY = "memory"
    OTHER = "other"


Allocate = Callable[[Mapping[str, Model]], Mapping[Lane, Slots]]


class Engine:
    """Owner of the device thread.

    A batch may take as long as its audio and `heartbeat_limit_s` more; then the engine counts as stuck.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Model]],
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        heartbeat_limit_s: float = 120.0,
        allocate: Allocate = lambda models: {},
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """On the engine's thread, `allocate` makes the room for live streams once the models are there, and `loaded` is
        called when all has been tried out, before the first work.
        """
        self.states = {name: ModelState() for name in loaders}
        self.models: dict[str, Model] = {}
        self.slots: dict[Lane, Slots] = {}
        self._loaders = loaders
        self._scheduler = scheduler
        self._metrics = metrics
        self._allocate = allocate
        self._tell_loaded = loaded
        self._heartbeat_limit_s = heartbeat_limit_s
        self._broken = False
        self._beat()
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Run what is queued, then end the thread; whether it ended within `timeout_s`. Blocks."""
        self._scheduler.batcher.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_loaded(self, timeout_s: float | None = None) -> bool:
        """Block until every model is ready or has failed."""
        return self._loaded.wait(timeout_s)

    @property
    def ready(self) -> bool:
        """Whether all is loaded or refused, at least one model serves, and the engine is alive."""
        serving = any(state.status == "ready" for state in self.states.values())
        return self._loaded.is_set() and serving and self.alive

    @property
    def alive(self) -> bool:
        """Whether the thread lives and has shown so in time."""
        limit_s = self.heartbeat_limit_s()  # first: a beat in between makes it look younger, never older
        return self._thread.is_alive() and self.heartbeat_age_s() <= limit_s

    def heartbeat_age_s(self) -> float:
        return time.monotonic() - self._pulse[0]

    def heartbeat_limit_s(self) -> float:
        """The age at which it counts as stuck: for ever while models load, more before a batch of long clips."""
        return self._heartbeat_limit_s + self._pulse[1] if self._loaded.is_set() else math.inf

    def _beat(self, audio_s: float = 0.0) -> None:
        """Show life, before a batch of `audio_s`."""
        self._pulse = (time.monotonic(), audio_s)  # one assignment, as others read it meanwhile

    def _run(self) -> None:
        try:
            for name, load in self._loaders.items():
                self._load(name, load)
            self._make_slots()
            self._beat()
            places = ", ".join(
                f"{model} {profile}: {slots.total}" for (model, profile), slots in self.slots.items()
            )
            self._tell_loaded()
            log.info("serving %s; live streams: %s", ", ".join(self.models) or "nothing", places or "none")
            self._loaded.set()
            while not (self._broken or self._scheduler.drained):
                self._beat()
                work = self._scheduler.take(IDLE_S)
                if isinstance(work, Step):
                    self._run_step(work)
                elif work:
                    self._run_batch(work)
        except BaseException as error:
            log.critical("the engine thread ended", exc_info=True)
            self._serve_no_more(f"the engine ended: {type(error).__name__}")
            raise
        finally:
            self._loaded.set()
            self._scheduler.fail_all(Unavailable("the engine has stopped", code="engine_stopped"))

    def _serve_no_more(self, reason: str) -> None:
        for name, state in self.states.items():
            if state.status != "failed":
                self.states[name] = ModelState("failed", reason)

    def _load(self, name: str, load: Callable[[], Model]) -> None:
        started = time.monotonic()
        try:
            model = load()
            clips.warm_up(model)
        except Exception as error:
            self.states[name] = ModelState("failed", str(error) or type(error).__name__)
            log.error("model %r does not serve: %s", name, error, exc_info=not isinstance(error, ValueError))
            return
        self.models[name] = model
        self.states[name] = ModelState("ready")
        log.info("model %r is ready after %.1f s", name, time.monotonic() - started)

    def _make_slots(self) -> None:
        """Room for live streams; without it the server does without them."""
        try:
            made = self._allocate(self.models)
            for (model, _), slots in made.items():
                self._beat()
                slots.warm_up(self.models[model])
        except Exception:
            log.exception("there will be no live streams")
            return
        self.slots.update(made)

    def _run_step(self, step: Step) -> None:
        started = time.monotonic()
        model, steps = step.lane[0], self._scheduler.steps
        try:
            self._beat(step.audio_s)
            error = stepper.run(self.models[model], self.slots[step.lane], step, self._metrics)
            if error is None:
                steps.went_well(step)
            elif _is_memory(error):
                self._metrics.out_of_memory.labels(model).inc()
                steps.lacked_memory(step)
            else:
                self._prove(model)
        finally:
            for piece in step.pieces:
                _end(piece, Unavailable("the engine has stopped", code="engine_stopped"))
            self._scheduler.finish(step, time.monotonic() - started)

    def _run_batch(self, batch: Batch) -> None:
        started, well = time.monotonic(), False
        try:
            self._beat(batch.audio_s)
            well = self._answer(batch, started)
        finally:
            # Jobs without an answer here mean that the thread is about to end; they must not hang.
            for job in batch.jobs:
                _end(job, Unavailable("the engine has stopped", code="engine_stopped"))
            self._scheduler.finish(batch, time.monotonic() - started, well=well)

    def _answer(self, batch: Batch, started: float) -> bool:
        """Give every job its answer; whether the batch ran as a whole."""
        transcripts = self._try(batch)
        if isinstance(transcripts, _Failure):
            self._one_by_one(batch, transcripts)
            return False
        inference_s = time.monotonic() - started
        self._count(batch, inference_s)
        for job, transcript in zip(batch.jobs, transcripts, strict=True):
            queue_s = started - job.submitted
            self._metrics.queue_duration.labels(batch.model).observe(queue_s)
            job.future.set_result(Answer(transcript, queue_s, inference_s, len(batch.jobs)))
        return True

    def _try(self, batch: Batch) -> Sequence[Any] | _Failure:
        """One transcript a job, or the failure: returned, not raised, so that no traceback holds memory."""
        try:
            return clips.run(self.models[batch.model], batch)
        except Exception as error:
            log.exception("a batch of %d clips failed on %r", len(batch.jobs), batch.model)
            if _is_memory(error):
                self._metrics.out_of_memory.labels(batch.model).inc()
                return _Failure.MEMORY
            return _Failure.OTHER

    def _one_by_one(self, batch: Batch, failure: _Failure) -> None:
        if len(batch.jobs) == 1:
            _end(batch.jobs[0], ApiError("the transcription failed", code="inference_failed"))
            if failure is _Failure.OTHER:
                self._prove(batch.model)
            return
        for job in batch.jobs:
            if self._broken:
                return
            self._beat(job.audio_s)
            self._answer(Batch(batch.model, [job]), time.monotonic())

    def _prove(self, name: str) -> None:
        """Warm `name` up again, to tell a bad clip from a device that serves no more."""
        self._beat()
        try:
            clips.warm_up(self.models[name])
        except Exception as error:
            log.critical("model %r fails even on the warm-up: ending", name, exc_info=True)
            self.states[name] = ModelState("failed", f"stopped serving: {type(error).__name__}")
            self._serve_no_more(f"the engine ended with {name!r}")
            self._broken = True

    def _count(self, batch: Batch, inference_s: float) -> None:
        self._metrics.batch_done(
            batch.model,
            size=len(batch.jobs),
            audio_s=batch.audio_s,
            frames=batch.frames,
            padded_frames=batch.padded_frames,
            inference_s=inference_s,
        )


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def _end(job: Job | Piece, error: Exception) -> None:
    """Answer what has no answer yet."""
    if not job.future.done():
        job.future.set_exception(error)
