"""Measures models on manifests: word and character error rates, speed, memory, and every transcript.

The models take turns batch by batch, so that a busy machine disturbs them alike. --output_file is one JSON object:

  what      git_commit, device, machine, threads, versions, and per model: folder, folder_hash (SHA-256 of the weights),
            attention, parameters, weight_bytes, cache_bytes_per_second
  how       command, manifests (path: SHA-256), dtype, batch_seconds, batch_size, chunk_frames, left_context_frames
  results   per model: total, and by_domain, by_engine, by_voice, by_manifest (name: figures). Figures: utterances,
            words, audio_s, wer and cer (percent, corpus level), wer_95 (bounds, bootstrap over utterances).
            speed: rtfx (seconds of audio per second), rtfx_quartiles (over batches), inference_s; timed from waves in
            memory to text, after one warm-up batch, reading files left out.
            memory: peak_process_bytes (resident, the whole process with all models) or, on a GPU,
            peak_allocated_bytes and peak_reserved_bytes (of this model's batches, all loaded models' weights in it)
  utterances  audio, duration_s, manifest, domain, engine, voice, reference, and hypotheses (model: text)
"""

import json
import resource
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jiwer
import numpy as np
import torch
from tqdm import tqdm

import asr
from asr.audio import SAMPLE_RATE
from offline import cli, provenance
from offline.data import ManifestError, Utterance, batches_of, load_wave, read_manifest

EXAMPLE = """python -m offline.evaluate --model mha,mla --manifest data/speech/test-seen-voices.jsonl \\
      --output_file results/test-seen-voices.json"""
GROUPS = ("domain", "engine", "voice", "manifest")
RESAMPLES = 1000
T = TypeVar("T")


@dataclass
class Arm:
    """One model and what has been measured of it so far."""

    model: asr.Transcriber
    texts: dict[int, str] = field(default_factory=dict)  # by utterance
    batches: list[tuple[float, float]] = field(default_factory=list)  # (audio_s, inference_s) of each
    peaks: list[tuple[int, int]] = field(
        default_factory=list
    )  # (allocated, reserved) bytes of each, on a GPU


def parser() -> cli.Parser:
    """The command line; also answers to the spellings --model_name and --dataset."""
    options = cli.parser(__doc__, EXAMPLE)
    add = options.add_argument
    names = "bundled names, folders or hub ids: a,b"
    add("--model", "--model_name", type=cli.names, required=True, help=names)
    add("--manifest", "--dataset", type=cli.paths, required=True, help="a.jsonl,b.jsonl")
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--batch_seconds", type=cli.positive, default=60.0, help="padded audio in one batch")
    add("--batch_size", type=cli.count, default=64, help="most recordings in one batch")
    add("--utterances", type=cli.count, help="at most so many of a manifest, evenly spaced")
    add("--chunk_frames", type=cli.count, help="as in a stream with chunks of so many 20 ms frames")
    add("--left_context_frames", type=cli.natural, default=500, help="frames that a chunk sees before it")
    add(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: float32 on CPU, bfloat16 on GPU"
    )
    add("--device", help="cpu or cuda; default: cuda when there is one")
    return options


