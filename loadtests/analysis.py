"""Rows of a sweep to what they say: medians over repeats, what each model carries, how far two runs agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from statistics import median

import numpy as np

from loadtests.figures import wer
from loadtests.rows import COUNTS, FIGURES, Row, at

# Figures that two runs should agree on: medians that do not hang on a single slow request.
HEADLINES = {
    "closed": ("requests_per_s", "p50_s"),
    "open": ("p50_s",),
    "streams": ("p50_s",),
    "memory": ("process_bytes",),
}
AGREE = 0.10


def levels(rows: Iterable[Row]) -> list[Row]:
    """One entry for each kind, model and level: medians and ranges over the repeats, counts and words together."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["model"], row["level"]), []).append(row)
    return [_level(key, group) for key, group in sorted(groups.items())]


def _level(key: tuple[str, str, float], group: Sequence[Row]) -> Row:
    kind, model, level = key
    entry: Row = {"kind": kind, "model": model, "level": level, "repeats": len(group)}
    entry |= {name: spread([at(row, path) for row in group]) for name, path in FIGURES[kind].items()}
    entry["counts"] = {name: sum(row[name] for row in group) for name in COUNTS[kind]}
    if "wer" in group[0]:
        entry["wer"] = wer((row["wer"]["errors"], row["wer"]["words"]) for row in group)
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
    held = [_line(group) for group in of["memory"]]
    mean_audio_s = [row["mean_audio_s"] for row in rows if row["kind"] == "closed"]
    return {
        "requests_per_s": spread(_best(group, "requests_per_s") for group in of["closed"]),
        "audio_s_per_s": spread(_best(group, "audio_s_per_s") for group in of["closed"]),
        "users_at_goal": spread(_last_good(group, "level") for group in of["closed"]),
        "rate_at_goal": spread(_last_good(group, "rate") for group in of["open"]),
        "streams_at_goal": spread(_last_good(group, "level") for group in of["streams"]),
        "streams_missed_in": sum(not all(row["meets_goal"] for row in group) for group in of["streams"]),
        "rest_bytes": spread(rest for rest, _ in held),
        "bytes_per_stream": spread(slope for _, slope in held),
        "transient_bytes": spread(row["transient_bytes"] for group in of["memory"] for row in group),
        "cache_bytes_per_stream": profile.get("cache_bytes_per_stream"),
        "slots": profile.get("slots"),
        "chunk_s": profile.get("chunk_ms", 0) / 1000 or None,
        "weight_bytes": card.get("weight_bytes"),
        "mean_audio_s": _tidy(float(np.mean(mean_audio_s))) if mean_audio_s else None,
        "busy": _busy(rows),
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


def _line(group: Sequence[Row]) -> tuple[float | None, float | None]:
    """Memory at rest (no streams), and how it grows with each: a line through those with streams, where there are two.

    Of the device where the driver says it, else of the process.
    """

    def taken(row: Row) -> float:
        return float(row["held"]["device"] or row["held"]["process"])

    rest = next((taken(row) for row in group if not row["streams"]), None)
    some = [row for row in group if row["streams"]]
    some = some if len(some) > 1 else list(group)
    if len(some) < 2:
        return rest, None
    return rest, float(np.polyfit([row["streams"] for row in some], [taken(row) for row in some], 1)[0])


def _busy(rows: Iterable[Row]) -> list[list[float]]:
    """By streams, the median share of time that the device works for them."""
    shares: dict[float, list[float]] = {}
    for row in rows:
        if row["kind"] == "streams" and not row["lost"]:
            shares.setdefault(row["level"], []).append(row["device_share"])
    return [[level, _tidy(median(values))] for level, values in sorted(shares.items())]


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
    """The same of one run's odd and even repeats."""
    return agreement(
        levels(r for r in rows if r["repeat"] % 2), levels(r for r in rows if not r["repeat"] % 2)
    )


def ratios(rows: Sequence[Row], model: str, baseline: str) -> Row:
    """Of a model to the first: throughput and median latency by level, each the median over pairs of one repeat."""
    values = {
        (row["kind"], row["level"], row["repeat"], row["model"], name): at(row, FIGURES[row["kind"]][name])
        for row in rows
        for name in HEADLINES[row["kind"]]
    }
    pairs: dict[str, list[float]] = {}
    for (kind, level, repeat, who, name), value in values.items():
        base = values.get((kind, level, repeat, baseline, name))
        if who == model and value and base:
            pairs.setdefault(f"{kind} {level:g} {name}", []).append(value / base)
    return {name: spread(found) for name, found in pairs.items()}
