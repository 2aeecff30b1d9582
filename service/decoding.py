"""Uploads to samples, in a few processes of their own: a decoder that hangs or crashes takes nothing with it.

Samples come back as a file that is mapped, not as bytes through a pipe, so an hour of sound costs the event loop no
more than a second of it. A worker whose client left, whose time is up, or that died, is killed and replaced. One may
have only so much memory: an upload of some kilobytes can ask for gigabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from asr.audio import AudioError, read
from service.errors import ApiError, BadRequest, DeadlineExceeded, TooLarge, Unavailable

log = logging.getLogger(__name__)

Task = tuple[Path, Path, float]  # source, target, max_audio_s
Refusal = tuple[str, str]  # code, message for the client
RETRY_S = 1.0
START_S = 60.0
NO_SPACE = "no_disk_space"
NO_MEMORY = "decode_memory"


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection


class DecodePool:
    """`workers` processes, each decoding one upload at a time; further uploads wait their turn."""

    def __init__(self, workers: int, *, timeout_s: float, memory_bytes: int = 2**31) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["service.decoding"])
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._workers: set[_Worker] = set()
        self._size = workers
        self._closed = False
        self.ready = False  # whether the latest worker that should have started did

    def start(self) -> None:
        """Start the workers in the background. Call it with the event loop running."""
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for _ in range(self._size):
            self._start_worker()

    def close(self) -> None:
        """End all workers. Blocks for as long as that takes."""
        self._closed = True
        for worker in list(self._workers):
            worker.process.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    async def decode(
        self, source: Path, target: Path, *, max_audio_s: float, admit: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Decode the file `source`, unless `admit` raises when its turn has come.

        Returns:
            float32 [samples], mono at 16 kHz, mapped from `target` (which may be unlinked while it is in use).

        Raises:
            BadRequest, TooLarge: the upload is no audio, empty, unsupported, longer than `max_audio_s`, or needs
                more memory than the pool's `memory_bytes`.
            DeadlineExceeded: it took longer than the pool's `timeout_s`.
            Unavailable: the process was killed from outside, or there is no room on the disk.
        """
        worker = await self._live_worker()
        try:
            admit()
        except ApiError:
            self._idle.put_nowait(worker)
            raise
        try:
            async with asyncio.timeout(self._timeout_s):
                refusal = await self._loop.run_in_executor(
                    self._threads, _ask, worker, (source, target, max_audio_s)
                )
        except BaseException as error:
            self._replace(worker)
            raise _error_of(error, self._timeout_s) from None
        self._idle.put_nowait(worker)
        if refusal:
            raise _refused(*refusal)
        wave: np.ndarray = np.load(target, mmap_mode="c")
        return wave

    async def _live_worker(self) -> _Worker:
        while not (worker := await self._idle.get()).process.is_alive():
            log.error("a decoding process died while it was idle")
            self._replace(worker)
        return worker

    def _start_worker(self) -> None:
        if self._closed:
            return
        self._threads.submit(self._spawn).add_done_callback(self._started)

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        self._workers.discard(worker)
        self._start_worker()

    def _spawn(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._memory_bytes), name="decode", daemon=True
        )
        process.start()
        theirs.close()
        if not ours.poll(START_S):
            process.kill()
            raise TimeoutError(f"nothing heard of it in {START_S:g} s")
        ours.recv()  # its greeting; EOFError where it died before it
        return _Worker(process, ours)

    def _started(self, future: Future[_Worker]) -> None:
        if error := future.exception():
            log.critical("a decoding process did not start; trying again in %g s", RETRY_S, exc_info=error)
            self.ready = False
            if not self._closed:
                self._loop.call_soon_threadsafe(self._loop.call_later, RETRY_S, self._start_worker)
            return
        worker = future.result()
        self._workers.add(worker)
        self.ready = True
        if self._closed:
            worker.process.kill()
        else:
            self._loop.call_soon_threadsafe(self._idle.put_nowait, worker)


class _Died(Exception):
    """A worker ended over an upload, with this exit code: negative for a signal."""


def _ask(worker: _Worker, task: Task) -> Refusal | None:
    try:
        worker.connection.send(task)
        refusal: Refusal | None = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(RETRY_S)
        raise _Died(worker.process.exitcode) from None
    return refusal


def _error_of(error: BaseException, timeout_s: float) -> BaseException:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(
            f"decoding took longer than {timeout_s:g} s (decode_timeout_s)", code="decode_timeout"
        )
    if isinstance(error, _Died):
        (exit_code,) = error.args
        log.error("a decoding process died over an upload, with exit code %s", exit_code)
        if exit_code == -signal.SIGKILL:  # the kernel's, where memory runs out: no fault of this file's
            return Unavailable("the server lost the process that decoded the audio", code="decoder_lost")
        return BadRequest("the audio could not be decoded", code="not_audio", param="file")
    return error


def _refused(code: str, message: str) -> ApiError:
    if code == NO_SPACE:
        log.error("no room for decoded audio: %s", message)
        return Unavailable("the server has no room for the decoded audio", code=code)
    if code == "too_long":
        return TooLarge(f"{message} (max_audio_s)", code="audio_too_long", param="file")
    if code == NO_MEMORY:
        log.warning("an upload needed more memory than a decoding process may have")
        return TooLarge(
            "decoding takes more memory than the server allows (max_decode_memory_bytes)",
            code=code,
            param="file",
        )
    return BadRequest(message, code=code, param="file")


def _work(connection: Connection, memory_bytes: int) -> None:
    """A worker's life. Signals are for the parent: it ends its workers when the last request is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _limit_memory(memory_bytes)
    connection.send(None)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(_decode(*task))


def _limit_memory(extra_bytes: int) -> None:
    """Let this process have `extra_bytes` more than now, and be the first to go where the machine runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Elsewhere than on Linux there is no such count, and the limit means little.
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _decode(source: Path, target: Path, max_audio_s: float) -> Refusal | None:
    try:
        # By descriptor, so that messages do not name our file.
        with open(os.open(source, os.O_RDONLY), "rb") as file:
            wave = read(file, max_duration_s=max_audio_s)
    except AudioError as error:
        return (NO_MEMORY, "") if _out_of_memory(error) else (error.code, str(error))
    except MemoryError:
        return NO_MEMORY, ""
    except Exception:
        log.exception("a decoder failed in an unforeseen way")
        return "not_audio", "the audio could not be decoded"
    try:
        np.save(target, wave)
    except OSError as error:
        return NO_SPACE, str(error)
    return None


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory is at the root of `error`: of a decoder that lacked it, the reader says that the file is bad."""
    while error and not (isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
        error = error.__context__
    return error is not None
