"""Sound in any common format to what the model takes: float32 mono at 16 kHz.

libsndfile (through `soundfile`) decodes wav, flac, ogg, mp3 and more. The containers it does not know (m4a,
mp4, webm) go to PyAV, an optional extra: `pip install 'mla-asr[av]'`. Uploads count as hostile:
sound is decoded block by block, headers are not trusted about length, limits hold during the decoding.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr

from asr.framing import View, parts

SAMPLE_RATE = 16_000
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
MAX_CHANNELS = 8
# Float files may hold sound at any scale (the model normalises), but the squares of samples must stay finite.
MAX_PEAK = 2.0**31
BLOCK_FRAMES = 16_384
# A silent FLAC of kilobytes can ask for gigabytes of samples. Of a limited duration as many are decoded as stereo at
# 48 kHz has: at higher rates, or with more channels, the limit is shorter, but never less than FULL_RATE_S.
COMMON_SAMPLES_PER_S = 2 * 48_000
FULL_RATE_S = 60.0

PYAV_CONTAINERS = {"mov": "m4a/mp4", "matroska": "webm/mkv"}

ErrorCode = Literal["not_audio", "empty", "too_long", "unsupported"]
Block = tuple[int, np.ndarray]  # sample rate, float32 [frames, channels]


class AudioError(ValueError):
    """Input that cannot be used; `code` says why for machines, the text says it for people."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def read(source: str | Path | bytes | BinaryIO, *, max_duration_s: float | None = None) -> np.ndarray:
    """Decode a file, its bytes, or an open binary file.

    Args:
        source: a path, the bytes of a file, or a file opened for reading in binary mode.
        max_duration_s: the longest sound to accept, checked while decoding; None for no limit. Less is accepted
            where rate x channels is over 96 000 samples a second: as many samples, or a minute.

    Returns:
        float32 [samples], mono (the mean of the channels), 16 kHz, finite, at least one sample.

    Raises:
        AudioError: `not_audio`, `empty`, `too_long` or `unsupported` (rate, channels, or a missing extra).
        OSError: the path cannot be opened.
    """
    name = _name(source)
    try:
        with _opened(source) as file:
            return _join(_decoded(file), max_duration_s)
    except AudioError as error:
        raise AudioError(error.code, f"{name}: {error.reason}" if name else error.reason) from None


def _name(source: str | Path | bytes | BinaryIO) -> str | None:
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    return Path(name).name if isinstance(name, str) else None


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            yield _seekable(file)
    else:
        yield io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else _seekable(source)


def _seekable(file: BinaryIO) -> BinaryIO:
    return file if file.seekable() else io.BytesIO(file.read())


def _decoded(file: BinaryIO) -> Iterator[Block]:
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    if not head:
        raise AudioError("empty", "the file is empty")
    if container := _container(head):
        return _pyav_blocks(file, container)
    return _soundfile_blocks(parts(file, head))


def _join(blocks: Iterator[Block], max_duration_s: float | None) -> np.ndarray:
    """Mix down and resample block by block, with the limits applied to what was really decoded."""
    resampler: soxr.ResampleStream | None = None
    rate, frames, waves = 0, 0, []
    for block_rate, block in blocks:
        _check_format(block_rate, block.shape[1])
        if resampler is None:
            rate, resampler = block_rate, soxr.ResampleStream(block_rate, SAMPLE_RATE, 1, dtype="float32")
        if block_rate != rate:
            raise AudioError("unsupported", f"the sample rate changes from {rate} to {block_rate} Hz")
        frames += len(block)
        _check_duration(frames / rate, rate * block.shape[1], max_duration_s)
        waves.append(resampler.resample_chunk(_mono(block)))
    if resampler is not None:
        waves.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    wave = np.concatenate(waves) if waves else np.zeros(0, np.float32)
    if not len(wave):
        raise AudioError("empty", "the file holds no sound samples")
    return wave


def _check_format(rate: int, channels: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            "unsupported", f"a sample rate of {rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are accepted"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("unsupported", f"{channels} channels; 1 to {MAX_CHANNELS} are accepted")


def _check_duration(duration_s: float, samples_per_s: int, max_duration_s: float | None) -> None:
    if max_duration_s is None:
        return
    limit_s = min(max_duration_s, max(FULL_RATE_S, max_duration_s * COMMON_SAMPLES_PER_S / samples_per_s))
    if duration_s > limit_s:
        why = f" for {samples_per_s} samples a second (rate x channels), of {max_duration_s:g} s for common rates"
        shown = why if limit_s < max_duration_s else ""
        raise AudioError("too_long", f"longer than the limit of {limit_s:g} s{shown}")


def _mono(block: np.ndarray) -> np.ndarray:
    if not np.isfinite(block).all():
        raise AudioError("not_audio", "holds samples that are not numbers (NaN or infinite)")
    if np.abs(block).max(initial=0) > MAX_PEAK:
        raise AudioError("not_audio", f"holds samples of a size that sound never has (over {MAX_PEAK:g})")
    mono: np.ndarray = block.mean(axis=1, dtype=np.float32)
    return mono


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read forward only.

    Where it may seek, soundfile stops at the header's frame count, and fails at the end of a FLAC that was
    written to a pipe, which has no such count.
    """

    def seekable(self) -> bool:
        return False


def _soundfile_blocks(files: Iterator[BinaryIO | View]) -> Iterator[Block]:
    seconds = 0.0
    for file in files:
        with _soundfile(file, seconds) as sound:
            _check_format(sound.samplerate, sound.channels)
            while len(block := _soundfile_block(sound, seconds)):
                seconds += len(block) / sound.samplerate
                yield sound.samplerate, block


def _soundfile(file: BinaryIO | View, seconds: float) -> soundfile.SoundFile:
    file.seek(0)
    try:
        return _Forward(file)
    except (soundfile.SoundFileError, TypeError):
        # libsndfile's own words name the Python object it was given: of no use to a caller.
        # TypeError is soundfile's answer to headerless formats.
        unknown = "not a sound file in a known format (wav, flac, ogg, mp3, m4a, webm)"
        raise AudioError("not_audio", _damaged(seconds) if seconds else unknown) from None


def _soundfile_block(sound: soundfile.SoundFile, seconds: float) -> np.ndarray:
    try:
        block: np.ndarray = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise AudioError("not_audio", _damaged(seconds)) from None
    return block


def _damaged(seconds: float) -> str:
    return f"damaged or cut off after {seconds:.1f} s"


def _container(head: bytes) -> str | None:
    """Return the demuxer for what only PyAV reads.

    It is named, never guessed: guessing would let an upload choose a playlist, which opens other files.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    return "matroska" if head.startswith(b"\x1a\x45\xdf\xa3") else None


def _pyav_blocks(file: BinaryIO, container: str) -> Iterator[Block]:
    try:
        import av
    except ImportError:
        reason = f"{PYAV_CONTAINERS[container]} files need the extra `av`: pip install 'mla-asr[av]'"
        raise AudioError("unsupported", reason) from None
    try:
        with av.open(file, mode="r", format=container) as opened:
            if not opened.streams.audio:
                raise AudioError("not_audio", "the file has no audio track")
            _check_format(opened.streams.audio[0].rate or 0, opened.streams.audio[0].channels or 0)
            to_float = av.AudioResampler(format="fltp")
            for frame in opened.decode(opened.streams.audio[0]):
                for converted in to_float.resample(frame):
                    yield converted.sample_rate, converted.to_ndarray().T
    except AudioError:
        raise
    except (av.FFmpegError, ValueError):
        raise AudioError("not_audio", f"damaged, or not really a {PYAV_CONTAINERS[container]} file") from None
