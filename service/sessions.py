"""One live stream between its socket and the device: what it has sent, chunk by chunk, and what is said to it.

Audio lies on a grid of chunks from its first sample on. Whatever is asked for, the grid stays: a flush tries the part
of a chunk that is there, with what waits for its look-ahead, and leaves everything as it was. Where what the resampler
still held completes a chunk, that is heard for good, and left out when it comes again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.beam import BeamDecoder
from asr.ctc import StreamDecoder
from service.scheduler import Piece, StepQueue
from service.segments import Decoder, Final, Partial, Rules, Segments
from service.slots import Slots
from service.stepper import ChunkScores

MAX_MARKS = 32  # flushes that wait


@dataclass(frozen=True)
class Mark:
    """A place in the audio where the client wants something: to hear all that was said until there, or to end.

    `rest` are samples that belong to a flush, but come again in the audio that follows: those still in the resampler.
    """

    kind: Literal["flush", "end"]
    id: str | int | None = None
    rest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    made: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Flushed:
    """Everything before the flush has been said."""

    id: str | int | None


@dataclass(frozen=True)
class Work:
    """What comes next, which arrived at that time, and the marks that are answered with it.

    It is a full chunk; or the part of one, which is only tried, or which ends the stream when the mark of the end is
    there.
    """

    samples: np.ndarray
    arrived: float
    marks: list[Mark] = field(default_factory=list)
    full: bool = False

    @property
    def ends(self) -> bool:
        return bool(self.marks) and self.marks[-1].kind == "end"


class Inbox:
    """What a stream has sent and has not been heard yet, in order."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[np.ndarray, float]] = deque()
        # With how many samples come before each; below 0 where the rest of a flush has been heard in part.
        self._marks: deque[tuple[int, Mark]] = deque()
        self._lent = 0  # samples to come that a flush has heard already
        self.samples = 0

    @property
    def marks(self) -> int:
        return len(self._marks)

    def push(self, samples: np.ndarray, arrived: float) -> None:
        lent = min(self._lent, len(samples))
        self._lent -= lent
        if len(samples) > lent:
            self._pieces.append((samples[lent:], arrived))
            self.samples += len(samples) - lent

    def mark(self, mark: Mark) -> None:
        self._marks.append((self.samples - self._lent, mark))

    def next(self, size: int) -> Work | None:
        """A chunk of `size` samples if there is one, else what the marks ask for; None while there is neither.

        All flushes that wait are answered with one chunk, or with one try of what there is: it hears all before the
        last of them.
        """
        flushes = self._flushes()
        rest = self._rest(*flushes[-1]) if flushes else np.zeros(0, np.float32)
        if flushes and self.samples < size <= self.samples + len(rest):
            # A try is of a part. So the chunk is filled up, and the samples left out when they come again.
            missing = size - self.samples
            self._pieces.append((rest[:missing], flushes[-1][1].made))
            self.samples, self._lent = size, self._lent + missing
        if self.samples >= size:
            return self._take(size)
        if not self._marks:
            return None
        if not flushes:
            return Work(self._there(), self._marks[0][1].made, [self._marks.popleft()[1]])
        marks = [self._marks.popleft()[1] for _ in flushes]
        return Work(np.concatenate([self._there(), rest]), marks[-1].made, marks)

    def _flushes(self) -> list[tuple[int, Mark]]:
        """Those that wait; an end comes after all of them."""
        return [place for place in self._marks if place[1].kind == "flush"]

    def _rest(self, before: int, mark: Mark) -> np.ndarray:
        """Of the mark's rest, what has not come again, or been heard, yet."""
        return mark.rest[self.samples - before :]

    def _there(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(samples for samples, _ in self._pieces)])

    def _take(self, count: int) -> Work:
        taken, arrived, missing = [], 0.0, count
        while missing:
            samples, arrived = self._pieces.popleft()
            taken.append(samples[:missing])
            if len(samples) > missing:
                self._pieces.appendleft((samples[missing:], arrived))
            missing -= len(taken[-1])
        self.samples -= count
        marks = []
        while self._marks and self._covered(*self._marks[0], count):
            marks.append(self._marks.popleft()[1])
        self._marks = deque((before - count, mark) for before, mark in self._marks)
        return Work(np.concatenate(taken), arrived, marks, full=True)

    def _covered(self, before: int, mark: Mark, count: int) -> bool:
        return mark.kind == "flush" and before + len(mark.rest) <= count


@dataclass
class Usage:
    """What a stream has taken: seconds of audio, steps, and how many of those came late."""

    audio_s: float = 0.0
    steps: int = 0
    late_steps: int = 0


Event = Partial | Final | Flushed
Search = Callable[[BeamDecoder, np.ndarray], Awaitable[BeamDecoder]]  # see `searches.Searches.hear`


