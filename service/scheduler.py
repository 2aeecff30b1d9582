"""What the device does next: a step of live streams, or a batch of clips.

Knows no model, no torch and no web framework. Sessions submit pieces from any thread; one engine thread takes work.

- A step is of one model and one profile, and takes every stream of it that has a chunk ready, oldest deadline first,
  up to `max_streams`. The step whose oldest deadline is first goes first.
- A step that lacks memory halves what a step of its model and profile may take; `GROW_STEPS` full ones that go well
  make that one more, up to `max_streams` again.
- Company: a chunk waits `wait_s` at most for other streams of its model and profile, and not at all once all of them
  are there. A flush does not wait.
- A deadline is the time the chunk's audio arrived plus the chunk's length. Of a stream that comes faster than it was
  spoken, audio counts as arrived when it would have been spoken: files do not push in before microphones.
- Steps and batches: batches run in the gaps. But each second of steps made while clips wait owes them
  `clip_share / (1 - clip_share)` seconds, and while they are owed time a batch goes before a step. What runs in a gap
  counts against that, down to `CREDIT_S`, so that streams find the device theirs at first. So with more streams than
  the device can carry, clips still get their share of it, and with fewer, a step waits for one batch at the most.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.batcher import Batch, Batcher
from service.errors import Unavailable

CREDIT_S = 1.0
GROW_STEPS = 16  # a step that fails ends its streams, so growing is slow
Lane = tuple[str, str]  # model, profile


@dataclass(frozen=True)
class StepLimits:
    """Streams in a step, how long a chunk waits for company, and the share of the device that clips are sure of."""

    max_streams: int = 256
    wait_s: float = 0.003
    clip_share: float = 0.2


@dataclass(eq=False)
class Piece:
    """One stream's next chunk; times are of `time.monotonic()`.

    `samples` is opaque here. With `keep` False it is only tried, for a flush. `fresh` means that the stream is new in
    its slot. `future` gets the step's answer, or the reason why there is none.
    """

    lane: Lane
    slot: int
    samples: Any
    deadline: float
    audio_s: float = 0.0
    keep: bool = True
    fresh: bool = False
    submitted: float = field(default_factory=time.monotonic)
    future: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True)
class Step:
    """Pieces of one model and profile that run together, oldest deadline first; all of them kept, or all tried."""

    lane: Lane
    keep: bool
    pieces: list[Piece]

    @property
    def audio_s(self) -> float:
        return sum(piece.audio_s for piece in self.pieces)


class StepQueue:
    """The chunks that are ready, and how many streams there are."""

    def __init__(self, limits: StepLimits, changed: threading.Condition) -> None:
        self.limits = limits
        self._most: dict[Lane, int] = {}  # streams in a step, where that is less than the limit
        self._good: Counter[Lane] = Counter()  # full steps since `_most` last changed
        self._changed = changed
        # Of each lane, those to keep and those to try, in the order they came; a dict, so that any can leave quickly.
        self._ready: dict[tuple[Lane, bool], dict[Piece, None]] = {}
        self._live: Counter[Lane] = Counter()
        self._closed = False

    def joined(self, lane: Lane) -> None:
        """A stream begins."""
        with self._changed:
            self._live[lane] += 1

    def left(self, lane: Lane) -> None:
        """A stream has ended; those that waited for its company need not any more."""
        with self._changed:
            self._live[lane] -= 1
            self._changed.notify_all()

    @property
    def live(self) -> int:
        """How many streams there are."""
        with self._changed:
            return self._live.total()

    def submit(self, piece: Piece) -> None:
        """Queue `piece`. Raises Unavailable once `fail_all` was called."""
        with self._changed:
            if self._closed:
                raise Unavailable("the engine has stopped", code="engine_stopped")
            self._ready.setdefault((piece.lane, piece.keep), {})[piece] = None
            self._changed.notify_all()
        piece.future.add_done_callback(lambda _: self._forget(piece))

    def due(self) -> float:
        """When the next step should be made; infinity when no chunk is ready."""
        with self._changed:
            return min((self._due(*key) for key, ready in self._ready.items() if ready), default=float("inf"))

    def take(self, now: float) -> Step | None:
        """The most urgent step of those due by `now`, marked as running; None when there is none."""
        with self._changed:
            due = {key: ready for key, ready in self._ready.items() if ready and self._due(*key) <= now}
            for key in sorted(due, key=lambda key: min(piece.deadline for piece in due[key])):
                if pieces := self._start(due[key], self.most(key[0])):
                    return Step(*key, pieces)
        return None

    def most(self, lane: Lane) -> int:
        """How many streams a step of `lane` may take."""
        return self._most.get(lane, self.limits.max_streams)

    def lacked_memory(self, step: Step) -> None:
        """Make the steps of its lane smaller; one of a single stream cannot be."""
        if len(step.pieces) > 1:
            with self._changed:
                self._most[step.lane] = len(step.pieces) // 2
                self._good[step.lane] = 0

    def went_well(self, step: Step) -> None:
        """Let the steps of its lane grow, where they are smaller than the limit; only full ones show that they may."""
        most = self.most(step.lane)
        if not most <= len(step.pieces) < self.limits.max_streams:
            return
        with self._changed:
            self._good[step.lane] += 1
            if self._good[step.lane] == GROW_STEPS:
                self._most[step.lane], self._good[step.lane] = most + 1, 0

    def fail_all(self, error: Exception) -> None:
        """Give up: answer every piece with `error`, those to come included."""
        with self._changed:
            self._closed = True
            pieces = [piece for ready in self._ready.values() for piece in ready]
        for piece in pieces:
            if piece.future.set_running_or_notify_cancel():
                piece.future.set_exception(error)

    def _due(self, lane: Lane, keep: bool) -> float:
        ready = self._ready[lane, keep]
        if not keep or len(ready) >= min(self._live[lane], self.most(lane)):
            return 0.0
        return next(iter(ready)).submitted + self.limits.wait_s

    def _start(self, ready: dict[Piece, None], most: int) -> list[Piece]:
        """Take the most urgent pieces that nobody has given up."""
        chosen = sorted(ready, key=lambda piece: piece.deadline)[:most]
        for piece in chosen:
            del ready[piece]
        return [piece for piece in chosen if piece.future.set_running_or_notify_cancel()]

    def _forget(self, piece: Piece) -> None:
        with self._changed:
            self._ready[piece.lane, piece.keep].pop(piece, None)


class Scheduler:
    """Chooses between the steps and the batches; this file's docstring has the rule."""

    def __init__(self, batcher: Batcher, limits: StepLimits | None = None) -> None:
        self.batcher = batcher
        self.steps = StepQueue(limits or StepLimits(), batcher.changed)
        share = self.steps.limits.clip_share
        self._owed_per_s = share / (1 - share)
        self._owed_s = -CREDIT_S  # device time owed to clips
        self._out_of_turn = False

    def take(self, wait_s: float) -> Batch | Step | None:
        """The next work, marked as running; None when there was none within `wait_s`, or closed and nothing is left."""
        until = time.monotonic() + wait_s
        while True:
            work = self._next(time.monotonic())
            left_s = until - time.monotonic()
            if work or left_s <= 0 or self.drained:
                return work
            self._wait(left_s)

    def finish(self, work: Batch | Step, device_s: float, *, well: bool = True) -> None:
        """Account for work that ran for `device_s`; `well` as `Batcher.finish` takes it."""
        if isinstance(work, Step):
            self._owed_s += self._owed_per_s * device_s * self.batcher.busy
            return
        self.batcher.finish(work, device_s, well=well)
        after = self._owed_s - device_s
        self._owed_s = after if self._out_of_turn else max(after, min(self._owed_s, -CREDIT_S))

    def fail_all(self, error: Unavailable) -> None:
        """Give up: answer everything that waits, or will come, with `error`."""
        self.batcher.fail_all(error)
        self.steps.fail_all(error)

    @property
    def drained(self) -> bool:
        """Whether clips are no longer taken, and nothing waits."""
        return self.batcher.drained and self.steps.due() == float("inf")

    def _next(self, now: float) -> Batch | Step | None:
        due = self.steps.due()
        self._out_of_turn = due <= now and self._owed_s > 0
        # While a chunk waits for company no batch begins, except one that is owed: the device is wanted soon.
        if due == float("inf") or self._out_of_turn:
            batch = self.batcher.take(beside_streams=self.steps.live > 0)
            if batch:
                return batch
        return self.steps.take(now)

    def _wait(self, wait_s: float) -> None:
        with self.batcher.changed:
            due_s = self.steps.due() - time.monotonic()
            if due_s > 0 and not (self.batcher.busy and due_s == float("inf")) and not self.drained:
                self.batcher.changed.wait(min(wait_s, due_s))
