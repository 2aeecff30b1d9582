"""Samples to figures: of requests, of streams, and of one measurement of a sweep. Times in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

import numpy as np

from loadtests.http_client import OUTCOMES, Sample
from loadtests.stream_load import FULL, StreamSample

Figures = dict[str, Any]
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}
# What is compared over repeats: by kind, the name of a figure and where in a row it is.
_CLIPS = {
    "requests_per_s": "requests_per_s",
    "audio_s_per_s": "audio_s_per_s",
    "p50_s": "latency_s.p50",
    "p95_s": "latency_s.p95",
    "p99_s": "latency_s.p99",
    "most_s": "latency_s.most",
    "within": "within",
    "queue_s": "server.mean.queue_s",
    "inference_s": "server.mean.inference_s",
    "batch_size": "server.mean.batch_size",
    "padding_ratio": "server.mean.padding_ratio",
    "device_share": "server.device_share.clips",
    "server_cpu": "server.cpu_share",
    "client_cpu": "client_cpu_share",
}
FIGURES = {
    "closed": _CLIPS,
    "open": {**_CLIPS, "rate": "rate", "lag_p99_s": "lag_s.p99"},
    "streams": {
        "p50_s": "partial_s.p50",
        "p95_s": "partial_s.p95",
        "p99_s": "partial_s.p99",
        "final_p50_s": "final_s.p50",
        "final_p95_s": "final_s.p95",
        "last_p50_s": "last_s.p50",
        "server_partial_s": "server.mean.stream_partial_s",
        "step_s": "server.mean.stream_step_s",
        "device_share": "device_share",
        "server_cpu": "server.cpu_share",
        "client_cpu": "client_cpu_share",
        "late_send_s": "late_send_s",
    },
    "memory": {
        "streams": "streams",
        "process_bytes": "held.process",
        "tree_bytes": "held.tree",
        "device_bytes": "held.device",
        "allocated_bytes": "held.allocated",
        "cache_bytes": "server.stream_cache_bytes",
    },
}
COUNTS = {
    "closed": ("requests", "ok", "busy", "error", "not_sent"),
    "open": ("requests", "ok", "busy", "error", "not_sent"),
    "streams": ("streams", "lost", "refused", "late", "steps", "late_steps"),
    "memory": (),
}


def quantiles(values: Sequence[float]) -> Figures:
    """How many, mean, and SHARES of them; None of nothing."""
    if not len(values):
        return {"count": 0, "mean": None, **dict.fromkeys(SHARES)}
    at = {name: _rounded(np.quantile(values, share)) for name, share in SHARES.items()}
    return {"count": len(values), "mean": _rounded(np.mean(values)), **at}


def _rounded(value: Any) -> float:
    return round(float(value), 5)


def of_requests(samples: Sequence[Sample], goal: tuple[float, float] = (1.0, 2.0)) -> Figures:
    """What became of the requests, how long they took and what their texts are worth.

    Throughput is of the time from the first sent to the last answered. `within` is the share of all, refused ones
    included, that was answered within the goal's first time, for p95; the second is for p99.
    """
    ok = [sample for sample in samples if sample.outcome == "ok"]
    outcomes = Counter(sample.outcome for sample in samples)
    wall_s = max((s.done_s for s in samples), default=0.0) - min((s.sent_s for s in samples), default=0.0)
    latency_s = [sample.latency_s for sample in ok]
    return {
        "requests": len(samples),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "errors": dict(Counter(sample.error for sample in samples if sample.error).most_common(5)),
        "wall_s": _rounded(wall_s),
        "requests_per_s": _rounded(len(ok) / wall_s) if wall_s else 0.0,
        "audio_s_per_s": _rounded(sum(sample.audio_s for sample in ok) / wall_s) if wall_s else 0.0,
        "mean_audio_s": _rounded(np.mean([sample.audio_s for sample in samples])) if samples else None,
        "latency_s": quantiles(latency_s),
        "service_s": quantiles([sample.done_s - sample.sent_s for sample in ok]),
        "lag_s": quantiles([sample.sent_s - sample.intended_s for sample in samples]),
        "within": round(sum(s <= goal[0] for s in latency_s) / len(samples), 4) if samples else None,
        "meets_goal": meets(latency_s, len(samples), goal),
        "answers": {name: _mean(ok, name) for name in ("queue_s", "inference_s", "batch_size")},
        "wer": wer((sample.word_errors, sample.words) for sample in ok),
    }


def meets(latency_s: Sequence[float], requests: int, goal: tuple[float, float]) -> bool:
    """Whether 95% and 99% of all requests were answered within the goal's two times; one without answer was not."""
    late = np.sort([*latency_s, *[np.inf] * (requests - len(latency_s))])
    within = [np.quantile(late, share, method="inverted_cdf") for share in (0.95, 0.99)] if requests else []
    return bool(within) and all(found <= limit for found, limit in zip(within, goal, strict=True))


