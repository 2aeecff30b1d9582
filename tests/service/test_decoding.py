"""Decoding in processes of their own: right samples, named refusals, and workers that can be lost."""

import asyncio
import errno
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from asr.audio import AudioError
from service import decoding
from service.decoding import DecodePool, _out_of_memory
from service.errors import ApiError, BadRequest, DeadlineExceeded, Overloaded, TooLarge, Unavailable
from tests.service.conftest import sound


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    pool = DecodePool(1, timeout_s=60.0)
    pool.start()
    yield pool
    await asyncio.to_thread(pool.close)


async def decode(pool: DecodePool, file: bytes, max_audio_s: float = 60.0) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "upload"
        source.write_bytes(file)
        return await pool.decode(source, Path(folder) / "wave.npy", max_audio_s=max_audio_s)


async def test_gives_what_audio_read_gives_after_the_file_is_gone(pool: DecodePool) -> None:
    file = sound(22_050, rate=22_050, channels=2)
    wave = await decode(pool, file)
    assert wave.dtype == np.float32
    assert isinstance(wave, np.memmap)  # long sound lies on the disk, not in memory
    assert np.array_equal(wave, audio.read(file))


async def test_refusals_are_named_and_the_worker_lives_on(pool: DecodePool) -> None:
    with pytest.raises(BadRequest) as garbage:
        await decode(pool, b"garbage")
    assert garbage.value.code == "not_audio" and "/" not in garbage.value.message
    with pytest.raises(TooLarge, match="max_audio_s"):
        await decode(pool, sound(16_001), max_audio_s=1.0)
    (worker,) = pool._workers
    assert len(await decode(pool, sound(16_000), max_audio_s=1.0)) == 16_000
    assert pool._workers == {worker}


async def test_too_much_memory_is_an_error_and_the_worker_lives_on() -> None:
    # Its 58 MB of samples fit, but not a second time, when the blocks are joined.
    pool = DecodePool(1, timeout_s=60.0, memory_bytes=90 * 2**20)
    pool.start()
    try:
        with pytest.raises(TooLarge, match="max_decode_memory_bytes") as refused:
            await decode(pool, sound(8000 * 900, rate=8000), max_audio_s=3600.0)
        assert refused.value.code == "decode_memory"
        (worker,) = pool._workers
        assert len(await decode(pool, sound(16_000))) == 16_000
        assert pool._workers == {worker}
    finally:
        await asyncio.to_thread(pool.close)


def test_what_the_reader_makes_of_lacking_memory_is_told_apart() -> None:
    def raised(cause: Exception) -> AudioError:
        try:
            try:
                raise cause
            except Exception:
                raise AudioError("not_audio", "damaged") from None
        except AudioError as error:
            return error

    assert _out_of_memory(raised(MemoryError()))
    assert _out_of_memory(raised(OSError(errno.ENOMEM, "no memory")))
    assert not _out_of_memory(raised(ValueError()))


@pytest.mark.parametrize(
    ("sent", "kind", "code"),
    [(signal.SIGSEGV, BadRequest, "not_audio"), (signal.SIGKILL, Unavailable, "decoder_lost")],
)
async def test_a_lost_worker_is_replaced_and_its_file_blamed_for_a_crash_alone(
    pool: DecodePool, tmp_path: Path, sent: signal.Signals, kind: type[ApiError], code: str
) -> None:
    stuck = asyncio.create_task(_decode_stuck(pool, tmp_path))
    await _until_busy(pool)
    (worker,) = pool._workers
    os.kill(worker.process.pid or 0, sent)
    with pytest.raises(kind) as crashed:
        await stuck
    assert crashed.value.code == code
    assert len(await decode(pool, sound(16_000))) == 16_000


async def test_ready_once_a_worker_has_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = DecodePool(1, timeout_s=60.0)
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_work", _die)
        pool.start()
        async with asyncio.timeout(60):
            while "did not start" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not pool.ready
    try:
        assert len(await decode(pool, sound(16_000))) == 16_000
        assert pool.ready
    finally:
        await asyncio.to_thread(pool.close)


def _die(connection: Connection, memory_bytes: int) -> None:
    os._exit(1)


async def test_not_decoded_what_is_not_admitted_any_more(pool: DecodePool, tmp_path: Path) -> None:
    def admit() -> None:
        raise Overloaded("too much of it")

    with pytest.raises(Overloaded):
        await pool.decode(tmp_path / "no such file", tmp_path / "wave.npy", max_audio_s=1.0, admit=admit)
    assert len(await decode(pool, sound(16_000))) == 16_000


async def test_a_worker_lost_while_idle_is_nobodys_error(pool: DecodePool) -> None:
    await decode(pool, sound(100))
    (worker,) = pool._workers
    worker.process.kill()
    worker.process.join()
    assert len(await decode(pool, sound(16_000))) == 16_000


async def test_out_of_time_is_killed_and_the_next_is_served(pool: DecodePool, tmp_path: Path) -> None:
    await decode(pool, sound(100))
    pool._timeout_s = 0.2
    with pytest.raises(DeadlineExceeded) as late:
        await _decode_stuck(pool, tmp_path)
    assert late.value.code == "decode_timeout"
    pool._timeout_s = 60.0
    assert len(await decode(pool, sound(16_000))) == 16_000


async def test_a_cancelled_decode_frees_its_worker(pool: DecodePool, tmp_path: Path) -> None:
    stuck = asyncio.create_task(_decode_stuck(pool, tmp_path))
    await _until_busy(pool)
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    assert len(await decode(pool, sound(16_000))) == 16_000


async def test_workers_leave_signals_to_the_parent(pool: DecodePool) -> None:
    await decode(pool, sound(100))
    (worker,) = pool._workers
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.process.pid or 0, number)
    assert len(await decode(pool, sound(16_000))) == 16_000
    assert pool._workers == {worker}


async def test_closing_ends_every_worker() -> None:
    pool = DecodePool(2, timeout_s=60.0)
    pool.start()
    await decode(pool, sound(100))
    await asyncio.to_thread(pool.close)
    assert all(not worker.process.is_alive() for worker in pool._workers)


async def _decode_stuck(pool: DecodePool, folder: Path) -> None:
    """Decode from a pipe that nobody writes to."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    await pool.decode(pipe, folder / "wave.npy", max_audio_s=1.0)


async def _until_busy(pool: DecodePool) -> None:
    async with asyncio.timeout(30):
        while not (pool._workers and pool._idle.empty()):
            await asyncio.sleep(0.01)
