"""How many live streams an arm sustains, and what stops it: time, which is arithmetic, or memory."""

from collections.abc import Sequence
from typing import Any

from offline.speed.placed import sizes_of
from offline.speed.rounds import Row

WHICH = ("model", "arm", "path", "cache_dtype", "chunk_ms", "left_context_s", "lookahead_ms")


def limits(rows: Sequence[Row], weight_bytes: Row, table_bytes: Row, memory_bytes: int) -> list[Row]:
    """Returns one row for each arm, path, type of cache and profile.

    Args:
        rows: of `steps.measure`.
        weight_bytes: by arm.
        table_bytes: by profile, `640x10`; shared by the streams.
        memory_bytes: to fit everything in.

    The keys of a row: `streams_measured`, the most of those measured whose p95 was under the chunk (0: not even the
    fewest measured); `streams_interpolated`, where p95 meets the chunk on the line between that number and the next
    measured one, None where none was too late; `streams_in_memory`, which fit beside weights, tables and what came and
    went in the largest step (on a CPU that is not known, and left out); `out_of_memory_at`, the fewest that did not
    fit; `binds`: memory, arithmetic, or None where neither was reached.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name, 0) for name in WHICH), []).append(row)
    found = []
    for key, group in groups.items():
        which = dict(zip(WHICH, key, strict=True))
        shared_bytes = weight_bytes[which["arm"]] + table_bytes[str(sizes_of(which))]
        found.append(which | _limit(group, memory_bytes - shared_bytes))
    return found


def _limit(group: Sequence[Row], room_bytes: int) -> Row:
    timed = sorted((row for row in group if not row["out_of_memory"]), key=lambda row: row["streams"])
    full = [row["streams"] for row in group if row["out_of_memory"]]
    in_time = [row for row in timed if row["realtime"]]
    measured = in_time[-1]["streams"] if in_time else 0
    found: Row = {
        "streams_measured": measured,
        "streams_interpolated": interpolated(timed),
        "streams_in_memory": _in_memory(timed, room_bytes),
        "out_of_memory_at": min(full, default=None),
    }
    return found | {"binds": binds(found, any(not row["realtime"] for row in timed))}


def interpolated(timed: Sequence[Row]) -> float | None:
    """The streams at which p95 meets the chunk, from the two measured numbers on either side of it.

    Before the fewest measured a step is taken to grow from nothing at no streams. None where no step was too late.
    """
    before, before_s = 0, 0.0
    for row in timed:
        chunk_s, now_s = row["chunk_ms"] / 1000, row["step_s"]["p95"]
        if not row["realtime"]:
            share = (chunk_s - before_s) / (now_s - before_s)
            return round(before + share * (row["streams"] - before), 2)
        before, before_s = row["streams"], now_s
    return None


def _in_memory(timed: Sequence[Row], room_bytes: int) -> int | None:
    if not timed:
        return None
    transient_bytes = max(row.get("transient_bytes", 0) for row in timed)
    return max(0, (room_bytes - transient_bytes) // sum(timed[0]["bytes_per_stream"].values()))


def binds(found: Row, late: bool) -> str | None:
    """What is reached first; see `limits`."""
    if late:
        in_time = found["streams_interpolated"] or 0
        return "memory" if found["streams_in_memory"] < in_time else "arithmetic"
    return "memory" if found["out_of_memory_at"] is not None else None