def _mean(samples: Sequence[Sample], name: str) -> float | None:
    values = [sample.timing[name] for sample in samples if name in sample.timing]
    return _rounded(np.mean(values)) if values else None


def wer(counts: Iterable[tuple[float, int]]) -> Figures:
    """The error rate of (wrong words, words) pairs in percent; None without words."""
    errors, total = (sum(column) for column in zip(*(list(counts) or [(0, 0)]), strict=True))
    return {
        "errors": round(errors, 2),
        "words": total,
        "percent": round(100 * errors / total, 2) if total else None,
    }


def of_streams(samples: Sequence[StreamSample]) -> Figures:
    """How late the texts were and what they are worth. The goal: 95% of the partials within a chunk, none lost.

    `refused` are those of the lost that found no place; `in_time` says whether the others met the goal.
    """
    chunk_s = max((sample.chunk_s for sample in samples), default=0.0)
    partial_s = [value for sample in samples for value in sample.partial_s]
    lost = [sample.error for sample in samples if sample.error]
    partials = quantiles(partial_s)
    in_time = bool(partial_s) and partials["p95"] <= chunk_s
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
        "refused": sum(error.startswith(FULL) for error in lost),
        "errors": dict(Counter(lost).most_common(5)),
        "late_send_s": round(max((sample.late_send_s for sample in samples), default=0.0), 5),
        "in_time": in_time,
        "meets_goal": in_time and not lost,
        "wer": wer((sample.word_errors, sample.words) for sample in samples),
    }


def row(record: Figures, samples: Sequence[Figures], goal: tuple[float, float]) -> Figures:
    """Figures of one cell: `record` as it was kept, and its samples."""
    cell, server = record["cell"], record["server"]
    found: Figures = {**cell, "server": server}
    found |= {name: record[name] for name in ("wall_s", "client_cpu_share", "memory")}
    if cell["kind"] == "streams":
        streams = [StreamSample(**sample) for sample in samples]
        busy_s = server["device_share"]["streams"] * record["wall_s"]
        audio_s = mean(sample.audio_s for sample in streams)
        heard = _heard(streams)
        return {**found, **of_streams(streams), "device_share": round(busy_s / audio_s, 4), "heard": heard}
    if cell["kind"] == "memory":
        return {
            **found,
            "streams": record["streams"],
            "held": record["held"],
            "device": record["models"][0].get("device") or "cpu",
            "transient_bytes": _transient(record),
        }
    requests = [Sample(**sample) for sample in samples]
    heard = _heard(sample for sample in requests if sample.outcome == "ok")
    return {**found, "rate": record.get("rate"), **of_requests(requests, goal), "heard": heard}


def _heard(samples: Iterable[Sample | StreamSample]) -> dict[str, tuple[int, int]]:
    """Wrong words and words of each clip, where it was first answered."""
    heard: dict[str, tuple[int, int]] = {}
    for sample in samples:
        if not sample.error:
            heard.setdefault(sample.clip, (sample.word_errors, sample.words))
    return heard


def _transient(record: Figures) -> float | None:
    """How far a load went beyond what is taken at rest: of the device's allocator where there is a GPU, else of RSS."""
    if "loaded" not in record:
        return None
    server = record["server"]
    if on_gpu(record["models"][0].get("device")):
        peak, now = server["gpu_peak_bytes"], server["gpu_allocated_bytes"]
        return float(peak - now) if peak else None
    return float(record["loaded"]["peak"] - record["held"]["process"])


def on_gpu(device: str | None) -> bool:
    """Whether a model lies in memory other than the process's."""
    return (device or "cpu") != "cpu"


def at(row: Figures, path: str) -> float | None:
    """The value at names parted by dots; None where it is not there."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def line(row: Figures) -> str:
    """One row for the screen."""
    kind = row["kind"]
    if kind == "memory":
        return f"{row['streams']} streams held: {row['held']['process'] / 2**20:.0f} MiB"
    times = "/".join(_ms(at(row, FIGURES[kind][name])) for name in ("p50_s", "p95_s", "p99_s"))
    goal = "meets the goal" if row["meets_goal"] else "misses the goal"
    if kind == "streams":
        counts = f"{row['lost']} lost, {row['late']} late"
        return f"{row['streams']} streams: partials p50/p95/p99 {times} ms, {counts}, {goal}"
    load = f"{row['level']:g} users" if kind == "closed" else f"{row['rate']:g}/s"
    counts = f"{row['busy']} refused, {row['error'] + row['not_sent']} failed"
    return f"{load}: {row['requests_per_s']:.1f} answers/s, p50/p95/p99 {times} ms, {counts}, {goal}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.0f}"
