"""Stream a sound file to a server and print what it says, while it says it.

    python -m loadtests.stream_client talk.flac --model mla --realtime
    python -m loadtests.stream_client talk.flac --model mha --profile fast --url ws://localhost:8000 --words

A partial is what the server takes the current segment for so far: on a terminal it is overwritten, elsewhere each gets
a line. A final stays. At the end come the delays: of the first text, and of the last words after the end of the sound.
Stands alone: it knows the protocol, and nothing of the project's code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

HIGHEST_RATE = 48_000  # that the protocol knows
Message = dict[str, Any]


class StreamError(Exception):
    """Why there is no more text."""


@dataclass
class Timeline:
    """When things happened, in seconds of a monotonic clock."""

    started: float = 0.0
    first_text: float | None = None
    audio_ended: float | None = None
    last_final: float | None = None

    def report(self) -> Iterator[str]:
        if self.first_text is not None:
            yield f"first text {self.first_text - self.started:.2f} s after the first sound"
        if self.last_final is not None and self.audio_ended is not None:
            yield f"last final {max(0.0, self.last_final - self.audio_ended):.2f} s after the end"


@dataclass
class Sound:
    """Samples float32 [n], mono, at `rate` Hz."""

    samples: np.ndarray
    rate: int

    @classmethod
    def read(cls, file: Path) -> Sound:
        """Any format that libsndfile knows. Raises StreamError."""
        if not file.is_file():
            raise StreamError(f"{file}: no such file")
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (OSError, ValueError, soundfile.LibsndfileError) as error:
            raise StreamError(f"{file}: {error}") from None
        if not 8_000 <= rate <= HIGHEST_RATE:
            raise StreamError(f"{file}: its rate is {rate} Hz; servers take 8000 to {HIGHEST_RATE}")
        return cls(samples.mean(axis=1), rate)

    def pieces(self, piece_ms: float) -> Iterator[bytes]:
        """16-bit samples, little-endian, so many milliseconds at a time."""
        whole = (self.samples * 32_768).round().clip(-32_768, 32_767).astype("<i2")
        size = max(1, int(self.rate * piece_ms / 1000))
        for at in range(0, len(whole), size):
            yield whole[at : at + size].tobytes()


@dataclass
class Client:
    """One stream. `times` fills while it runs."""

    socket: ClientConnection
    start: Message
    times: Timeline = field(default_factory=Timeline)

    async def talk(self, sound: Sound, piece_ms: float, realtime: bool) -> AsyncIterator[Message]:
        """Send the sound, and give the server's messages as they come, `done` as the last.

        Raises:
            StreamError: the server ended the stream.
        """
        with suppress(ConnectionClosed):  # what the server has said before it closed is still to be read
            await self._say(type="start", sample_rate=sound.rate, encoding="pcm_s16le", **self.start)
        yield await self._next()
        self.times.started = time.monotonic()
        playing = asyncio.ensure_future(self._play(sound, piece_ms, realtime))
        try:
            while (message := await self._next())["type"] != "done":
                self._note(message)
                yield message
            yield message
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def _play(self, sound: Sound, piece_ms: float, realtime: bool) -> None:
        samples, due = 0, time.monotonic()
        for piece in sound.pieces(piece_ms):
            samples += len(piece) // 2
            if realtime:  # a piece can be sent when it has been spoken
                due = self.times.started + samples / sound.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.socket.send(piece)
        # a server that takes no more for a while has not made the sound any longer
        self.times.audio_ended = due if realtime else time.monotonic()
        await self._say(type="end")

    async def _say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def _next(self) -> Message:
        message: Message = json.loads(await self.socket.recv())
        if message["type"] == "error":
            hint = " (another time it may work)" if message["retryable"] else ""
            raise StreamError(f"{message['code']}: {message['message']}{hint}")
        return message

    def _note(self, message: Message) -> None:
        now = time.monotonic()
        if message.get("text") and self.times.first_text is None:
            self.times.first_text = now
        if message["type"] == "final":
            self.times.last_final = now


class Printer:
    """Shows messages on standard output."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._overwrites = sys.stdout.isatty()

    def show(self, message: Message) -> None:
        if self._as_json:
            print(json.dumps(message, ensure_ascii=False), flush=True)
        elif message["type"] == "partial":
            self._partial(message["text"])
        elif message["type"] == "final":
            self._final(message)

    def _partial(self, text: str) -> None:
        # The end of what does not fit on a line: what is new.
        print(
            f"\r\x1b[K… {text[-72:]}" if self._overwrites else f"… {text}",
            end="" if self._overwrites else "\n",
        )
        sys.stdout.flush()

    def _final(self, message: Message) -> None:
        clear = "\r\x1b[K" if self._overwrites else ""
        print(f"{clear}[{message['start']:7.2f} - {message['end']:7.2f}] {message['text']}", flush=True)
        for word in message.get("words", []):
            times = f"{word['start']:7.2f} - {word['end']:7.2f}"
            print(f"    {times}  {word['word']}  ({100 * word['confidence']:.0f}%)", flush=True)


