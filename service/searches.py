"""Beam searches, in processes of their own: in this one they would hold up the device's thread and the event loop.

A search is Python through and through, and Python runs one thread at a time. A process is given what a search has
found so far and some frames more, and answers with what it has found then; it keeps nothing of it. So any process does,
a long clip goes piece by piece, and one whose client left ends with its piece. Streams' pieces go before clips', which
take turns piece by piece: a stream waits for other streams, and for what the processes have just begun.

Clips are `admitted` before the device hears them: `Overloaded` once what waits for a search, or is in one, would take
longer than `max_queue_s`, by what searches achieve. The clip that gets there may exceed it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from asr.beam import BeamDecoder
from asr.search import Beam, search_of
from service.errors import ApiError, BadRequest, Overloaded

log = logging.getLogger(__name__)

# 5 s of audio: some hundredths of a second of work where speech is clear; 0.3 to 1.1 s, on a busy core, where the model
# hardly understands it.
PIECE_FRAMES = 250
TRIES = 2  # of a piece, where its process dies
FADE = 0.9  # of what a piece achieved, with each piece after it
FIRST = (5.0, 0.5)  # audio and seconds of a piece that is taken to have run before any did
FASTEST = 100.0  # seconds of audio a second that one piece may teach: silence takes no time, and says nothing of speech
MOST_OF_ONE_S = 60.0  # of one clip that count as waiting: by turns, an hour of it does not hold up others


@dataclass(eq=False)
class Waiting:
    """What waits for a search, will, or is in one: seconds of audio that are still to be searched."""

    audio_s: float


class _Turns:
    """Who may have a process next: streams before clips, and each in the order in which they came."""

    def __init__(self, processes: int) -> None:
        self._free = processes
        self._live: deque[asyncio.Future[None]] = deque()
        self._rest: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self, live: bool) -> AsyncIterator[None]:
        """Wait for a process, and have it for the block's time."""
        if self._free:
            self._free -= 1
        else:
            await self._called(self._live if live else self._rest)
        try:
            yield
        finally:
            self._pass_on()

    async def _called(self, lane: deque[asyncio.Future[None]]) -> None:
        called = asyncio.get_running_loop().create_future()
        lane.append(called)
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():  # it was this one's turn already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        for lane in (self._live, self._rest):
            while lane:
                if not (called := lane.popleft()).done():
                    called.set_result(None)
                    return
        self._free += 1


