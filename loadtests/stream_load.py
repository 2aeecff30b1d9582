"""Many live streams at once, each of recordings with a known text, and what came of each."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from loadtests import clips
from loadtests.clips import Clip, word_errors
from loadtests.paced_client import CONNECTION, Client, Refused, Sound, speak

PIECE_MS = 100.0
PAUSE_S = 1.5  # after a sentence, so that segments end
FULL = "full: "  # how the refusal of a stream without a place begins


@dataclass
class StreamSample:
    """One stream. Latencies in seconds, as `loadtests.paced` defines them; `error` where it did not get to its end."""

    clip: str
    audio_s: float
    chunk_s: float
    partial_s: list[float]
    final_s: list[float]
    last_s: float | None
    late_send_s: float
    late_steps: int
    steps: int
    text: str
    words: int
    word_errors: int
    error: str = ""


def speakers(sounds: Sequence[Clip], count: int, seconds: float, seed: int) -> list[Clip]:
    """What each stream plays: recordings by chance with pauses, at least that long; the same for the same seed."""
    generator = random.Random(seed)
    return [clips.joined(sounds, seconds, generator, PAUSE_S, over=True) for _ in range(count)]


def address(url: str, model: str) -> str:
    """Where a server at an http or https address takes streams."""
    return f"{url.rstrip('/').replace('http', 'ws', 1)}/stream?model={model}"


def playable(clip: Clip) -> Sound:
    """Its samples as they are sent."""
    samples, rate = clip.decoded
    return Sound((samples * 32_768).round().clip(-32_768, 32_767).astype("<i2"), rate)


async def together(
    url: str, model: str, plays: Sequence[Clip], spread_s: float, start: dict[str, Any]
) -> list[StreamSample]:
    """A stream of each clip, all at once; they begin spread over a chunk, so that their phases mix.

    All is decoded before the first begins, and words are counted after the last.
    """
    sounds = [playable(clip) for clip in plays]
    clients = await asyncio.gather(
        *(
            speak(
                address(url, model),
                sound.rate,
                sound.pieces(0.0, len(sound.samples) / sound.rate, PIECE_MS),
                spread_s * number / len(plays),
                start,
            )
            for number, sound in enumerate(sounds)
        )
    )
    return [noted(client, clip) for client, clip in zip(clients, plays, strict=True)]


def noted(client: Client, clip: Clip) -> StreamSample:
    """What a client has noted of a stream that is through; without its end, no words are counted."""
    text = " ".join(client.texts)
    errors, words = (0, 0) if client.error else word_errors(clip.text, text)
    late_send_s = float(np.quantile(client.late_send_s, 0.99)) if client.late_send_s else 0.0
    counts = client.usage.get("late_steps", 0), client.usage.get("steps", 0)
    times = client.chunk_s, client.partial_s, client.final_s, client.last_s, late_send_s
    return StreamSample(clip.name, clip.audio_s, *times, *counts, text, words, errors, client.error)


@asynccontextmanager
async def held(url: str, model: str, clip: Clip, count: int) -> AsyncIterator[None]:
    """So many streams that have heard the clip, as fast as the server takes it, and stay open for the block.

    Raises one of BROKEN where the server ends one.
    """
    sound = playable(clip)
    async with AsyncExitStack() as stack:
        opening = (connect(address(url, model), **CONNECTION) for _ in range(count))
        sockets = [await stack.enter_async_context(connection) for connection in opening]
        for socket in sockets:  # one after another: what a step of many at once needs is no stream's
            await _heard(socket, sound)
        yield


async def _heard(socket: ClientConnection, sound: Sound) -> None:
    await socket.send(json.dumps({"type": "start", "sample_rate": sound.rate}))
    sending = asyncio.ensure_future(_send(socket, sound))
    try:
        async for message in socket:
            said = json.loads(message)
            if said["type"] == "error":
                raise Refused(f"{said['code']}: {said['message']}")
            if said["type"] == "flushed":
                return
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(socket: ClientConnection, sound: Sound) -> None:
    for piece in sound.pieces(0.0, len(sound.samples) / sound.rate, PIECE_MS):
        await socket.send(piece)
    await socket.send(json.dumps({"type": "flush", "id": 0}))
