"""Single measurements of a sweep: load of one kind on one running service, its samples and what the server counted."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

from loadtests import clips, open_loop
from loadtests.clips import Clip
from loadtests.http_client import BUSY, Target, send_all, warm_up
from loadtests.paced_client import BROKEN
from loadtests.plan import Cell, Sizes
from loadtests.scrape import delta, scrape
from loadtests.service_process import Service, ServiceError
from loadtests.stream_load import FULL, held, speakers, together

Record = dict[str, Any]
Load = Callable[[], Record]
SETTLE_S = 0.5  # between the load's end and a look at the server
START = {"encoding": "pcm_s16le"}


@dataclass
class Bench:
    """What all cells share: recordings, the mix that requests are made of, and how much is measured."""

    sounds: list[Clip]
    mix: list[Clip]
    sizes: Sizes
    seed: int
    chunk_s: float  # over which streams begin
    context_s: float  # how long a stream has to be to fill its cache

    def warm(self, service: Service, cells: Sequence[Cell]) -> None:
        """Let the service meet what is measured, in full: batches, and as many streams; nothing of it is counted."""
        model = cells[0].model
        asyncio.run(warm_up(Target(service.url, model), self.mix, max(self.sizes.users)))
        if streams := [int(cell.level) for cell in cells if cell.kind == "streams"]:
            count = min(max(streams), slots(service, model))
            asyncio.run(together(service.url, model, [self.sounds[0]] * count, self.chunk_s, START))

    def run(self, service: Service, cell: Cell, rate: float) -> tuple[Record, list[Record]]:
        """Measure a cell: what is to be kept of it, and its samples. `rate` is what an open cell asks for a second.

        Raises ServiceError where nothing was answered.
        """
        load = {
            "closed": lambda: self._closed(service, cell),
            "open": lambda: self._open(service, cell, rate),
            "streams": lambda: self._streams(service, cell),
            "memory": lambda: self._memory(service, cell),
        }[cell.kind]()
        service.forget_peak()
        before, metrics = service.memory(), scrape(service.url)
        started, cpu_s = time.monotonic(), time.process_time()
        made = load()
        samples = made.pop("samples")
        check(cell, samples)
        wall_s = time.monotonic() - started
        share = (time.process_time() - cpu_s) / wall_s
        time.sleep(SETTLE_S)
        record = {
            "cell": asdict(cell),
            "wall_s": round(wall_s, 3),
            "client_cpu_share": round(share, 4),
            "server": delta(metrics, scrape(service.url), wall_s),
            "memory": {"before": before, "after": service.memory()},
            "models": service.models(),
            **made,
        }
        return record, samples

    # Each makes ready what it sends, and gives what sends it: only that is measured.

    def _closed(self, service: Service, cell: Cell) -> Load:
        target, mix = Target(service.url, cell.model), cycle(self._mix(cell))
        seconds = self.sizes.users_s(cell.level)
        return lambda: _kept(asyncio.run(send_all(target, mix, int(cell.level), seconds)))

    def _mix(self, cell: Cell) -> list[Clip]:
        """Every repeat begins elsewhere: so each level hears all clips, also where it is over soon."""
        first = len(self.mix) * (cell.repeat - 1) // self.sizes.repeats
        return [*self.mix[first:], *self.mix[:first]]

    def _open(self, service: Service, cell: Cell, rate: float) -> Load:
        """The times hang on the repeat and the rate alone: every model has the same pattern, as dense as its rate."""
        times = open_loop.schedule(rate, self.sizes.open_s, self.seed + cell.repeat)
        target, mix = Target(service.url, cell.model), self._mix(cell)
        return lambda: {"rate": rate, **_kept(asyncio.run(open_loop.run(target, mix, times)))}

    def _streams(self, service: Service, cell: Cell) -> Load:
        """More streams say what fewer have said in that repeat, and more."""
        plays = speakers(self.sounds, int(cell.level), self.sizes.stream_s, self.seed + cell.repeat)
        for clip in plays:
            _ = clip.decoded  # kept from now on
        return lambda: _kept(asyncio.run(together(service.url, cell.model, plays, self.chunk_s, START)))

    def _memory(self, service: Service, cell: Cell) -> Load:
        """All streams that there is room for, with full caches; where that is none, then how high a load drives it."""
        count = slots(service, cell.model)
        clip = clips.joined(self.sounds, self.context_s + 1, random.Random(self.seed), over=True)
        while_held: Record = {}

        async def hold() -> None:
            async with held(service.url, cell.model, clip, count):
                await asyncio.sleep(SETTLE_S)
                while_held.update(service.memory())

        def load() -> Record:
            try:
                asyncio.run(hold())
            except BROKEN as error:
                raise ServiceError(f"a stream ended: {error}") from error
            made = {"streams": count, "held": while_held, "samples": []}
            return made if count else made | self._loaded(service, cell)

        return load

    def _loaded(self, service: Service, cell: Cell) -> Record:
        users = max(self.sizes.users)
        target, seconds = Target(service.url, cell.model), self.sizes.users_s(users)
        made = _kept(asyncio.run(send_all(target, cycle(self.mix), users, seconds)))
        return {"loaded": service.memory(), **made}


def check(cell: Cell, samples: Sequence[Record]) -> None:
    """Raise ServiceError where all have failed, other than for lack of room: that is no load, and nothing to keep."""
    failed = [s["error"] for s in samples if s["error"] and not is_refusal(s)]
    if failed and len(failed) == len(samples):
        raise ServiceError(f"{cell.name}: all {len(failed)} failed: {failed[0]}")


def is_refusal(sample: Record) -> bool:
    return sample.get("status") == BUSY or sample["error"].startswith(FULL)


def _kept(samples: Sequence[Any]) -> Record:
    return {"samples": [asdict(sample) for sample in samples]}


def slots(service: Service, model: str) -> int:
    """Streams of a model that the service has room for."""
    profiles = [p for card in service.models() if card["id"] == model for p in card.get("profiles") or []]
    return sum(profile["slots"] for profile in profiles)


def memory_for(service: Service, model: str) -> dict[str, int]:
    """What is to be given for n streams, as many as a step takes or fewer: n x `each` + `rest`, which they share.

    `each` has a stream's part of a step, for which the service keeps room on a GPU. Raises ValueError where there is
    room for no stream.
    """
    for card in service.models():
        for profile in card.get("profiles") or []:
            if card["id"] == model:
                each = profile["cache_bytes_per_stream"] + profile["step_bytes_per_stream"]
                return {"each": each, "rest": profile["cache_bytes_shared"]}
    raise ValueError(
        f"{model}: not even one stream fits into the memory for streams; give more (--stream_memory)"
    )


def capacity(requests_per_s: Sequence[Sequence[float]]) -> float:
    """Of the figures of each repeat, one for each number of users: the median of the best."""
    return statistics.median(max(figures) for figures in requests_per_s)
