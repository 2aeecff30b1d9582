"""One live stream as a Locust user speaks it: in real time, in greenlets.

`loadtests.paced_client` does the same in asyncio; what is measured is its to define.
"""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

import gevent
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from loadtests.clips import Clip
from loadtests.paced_client import GIVE_UP_S, Client, Sound
from loadtests.stream_load import PIECE_MS, address, playable


class StreamEnded(Exception):
    """The stream did not get to its end: why, in few words."""


class Fire(Protocol):
    """Takes note of something that took so many seconds."""

    def __call__(self, kind: str, seconds: float, length: int = 0) -> None: ...


def play(url: str, model: str, clip: Clip, start: dict[str, Any], headers: dict[str, str], fire: Fire) -> str:
    """Speak a clip, fire `partial`, `final` and `last` as they come, and give the text. Raises StreamEnded."""
    try:
        with connect(
            address(url, model),
            compression=None,
            ping_interval=None,
            open_timeout=GIVE_UP_S,
            additional_headers=headers,
        ) as socket:
            return _talk(socket, playable(clip), start, fire)
    except (WebSocketException, InvalidHandshake, InvalidURI, OSError, TimeoutError) as error:
        raise StreamEnded(type(error).__name__) from error


def _talk(socket: ClientConnection, sound: Sound, start: dict[str, Any], fire: Fire) -> str:
    client = Client(None, sound.rate)  # type: ignore[arg-type]
    socket.send(json.dumps({"type": "start", "sample_rate": sound.rate, "encoding": "pcm_s16le", **start}))
    client.begin(_next(socket))
    speaking = gevent.spawn(_speak, socket, client, sound)
    try:
        while (message := _next(socket))["type"] != "done":
            _note(client, message, fire)
        assert client.ended_at is not None
        fire("last", time.monotonic() - client.ended_at)
    finally:
        speaking.kill()
    return " ".join(client.texts)


def _note(client: Client, message: dict[str, Any], fire: Fire) -> None:
    """Fire what the message adds to what the client has noted."""
    lists = {"partial": client.partial_s, "final": client.final_s}
    before = {kind: len(values) for kind, values in lists.items()}
    client.note(message, time.monotonic())
    for kind, values in lists.items():
        for seconds in values[before[kind] :]:
            fire(kind, seconds, len(message["text"]))


def _speak(socket: ClientConnection, client: Client, sound: Sound) -> None:
    started, samples = time.monotonic(), 0
    for piece in sound.pieces(0.0, len(sound.samples) / sound.rate, PIECE_MS):
        samples += len(piece) // 2
        due = started + samples / sound.rate
        gevent.sleep(max(0.0, due - time.monotonic()))
        try:
            socket.send(piece)
        except (WebSocketException, OSError):
            return  # whoever listens is told why
        client.sent(samples, due, time.monotonic())
    client.ended_at = time.monotonic()
    socket.send(json.dumps({"type": "end"}))


def _next(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(GIVE_UP_S))
    if message["type"] == "error":
        raise StreamEnded("busy" if message["code"] == "full" else str(message["code"]))
    return message
