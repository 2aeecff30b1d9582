"""Rounds of a benchmark: the clips, the arms in turns, and the figures of each arm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from offline.data import read_manifest
from offline.speed.arms import Arm, Timing, Wave
from offline.turns import turns

WARM_UPS = {"cpu": 1, "cuda": 10}  # a GPU picks kernels, and its clocks rise
Row = dict[str, Any]


def batches_of(size: int, lengths_s: Sequence[float], sound: Wave) -> list[list[Wave]]:
    """Returns the batches of one round, cut from the sound in a row: each length as often as the next, seeded order.

    As many batches as it takes for each length to occur: one of 8 with three lengths, three of 1.
    """
    batches = -(-len(lengths_s) // size)
    samples = [round(lengths_s[i % len(lengths_s)] * SAMPLE_RATE) for i in range(batches * size)]
    samples = np.random.default_rng(0).permutation(samples).tolist()
    ends = np.cumsum(samples)
    waves = [np.take(sound, range(end - n, end), mode="wrap") for end, n in zip(ends, samples, strict=True)]
    return [waves[first : first + size] for first in range(0, len(waves), size)]


def sound_of(manifest: Path | None) -> Wave:
    """Returns samples to cut clips from: recordings in a row, up to ten minutes; or a minute of seeded noise."""
    if manifest is None:
        return np.random.default_rng(0).normal(0, 0.05, 60 * SAMPLE_RATE).astype(np.float32)
    waves: list[Wave] = []
    for utterance in read_manifest(manifest):
        waves.append(utterance.wave())
        if sum(map(len, waves)) > 600 * SAMPLE_RATE:
            break
    return np.concatenate(waves)


def measure(arms: list[Arm], batches: list[list[Wave]], repeats: int) -> list[Row]:
    """Returns one row an arm: all of them in turns, after warm-up rounds."""
    rounds: dict[Arm, list[list[Timing]]] = {arm: [] for arm in arms}
    warm_ups = WARM_UPS[arms[0].device.type]
    with tqdm(total=(warm_ups + repeats) * len(arms), desc=f"batches of {len(batches[0])}") as bar:
        for number in range(warm_ups + repeats):
            for arm in turns(arms, number):
                bar.set_postfix_str(" ".join(filter(None, arm.label[1:])), refresh=False)
                rounds[arm].append([arm.time(waves) for waves in batches])
                bar.update()
    return [row(arm, batches, rounds[arm][warm_ups:]) for arm in arms]


def row(arm: Arm, batches: list[list[Wave]], rounds: list[list[Timing]]) -> Row:
    """Returns the figures of one arm; batch_s is the mean of a round's batches, then the median of rounds."""
    samples = [[len(wave) for wave in waves] for waves in batches]
    audio_s = sum(map(sum, samples)) / SAMPLE_RATE
    whole_s = np.array([[timing.whole_s for timing in timings] for timings in rounds])
    forward_s = np.array([[timing.forward_s for timing in timings] for timings in rounds])
    flops = sum(map(arm.flops, samples))
    size = len(batches[0])
    figures = {
        **arm.label._asdict(),
        "batch_size": size,
        "clip_s": sorted({n / SAMPLE_RATE for batch in samples for n in batch}),
        "batches": len(batches),
        **_batch_s(whole_s.mean(1)),
        **_rate("rtfx", audio_s, whole_s.sum(1)),
        **_rate("rtfx_model", audio_s, forward_s.sum(1)),
        "latency_s": _latency(whole_s) if size == 1 else None,
        "padding_share": round(
            1 - sum(map(sum, samples)) / sum(len(batch) * max(batch) for batch in samples), 4
        ),
        "absorbed_layers": round(float(np.mean([sum(arm.absorbed(batch)) for batch in samples])), 2)
        if arm.label.path
        else None,
        "gflop_per_audio_s": round(flops / audio_s / 1e9, 4),
        "gflops": round(flops / float(np.median(forward_s.sum(1))) / 1e9, 2),
    }
    if arm.device.type == "cuda":
        transient_bytes = max(timing.transient_bytes for timings in rounds for timing in timings)
        figures["peak_allocated_bytes"] = arm.weight_bytes + transient_bytes
    return figures


def _batch_s(seconds: Any) -> Row:
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return {"batch_s_median": round(median, 6), "batch_s_quartiles": [round(low, 6), round(high, 6)]}


def _rate(name: str, audio_s: float, seconds: Any) -> Row:
    """Seconds of audio per second, at the median time of a round and at its quartiles."""
    low, median, high = (audio_s / np.quantile(seconds, [0.75, 0.5, 0.25])).tolist()
    return {name: round(median, 3), f"{name}_quartiles": [round(low, 3), round(high, 3)]}


def _latency(whole_s: Any) -> dict[str, float]:
    half, most = np.quantile(whole_s, [0.5, 0.95]).tolist()
    return {"p50": round(half, 6), "p95": round(most, 6)}
