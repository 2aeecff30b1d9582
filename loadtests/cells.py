"""Single measurements of a sweep: load of one kind on one running service, its samples and what the server counted."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests import clips, open_loop
from loadtests.clips import Clip
from loadtests.http_client import Target, closed_loop, warm_up
from loadtests.plan import Cell, Sizes
from loadtests.scrape import delta, scrape
from loadtests.service_process import Service, ServiceError
from loadtests.stream_load import BROKEN, held, speakers, together

Record = dict[str, Any]
SETTLE_S = 0.5  # between the load's end and a look at the server
WARM_UP_USERS, WARM_UP_CLIPS = 8, 24


@dataclass
class Bench:
    """What all cells share: recordings, the mix that requests are made of, and how much is measured."""

    sounds: list[Clip]
    mix: list[Clip]
    sizes: Sizes
    seed: int
    context_s: float  # how long a stream has to be to fill its cache

    def warm(self, service: Service, model: str) -> None:
        """Let the service meet every kind of batch once; nothing of it is counted."""
        target = Target(service.url, model)
        asyncio.run(warm_up(target, self.mix, WARM_UP_USERS, WARM_UP_CLIPS))

    def run(self, service: Service, cell: Cell, rate: float) -> tuple[Record, list[Record]]:
        """Measure a cell: what is to be kept of it, and its samples. `rate` is what an open cell asks for a second."""
        service.forget_peak()
        before, metrics = service.memory(), scrape(service.url)
        started, cpu_s = time.monotonic(), time.process_time()
        load: Callable[[], Record] = {
            "closed": lambda: self._closed(service, cell),
            "open": lambda: self._open(service, cell, rate),
            "streams": lambda: self._streams(service, cell),
            "memory": lambda: self._memory(service, cell),
        }[cell.kind]
        made = load()
        samples = made.pop("samples")
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

    def _closed(self, service: Service, cell: Cell) -> Record:
        target = Target(service.url, cell.model)
        samples = asyncio.run(closed_loop(target, self.mix, int(cell.level), self.sizes.closed_s))
        return {"samples": [asdict(sample) for sample in samples]}

    def _open(self, service: Service, cell: Cell, rate: float) -> Record:
        """The times are the same for every model, and others in every repeat."""
        times = open_loop.schedule(rate, self.sizes.open_s, self.seed + cell.repeat)
        samples = asyncio.run(open_loop.run(Target(service.url, cell.model), self.mix, times))
        return {"rate": rate, "samples": [asdict(sample) for sample in samples]}

    def _streams(self, service: Service, cell: Cell) -> Record:
        plays = speakers(self.sounds, int(cell.level), self.sizes.stream_s, self.seed + cell.repeat)
        samples = asyncio.run(
            together(service.url, cell.model, plays, spread_s=0.64, start={"encoding": "pcm_s16le"})
        )
        return {"samples": [asdict(sample) for sample in samples]}

    def _memory(self, service: Service, cell: Cell) -> Record:
        """All streams that there is room for, with full caches; where that is none, then how high a load drives it."""
        count = slots(service, cell.model)
        clip = clips.joined(self.sounds, self.context_s + 1, random.Random(self.seed), over=True)
        while_held: Record = {}

        async def hold() -> None:
            async with held(service.url, cell.model, clip, count):
                await asyncio.sleep(SETTLE_S)
                while_held.update(service.memory())

        try:
            asyncio.run(hold())
        except BROKEN as error:
            raise ServiceError(f"a stream ended: {error}") from error
        made = {"streams": count, "held": while_held, "samples": []}
        return made if count else made | self._loaded(service, cell)

    def _loaded(self, service: Service, cell: Cell) -> Record:
        target = Target(service.url, cell.model)
        samples = asyncio.run(closed_loop(target, self.mix, max(self.sizes.users), self.sizes.closed_s))
        return {"loaded": service.memory(), "samples": [asdict(sample) for sample in samples]}


def slots(service: Service, model: str) -> int:
    """Streams of a model that the service has room for."""
    profiles = [p for card in service.models() if card["id"] == model for p in card.get("profiles") or []]
    return sum(profile["slots"] for profile in profiles)


def memory_for(service: Service, model: str, given_bytes: int) -> dict[str, int]:
    """What is to be given for n streams: n x `each` + `rest`, of which the streams share a table.

    `given_bytes` is what this service was given for those that it has. Raises ValueError where there is room for none.
    """
    for card in service.models():
        for profile in card.get("profiles") or []:
            if card["id"] == model:
                each = int(profile["cache_bytes_per_stream"])
                return {"each": each, "rest": given_bytes - profile["slots"] * each}
    raise ValueError(
        f"{model}: not even one stream fits into the memory for streams; give more (--stream_memory)"
    )


def capacity(requests_per_s: Sequence[Sequence[float]]) -> float:
    """Of the figures of each repeat, one for each number of users: the median of the best."""
    return statistics.median(max(figures) for figures in requests_per_s)
