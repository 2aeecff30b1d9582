"""One request to the offline routes, and what was noted of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import httpx

from loadtests.clips import Clip, word_errors

GIVE_UP_S = 120.0  # waiting for an answer
BUSY = 429
WARM_UP_ALONE = 3  # clips
ROUTES = ("/transcribe", "/v1/audio/transcriptions")
OUTCOMES = ("ok", "busy", "error", "not_sent")


@dataclass
class Sample:
    """One request; times in seconds since the load began. Without an answer the status is 0, and `error` says why."""

    clip: str
    audio_s: float
    intended_s: float
    sent_s: float = 0.0
    done_s: float = 0.0
    status: int = 0
    error: str = ""
    text: str = ""
    words: int = 0
    word_errors: int = 0
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """One of OUTCOMES: busy is the server's 429, not sent what this machine could not send."""
        if self.status == 200:
            return "ok"
        if self.status == BUSY:
            return "busy"
        return "not_sent" if self.error.startswith("not sent") else "error"

    @property
    def latency_s(self) -> float:
        """From when it should have been sent: a late client hides no waiting."""
        return self.done_s - self.intended_s


@dataclass
class Target:
    """Where requests go. Times are counted from when `start` was called."""

    url: str
    model: str
    route: str = ROUTES[0]
    key: str | None = None
    started: float = 0.0

    def client(self) -> httpx.AsyncClient:
        """Of any number of connections: the load decides how many, not a pool."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.AsyncClient(base_url=self.url, timeout=GIVE_UP_S, limits=limits, headers=headers)

    def start(self) -> None:
        self.started = time.monotonic()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.started

    async def send(self, client: httpx.AsyncClient, clip: Clip, intended_s: float | None = None) -> Sample:
        """Send a clip now and wait for its text; an error is noted, not raised. Words are not counted yet."""
        sent_s = self.now_s
        sample = Sample(clip.name, clip.audio_s, sent_s if intended_s is None else intended_s, sent_s)
        form: dict[str, Any] = {
            "data": {"model": self.model},
            "files": {"file": (clip.name[-60:], clip.body)},
        }
        try:
            answer = await client.post(self.route, **form)
            sample.done_s, sample.status = self.now_s, answer.status_code
            note(sample, answer)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            sample.done_s, sample.error = self.now_s, f"not sent: {error}"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            sample.done_s, sample.status = self.now_s, 0
            sample.error = f"{type(error).__name__}: {error}"
        return sample


def note(sample: Sample, answer: httpx.Response) -> None:
    """Keep what the answer says. Raises ValueError or KeyError for one that is none."""
    body = answer.json()
    if sample.status == 200:
        sample.text, sample.timing = body["text"], body.get("timing", {})
    else:
        sample.error = f"{body['error']['code']}: {body['error']['message']}"


def counted(pairs: Iterable[tuple[Clip, Sample]]) -> list[Sample]:
    """The samples with their words counted: once a load is over, so that it takes no time from it."""
    samples = []
    for clip, sample in pairs:
        if sample.outcome == "ok":
            sample.word_errors, sample.words = word_errors(clip.text, sample.text)
        samples.append(sample)
    return samples


async def send_all(
    target: Target, clips: Iterable[Clip], users: int, seconds: float = math.inf
) -> list[Sample]:
    """So many users, each sending the next clip once it has its answer; none begins after `seconds`.

    Samples are in the order of the clips.
    """
    order = enumerate(clips)  # all users take from it
    sent: dict[int, tuple[Clip, Sample]] = {}

    async def user() -> None:
        for place, clip in order:
            if target.now_s >= seconds:
                return
            sample = await target.send(client, clip)
            sent[place] = clip, sample
            if sample.outcome != "ok":
                await asyncio.sleep(0.1)  # refused at once, it would do nothing but ask

    async with target.client() as client:
        target.start()
        await asyncio.gather(*(user() for _ in range(users)))
    return counted(sent[place] for place in sorted(sent))


async def warm_up(target: Target, clips: Sequence[Clip], users: int) -> None:
    """Let the service meet single clips and batches of so many users; nothing is counted."""
    await send_all(target, clips[:WARM_UP_ALONE], 1)
    await send_all(target, islice(cycle(clips), users), users)
