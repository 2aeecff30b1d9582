"""Which clips run together, and when: a bounded queue per model, and batches of bounded cost.

Knows no model, no torch and no web framework. Requests are submitted from any thread; one engine thread takes
batches. Nothing ever waits for a timer: whoever is queued when the engine asks goes.

- Cost: padded frames, `longest clip x clips <= max_batch_frames` (a longer clip runs alone).
- Membership: the oldest request is always in, so nobody starves; the rest are the nearest in length out of the
  `window` oldest, each as long as the padding that it brings costs less than a batch of its own would: how much that is
  the batches show that have run (`batch_cost`).
- Between models: start-time fair queueing, by device time used (Goyal et al. 1996).
- Bound: `Overloaded` once as much audio waits as the device hears in `max_queue_s`, by what it achieves, or
  `max_queue_audio_s` of it. The clip that gets there may exceed it.
- Long clips come window by window, each a job that is queued when the one before it is answered, so that others have
  their turn between them. What of them is still to come does not hold up others, and is bounded by itself.
- Cancelled and expired requests leave the queue at once or when a batch is formed; they never reach the engine.
- Late: a batch is formed when the engine asks for it, not while the one before it runs. That takes a fraction of a
  millisecond, and whoever came meanwhile is in it, whoever left is not, and a step of live streams need not wait for
  it. One made ahead would spare the device a wait only if its samples were padded and copied there meanwhile, as other
  servers do; on a CPU that is work for the same cores.
- Exact: clips are padded to the longest of the batch, not to a multiple. Round lengths serve graphs and compiled
  kernels, one for each shape; nothing here is captured or compiled, and the more padding, the more arithmetic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from service.batch_cost import BatchCost
from service.errors import DeadlineExceeded, NotServing, Overloaded

FADE = 0.9  # of what a batch achieved, with each batch after it


@dataclass(frozen=True)
class Limits:
    """What bounds the queue and a batch; `window` is how many of the oldest requests a batch is chosen from.

    `max_queue_s` is device time, `max_queue_audio_s` audio: of what waits, and of the long clips that are in work.
    While there are live streams a batch is bounded by `max_live_batch_frames`, so that they need not wait long for it.
    `overhead_frames` is what a batch costs beside its frames, learnt where it is None.
    """

    max_batch_frames: int = 6_000
    max_batch_items: int = 32
    max_queue_audio_s: float = 3600.0
    max_queue_s: float = 20.0
    window: int = 64
    max_live_batch_frames: int = 1_500
    overhead_frames: float | None = None


@dataclass(eq=False)
class Job:
    """A clip on its way through the device; times are of `time.monotonic()`.

    `wave` is opaque here. `future` gets the engine's answer, or the reason why there is none. `as_scores` asks for the
    scores of its frames instead of a transcript. `normalised`: a window of a long clip; such run with their like.
    """

    model: str
    wave: Any
    frames: int
    audio_s: float
    deadline: float
    submitted: float = field(default_factory=time.monotonic)
    future: Future[Any] = field(default_factory=Future)
    as_scores: bool = False
    normalised: bool = False


@dataclass(frozen=True)
class Batch:
    """Jobs of one model that run together, oldest first."""

    model: str
    jobs: list[Job]

    @property
    def padded_frames(self) -> int:
        return max(job.frames for job in self.jobs) * len(self.jobs)

    @property
    def frames(self) -> int:
        return sum(job.frames for job in self.jobs)

    @property
    def audio_s(self) -> float:
        return sum(job.audio_s for job in self.jobs)


@dataclass
class _Queue:
    """The queue of one model; `used_s` is its device time, in the virtual time of fair queueing."""

    jobs: list[Job] = field(default_factory=list)
    used_s: float = 0.0
    running: int = 0
    cost: BatchCost = field(default_factory=BatchCost)


class Batcher:
    """The queue between the requests and the engine thread."""

    def __init__(self, models: Iterable[str], limits: Limits) -> None:
        self.limits = limits
        self._queues = {model: _Queue() for model in models}
        self.changed = threading.Condition(threading.RLock())  # told of everything new; the scheduler's, too
        self._closed = self._failed = False
        self._long_audio_s = 0.0
        self._done = (0.0, 0.0)  # audio and device time of late, which fade

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Queue `job`; one that is `admitted` already, as the next window of a clip is, whatever waits.

        Raises:
            Overloaded: the bound on waiting audio is reached.
            NotServing: closed for shutdown, or the engine has stopped.
        """
        with self.changed:
            self._check_closed()
            if not admitted:
                self.check_open()
            queue = self._queues[job.model]
            if not queue.jobs and not queue.running:
                queue.used_s = max(queue.used_s, self._virtual_now())
            queue.jobs.append(job)
            self.changed.notify()
        job.future.add_done_callback(lambda _: self._forget(job))

    def check_open(self) -> None:
        """Raise what `submit` would: to refuse early, before an upload is read."""
        with self.changed:
            self._check_closed()
            most_s = self.most_audio_s()
            by = "max_queue_audio_s" if most_s == self.limits.max_queue_audio_s else "max_queue_s"
            self._check_bound(self.queued_audio_s(), most_s, f"wait ({by})")

    @contextmanager
    def long_clip(self, audio_s: float) -> Iterator[None]:
        """While open, a clip that comes window by window is in work. Raises Overloaded where enough of them are."""
        with self.changed:
            most_s, what = self.limits.max_queue_audio_s, "of long clips are in work (max_queue_audio_s)"
            self._check_bound(self._long_audio_s, most_s, what)
            self._long_audio_s += audio_s
        try:
            yield
        finally:
            with self.changed:
                self._long_audio_s -= audio_s

    def _check_closed(self) -> None:
        if self._failed:
            raise NotServing("the engine has stopped", code="engine_stopped")
        if self._closed:
            raise NotServing("the server is shutting down", code="draining")

    def _check_bound(self, there_s: float, most_s: float, what: str) -> None:
        if there_s >= most_s:
            raise Overloaded(
                f"{there_s:.0f} s of audio {what}; the limit is {most_s:.0f} s",
                retry_after_s=min(60.0, there_s / (self.audio_s_per_s or 10.0)),
            )

    def most_audio_s(self) -> float:
        """What may wait, of all models together."""
        most_s, limits = self.limits.max_queue_audio_s, self.limits
        return min(most_s, limits.max_queue_s * self.audio_s_per_s) if self.audio_s_per_s else most_s

    @property
    def audio_s_per_s(self) -> float:
        """What the device achieved of late; 0 before it has done anything."""
        audio_s, device_s = self._done
        return audio_s / device_s if device_s else 0.0

    def take(self, *, beside_streams: bool = False) -> Batch | None:
        """Return the next batch, marked as running; None when nothing waits."""
        limits = self.limits
        if beside_streams:
            frames = min(limits.max_batch_frames, limits.max_live_batch_frames)
            limits = replace(limits, max_batch_frames=frames)
        with self.changed:
            expired = self._drop_expired()
            batch = self._form(limits)
        for job in expired:
            _fail(job, DeadlineExceeded("the deadline passed before the request's turn came"))
        return batch

    def finish(self, batch: Batch, device_s: float, *, well: bool = True) -> None:
        """Account for a batch that ran for `device_s`; where it did not run `well`, nothing is to be learnt from it."""
        with self.changed:
            queue = self._queues[batch.model]
            queue.running -= len(batch.jobs)
            queue.used_s += device_s
            if well:
                queue.cost.learn(batch.padded_frames, device_s)
                audio_s, before_s = self._done
                self._done = (FADE * audio_s + batch.audio_s, FADE * before_s + device_s)

    def close(self) -> None:
        """Refuse new jobs; those queued can still be taken."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def fail_all(self, error: Exception) -> None:
        """Give up: refuse new jobs and answer every queued one with `error`."""
        self.close()
        with self.changed:
            self._failed = True
            jobs = [job for queue in self._queues.values() for job in queue.jobs]
        for job in jobs:
            _fail(job, error)

    @property
    def busy(self) -> bool:
        """Whether a clip waits."""
        return any(queue.jobs for queue in self._queues.values())

    @property
    def drained(self) -> bool:
        with self.changed:
            return self._closed and not self.busy

    def waiting(self, model: str) -> int:
        return len(self._queues[model].jobs)

    def running(self, model: str) -> int:
        return self._queues[model].running

    def queued_audio_s(self, model: str | None = None) -> float:
        with self.changed:
            queues = self._queues.values() if model is None else [self._queues[model]]
            return sum(job.audio_s for queue in queues for job in queue.jobs)

    def _virtual_now(self) -> float:
        """Virtual time of a queue that wakes up: that of the least served busy one, so idling earns no credit."""
        busy = [queue.used_s for queue in self._queues.values() if queue.jobs or queue.running]
        return min(busy) if busy else max(queue.used_s for queue in self._queues.values())

    def _forget(self, job: Job) -> None:
        """Of a job that is answered or given up; its samples go at once, though it and its future hold each other."""
        job.wave = None
        with self.changed:
            jobs = self._queues[job.model].jobs
            if job in jobs:
                jobs.remove(job)

    def _drop_expired(self) -> list[Job]:
        now = time.monotonic()
        expired = []
        for queue in self._queues.values():
            expired += [job for job in queue.jobs if job.deadline <= now]
            queue.jobs = [job for job in queue.jobs if job.deadline > now]
        return expired

    def _form(self, limits: Limits) -> Batch | None:
        while self.busy:
            model, queue = min(
                ((model, queue) for model, queue in self._queues.items() if queue.jobs),
                key=lambda item: item[1].used_s,
            )
            overhead = (
                queue.cost.overhead_frames if limits.overhead_frames is None else limits.overhead_frames
            )
            chosen = choose(queue.jobs[: limits.window], limits, overhead)
            queue.jobs = [job for job in queue.jobs if job not in chosen]
            live = [job for job in chosen if job.future.set_running_or_notify_cancel()]
            if live:
                queue.running += len(live)
                return Batch(model, live)
        return None


def choose(jobs: list[Job], limits: Limits, overhead_frames: float) -> list[Job]:
    """Return the first of `jobs` and those nearest to it in length that fit, in their given order.

    They fit while the batch is within its limits, and none brings more padding than `overhead_frames`.
    """
    head, longest, chosen = jobs[0], jobs[0].frames, {id(jobs[0])}
    company = [job for job in jobs[1:] if job.normalised == head.normalised]
    for job in sorted(company, key=lambda job: abs(job.frames - head.frames)):
        together = max(longest, job.frames)
        padded = together * (len(chosen) + 1)
        padding = padded - longest * len(chosen) - job.frames
        within = len(chosen) < limits.max_batch_items and padded <= limits.max_batch_frames
        if within and padding <= overhead_frames:
            longest = together
            chosen.add(id(job))
    return [job for job in jobs if id(job) in chosen]


def _fail(job: Job, error: Exception) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