async def run(options: argparse.Namespace) -> None:
    """Stream one file. Raises StreamError when that does not work out."""
    sound = Sound.read(options.file)
    start: dict[str, Any] = {"words": options.words}
    # What is not given is the server's to choose.
    for name in ("profile", "decoding", "hot_words", "hot_words_boost"):
        if (value := getattr(options, name)) is not None:
            start[name] = value
    printer = Printer(options.json)
    # No pings: while a server takes no more audio, it reads no pings either.
    url = options.url if "://" in options.url else f"ws://{options.url}"
    server = re.sub("^http", "ws", url.rstrip("/")).removesuffix("/stream")
    address = f"{server}/stream?model={options.model}"
    key = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    async with connect(address, compression=None, ping_interval=None, additional_headers=key) as socket:
        client = Client(socket, start)
        async for message in client.talk(sound, options.piece_ms, options.realtime):
            printer.show(message)
    usage = message["usage"]
    steps = f"{usage['steps']} steps, {usage['late_steps']} late"
    print("; ".join([f"{usage['audio_s']:.2f} s of sound, {steps}", *client.times.report()]), file=sys.stderr)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m loadtests.stream_client",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python -m loadtests.stream_client talk.flac --model mla --realtime",
    )
    options.add_argument(
        "file", type=Path, help="sound: wav, flac, ogg or mp3, 8 to 48 kHz; of files joined by cat the first"
    )
    options.add_argument("--model", default="mla", help="name of the model (default: mla)")
    options.add_argument(
        "--profile", help="latency and context: balanced, fast or long (default: the server's)"
    )
    options.add_argument(
        "--decoding", help="greedy, or beam: with the server's n-gram (default: the server's)"
    )
    options.add_argument(
        "--hot_words", "--hot-words", type=_names, help="names to prefer, with beam: Hanna,New York"
    )
    options.add_argument(
        "--hot_words_boost", "--hot-words-boost", type=float, help="how much to prefer them, 0 to 10"
    )
    options.add_argument(
        "--url",
        default="ws://localhost:8000",
        help="the server, ws:, http: or host:port (default: ws://localhost:8000)",
    )
    options.add_argument(
        "--key", default=os.environ.get("MLA_ASR_KEY"), help="API key (default: $MLA_ASR_KEY)"
    )
    options.add_argument("--realtime", action="store_true", help="send no faster than it was spoken")
    options.add_argument(
        "--piece_ms", "--piece-ms", type=float, default=100.0, help="of sound in a message (default: 100)"
    )
    options.add_argument("--words", action="store_true", help="print the words' times with each final")
    options.add_argument("--json", action="store_true", help="print the server's messages as they are")
    return options


def _body(error: Exception) -> str:
    """What the answer to a refused handshake says."""
    body = error.response.body if isinstance(error, InvalidStatus) else None
    return f": {body.decode(errors='replace')}" if body else ""


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    options = parser().parse_args(argv)
    if options.piece_ms <= 0:
        parser().error(f"--piece_ms is {options.piece_ms:g}; it must be more than 0")
    try:
        asyncio.run(run(options))
    except OSError as error:  # of the file it is a StreamError
        print(f"stream_client: no server at {options.url}, --url names another: {error}", file=sys.stderr)
        return 1
    except (StreamError, WebSocketException) as error:
        print(f"stream_client: {error}{_body(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
