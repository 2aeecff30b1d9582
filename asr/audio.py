"""Sound in any common format to what the model takes: float32 mono at 16 kHz.

libsndfile (through `soundfile`) decodes wav, flac, ogg, mp3 and more. The containers it does not know (m4a,
mp4, webm) go to PyAV, an optional extra: `pip install 'mla-asr[av]'`. Uploads count as hostile:
sound is decoded block by block, headers are not trusted about length, limits hold during the decoding.
"""

from __future__ import annotations

import io
import itertools
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
SCAN_BYTES = 1 << 20
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
    return _soundfile_blocks(_parts(file, head))


def _parts(file: BinaryIO, head: bytes) -> Iterator[BinaryIO | _View]:
    """Give what libsndfile is to read, one after the other."""
    if head.startswith(b"OggS"):
        yield from _ogg_links(file)
    elif head.startswith(b"ID3") or (head[0] == 0xFF and head[1:2] >= b"\xe0"):
        yield _mp3(file)
    elif head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        yield _wav(file)
    else:
        yield file


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


class _View:
    """Bytes `start` to `end` of a file as a file of its own; from byte `patch[0]` of it on, `patch[1]` is read."""

    def __init__(self, file: BinaryIO, start: int, end: int, patch: tuple[int, bytes] = (0, b"")) -> None:
        self._file, self._start, self._size = file, start, end - start
        self._patch_at, self._patch = patch
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = bytearray(self._file.read(left if size < 0 else min(size, left)))
        for i, byte in enumerate(self._patch, self._patch_at - self._at):
            if 0 <= i < len(data):
                data[i] = byte
        self._at += len(data)
        return bytes(data)


def _ogg_links(file: BinaryIO) -> Iterator[_View]:
    """Give the links of a chained Ogg file, each as a file: libsndfile stops at the end of the first.

    A link begins where a page that begins a stream follows one that does not.
    """
    start, beginning = 0, True
    for at, begins_stream in _ogg_pages(file):
        if begins_stream and not beginning:
            yield _View(file, start, at)
            start = at
        beginning = begins_stream
    yield _View(file, start, _size(file))


def _ogg_pages(file: BinaryIO) -> Iterator[tuple[int, bool]]:
    """Give where each page is, and whether it begins a stream."""
    at, size = 0, _size(file)
    while at < size:
        file.seek(at)
        head = file.read(27 + 255).ljust(27, b"\0")
        yield at, bool(head[5] & 2)
        after = at + 27 + head[26] + sum(head[27 : 27 + head[26]])
        file.seek(after)
        if after != size and file.read(5) != b"OggS\0":  # the page is damaged or cut: the next may lie within
            after = _find(file, b"OggS\0", at + 4)
        at = after


def _find(file: BinaryIO, wanted: bytes, at: int) -> int:
    """Return where `wanted` is from byte `at` on, or the size of the file."""
    file.seek(at)
    data = b""
    while block := file.read(4096):  # not more: the next search may begin right behind this one's answer
        data = data[1 - len(wanted) :] + block
        if (found := data.find(wanted)) >= 0:
            return file.tell() - len(data) + found
    return _size(file)


def _wav(file: BinaryIO) -> BinaryIO | _View:
    """Return the file; where its header says that there is no data, but there is, one with the true length.

    Such a header is left by a writer that was killed, or that could not go back.
    """
    for at, name, length in _chunks(file, 12):
        if name == b"data":
            start, size = at + 8, _size(file)
            if length or _only_chunks(file, start):
                return file
            return _View(file, 0, size, (at + 4, struct.pack("<I", min(size - start, 0xFFFFFFFF))))
    return file


