"""Samples to figures. Times in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from loadtests.http_client import OUTCOMES, Sample

Figures = dict[str, Any]
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}


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


def wer(counts: Iterable[tuple[int, int]]) -> Figures:
    """The error rate of (wrong words, words) pairs in percent; None without words."""
    errors, total = (sum(column) for column in zip(*(list(counts) or [(0, 0)]), strict=True))
    return {"errors": errors, "words": total, "percent": round(100 * errors / total, 2) if total else None}
