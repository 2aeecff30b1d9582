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

from loadtests.paced_client import CONNECTION, GIVE_UP_S, Client, Sound
from loadtests.stream_load import PIECE_MS, address


class StreamEnded(Exception):
    """The stream did not get to its end: why, in few words."""


class Fire(Protocol):
    """Takes note of something that took so many seconds."""

    def __call__(self, kind: str, seconds: float, length: int) -> None: ...


def play(
    url: str, model: str, sound: Sound, start: dict[str, Any], headers: dict[str, str], fire: Fire
) -> str:
    """Speak, fire `partial`, `final` and `last` as they come, and give the text. Raises StreamEnded."""
    try:
        with connect(address(url, model), additional_headers=headers, **CONNECTION) as socket:
            return _talk(socket, sound, start, fire)
    except (WebSocketException, InvalidHandshake, InvalidURI, OSError, TimeoutError) as error:
        raise StreamEnded(type(error).__name__) from error


def _talk(socket: ClientConnection, sound: Sound, start: dict[str, Any], fire: Fire) -> str:
    client = Client(sound.rate)
    socket.send(json.dumps({"type": "start", "sample_rate": sound.rate, "encoding": "pcm_s16le", **start}))
    client.begin(_next(socket))
    speaking = gevent.spawn(_speak, socket, client, sound)
    try:
        while (message := _next(socket))["type"] != "done":
            _note(client, message, fire)
        client.done(message, time.monotonic())
        fire("last", client.last_s or 0.0, len(client.texts[-1]) if client.texts else 0)
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
    pieces = sound.pieces(0.0, len(sound.samples) / sound.rate, PIECE_MS)
    try:
        for piece, samples, due in client.schedule(pieces, time.monotonic()):
            gevent.sleep(max(0.0, due - time.monotonic()))
            client.sent(samples, due, time.monotonic())
            socket.send(piece)
        client.ended = True
        socket.send(json.dumps({"type": "end"}))
    except (WebSocketException, OSError):
        return  # whoever listens is told why


def _next(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(GIVE_UP_S))
    if message["type"] == "error":
        raise StreamEnded("busy" if message["code"] == "full" else str(message["code"]))
    return message
