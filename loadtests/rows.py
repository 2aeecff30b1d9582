"""One measurement of a sweep as a row of figures, made of its raw samples and of what the server counted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from loadtests.figures import of_requests
from loadtests.http_client import Sample
from loadtests.stream_load import StreamSample, of_streams

Row = dict[str, Any]
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
        "cache_bytes": "server.stream_cache_bytes",
    },
}
COUNTS = {
    "closed": ("requests", "ok", "busy", "error", "not_sent"),
    "open": ("requests", "ok", "busy", "error", "not_sent"),
    "streams": ("streams", "lost", "late", "steps", "late_steps"),
    "memory": (),
}


def row(record: Row, samples: Sequence[Row], goal: tuple[float, float]) -> Row:
    """Figures of one cell: `record` as it was kept, and its samples."""
    cell, server = record["cell"], record["server"]
    found: Row = {**cell, "server": server}
    found |= {name: record[name] for name in ("wall_s", "client_cpu_share", "memory")}
    if cell["kind"] == "streams":
        streams = [StreamSample(**sample) for sample in samples]
        busy_s = server["device_share"]["streams"] * record["wall_s"]
        audio_s = mean(sample.audio_s for sample in streams)
        return {**found, **of_streams(streams), "device_share": round(busy_s / audio_s, 4)}
    if cell["kind"] == "memory":
        return {
            **found,
            "streams": record["streams"],
            "held": record["held"],
            "transient_bytes": _transient(record),
        }
    requests = [Sample(**sample) for sample in samples]
    return {**found, "rate": record.get("rate"), **of_requests(requests, goal)}


def _transient(record: Row) -> float | None:
    """How far a load went beyond what is taken at rest: of the device's allocator where there is a GPU, else of RSS."""
    if "loaded" not in record:
        return None
    server = record["server"]
    if server["gpu_peak_bytes"]:
        return float(server["gpu_peak_bytes"] - server["gpu_allocated_bytes"])
    return float(record["loaded"]["peak"] - record["held"]["process"])


def at(row: Row, path: str) -> float | None:
    """The value at names parted by dots; None where it is not there."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def line(row: Row) -> str:
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
