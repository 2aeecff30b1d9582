"""Beam searches, in processes of their own: in this one they would hold up the device's thread and the event loop.

A search is Python through and through, and Python runs one thread at a time. A process is given what a search has
found so far and some frames more, and answers with what it has found then; it keeps nothing of it. So any process does,
streams and clips take turns, a long clip goes piece by piece, and one whose client left ends with its piece.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from asr.beam import BeamDecoder
from asr.search import Beam, search_of
from service.errors import ApiError, BadRequest

log = logging.getLogger(__name__)

PIECE_FRAMES = 3_000


class Searches:
    """`workers` processes, which start when the first search needs them; further pieces wait their turn."""

    def __init__(self, workers: int = 1, lm: Path | None = None) -> None:
        """`lm` is the file of the n-gram that all searches go by."""
        self._workers, self._lm = workers, lm
        self._pool: ProcessPoolExecutor | None = None

    def decoder(self, model: Any, hot_words: tuple[str, ...]) -> BeamDecoder:
        """A search of `model`'s scores that has heard nothing. Raises BadRequest for a word that it cannot spell."""
        try:
            search = search_of(Beam(hot_words=hot_words, lm=self._lm), tuple(model.vocabulary.tokens))
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_option", param="hot_words") from None
        return BeamDecoder(search, model.seconds_per_frame)

    async def hear(self, decoder: BeamDecoder, log_probs: np.ndarray) -> BeamDecoder:
        """What `decoder` is after these scores [frames, vocabulary]; itself it stays as it was.

        Raises:
            ApiError: the search failed.
        """
        pool = self._started()
        for at in range(0, max(1, len(log_probs)), PIECE_FRAMES):
            piece = log_probs[at : at + PIECE_FRAMES]
            try:
                decoder = await asyncio.get_running_loop().run_in_executor(pool, _hear, decoder, piece)
            except Exception as error:
                log.exception("a search failed")
                if isinstance(error, BrokenProcessPool) and self._pool is pool:
                    self._pool = None  # another is made for the next one
                raise ApiError("the search for the text failed", code="inference_failed") from None
        return decoder

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
    return decoder


def _live_with_parent() -> None:
    """Signals are for the parent: it ends its processes when the last request is done. Without it, they end at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
