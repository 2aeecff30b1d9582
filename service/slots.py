"""Room for live streams: how many a budget of memory gives each model and profile, and who has which place.

All of it is allocated when the server starts, in equal shares for every model and profile, so what a stream costs
shows in how many there may be: an MLA model has several times the places of its MHA twin. Nothing is allocated later.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from service.scheduler import Lane
from service.settings import Profile

log = logging.getLogger(__name__)


class Slots:
    """The places of one model in one profile; each is a slot of `cache`. Any thread may take one or give it back."""

    def __init__(self, lane: Lane, profile: Profile, model: Any, cache: Any) -> None:
        self.lane, self.profile, self.cache = lane, profile, cache
        self.total: int = cache.slots
        self.cache_bytes: int = cache.nbytes
        self.bytes_per_stream: int = cache.bytes_per_slot
        self.chunk_samples: int = cache.chunk_samples
        self.tail_samples: int = model.config.tail_samples
        self.chunk_s = profile.chunk_ms / 1000
        self.vocabulary, self.seconds_per_frame = model.vocabulary, model.seconds_per_frame
        self._free = deque(range(self.total))
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        return self.total - len(self._free)

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


def allocate(
    models: Mapping[str, Any], profiles: Sequence[Profile], budget_bytes: int, dtype: str | None
) -> dict[Lane, Slots]:
    """Make the caches, in equal shares of the budget. Where not even one stream fits in, the lane is left out.

    Args:
        models: what `asr.load` gives, by name.
        profiles: what each of them is to serve.
        budget_bytes: for all caches, with the position tables that the streams of a cache share.
        dtype: as `new_cache` takes it.
    """
    lanes = {(name, profile.name): (model, profile) for name, model in models.items() for profile in profiles}
    made = {}
    for lane, (model, profile) in lanes.items():
        if cache := _cache(lane, model, profile, budget_bytes // len(lanes), dtype):
            made[lane] = Slots(lane, profile, model, cache)
            log.info("%s/%s: %d streams, %d bytes each", *lane, cache.slots, cache.bytes_per_slot)
    return made


def _cache(lane: Lane, model: Any, profile: Profile, share_bytes: int, dtype: str | None) -> Any:
    sizes = {
        "chunk_frames": round(profile.chunk_ms / 1000 / model.seconds_per_frame),
        "left_context_frames": round(profile.left_context_s / model.seconds_per_frame),
    }
    one = model.new_cache(1, dtype=dtype, **sizes)
    slots = (share_bytes - one.table_bytes) // one.nbytes
    if slots < 1:
        needed = one.nbytes + one.table_bytes
        log.warning(
            "%s/%s: no streams, as one takes %d bytes of %d (stream_memory)", *lane, needed, share_bytes
        )
        return None
    del one
    return model.new_cache(slots, dtype=dtype, **sizes)
