"""Rows of a sweep to what they say: medians over repeats, what each model carries, how far two runs agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from statistics import median

import numpy as np

from loadtests.figures import COUNTS, FIGURES, at, on_gpu, wer
from loadtests.figures import Figures as Row

# Figures that two runs should agree on: medians that do not hang on a single slow request.
HEADLINES = {
    "closed": ("requests_per_s", "p50_s"),
    "open": ("p50_s",),
    "streams": ("p50_s",),
    "memory": ("process_bytes",),
}
AGREE = 0.10
UNMEASURED = "unmeasured: on the GPU, where neither the driver (NVML) nor the service said how much it takes"


def levels(rows: Iterable[Row]) -> list[Row]:
    """One entry for each kind, model and level: medians and ranges over the repeats, counts and words together.

    A repeat whose streams missed the goal is not asked for more of them: `repeats` are those that were, of `asked`.
    """
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["model"], row["level"]), []).append(row)
    shared = {kind: _shared([group for key, group in groups.items() if key[0] == kind]) for kind in FIGURES}
    asked: dict[tuple[str, str], int] = {}
    for (kind, model, _), group in groups.items():
        asked[kind, model] = max(asked.get((kind, model), 0), len(group))
    return [
        _level(key, group, shared[key[0]]) | {"asked": asked[key[:2]]}
        for key, group in sorted(groups.items())
    ]


def _shared(groups: Sequence[Sequence[Row]]) -> set[str]:
    """The clips that were answered at every level that all repeats have reached: only of these are words compared."""
    whole = max(map(len, groups), default=0)
    heard = [
        {clip for row in group for clip in row.get("heard", ())} for group in groups if len(group) == whole
    ]
    return set.intersection(*heard) if heard else set()


def _wer(group: Sequence[Row], clips: set[str]) -> Row:
    """Of these clips, each counted once, by its mean over the repeats; None where one was not answered."""
    found = [[row["heard"][clip] for row in group if clip in row["heard"]] for clip in sorted(clips)]
    if not all(found):
        return wer([])
    return wer((sum(errors for errors, _ in each) / len(each), each[0][1]) for each in found)


def _level(key: tuple[str, str, float], group: Sequence[Row], clips: set[str]) -> Row:
    kind, model, level = key
    entry: Row = {"kind": kind, "model": model, "level": level, "repeats": len(group)}
    entry |= {name: spread([at(row, path) for row in group]) for name, path in FIGURES[kind].items()}
    entry["counts"] = {name: sum(row[name] for row in group) for name in COUNTS[kind]}
    if "heard" in group[0]:
        entry["wer"] = _wer(group, clips) | {"clips": len(clips)}
        entry["meets_goal"] = sum(row["meets_goal"] for row in group)
    return entry


def spread(values: Iterable[float | None]) -> Row:
    """Median, lowest and highest; None of nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return {"median": None, "low": None, "high": None}
    return {"median": _tidy(median(there)), "low": _tidy(min(there)), "high": _tidy(max(there))}


def _tidy(value: float) -> float:
    return round(float(value), 5)


def carries(rows: Sequence[Row], cards: dict[str, Row]) -> dict[str, Row]:
    """What each model carries, and what it takes; figures with their spread over the repeats. `cards`: /v1/models."""
    return {model: _carries([row for row in rows if row["model"] == model], cards[model]) for model in cards}


def _carries(rows: Sequence[Row], card: Row) -> Row:
    of = {kind: _repeats(row for row in rows if row["kind"] == kind) for kind in FIGURES}
    profile = (card.get("profiles") or [{}])[0]
    source, path = _memory_source([row for row in rows if row["kind"] == "memory"])
    held = [_line(group, path) for group in of["memory"]]
    mean_audio_s = [row["mean_audio_s"] for row in rows if row["kind"] == "closed"]
    return {
        "requests_per_s": spread(_best(group, "requests_per_s") for group in of["closed"]),
        "audio_s_per_s": spread(_best(group, "audio_s_per_s") for group in of["closed"]),
        "users_at_goal": spread(_last_good(group, "level") for group in of["closed"]),
        "rate_at_goal": spread(_last_good(group, "rate") for group in of["open"]),
        "streams_at_goal": spread(_last_good(group, "level") for group in of["streams"]),
        "streams_missed_in": sum(not all(row["meets_goal"] for row in group) for group in of["streams"]),
        "streams_bound_by": _bounds(of["streams"]),
        "memory_of": source,
        "rest_bytes": spread(rest for rest, _, _ in held),
        "fixed_bytes": spread(fixed for _, fixed, _ in held),
        "bytes_per_stream": spread(slope for _, _, slope in held),
        "transient_bytes": spread(row["transient_bytes"] for group in of["memory"] for row in group),
        "cache_bytes_per_stream": profile.get("cache_bytes_per_stream"),
        "slots": profile.get("slots"),
        "chunk_s": profile.get("chunk_ms", 0) / 1000 or None,
        "weight_bytes": card.get("weight_bytes"),
        "mean_audio_s": _tidy(float(np.mean(mean_audio_s))) if mean_audio_s else None,
        "steps": _steps(rows),
    }


