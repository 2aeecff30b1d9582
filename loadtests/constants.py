"""What was measured of a model, as a capacity is worked out from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
NO_STEP = (
    "time of a step by its streams: streams by time, unless measured, and requests beside streams: unknown"
)


class ConstantsError(ValueError):
    """A file that holds no constants, or none of what was asked for."""


@dataclass(frozen=True)
class StepTime:
    """How long a step takes: `fixed_s`, and `each_s` for each of its streams, of which `most` were measured in one."""

    chunk_s: float
    fixed_s: float
    each_s: float
    most: float


@dataclass(frozen=True)
class Constants:
    """One model in one profile. Bytes are of the memory that the model lies in, times of the machine that measured.

    fixed_bytes: with all that the first stream brings along, but without that stream. `step`: None where steps of
    several streams were not measured, or cost no more than those of one. `streams_at_goal`: so many were in time, and
    more were not where `late_beyond`. `missing` names what the file does not say, and how it was counted then.
    """

    name: str
    fixed_bytes: float
    bytes_per_stream: float
    transient_bytes: float
    step: StepTime | None = None
    streams_at_goal: float | None = None
    late_beyond: bool = False
    audio_s_per_s: float | None = None
    mean_audio_s: float | None = None
    missing: tuple[str, ...] = field(default=())


def read(file: Path, profile: str | None = None, offline: Path | None = None) -> list[Constants]:
    """The models of a sweep's report.json, or of `offline.benchmark stream` (with `offline`'s offline figures).

    Args:
        file: the JSON.
        profile: chunk in ms / context in s, of those that a benchmark has; the first when not given.
        offline: JSON of `offline.benchmark offline`, for the same arms.

    Raises:
        ConstantsError: what is wrong with a file, or which profiles it has.
    """
    record = _load(file)
    if "carries" in record:
        return [of_sweep(name, figures) for name, figures in record["carries"].items()]
    if not record.get("results") or "left_context_s" not in record["results"][0]:
        raise ConstantsError(f"{file} is neither a sweep's report.json nor of `offline.benchmark stream`")
    rows = [
        row for row in record["results"] if row["cache_dtype"] == "model" and row["path"] in (None, "auto")
    ]
    if not rows:
        raise ConstantsError(f"{file}: no rows with cache_dtype model and path auto")
    profiles = list(dict.fromkeys(map(_profile, rows)))
    chosen = profile or profiles[0]
    if chosen not in profiles:
        raise ConstantsError(f"{file} has no profile {chosen!r}; choices: {', '.join(profiles)}")
    rows = [row for row in rows if _profile(row) == chosen]
    table_bytes = record["table_bytes"][chosen.replace("/", "x")]
    speeds = _speeds(_load(offline)) if offline else {}
    arms = dict.fromkeys((row["model"], row["arm"]) for row in rows)
    return [
        _of_benchmark(
            arm,
            [row for row in rows if (row["model"], row["arm"]) == (model, arm)],
            record["what"]["models"][f"{model}: {arm}"],
            table_bytes,
            speeds.get((model, arm)),
        )
        for model, arm in arms
    ]


def _profile(row: Record) -> str:
    """As the service spells it."""
    ahead = f"+{row['lookahead_ms']}" if row.get("lookahead_ms") else ""
    return f"{row['chunk_ms']}{ahead}/{row['left_context_s']:g}"


def _load(file: Path) -> Record:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConstantsError(f"{file}: {error}") from None
    if not isinstance(record, dict):
        raise ConstantsError(f"{file} is neither a sweep's report.json nor of `offline.benchmark stream`")
    return record


def of_sweep(name: str, figures: Record) -> Constants:
    """Of one entry of a sweep's `carries`."""
    fixed, slope = figures["fixed_bytes"]["median"], figures["bytes_per_stream"]["median"]
    missing = []
    if fixed is None:
        fixed = figures["rest_bytes"]["median"] or figures["weight_bytes"] or 0
        alone = "memory at rest" if figures["rest_bytes"]["median"] else "the weights alone"
        missing.append(f"memory before the first stream: {alone}")
    if slope is None:
        slope = figures["cache_bytes_per_stream"] or 0
        missing.append("memory a stream: by formula")
    transient = figures["transient_bytes"]["median"]
    step = step_time(figures.get("steps", []), figures["chunk_s"])
    if step is None:
        missing.append(NO_STEP)
    return Constants(
        name,
        fixed_bytes=fixed,
        bytes_per_stream=slope,
        transient_bytes=transient or 0,
        step=step,
        streams_at_goal=figures["streams_at_goal"]["median"],
        late_beyond=set(figures["streams_bound_by"]) == {"time"},
        audio_s_per_s=figures["audio_s_per_s"]["median"],
        mean_audio_s=figures["mean_audio_s"],
        missing=tuple(missing),
    )


def _of_benchmark(
    arm: str, rows: list[Record], model: Record, table_bytes: int, audio_s_per_s: float | None
) -> Constants:
    points = [(row["streams"], row["step_s_median"]) for row in rows if not row["out_of_memory"]]
    step = step_time(points, rows[0]["chunk_ms"] / 1000)
    missing = ["memory of the runtime and of a running step: none"]
    if step is None:
        missing.append(NO_STEP)
    if audio_s_per_s is None:
        missing.append("speed of clips: no requests counted (--offline)")
    return Constants(
        arm,
        fixed_bytes=model["weight_bytes"] + table_bytes,
        bytes_per_stream=sum(rows[0]["bytes_per_stream"].values()),
        transient_bytes=0,
        step=step,
        audio_s_per_s=audio_s_per_s,
        missing=tuple(missing),
    )


def _speeds(record: Record) -> dict[tuple[str, str], float]:
    """By model and arm, seconds of audio a second, at the batch size that gives most."""
    best: dict[tuple[str, str], float] = {}
    for row in record.get("results", []):
        if row.get("path") in (None, "auto") and {"arm", "rtfx"} <= row.keys():
            key = row["model"], row["arm"]
            best[key] = max(best.get(key, 0.0), row["rtfx"])
    return best


def step_time(points: Sequence[Sequence[float]], chunk_s: float | None) -> StepTime | None:
    """A line through (streams in a step, its seconds); from nothing up where it would begin below that.

    None where all steps have as many streams, or those of more take no longer.
    """
    if chunk_s is None or len({streams for streams, _ in points}) < 2:
        return None
    streams, seconds = np.transpose(points)
    each_s, fixed_s = np.polyfit(streams, seconds, 1)
    if fixed_s < 0:
        each_s, fixed_s = streams @ seconds / (streams @ streams), 0.0
    return StepTime(chunk_s, float(fixed_s), float(each_s), float(streams.max())) if each_s > 0 else None