def read(args: Namespace) -> list[tuple[str, Utterance]]:
    """Returns (manifest's name, utterance) of all manifests, without recordings whose text is empty."""
    chosen = []
    for path in args.manifest:
        spoken = [utterance for utterance in read_manifest(path) if utterance.text.strip()]
        step = -(-len(spoken) // args.utterances) if args.utterances else 1
        chosen += [(path.stem, utterance) for utterance in spoken[:: max(step, 1)]]
    if not chosen:
        raise ManifestError(f"no text to compare with in {', '.join(map(str, args.manifest))}")
    return chosen


def measure(arms: list[Arm], utterances: list[Utterance], args: Namespace) -> None:
    """Transcribes everything with every arm, longest first, the arms in turn."""
    durations_s = [utterance.duration_s for utterance in utterances]
    order = sorted(range(len(durations_s)), key=durations_s.__getitem__, reverse=True)
    size = args.batch_size
    cut = batches_of(order, durations_s, args.batch_seconds)
    batches = [batch[i : i + size] for batch in cut for i in range(0, len(batch), size)]
    for number, indices in enumerate(tqdm([batches[0], *batches], "evaluating", unit="batch")):
        waves = [load_wave(utterances[index].audio) for index in indices]
        for arm in arms if number % 2 else reversed(arms):
            texts, seconds = _transcribe(arm, waves, args)
            arm.texts |= zip(indices, texts, strict=True)
            if number > 0:  # the first is the warm-up
                arm.batches.append((sum(map(len, waves)) / SAMPLE_RATE, seconds))


def _transcribe(arm: Arm, waves: list[Any], args: Namespace) -> tuple[list[str], float]:
    """Returns one batch's texts and the seconds that it took."""
    sight = {"chunk_frames": args.chunk_frames}
    if args.chunk_frames:
        sight["left_context_frames"] = args.left_context_frames
    heard, seconds, peak = timed(arm.model, lambda: arm.model.transcribe(waves, **sight))
    arm.peaks.append(peak)
    return [transcript.text for transcript in heard], seconds


def timed(model: asr.Transcriber, work: Callable[[], T]) -> tuple[T, float, tuple[int, int]]:
    """Returns what work returns, its seconds, and the peak (allocated, reserved) bytes of the model's GPU, else 0.

    Work has to wait for the device, as all that returns texts or arrays does.
    """
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    if not on_gpu:
        return result, seconds, (0, 0)
    peak = torch.cuda.max_memory_allocated(model.device), torch.cuda.max_memory_reserved(model.device)
    return result, seconds, peak


def figures(pairs: list[tuple[Utterance, str]]) -> dict[str, Any]:
    """Returns the error rates of (utterance, hypothesis) pairs, compared in upper case."""
    counts = np.array([_errors(utterance.text.upper(), text.upper()) for utterance, text in pairs])
    words, word_errors, characters, character_errors = counts.sum(0).tolist()
    return {
        "utterances": len(pairs),
        "words": words,
        "audio_s": round(sum(utterance.duration_s for utterance, _ in pairs), 2),
        "wer": round(100 * word_errors / words, 3),
        "wer_95": _bounds(counts[:, 0], counts[:, 1]),
        "cer": round(100 * character_errors / characters, 3),
    }


def _errors(reference: str, hypothesis: str) -> tuple[int, int, int, int]:
    """Returns words, word errors, characters, character errors of one utterance."""
    found = []
    for measured in (
        jiwer.process_words(reference, hypothesis),
        jiwer.process_characters(reference, hypothesis),
    ):
        errors = measured.substitutions + measured.deletions
        found += [measured.hits + errors, errors + measured.insertions]
    return found[0], found[1], found[2], found[3]


def _bounds(words: Any, errors: Any) -> list[float]:
    """95 % bounds of the error rate in percent: bootstrap of the ratio of sums, utterances drawn anew."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(words), size=(RESAMPLES, len(words)))
    rates = 100 * errors[drawn].sum(1) / words[drawn].sum(1)
    return [round(float(bound), 3) for bound in np.quantile(rates, [0.025, 0.975])]


def summary(arm: Arm, chosen: list[tuple[str, Utterance]]) -> dict[str, Any]:
    """Returns the results entry of one arm: error rates in all and by group, speed, memory."""
    groups: dict[str, dict[str, list[tuple[Utterance, str]]]] = {name: defaultdict(list) for name in GROUPS}
    for index, (manifest, utterance) in enumerate(chosen):
        for name in GROUPS:
            value = manifest if name == "manifest" else getattr(utterance, name)
            groups[name][value or "-"].append((utterance, arm.texts[index]))
    total = figures([(utterance, arm.texts[index]) for index, (_, utterance) in enumerate(chosen)])
    parts = {
        f"by_{name}": {value: figures(pairs) for value, pairs in sorted(groups[name].items())}
        for name in GROUPS
    }
    return {"total": total, "speed": _speed(arm), "memory": _memory(arm), **parts}


def _speed(arm: Arm) -> dict[str, Any]:
    audio_s, inference_s = np.array(arm.batches).T
    quartiles = np.quantile(audio_s / inference_s, [0.25, 0.5, 0.75])
    return {
        "rtfx": round(float(audio_s.sum() / inference_s.sum()), 2),
        "rtfx_quartiles": [round(float(value), 2) for value in quartiles],
        "inference_s": round(float(inference_s.sum()), 3),
    }


def _memory(arm: Arm) -> dict[str, int]:
    if arm.model.device.type == "cuda":
        allocated, reserved = map(max, zip(*arm.peaks, strict=True))
        return {"peak_allocated_bytes": allocated, "peak_reserved_bytes": reserved}
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return {"peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def environment(arms: list[Arm]) -> dict[str, Any]:
    """Returns what ran: code, machine, versions, models."""
    device = arms[0].model.device
    return {
        "git_commit": provenance.git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions("torch", "numpy", "jiwer"),
        "models": {
            arm.model.name: {
                "folder": provenance.tidy(arm.model.folder),
                "folder_hash": arm.model.folder_hash,
                "attention": arm.model.config.attention.to_dict(),
                "parameters": arm.model.parameters,
                "weight_bytes": arm.model.weight_bytes,
                "cache_bytes_per_second": arm.model.cache_bytes_per_second,
            }
            for arm in arms
        },
    }


def transcripts(arms: list[Arm], chosen: list[tuple[str, Utterance]]) -> Iterable[dict[str, Any]]:
    """Yields the utterances entries."""
    for index, (manifest, utterance) in enumerate(chosen):
        yield {
            "audio": provenance.relative(utterance.audio),
            "duration_s": utterance.duration_s,
            "manifest": manifest,
            "domain": utterance.domain,
            "engine": utterance.engine,
            "voice": utterance.voice,
            "reference": utterance.text,
            "hypotheses": {arm.model.name: arm.texts[index] for arm in arms},
        }


def table(results: dict[str, Any]) -> str:
    """Returns the figures of all models as lines of text."""
    lines = [f"{'':32}{'clips':>7}{'words':>8}{'WER %':>9}{'95 %':>16}{'CER %':>8}"]
    for name, result in results.items():
        parts = {"all": result["total"]}
        for group in ("domain", "engine"):
            parts |= {f"{group} {value}": row for value, row in result[f"by_{group}"].items()}
        lines.append(f"{name}: {result['speed']['rtfx']:.1f} s of audio per s")
        for label, row in parts.items():
            low, high = row["wer_95"]
            lines.append(
                f"  {label:30}{row['utterances']:7}{row['words']:8}{row['wer']:9.2f}"
                f"{f'{low:.2f}-{high:.2f}':>16}{row['cer']:8.2f}"
            )
    return "\n".join(lines)


def load(args: Namespace) -> list[asr.Transcriber]:
    """Returns the models of --model, in order. Raises CheckpointError."""
    models = [asr.load(name, device=args.device, dtype=args.dtype) for name in args.model]
    for model in models:
        model.name = provenance.tidy(model.name)
    return models


def evaluate(args: Namespace) -> dict[str, Any]:
    """Returns the whole JSON object. Raises ValueError (ManifestError, CheckpointError) for what cannot be used."""
    chosen = read(args)
    arms = [Arm(model) for model in load(args)]
    measure(arms, [utterance for _, utterance in chosen], args)
    how = ("batch_seconds", "batch_size", "utterances", "chunk_frames", "left_context_frames")
    return {
        "what": environment(arms),
        "how": {
            "command": provenance.command("offline.evaluate"),
            "manifests": provenance.hashes(args.manifest),
            "dtype": str(arms[0].model.dtype).removeprefix("torch."),
            **{name: getattr(args, name) for name in how},
        },
        "results": {arm.model.name: summary(arm, chosen) for arm in arms},
        "utterances": list(transcripts(arms, chosen)),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    try:
        result = evaluate(args)
    except (ValueError, OSError) as error:
        print(f"offline.evaluate: {cli.reason(error)}", file=sys.stderr)
        return 2
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    args.output_file.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result["results"]), f"\nwritten: {args.output_file}", sep="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
