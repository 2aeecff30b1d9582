"""Sound in any common format to what the model takes: float32 mono at 16 kHz.

libsndfile (through `soundfile`) decodes wav, flac, ogg, mp3 and more. The containers it does not know (m4a,
mp4, webm) go to PyAV, an optional extra: `pip install 'mla-asr[av]'`. Uploads count as hostile:
sound is decoded block by block, headers are not trusted about length, limits hold during the decoding.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr

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
    is_mp3 = head.startswith(b"ID3") or (head[0] == 0xFF and head[1:2] >= b"\xe0")
    return _soundfile_blocks(file, is_mp3)


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


class _WholeMp3:
    """An MP3 that libsndfile reads to its real end, by pretending to be very long.

    libsndfile otherwise computes where to stop, from a Xing header or from the first frame's bit rate, and so
    drops most of a variable-rate file that lacks the header, and all but the first of joined files.
    """

    EXTRA_BYTES = 1 << 34

    def __init__(self, file: BinaryIO, xing: int | None) -> None:
        """Wrap `file`, with the Xing header at byte `xing` hidden."""
        self._file, self._xing = file, xing
        self._size = _size(file)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset + (self.EXTRA_BYTES if whence == io.SEEK_END else 0), whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()
        if at > self._size:  # the search for a tag at the pretended end, which has to be answered
            return bytes(size)
        data = self._file.read(size)
        if self._xing is not None and at <= self._xing < at + len(data):
            data = data[: self._xing - at] + b"\0" + data[self._xing - at + 1 :]
        return data


def _whole_mp3(file: BinaryIO) -> BinaryIO | _WholeMp3:
    """Return the file as it is where its Xing header accounts for all of it, else one without that header.

    The header is worth having: with it, the encoder's padding is cut and word times are exact.
    """
    start = _id3_bytes(file)
    file.seek(start)
    head = file.read(64)
    file.seek(0)
    found = [head.find(tag) for tag in (b"Xing", b"Info") if tag in head]
    if not found:
        return _WholeMp3(file, None)
    flags, _, stated_bytes = struct.unpack(">III", head[found[0] + 4 :].ljust(12, b"\0")[:12])
    complete = flags & 3 == 3 and stated_bytes >= 0.99 * (_size(file) - start)
    return file if complete else _WholeMp3(file, start + found[0])


def _id3_bytes(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10).ljust(10, b"\0")
    return (
        10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:])) if head[:3] == b"ID3" else 0
    )


def _size(file: BinaryIO) -> int:
    at = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(at)
    return size


def _soundfile_blocks(file: BinaryIO, is_mp3: bool) -> Iterator[Block]:
    try:
        sound = _Forward(_whole_mp3(file) if is_mp3 else file)
    except (soundfile.SoundFileError, TypeError):
        # libsndfile's own words name the Python object it was given: of no use to a caller.
        # TypeError is soundfile's answer to headerless formats.
        raise AudioError(
            "not_audio", "not a sound file in a known format (wav, flac, ogg, mp3, m4a, webm)"
        ) from None
    with sound:
        _check_format(sound.samplerate, sound.channels)
        frames = 0
        while len(block := _soundfile_block(sound, frames)):
            frames += len(block)
            yield sound.samplerate, block


def _soundfile_block(sound: soundfile.SoundFile, frames: int) -> np.ndarray:
    try:
        block: np.ndarray = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise AudioError("not_audio", f"damaged or cut off after {frames / sound.samplerate:.1f} s") from None
    return block


def _container(head: bytes) -> str | None:
    """Return the demuxer for what only PyAV reads.

    It is named, never guessed: guessing would let an upload choose a playlist, which opens other files.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
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
