"""Models taking turns over the same recordings: transcripts with their errors, seconds and bytes."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import asr
from asr.audio import SAMPLE_RATE
from offline import corpora, provenance, scoring, stock
from offline.data import Utterance, batches_of
from offline.evaluation.records import Record
from offline.evaluation.stopwatch import forward_stopwatch, timed
from offline.scoring import Row

Chosen = tuple[str, Utterance]  # the corpus's name, and one of its utterances
Sight = dict[str, int]  # chunk_frames and left_context_frames, or nothing for whole recordings


@dataclass
class Arm:
    """One model, and the bytes that its batches took on a GPU."""

    model: asr.Transcriber
    peaks: list[tuple[int, int]] = field(default_factory=list)  # (allocated, reserved) of each

    def run(self, waves: list[NDArray[np.float32]], sight: Sight) -> tuple[list[str], float, float]:
        """Returns the texts of one batch, its seconds, and the seconds of the forward in it."""
        with forward_stopwatch(self.model) as laps:
            heard, seconds, peak = timed(self.model, lambda: self.model.transcribe(waves, **sight))
        self.peaks.append(peak)
        return [transcript.text for transcript in heard], seconds, sum(laps)


def environment(arms: Sequence[Arm]) -> dict[str, Any]:
    """Returns what ran: code, machine, versions, models."""
    device = arms[0].model.device
    return {
        "git_commit": provenance.git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions("torch", "numpy", "jiwer", "transformers", "whisper-normalizer"),
        "models": {arm.model.name: _facts(arm.model) for arm in arms},
    }


def _facts(model: asr.Transcriber) -> dict[str, Any]:
    caches = not isinstance(model, stock.Stock)  # stock code keeps nothing from one chunk to the next
    return {
        "folder": provenance.tidy(model.folder),
        "folder_hash": model.folder_hash,
        "attention": model.config.attention.to_dict(),
        "method": model.config.attention.method,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "cached_values_per_frame": model.config.cached_values_per_frame() if caches else None,
        "cache_bytes_per_second": model.cache_bytes_per_second if caches else None,
    }


def load(args: Namespace) -> list[asr.Transcriber]:
    """Returns the models of --model, in order. Raises CheckpointError, and ValueError where one is named twice."""
    names = [provenance.tidy(name) for name in args.model]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--model names {', '.join(twice)} more than once")
    how: dict[str, Any] = {"device": args.device, "dtype": args.dtype}
    models: list[asr.Transcriber] = []
    for name in args.model:
        if getattr(args, "engine", "ours") == "transformers":
            models.append(stock.load(name, attn_implementation=args.attn_implementation, **how))
        else:
            models.append(asr.load(name, **how))
        models[-1].name = provenance.tidy(models[-1].name)
    return models


def measure(arms: list[Arm], chosen: list[Chosen], record: Record, sight: Sight, args: Namespace) -> None:
    """Transcribes what the record lacks with every arm, longest first, the arms in turn; a batch is the warm-up."""
    names = corpora.names([utterance for _, utterance in chosen])
    batches = plan([utterance.duration_s for _, utterance in chosen], args)
    done = record.keep([[names[index] for index in batch] for batch in batches])
    if done == len(batches):
        return
    work = [(0, batches[0]), *enumerate(batches[done:], start=done)]
    bar = tqdm(work, "evaluating", unit="batch", initial=done, total=len(batches) + 1)
    for step, (number, batch) in enumerate(bar):
        rows = _run(arms, [(names[index], *chosen[index]) for index in batch], number, sight)
        if step > 0:  # the first is the warm-up
            record.append(rows)


def _run(arms: list[Arm], batch: list[tuple[str, str, Utterance]], number: int, sight: Sight) -> list[Row]:
    """Returns the rows of one batch of (id, corpus's name, utterance), every other batch in reversed order of arms."""
    waves = [utterance.wave() for _, _, utterance in batch]
    rows = [_row(*one, len(wave), number) for one, wave in zip(batch, waves, strict=True)]
    for row in rows:
        row["models"] = {arm.model.name: {} for arm in arms}
    for arm in arms if number % 2 else reversed(arms):
        texts, *seconds = arm.run(waves, sight)
        for row, text in zip(rows, texts, strict=True):
            spent = (one / len(batch) for one in seconds)
            row["models"][arm.model.name] = _entry(row["reference"], text, *spent)
    return rows


def plan(durations_s: Sequence[float], args: Namespace) -> list[list[int]]:
    """Returns the batches, longest recordings first, each within --batch_seconds and --batch_size."""
    order = sorted(range(len(durations_s)), key=durations_s.__getitem__, reverse=True)
    size = args.batch_size
    cut = batches_of(order, durations_s, args.batch_seconds)
    return [batch[i : i + size] for batch in cut for i in range(0, len(batch), size)]


def _row(name: str, manifest: str, utterance: Utterance, samples: int, batch: int) -> Row:
    reference = " ".join(utterance.text.split())
    return {
        "id": name,
        "audio": provenance.relative(utterance.audio),
        "duration_s": round(samples / SAMPLE_RATE, 4),
        "manifest": manifest,
        **{label: getattr(utterance, label) for label in ("domain", "engine", "voice", "speaker")},
        "words": len(reference.split()),
        "reference": reference,
        "batch": batch,
    }


def _entry(reference: str, text: str, seconds: float, forward_seconds: float) -> dict[str, Any]:
    spent = {"seconds": round(seconds, 9), "forward_seconds": round(forward_seconds, 9)}
    return {**scoring.score(reference, text), **spent}


def latency(
    arms: list[Arm], utterances: list[Utterance], clips: int, sight: Sight
) -> dict[str, dict[str, float] | None]:
    """Returns the p50 and p95 of each model's milliseconds from a single clip's waves to its text; None for 0 clips."""
    if not clips:
        return {arm.model.name: None for arm in arms}
    rising = sorted(utterances, key=lambda utterance: utterance.duration_s)
    chosen = corpora.evenly(rising, clips)
    spent_ms: dict[str, list[float]] = defaultdict(list)
    for number, clip in enumerate(tqdm([chosen[-1], *chosen], "single clips", unit="clip")):
        wave = clip.wave()
        for arm in arms if number % 2 else reversed(arms):
            spent_ms[arm.model.name].append(1000 * arm.run([wave], sight)[1])
    found = {name: np.quantile(ms[1:], [0.5, 0.95]).tolist() for name, ms in spent_ms.items()}
    return {name: {"p50": round(p50, 2), "p95": round(p95, 2)} for name, (p50, p95) in found.items()}
