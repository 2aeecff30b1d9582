"""Room for live streams: how many a budget of memory gives each model and profile, and who has which place.

All caches are allocated when the server starts, in equal shares for every model and profile, so what a stream costs
shows in how many there may be: an MLA model has several times the places of its MHA twin.

A step takes memory of its own while it runs. Where that can be measured, on a GPU, the budget has room for the largest
one, as one runs at a time, and the warm-up makes it: the first full step is not a client's. On a CPU a step is warmed
up with `CPU_STREAMS` streams, as a full one may take long, and the budget is for the caches alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.scheduler import Lane, StepLimits
from service.settings import Profile

log = logging.getLogger(__name__)

CPU_STREAMS = 4
PROBE_STREAMS = 8  # enough for what a step takes once to be little beside what it takes for each of them
Measure = Callable[[Callable[[], None]], int]  # see `memory.measure`


class Slots:
    """The places of one model in one profile; each is a slot of `cache`. Any thread may take one or give it back."""

    def __init__(
        self,
        lane: Lane,
        profile: Profile,
        model: Any,
        cache: Any,
        *,
        step_bytes: int = 0,
        warm_up_streams: int = 1,
    ) -> None:
        """`step_bytes` is what each stream takes while a step runs, where that was measured."""
        self.lane, self.profile, self.cache = lane, profile, cache
        self.total: int = cache.slots
        self.cache_bytes: int = cache.nbytes
        self.bytes_per_stream: int = cache.bytes_per_slot
        self.shared_bytes: int = cache.table_bytes
        self.step_bytes = step_bytes
        self.chunk_samples: int = cache.chunk_samples
        self.tail_samples: int = model.config.tail_samples
        self.chunk_s = profile.chunk_ms / 1000
        self.vocabulary, self.seconds_per_frame = model.vocabulary, model.seconds_per_frame
        self._warm_up_streams = min(warm_up_streams, self.total)
        self._free = deque(range(self.total))
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        return self.total - len(self._free)

    def warm_up(self, model: Any) -> None:
        """Make a step before the first client does: what only the first pays, and whether there is memory for it."""
        _step_silence(model, self.cache, self._warm_up_streams)

    def take(self) -> int | None:
        """The slot that has been free for longest; None when none is."""
        with self._lock:
            return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """Free a slot. Raises ValueError for one that is free already."""
        with self._lock:
            if slot in self._free:
                raise ValueError(f"slot {slot} of {self.lane} is free already")
            self._free.append(slot)


@dataclass(frozen=True)
class _Plan:
    """What a lane's streams take, in bytes: each of them, all of them once, and each while a step runs."""

    lane: Lane
    profile: Profile
    stream_bytes: int
    shared_bytes: int
    step_bytes: int

    def streams(self, bytes_: int) -> int:
        """How many streams' caches so much memory holds."""
        return max(0, (bytes_ - self.shared_bytes) // self.stream_bytes)


def allocate(
    models: Mapping[str, Any],
    profiles: Sequence[Profile],
    budget_bytes: int,
    dtype: str | None,
    *,
    max_streams: int = StepLimits.max_streams,
    measure: Measure | None = None,
) -> dict[Lane, Slots]:
    """Make the caches, in equal shares of the budget. Where not even one stream fits in, the lane is left out.

    Args:
        models: what `asr.load` gives, by name.
        profiles: what each of them is to serve.
        budget_bytes: for all caches, with the position tables that the streams of a cache share, and the largest step.
        dtype: as `new_cache` takes it.
        max_streams: the most in a step.
        measure: tells what a step takes; None where nothing can.
    """
    plans = [
        _plan((name, profile.name), model, profile, dtype, measure)
        for name, model in models.items()
        for profile in profiles
    ]
    if not plans:
        return {}
    room_bytes = _room_for_a_step(plans, budget_bytes, max_streams)
    share_bytes = (budget_bytes - room_bytes) // len(plans)
    warm_up_streams = max_streams if measure else min(max_streams, CPU_STREAMS)
    made = {}
    for plan in plans:
        if count := plan.streams(share_bytes):
            model = models[plan.lane[0]]
            cache = _cache(model, plan.profile, dtype, count)
            made[plan.lane] = Slots(
                plan.lane,
                plan.profile,
                model,
                cache,
                step_bytes=plan.step_bytes,
                warm_up_streams=warm_up_streams,
            )
            log.info(
                "%s/%s: %d streams, %d bytes each, %d more in a step; warmed up with %d at once",
                *(*plan.lane, count, plan.stream_bytes, plan.step_bytes, min(count, warm_up_streams)),
            )
        else:
            needed = plan.stream_bytes + plan.shared_bytes
            text = "%s/%s: no streams, as one takes %d bytes of %d (stream_memory)"
            log.warning(text, *plan.lane, needed, share_bytes)
    return made


def _plan(lane: Lane, model: Any, profile: Profile, dtype: str | None, measure: Measure | None) -> _Plan:
    one = _cache(model, profile, dtype, 1)
    stream_bytes, shared_bytes, step_bytes = one.nbytes, one.table_bytes, 0
    if measure:
        _step_silence(model, one, 1)  # what only the first step takes is not what each of them does
        some = _cache(model, profile, dtype, PROBE_STREAMS)
        step_bytes = -(-measure(lambda: _step_silence(model, some, PROBE_STREAMS)) // PROBE_STREAMS)
    return _Plan(lane, profile, stream_bytes, shared_bytes, step_bytes)


def _room_for_a_step(plans: Sequence[_Plan], budget_bytes: int, max_streams: int) -> int:
    """The least that holds any lane's largest step, when the rest of the budget is shared out for caches."""
    low, high = 0, budget_bytes
    while low < high:
        room = (low + high) // 2
        share = (budget_bytes - room) // len(plans)
        if all(min(plan.streams(share), max_streams) * plan.step_bytes <= room for plan in plans):
            high = room
        else:
            low = room + 1
    return low


def _cache(model: Any, profile: Profile, dtype: str | None, slots: int) -> Any:
    return model.new_cache(
        slots,
        chunk_frames=round(profile.chunk_ms / 1000 / model.seconds_per_frame),
        left_context_frames=round(profile.left_context_s / model.seconds_per_frame),
        lookahead_frames=round(profile.lookahead_ms / 1000 / model.seconds_per_frame),
        dtype=dtype,
    )


def _step_silence(model: Any, cache: Any, streams: int) -> None:
    """Step that many slots through a chunk of silence, and leave them as new."""
    slots = list(range(streams))
    silence = np.zeros(cache.chunk_samples + model.config.tail_samples, np.float32)
    model.step(cache, slots, [silence] * streams)
    cache.reset(slots)
