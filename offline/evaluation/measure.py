"""Models, each heard in one way or several, taking turns over the same recordings: texts, errors, seconds, bytes."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import asr
from asr.audio import SAMPLE_RATE
from asr.search import Beam
from offline import corpora, provenance, scoring, stock
from offline.data import Utterance, batches_of
from offline.evaluation import decodings, hearing
from offline.evaluation.decodings import GREEDY, Decodings
from offline.evaluation.joined import Joined
from offline.evaluation.profiles import FULL, Profile
from offline.evaluation.records import Record
from offline.evaluation.stopwatch import forward_stopwatch, timed
from offline.scoring import Row
from offline.turns import turns

Chosen = tuple[str, Utterance]  # the corpus's name, and one of its utterances
WARM_UP_S = 10.0  # of a joined recording: minutes of speech need no minutes of warm-up


class Heard(NamedTuple):
    """The texts of one batch, its seconds, those of the forward in it, and its peak bytes as `timed` has them."""

    texts: list[str]
    seconds: float
    forward_seconds: float
    peak_bytes: list[int]


@dataclass
class Arm:
    """One model heard in one way, its scores decoded in one way."""

    name: str
    model: asr.Transcriber
    profile: Profile = FULL
    decoding: Beam | None = None  # greedy

    def run(self, waves: list[NDArray[np.float32]]) -> Heard:
        """Hears one batch."""
        with forward_stopwatch(self.model) as laps:
            texts, seconds, peak = timed(
                self.model, lambda: hearing.texts(self.model, waves, self.profile, self.decoding)
            )
        return Heard(texts, seconds, sum(laps), peak)


def environment(arms: Sequence[Arm]) -> dict[str, Any]:
    """Returns what ran: code, machine, versions, models."""
    device = arms[0].model.device
    return {
        "git_commit": provenance.git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions("torch", "numpy", "jiwer", "transformers", "whisper-normalizer"),
        "models": {arm.name: _facts(arm) for arm in arms},
    }


def _facts(arm: Arm) -> dict[str, Any]:
    model, profile = arm.model, arm.profile
    caches = not (isinstance(model, stock.Stock) or profile.naive)  # these keep nothing from chunk to chunk
    return {
        "model": model.name,
        "profile": str(profile),
        "chunk_frames": profile.chunk_frames,
        "left_context_frames": None if profile.chunk_frames is None else profile.left_context_frames,
        **({"lookahead_frames": profile.lookahead_frames} if profile.lookahead_frames else {}),
        "folder": provenance.tidy(model.folder),
        "folder_hash": model.folder_hash,
        "attention": model.config.attention.to_dict(),
        "method": model.config.attention.method,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "cached_values_per_frame": model.config.cached_values_per_frame() if caches else None,
        "cache_bytes_per_second": model.cache_bytes_per_second if caches else None,
        **(_cache_bytes(model, profile) if profile.streamed else {}),
        **({"decoding": decodings.facts(arm.decoding)} if arm.decoding else {}),
    }


def _cache_bytes(model: asr.Transcriber, profile: Profile) -> dict[str, float]:
    """What one live stream takes, read from what is allocated."""
    cache = hearing.new_cache(model, 1, profile)
    found: dict[str, float] = {"bytes_per_stream": cache.bytes_per_slot}
    if profile.left_context_s:
        found["cache_bytes_per_second"] = cache.bytes_by_part["attention"] / profile.left_context_s
    return found


def arms_of(
    models: Sequence[asr.Transcriber],
    profiles: Sequence[Profile],
    *,
    named: bool,
    ways: Decodings | None = None,
) -> list[Arm]:
    """Returns each model under each profile and decoding (greedy alone), the models of a profile side by side.

    They are called mla, mla@640ms/10s, mla+beam and so on; without the profile where not `named`.
    """
    return [
        Arm(
            f"{model.name}{f'@{profile}' * (named and profile != FULL)}{f'+{way}' * (way != GREEDY)}",
            model,
            profile,
            beam,
        )
        for profile in profiles
        for way, beam in (ways or {GREEDY: None}).items()
        for model in models
    ]


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


def measure(arms: list[Arm], chosen: list[Chosen], record: Record, args: Namespace) -> None:
    """Transcribes what the record lacks with every arm, longest first, the arms in turn; a batch is the warm-up."""
    names = corpora.names([utterance for _, utterance in chosen])
    batches = plan([utterance.duration_s for _, utterance in chosen], args)
    done = record.keep([[names[index] for index in batch] for batch in batches])
    if done == len(batches):
        return
    with tqdm(
        total=(len(batches) + 1) * len(arms), desc="evaluating", unit="turn", initial=done * len(arms)
    ) as bar:
        limit = round(WARM_UP_S * SAMPLE_RATE) if args.join_s else None
        # copied, or the whole recording would stay
        warm_up = [chosen[index][1].wave()[:limit].copy() for index in batches[0]]
        for arm in _in_turn(arms, 0, bar):
            arm.run(warm_up)
        for number, batch in enumerate(batches[done:], start=done):
            rows = _run(arms, [(names[index], *chosen[index]) for index in batch], number, bar)
            record.append(rows)


def _in_turn(arms: Sequence[Arm], number: int, bar: tqdm) -> Iterator[Arm]:
    """The arms in the order of a batch."""
    for arm in turns(arms, number):
        bar.set_postfix_str(arm.name)
        yield arm
        bar.update()


def _run(arms: list[Arm], batch: list[tuple[str, str, Utterance]], number: int, bar: tqdm) -> list[Row]:
    """Returns the rows of one batch of (id, corpus's name, utterance)."""
    waves = [utterance.wave() for _, _, utterance in batch]
    rows = [_row(*one, len(wave), number) for one, wave in zip(batch, waves, strict=True)]
    for row in rows:
        row["models"] = {arm.name: {} for arm in arms}
    for arm in _in_turn(arms, number, bar):
        heard = arm.run(waves)
        spent = {"seconds": heard.seconds, "forward_seconds": heard.forward_seconds}
        shares = {name: round(seconds / len(batch), 9) for name, seconds in spent.items()}
        for row, text in zip(rows, heard.texts, strict=True):
            row["models"][arm.name] = {**scoring.score(row["reference"], text), **shares}
        rows[0]["models"][arm.name]["peak_bytes"] = heard.peak_bytes
    return rows


def plan(durations_s: Sequence[float], args: Namespace) -> list[list[int]]:
    """Returns the batches, longest recordings first, each within --batch_seconds and --batch_size."""
    order = sorted(range(len(durations_s)), key=durations_s.__getitem__, reverse=True)
    return batches_of(order, durations_s, args.batch_seconds, args.batch_size)


def _row(name: str, manifest: str, utterance: Utterance, samples: int, batch: int) -> Row:
    reference = " ".join(utterance.text.split())
    return {
        "id": name,
        "audio": provenance.relative(utterance.audio),
        "duration_s": round(samples / SAMPLE_RATE, 4),
        "manifest": manifest,
        **{label: getattr(utterance, label) for label in ("domain", "engine", "voice", "speaker")},
        **({"joined": list(utterance.ids)} if isinstance(utterance, Joined) else {}),
        "words": len(reference.split()),
        "reference": reference,
        "batch": batch,
    }


def latency(arms: list[Arm], utterances: list[Utterance], clips: int) -> dict[str, dict[str, float] | None]:
    """Returns the p50 and p95 of each arm's milliseconds from a single clip's waves to its text; None for 0 clips."""
    if not clips:
        return {arm.name: None for arm in arms}
    rising = sorted(utterances, key=lambda utterance: utterance.duration_s)
    chosen = corpora.evenly(rising, clips)
    spent_ms: dict[str, list[float]] = defaultdict(list)
    for number, clip in enumerate(tqdm([chosen[-1], *chosen], "single clips", unit="clip")):
        wave = clip.wave()
        for arm in turns(arms, number):
            spent_ms[arm.name].append(1000 * arm.run([wave]).seconds)
    found = {name: np.quantile(ms[1:], [0.5, 0.95]).tolist() for name, ms in spent_ms.items()}
    return {name: {"p50": round(p50, 2), "p95": round(p95, 2)} for name, (p50, p95) in found.items()}