def _chunks(file: BinaryIO, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Give where each chunk of a RIFF file is from byte `at` on, its name, and its length."""
    file.seek(at)
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        yield at, name, length
        at += 8 + length + length % 2
        file.seek(at)


def _only_chunks(file: BinaryIO, at: int) -> bool:
    """Tell whether chunks, or nothing, fill a RIFF file from byte `at` on: samples would not look so."""
    end = at
    for start, name, length in _chunks(file, at):
        if not all(32 <= letter < 127 for letter in name):
            return False
        end = start + 8 + length
    return 0 <= _size(file) - end <= 1


class _WholeMp3(_View):
    """An MP3 that libsndfile reads to its real end, by pretending to be very long.

    libsndfile otherwise computes where to stop, from a Xing header or from the first frame's bit rate, and so
    drops most of a variable-rate file that lacks the header, and all but the first of joined files.
    """

    EXTRA_BYTES = 1 << 34

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset + (self.EXTRA_BYTES if whence == io.SEEK_END else 0), whence)

    def read(self, size: int = -1) -> bytes:
        if self._at > self._size:  # the search for a tag at the pretended end, which has to be answered
            return bytes(size)
        return super().read(size)


def _mp3(file: BinaryIO) -> _View:
    """Return the file up to its last frame: at the tags or the junk behind that, libsndfile may fail.

    Its Xing header is hidden where frames follow those that it accounts for. It is worth having: with it, the
    encoder's padding is cut and word times are exact.
    """
    start, size = _id3_bytes(file), _size(file)
    file.seek(start)
    head = file.read(64)
    end = _frames_end(file, start) or size
    found = [head.find(tag) for tag in (b"Xing", b"Info") if tag in head]
    if not found:
        return _WholeMp3(file, 0, end)
    flags, _, stated_bytes = struct.unpack(">III", head[found[0] + 4 :].ljust(12, b"\0")[:12])
    stated_end = start + stated_bytes
    if flags & 3 == 3 and end < stated_end:
        return _View(file, 0, size)  # cut off, or its end is damaged, which must show
    if flags & 3 == 3 and _frames_end(file, stated_end) is None:
        return _View(file, 0, end)
    return _WholeMp3(file, 0, end, (start + found[0], b"\0"))


def _frames_end(file: BinaryIO, start: int) -> int | None:
    """Return where the last MPEG frame behind byte `start` ends, None if there is none.

    Three frames in a row count, where each begins at the end of the last: one alone can be chance.
    """
    size = stop = _size(file)
    while stop > start:
        begin = max(start, stop - SCAN_BYTES)
        file.seek(begin)
        data = np.frombuffer(file.read(stop - begin + 2 * MP3_FRAME_BYTES.max() + 3), np.uint8)
        kinds = (data[1:-1].astype(np.uint16) << 8) | data[2:]
        frames = np.where(data[:-2] == 0xFF, MP3_FRAME_BYTES[kinds], 0)
        at = np.flatnonzero(frames)
        for _ in range(2):
            after = at + frames[at]
            at, after = at[after < len(frames)], after[after < len(frames)]
            at = after[(frames[after] > 0) & (((kinds[at] ^ kinds[after]) & 0x1E0C) == 0)]
        if len(at):
            return min(size, begin + int((at + frames[at]).max()))
        stop = begin
    return None


def _mp3_frame_bytes() -> np.ndarray:
    """int32 [65536]: the length of the Layer III frame for bytes 1 and 2 of its header; 0 where they are none."""
    kbps = {
        1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }
    sizes = np.zeros(1 << 16, np.int32)
    for divisor, version in ((1, 0xFA), (2, 0xF2), (4, 0xE2)):  # MPEG 1, 2, 2.5
        for i, rate in enumerate((44_100, 48_000, 32_000)):
            for j, kilobits in enumerate(kbps[min(divisor, 2)], 1):
                unpadded = (144_000 if divisor == 1 else 72_000) * kilobits * divisor // rate
                for padding, without_crc, private in itertools.product((0, 1), repeat=3):
                    kind = (version | without_crc) << 8 | j << 4 | i << 2 | padding << 1 | private
                    sizes[kind] = unpadded + padding
    return sizes


MP3_FRAME_BYTES = _mp3_frame_bytes()


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


def _soundfile_blocks(files: Iterator[BinaryIO | _View]) -> Iterator[Block]:
    seconds = 0.0
    for file in files:
        with _soundfile(file, seconds) as sound:
            _check_format(sound.samplerate, sound.channels)
            while len(block := _soundfile_block(sound, seconds)):
                seconds += len(block) / sound.samplerate
                yield sound.samplerate, block


def _soundfile(file: BinaryIO | _View, seconds: float) -> soundfile.SoundFile:
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
