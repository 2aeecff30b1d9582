"""One client of many: sound in real time to /stream, and how long ago the sound of each message was due.

What is measured is defined in `loadtests.paced`. Knows the protocol, and nothing of the project's code.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

GIVE_UP_S = 60.0  # without a message from the server, or a piece that went out to it
Message = dict[str, Any]


class SoundError(ValueError):
    """A file that cannot be played."""


class Refused(Exception):
    """The server ended the stream: its reason."""


BROKEN = (Refused, WebSocketException, InvalidHandshake, InvalidURI, OSError, TimeoutError)
# No pings: while a server takes no more audio, it reads no pings either.
CONNECTION: Message = {"compression": None, "ping_interval": None, "open_timeout": GIVE_UP_S}


@dataclass
class Sound:
    """16-bit samples [n], mono, at `rate` Hz."""

    samples: np.ndarray
    rate: int

    @classmethod
    def read(cls, files: Sequence[Path], pause_s: float = 0.0) -> Sound:
        """All files in a row, each with so much silence after it.

        Raises SoundError for one that is no sound, or of another rate than the first.
        """
        parts, rates = [], []
        for file in files:
            if not file.is_file():
                raise SoundError(f"{file}: no such file")
            try:
                samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            except (OSError, ValueError, soundfile.LibsndfileError) as error:
                raise SoundError(f"{file}: {error}") from None
            parts += [samples.mean(axis=1), np.zeros(round(pause_s * rate))]
            rates.append(rate)
            if rate != rates[0]:
                raise SoundError(f"{file}: its rate is {rate} Hz, that of {files[0]} {rates[0]}")
        whole = np.concatenate(parts)
        if not len(whole):
            raise SoundError(f"{files[0]}: no samples in it")
        return cls((whole * 32_768).round().clip(-32_768, 32_767).astype("<i2"), rates[0])

    def pieces(self, start_s: float, seconds: float, piece_ms: float) -> Iterator[bytes]:
        """So many seconds from that place on, around the end, a piece at a time."""
        total, size = round(seconds * self.rate), max(1, round(self.rate * piece_ms / 1000))
        first = round(start_s * self.rate)
        for at in range(0, total, size):
            index = np.arange(first + at, first + min(at + size, total)) % len(self.samples)
            yield self.samples[index].tobytes()


@dataclass
class Client:
    """One stream, and what was noted of it. Times are of a monotonic clock."""

    rate: int
    first_s: float = 0.0  # of sound that the server needs before it hears the first chunk
    chunk_s: float = 0.0
    lookahead_s: float = 0.0
    heard_s: list[float] = field(default_factory=list)  # seconds of sound up to each piece sent
    due_at: list[float] = field(default_factory=list)  # when each had been spoken
    late_send_s: list[float] = field(default_factory=list)
    ended: bool = False
    partial_s: list[float] = field(default_factory=list)
    final_s: list[float] = field(default_factory=list)
    last_s: float | None = None
    texts: list[str] = field(default_factory=list)
    usage: Message = field(default_factory=dict)
    error: str = ""  # why it did not get to its end

    async def run(self, socket: ClientConnection, pieces: Iterator[bytes], start: Message) -> None:
        """Speak and listen to the end. Raises OSError, WebSocketException, or Refused with the server's reason."""
        await socket.send(json.dumps({"type": "start", "sample_rate": self.rate, **start}))
        self.begin(await _next(socket))
        speaking = asyncio.ensure_future(self._speak(socket, pieces))
        try:
            while (message := await self._listen(socket))["type"] != "done":
                self.note(message, time.monotonic())
            self.done(message, time.monotonic())
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def _listen(self, socket: ClientConnection) -> Message:
        """The next message; a server says nothing of silence, however long."""
        while True:
            sent = len(self.heard_s)
            try:
                return await _next(socket)
            except TimeoutError:
                if len(self.heard_s) == sent:
                    raise

    async def _speak(self, socket: ClientConnection, pieces: Iterator[bytes]) -> None:
        for piece, samples, due in self.schedule(pieces, time.monotonic()):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.sent(samples, due, time.monotonic())
            await socket.send(piece)
        self.ended = True
        await socket.send(json.dumps({"type": "end"}))

    def schedule(self, pieces: Iterator[bytes], started: float) -> Iterator[tuple[bytes, int, float]]:
        """Each piece, the samples up to its end, and when they have been spoken."""
        samples = 0
        for piece in pieces:
            samples += len(piece) // 2
            yield piece, samples, started + samples / self.rate

    def begin(self, ready: Message) -> None:
        """Keep how long the server's chunks are, and its look-ahead."""
        self.chunk_s, self.lookahead_s = ready["chunk_ms"] / 1000, ready["lookahead_ms"] / 1000
        self.first_s = ready["latency_ms"] / 1000 - self.lookahead_s

    def sent(self, samples: int, due: float, now: float) -> None:
        """Keep that the piece up to so many samples goes out now, and when it was due."""
        self.late_send_s.append(now - due)
        self.heard_s.append(samples / self.rate)
        self.due_at.append(due)

    def note(self, message: Message, now: float) -> None:
        """Keep how long after its sound was due a message came.

        Finals count only before the end is sent: later ones may answer the end itself. Partials always count.
        """
        if message["type"] == "final":
            self.texts.append(message["text"])
        if message["type"] == "partial":
            tail_s = self.first_s - self.chunk_s  # the last frame reaches so far beyond its own place
            self.partial_s.append(now - self.when_due(message["audio_s"] + self.lookahead_s + tail_s))
        elif message["type"] == "final" and not self.ended and self.heard_s[-1] >= self.first_s:
            full = self.first_s + (self.heard_s[-1] - self.first_s) // self.chunk_s * self.chunk_s
            self.final_s.append(now - self.when_due(full))

    def done(self, message: Message, now: float) -> None:
        """Keep how long ago the end of the sound was due, and what the server counted."""
        self.last_s = now - self.due_at[-1]
        self.usage = message["usage"]

    def when_due(self, audio_s: float) -> float:
        """When the piece that holds this second of the sound had been spoken."""
        return self.due_at[min(bisect_left(self.heard_s, audio_s - 1e-6), len(self.due_at) - 1)]


def authorization(key: str | None) -> dict[str, str]:
    """The header that shows an API key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


async def _next(socket: ClientConnection) -> Message:
    message: Message = json.loads(await asyncio.wait_for(socket.recv(), GIVE_UP_S))
    if message["type"] == "error":
        raise Refused(f"{message['code']}: {message['message']}")
    return message


async def speak(
    address: str, rate: int, pieces: Iterator[bytes], after_s: float, start: Message, key: str | None = None
) -> Client:
    """One client from its turn to begin, after that time, on to its end; a failure is noted, not raised."""
    await asyncio.sleep(after_s)
    client = Client(rate)
    try:
        async with connect(address, additional_headers=authorization(key), **CONNECTION) as socket:
            await client.run(socket, pieces, {"encoding": "pcm_s16le", **start})
    except BROKEN as broken:
        client.error = str(broken) or type(broken).__name__
    return client