class Session:
    """One stream in its slot. Everything here runs on the event loop; `steps` leads to the device.

    `owes` is whether there may be something to say of what has come; `when_quiet` is called when there is no more.
    """

    def __init__(self, slots: Slots, slot: int, steps: StepQueue, *, rules: Rules, buffer_s: float) -> None:
        self.slots = slots
        self.usage = Usage()
        self._slot, self._steps, self._rules = slot, steps, rules
        self._segments = self._segments_of(StreamDecoder(slots.vocabulary, slots.seconds_per_frame))
        self._search: Search | None = None
        self._inbox = Inbox()
        self._buffer_samples = max(int(buffer_s * SAMPLE_RATE), slots.chunk_samples + slots.tail_samples)
        self._came, self._went = asyncio.Event(), asyncio.Event()
        self._heard_at = -math.inf  # when the latest chunk had been heard,
        self._heard_since = -math.inf  # and when its audio was there
        self._tried: int | None = 0  # samples of the part of a chunk that the latest flush has tried
        self._piece: Piece | None = None  # the latest that went to the device
        self.owes = True
        self.when_quiet: Callable[[], None] = lambda: None

    def search_with(self, search: Search, decoder: BeamDecoder) -> None:
        """Have a beam search make the text, from `decoder` on; before anything is heard."""
        self._search, self._segments = search, self._segments_of(decoder)

    async def room(self) -> None:
        """Wait until the buffer is not full."""
        while self._inbox.samples >= self._buffer_samples or self._inbox.marks >= MAX_MARKS:
            self._went.clear()
            await self._went.wait()

    def push(self, samples: np.ndarray) -> None:
        """The next samples, float32 at 16 kHz."""
        self.usage.audio_s += len(samples) / SAMPLE_RATE
        self._inbox.push(samples, time.monotonic())
        self._tell()

    def mark(self, mark: Mark) -> None:
        """A flush, or the end: nothing may come after that."""
        self._inbox.mark(mark)
        self._tell()

    def _tell(self) -> None:
        self.owes = True
        self._came.set()

    async def events(self) -> AsyncIterator[tuple[Event, float]]:
        """What there is to say, each with the time at which its audio was there; ends after the mark of the end."""
        ended = False
        while not ended:
            work = await self._next()
            since = self._since(work)
            for said in (self._hear, self._flushed):
                for event in await said(work, since):
                    yield event, since
            ended = work.ends

    def close(self) -> None:
        """Give up what waits for the device, and give the slot back as soon as nothing writes into it any more."""
        if self._piece is None:
            self.slots.give_back(self._slot)
            return
        self._piece.future.cancel()
        self._piece.future.add_done_callback(lambda _: self.slots.give_back(self._slot))

    async def _next(self) -> Work:
        first = self.usage.steps == 0
        size = self.slots.chunk_samples + (self.slots.tail_samples if first else 0)
        while (work := self._inbox.next(size)) is None:
            self._came.clear()
            self.owes = False
            self.when_quiet()
            await self._came.wait()
        self._went.set()
        return work

    def _since(self, work: Work) -> float:
        """When the work's audio was there; where it came before what it follows was heard, as if at a speaker's pace.

        So audio that came faster than it was spoken is not urgent, and a stream that has caught up is live again.
        """
        if work.arrived > self._heard_at:
            return work.arrived
        return max(work.arrived, self._heard_since + len(work.samples) / SAMPLE_RATE)

    async def _hear(self, work: Work, since: float) -> list[Event]:
        if work.ends:
            there = len(work.samples) or self._waits
            said = await self._said(await self._step(work, since, keep=True)) if there else []
            finals = [event for event in said if isinstance(event, Final)]  # a partial's final comes at once
            return [*finals, *self._segments.end()]
        if work.full:
            return [*await self._said(await self._step(work, since, keep=True))]
        return [*await self._try(work, since)]

    async def _flushed(self, work: Work, since: float) -> list[Event]:
        """The answers to its flushes, after what waits beyond a chunk that they are answered with."""
        if work.ends:
            return []
        waits = work.full and work.marks and self._waits
        said = await self._try(Work(work.samples[:0], work.arrived), since) if waits else []
        return [*said, *(Flushed(mark.id) for mark in work.marks)]

    @property
    def _waits(self) -> bool:
        """Whether frames may wait for their look-ahead, so that there is something to say even without new samples."""
        return self._piece is not None and self.slots.profile.lookahead_ms > 0

    async def _try(self, work: Work, since: float) -> list[Partial | Final]:
        if len(work.samples) == self._tried:
            return []
        heard = await self._step(work, since, keep=False)
        self._tried = len(work.samples)
        if self._search and isinstance(decoder := self._segments.decoder, BeamDecoder):
            return self._segments.tried(await self._search(decoder, heard))
        return self._segments.preview(heard)

    async def _said(self, heard: np.ndarray) -> list[Partial | Final]:
        if self._search and isinstance(decoder := self._segments.decoder, BeamDecoder):
            return self._segments.heard(await self._search(decoder, heard))
        return self._segments.push(heard)

    def _segments_of(self, decoder: Decoder) -> Segments:
        return Segments(decoder, self.slots.seconds_per_frame, self._rules)

    async def _step(self, work: Work, since: float, *, keep: bool) -> np.ndarray:
        """The scores of a chunk, of which there is one on the device at a time."""
        self._piece = Piece(
            lane=self.slots.lane,
            slot=self._slot,
            samples=work.samples,
            deadline=since + self.slots.chunk_s,
            audio_s=len(work.samples) / SAMPLE_RATE,
            keep=keep,
            fresh=self._piece is None,
        )
        self._steps.submit(self._piece)
        heard: ChunkScores = await asyncio.wrap_future(self._piece.future)
        if keep:
            self._tried = None if self._waits else 0
            self._heard_at, self._heard_since = time.monotonic(), since
            self.usage.steps += 1
            self.usage.late_steps += heard.late
        return heard.log_probs
