"""Many live streams at once, each of recordings with a known text, and what came of each."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from loadtests import clips
from loadtests.clips import Clip, word_errors
from loadtests.figures import Figures, quantiles, wer
from loadtests.paced_client import GIVE_UP_S, Client, Refused, Sound

PIECE_MS = 100.0
PAUSE_S = 1.5  # after a sentence, so that segments end
BROKEN = (Refused, WebSocketException, InvalidHandshake, InvalidURI, OSError, TimeoutError)


@dataclass
class StreamSample:
    """One stream. Latencies in seconds, as `loadtests.paced` defines them; `error` where it did not get to its end."""

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


async def speak(url: str, model: str, clip: Clip, after_s: float, start: dict[str, Any]) -> StreamSample:
    """One stream in real time, begun after that time; a failure is noted, not raised."""
    await asyncio.sleep(after_s)
    sound = playable(clip)
    client, error = None, ""
    try:
        # No pings: while a server takes no more audio, it reads no pings either.
        async with connect(
            address(url, model), compression=None, ping_interval=None, open_timeout=GIVE_UP_S
        ) as ws:
            client = Client(ws, sound.rate)
            await client.run(sound.pieces(0.0, clip.audio_s, PIECE_MS), PIECE_MS, start)
    except BROKEN as broken:
        error = str(broken) or type(broken).__name__
    return noted(client or Client(None, sound.rate), clip, error)  # type: ignore[arg-type]


def playable(clip: Clip) -> Sound:
    """Its samples as they are sent."""
    samples, rate = clip.decoded
    return Sound((samples * 32_768).round().clip(-32_768, 32_767).astype("<i2"), rate)


def noted(client: Client, clip: Clip, error: str) -> StreamSample:
    """What a client has noted of a stream that is through; without its end, no words are counted."""
    text = " ".join(client.texts)
    errors, words = (0, 0) if error else word_errors(clip.text, text)
    late_send_s = float(np.quantile(client.late_send_s, 0.99)) if client.late_send_s else 0.0
    counts = client.usage.get("late_steps", 0), client.usage.get("steps", 0)
    times = client.chunk_s, client.partial_s, client.final_s, client.last_s, late_send_s
    return StreamSample(clip.audio_s, *times, *counts, text, words, errors, error)


async def together(
    url: str, model: str, plays: Sequence[Clip], spread_s: float, start: dict[str, Any]
) -> list[StreamSample]:
    """A stream of each clip, all at once; they begin spread over a chunk, so that their phases mix."""
    places = ((clip, spread_s * number / len(plays)) for number, clip in enumerate(plays))
    return list(await asyncio.gather(*(speak(url, model, clip, at, start) for clip, at in places)))


def of_streams(samples: Sequence[StreamSample]) -> Figures:
    """How late the texts were and what they are worth. The goal: 95% of the partials within a chunk, none lost."""
    chunk_s = max((sample.chunk_s for sample in samples), default=0.0)
    partial_s = [value for sample in samples for value in sample.partial_s]
    lost = [sample.error for sample in samples if sample.error]
    partials = quantiles(partial_s)
    return {
        "streams": len(samples),
        "chunk_s": round(chunk_s, 3),
        "partial_s": partials,
        "final_s": quantiles([value for sample in samples for value in sample.final_s]),
        "last_s": quantiles([sample.last_s for sample in samples if sample.last_s is not None]),
        "late": sum(value > chunk_s for value in partial_s),
        "steps": sum(sample.steps for sample in samples),
        "late_steps": sum(sample.late_steps for sample in samples),
        "lost": len(lost),
        "errors": dict(Counter(lost).most_common(5)),
        "late_send_s": round(max((sample.late_send_s for sample in samples), default=0.0), 5),
        "meets_goal": bool(partial_s) and not lost and partials["p95"] <= chunk_s,
        "wer": wer((sample.word_errors, sample.words) for sample in samples),
    }


@asynccontextmanager
async def held(url: str, model: str, clip: Clip, count: int) -> AsyncIterator[None]:
    """So many streams that have heard the clip, as fast as the server takes it, and stay open for the block.

    Raises one of BROKEN where the server ends one.
    """
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "open_timeout": GIVE_UP_S}
        sockets = [
            await stack.enter_async_context(connect(address(url, model), **options)) for _ in range(count)
        ]
        await asyncio.gather(*(_heard(socket, playable(clip)) for socket in sockets))
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