class Searches:
    """`workers` processes, which start when the first search needs them; further pieces wait their turn."""

    def __init__(self, workers: int = 1, lm: Path | None = None, max_queue_s: float = 20.0) -> None:
        """`lm` is the file of the n-gram that all searches go by, `max_queue_s` what bounds those of clips."""
        self._workers, self._lm, self._max_queue_s = workers, lm, max_queue_s
        self._waiting: set[Waiting] = set()
        self._done = FIRST  # audio and time of late, which fade
        self._turns = _Turns(workers)
        self._pool: ProcessPoolExecutor | None = None

    def decoder(self, model: Any, hot_words: tuple[str, ...], boost: float = 1.0) -> BeamDecoder:
        """A search of `model`'s scores that has heard nothing. Raises BadRequest for a word that it cannot spell."""
        try:
            search = search_of(
                Beam(hot_words=hot_words, boost=boost, lm=self._lm), tuple(model.vocabulary.tokens)
            )
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_option", param="hot_words") from None
        return BeamDecoder(search, model.seconds_per_frame)

    def check_open(self) -> None:
        """Raise what `admitted` would: to refuse early, before an upload is read."""
        ahead_s = sum(min(one.audio_s, MOST_OF_ONE_S) for one in self._waiting)
        most_s = self._max_queue_s * self.audio_s_per_s
        if ahead_s >= most_s:
            raise Overloaded(
                f"{ahead_s:.0f} s of audio wait for a search (max_queue_s); the limit is {most_s:.0f} s",
                retry_after_s=min(60.0, ahead_s / self.audio_s_per_s),
            )

    @contextmanager
    def admitted(self, audio_s: float) -> Iterator[Waiting]:
        """While open, a clip is to be searched, if only when the device has heard it.

        Raises Overloaded where too much is.
        """
        self.check_open()
        with self._counted(audio_s) as waiting:
            yield waiting

    @contextmanager
    def _counted(self, audio_s: float) -> Iterator[Waiting]:
        waiting = Waiting(audio_s)
        self._waiting.add(waiting)
        try:
            yield waiting
        finally:
            self._waiting.discard(waiting)

    @property
    def audio_s_per_s(self) -> float:
        """What the processes together achieve, by the pieces of late."""
        audio_s, process_s = self._done
        return self._workers * audio_s / process_s

    def waiting_audio_s(self) -> float:
        """What no search has heard yet, of clips that are admitted and of streams."""
        return sum(one.audio_s for one in self._waiting)

    async def hear(
        self,
        decoder: BeamDecoder,
        log_probs: np.ndarray,
        *,
        live: bool = True,
        waiting: Waiting | None = None,
    ) -> BeamDecoder:
        """What `decoder` is after these scores [frames, vocabulary]; itself it stays as it was.

        Args:
            decoder: a search of this service's.
            log_probs: what comes next.
            live: whether somebody speaks meanwhile. A clip's scores wait for those.
            waiting: what `admitted` gave, of a clip; what is heard is taken off it.

        Raises:
            ApiError: the search failed.
        """
        decoder, finished = decoder.copy(), decoder.finished
        decoder.cut(len(finished))  # the words of an hour need not go there and back with every piece
        hop_s = decoder.seconds_per_frame
        with nullcontext(waiting) if waiting else self._counted(len(log_probs) * hop_s) as left:
            for at in range(0, max(1, len(log_probs)), PIECE_FRAMES):
                piece = log_probs[at : at + PIECE_FRAMES]
                async with self._turns.turn(live):
                    decoder = await self._heard(decoder, piece)
                left.audio_s -= len(piece) * hop_s
                finished += decoder.cut(len(decoder.finished))
        decoder.put_back(finished)
        return decoder

    async def _heard(self, decoder: BeamDecoder, piece: np.ndarray) -> BeamDecoder:
        """The piece heard in a process. As nothing but this answer comes of it, it may be heard twice."""
        for left in reversed(range(TRIES)):
            pool = self._started()
            try:
                loop = asyncio.get_running_loop()
                heard, took_s = await loop.run_in_executor(pool, _hear, decoder, piece)
                heard.search = decoder.search
                self._learn(len(piece) * decoder.seconds_per_frame, took_s)
                return heard
            except BrokenProcessPool:
                log.warning("a search process died; tries left: %d", left)
                if self._pool is pool:
                    self._pool = None  # another is made for the next one
            except Exception:
                log.exception("a search failed")
                break
        raise ApiError("the search for the text failed", code="inference_failed")

    def _learn(self, piece_s: float, took_s: float) -> None:
        audio_s, process_s = self._done
        self._done = (FADE * audio_s + piece_s, FADE * process_s + max(took_s, piece_s / FASTEST))

    def close(self) -> None:
        """End the processes. Blocks until the pieces that they have are done."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._workers, context, _live_with_parent)
        return self._pool


def _hear(decoder: BeamDecoder, log_probs: np.ndarray) -> tuple[BeamDecoder, float]:
    """What the decoder is then, and the seconds that it searched."""
    _ = decoder.search.lm  # read with a process's first piece: no time of the search
    started = time.perf_counter()
    decoder.push(log_probs)
    del decoder.search  # the parent has it, and would make it anew
    return decoder, time.perf_counter() - started


def _live_with_parent() -> None:
    """Signals are for the parent: it ends its processes when the last request is done. Without it, they end at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