def _repeats(rows: Iterable[Row]) -> list[list[Row]]:
    """By repeat, each from the lowest level up."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["level"]):
        groups.setdefault(row["repeat"], []).append(row)
    return list(groups.values())


def _best(group: Sequence[Row], name: str) -> float:
    return float(max(row[name] for row in group))


def _last_good(group: Sequence[Row], name: str) -> float:
    """The highest level up to which all meet the goal; 0 for none."""
    good = list(takewhile(lambda row: row["meets_goal"], group))
    return float(good[-1][name]) if good else 0.0


def _bounds(groups: Iterable[Sequence[Row]]) -> Row:
    """In how many repeats the streams ended for want of places, and in how many for want of time.

    At the first level that misses, streams were refused while those that had a place were in time, or they were not.
    """
    bounds: Counter[str] = Counter()
    for group in groups:
        if missed := next((row for row in group if not row["meets_goal"]), None):
            full = missed["in_time"] and missed["refused"] == missed["lost"]
            bounds["places" if full else "time"] += 1
    return dict(bounds)


def _memory_source(rows: Sequence[Row]) -> tuple[str, str | None]:
    """What is counted as a model's memory, in words, and where in a row it is; None where nothing says it."""
    if not any(on_gpu(row["device"]) for row in rows):
        return "the process (RSS)", "held.process"
    sources = {
        "held.device": "the process on the GPU, by the driver (NVML)",
        "held.allocated": "tensors on the GPU, by the service (without CUDA's own context)",
    }
    for path, source in sources.items():
        if all(at(row, path) for row in rows):
            return source, path
    return UNMEASURED, None


def _line(group: Sequence[Row], path: str | None) -> tuple[float | None, float | None, float | None]:
    """Memory at rest (no streams), that with streams before the first, and how it grows with each.

    The last two are a line through those with streams, where there are two: what the first brings with it (tables, a
    runtime's buffers) is none of what each takes.
    """
    points = [(row["streams"], taken) for row in group if path and (taken := at(row, path)) is not None]
    rest = next((taken for streams, taken in points if not streams), None)
    some = [point for point in points if point[0]]
    some = some if len(some) > 1 else points
    if len(some) < 2:
        return rest, None, None
    slope, intercept = np.polyfit([streams for streams, _ in some], [taken for _, taken in some], 1)
    return rest, float(intercept), float(slope)


def _steps(rows: Iterable[Row]) -> list[list[float]]:
    """Of each run of streams that met the goal: how many shared a step, and how long a step took; means, rising."""
    return sorted(
        [_tidy(row["steps"] / row["server"]["steps"]), row["server"]["mean"]["stream_step_s"]]
        for row in rows
        if row["kind"] == "streams" and row["meets_goal"] and row["server"]["steps"]
    )


def agreement(one: Iterable[Row], other: Iterable[Row]) -> Row:
    """How far two runs, as `levels` gives them, agree on HEADLINES: the relative differences of their medians.

    Not compared: rates above capacity, where the queue grows for as long as they last.
    """

    def headlines(entries: Iterable[Row]) -> dict[str, float]:
        return {
            f"{e['kind']} {e['model']} {e['level']:g} {name}": e[name]["median"]
            for e in entries
            if not (e["kind"] == "open" and e["level"] >= 1)
            for name in HEADLINES[e["kind"]]
            if e[name]["median"]
        }

    first, second = headlines(one), headlines(other)
    apart = {name: abs(first[name] / second[name] - 1) for name in first if name in second}
    beyond = sorted(
        ((name, value) for name, value in apart.items() if value > AGREE), key=lambda pair: -pair[1]
    )
    return {
        "compared": len(apart),
        "within": len(apart) - len(beyond),
        "median": _tidy(median(apart.values())) if apart else None,
        "most": _tidy(max(apart.values())) if apart else None,
        "beyond": {name: _tidy(value) for name, value in beyond},
    }


def halves(rows: Sequence[Row]) -> Row:
    """The same of the first and the second half of one run's repeats, as if they were two runs."""
    last = max(row["repeat"] for row in rows) // 2
    return agreement(
        levels(r for r in rows if r["repeat"] <= last), levels(r for r in rows if r["repeat"] > last)
    )


def ratios(rows: Sequence[Row], model: str, baseline: str) -> Row:
    """Of a model to the first: throughput and median latency by level, each the median over pairs of one repeat.

    Not of what came at set rates: a level there is a share of each model's own capacity.
    """
    values = {
        (row["kind"], row["level"], row["repeat"], row["model"], name): at(row, FIGURES[row["kind"]][name])
        for row in rows
        if row["kind"] != "open"
        for name in HEADLINES[row["kind"]]
    }
    pairs: dict[str, list[float]] = {}
    for (kind, level, repeat, who, name), value in values.items():
        base = values.get((kind, level, repeat, baseline, name))
        if who == model and value and base:
            pairs.setdefault(f"{kind} {level:g} {name}", []).append(value / base)
    return {name: spread(found) for name, found in pairs.items()}
