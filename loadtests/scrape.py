"""What the server counted while it was loaded: its /metrics, before and after.

>>> parse('asr_x_total{model="mla",route="/a"} 3.0')
{('asr_x_total', frozenset({('model', 'mla'), ('route', '/a')})): 3.0}
"""

from __future__ import annotations

import re
import urllib.request
from typing import Any

Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]
LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
MEANS = {
    "queue_s": "queue_duration_seconds",
    "decode_s": "decode_audio_duration_seconds",
    "inference_s": "inference_duration_seconds",
    "batch_size": "batch_size",
    "padding_ratio": "batch_padding_ratio",
    "stream_step_s": "stream_step_duration_seconds",
    "stream_partial_s": "stream_partial_latency_seconds",
    "stream_final_s": "stream_final_latency_seconds",
}


def parse(text: str) -> Metrics:
    """Every sample of a page in Prometheus' text format, by name and labels."""
    found = (LINE.match(line) for line in text.splitlines() if not line.startswith("#"))
    return {(m[1], frozenset(LABEL.findall(m[2] or ""))): float(m[3]) for m in found if m}


def scrape(url: str) -> Metrics:
    """The server's metrics now. Raises OSError where it does not answer."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return parse(answer.read().decode())


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum over all samples of that name with these labels; 0 for none."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in metrics.items() if found == name and wanted <= has)


def delta(before: Metrics, after: Metrics, wall_s: float) -> dict[str, Any]:
    """What happened between two looks: counts, means of histograms, and shares of the time between."""

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    means = {
        short: _ratio(grown(f"asr_{name}_sum"), grown(f"asr_{name}_count")) for short, name in MEANS.items()
    }
    busy_s = {
        "clips": grown("asr_inference_duration_seconds_sum"),
        "streams": grown("asr_stream_step_duration_seconds_sum"),
    }
    return {
        "ok": round(grown("asr_requests_total", outcome="ok")),
        "answered": round(grown("asr_requests_total")),
        "rejected": round(grown("asr_requests_rejected_total")),
        "audio_s": round(grown("asr_audio_seconds_total"), 3),
        "late_steps": round(grown("asr_stream_late_steps_total")),
        "steps": round(grown("asr_stream_step_duration_seconds_count")),
        "out_of_memory": round(grown("asr_out_of_memory_total")),
        "mean": means,
        # The device's, one thing at a time; the process's is of one core, and may be more than 1.
        "device_share": {name: round(value / wall_s, 4) for name, value in busy_s.items()},
        "cpu_share": round(grown("process_cpu_seconds_total") / wall_s, 4),
        "weight_bytes": round(total(after, "asr_model_weight_bytes")),
        "stream_cache_bytes": round(total(after, "asr_stream_cache_bytes")),
        "gpu_peak_bytes": round(total(after, "asr_gpu_memory_peak_bytes")),
        "gpu_allocated_bytes": round(total(after, "asr_gpu_memory_allocated_bytes")),
    }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 5) if whole else None
