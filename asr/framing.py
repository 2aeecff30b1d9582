"""What of a file libsndfile is to read, so that it reads all of it and no more.

Ogg files may be chained, tags and junk stand behind an MP3's frames, a WAV's header may give no length. Nothing is
decoded here, and nothing copied: a view is bytes of the file, read when they are asked for.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

SCAN_BYTES = 1 << 20


def parts(file: BinaryIO, head: bytes) -> Iterator[BinaryIO | View]:
    """Give what libsndfile is to read, one after the other."""
    if head.startswith(b"OggS"):
        yield from _ogg_links(file)
    elif head.startswith(b"ID3") or (head[0] == 0xFF and head[1:2] >= b"\xe0"):
        yield _mp3(file)
    elif head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        yield _wav(file)
    else:
        yield file


class View:
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


def _ogg_links(file: BinaryIO) -> Iterator[View]:
    """Give the links of a chained Ogg file, each as a file: libsndfile stops at the end of the first.

    A link begins where a page that begins a stream follows one that does not.
    """
    start, beginning = 0, True
    for at, begins_stream in _ogg_pages(file):
        if begins_stream and not beginning:
            yield View(file, start, at)
            start = at
        beginning = begins_stream
    yield View(file, start, _size(file))


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


def _wav(file: BinaryIO) -> BinaryIO | View:
    """Return the file; where its header says that there is no data, but there is, one with the true length.

    Such a header is left by a writer that was killed, or that could not go back.
    """
    for at, name, length in _chunks(file, 12):
        if name == b"data":
            start, size = at + 8, _size(file)
            if length or _only_chunks(file, start):
                return file
            return View(file, 0, size, (at + 4, struct.pack("<I", min(size - start, 0xFFFFFFFF))))
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


class _WholeMp3(View):
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


def _mp3(file: BinaryIO) -> View:
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
        return View(file, 0, size)  # cut off, or its end is damaged, which must show
    if flags & 3 == 3 and _frames_end(file, stated_end) is None:
        return View(file, 0, end)
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
