"""Beam searches, in processes of their own: in this one they would hold up the device's thread and the event loop.

A search is Python through and through, and Python runs one thread at a time. A process is given what a search has
found so far and some frames more, and answers with what it has found then; it keeps nothing of it. So any process does,
a long clip goes piece by piece, and one whose client left ends with its piece. Streams' pieces go before clips', which
take turns piece by piece: a stream waits for other streams, and for what the processes have just begun.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from asr.beam import BeamDecoder
from asr.search import Beam, search_of
from service.errors import ApiError, BadRequest

log = logging.getLogger(__name__)

PIECE_FRAMES = 250  # 5 s of audio: some hundredths of a second of work
TRIES = 2  # of a piece, where its process dies


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

    def __init__(self, workers: int = 1, lm: Path | None = None) -> None:
        """`lm` is the file of the n-gram that all searches go by."""
        self._workers, self._lm = workers, lm
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

    async def hear(self, decoder: BeamDecoder, log_probs: np.ndarray, *, live: bool = True) -> BeamDecoder:
        """What `decoder` is after these scores [frames, vocabulary]; itself it stays as it was.

        Args:
            decoder: a search of this service's.
            log_probs: what comes next.
            live: whether somebody speaks meanwhile. A clip's scores wait for those.

        Raises:
            ApiError: the search failed.
        """
        decoder, finished = decoder.copy(), decoder.finished
        decoder.cut(len(finished))  # the words of an hour need not go there and back with every piece
        for at in range(0, max(1, len(log_probs)), PIECE_FRAMES):
            async with self._turns.turn(live):
                decoder = await self._heard(decoder, log_probs[at : at + PIECE_FRAMES])
            finished += decoder.cut(len(decoder.finished))
        decoder.put_back(finished)
        return decoder

    async def _heard(self, decoder: BeamDecoder, piece: np.ndarray) -> BeamDecoder:
        """The piece heard in a process. As nothing but this answer comes of it, it may be heard twice."""
        for left in reversed(range(TRIES)):
            pool = self._started()
            try:
                heard = await asyncio.get_running_loop().run_in_executor(pool, _hear, decoder, piece)
                heard.search = decoder.search
                return heard
            except BrokenProcessPool:
                log.warning("a search process died; tries left: %d", left)
                if self._pool is pool:
                    self._pool = None  # another is made for the next one
            except Exception:
                log.exception("a search failed")
                break
        raise ApiError("the search for the text failed", code="inference_failed")

    def close(self) -> None:
        """End the processes. Blocks until the pieces that they have are done."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._workers, context, _live_with_parent)
        return self._pool


def _hear(decoder: BeamDecoder, log_probs: np.ndarray) -> BeamDecoder:
    decoder.push(log_probs)
    del decoder.search  # the parent has it, and would make it anew
    return decoder


def _live_with_parent() -> None:
    """Signals are for the parent: it ends its processes when the last request is done. Without it, they end at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
