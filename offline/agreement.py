"""How far models are from one: log-probabilities of the same recordings, frame by frame, without a reference text.

Word error rates need tens of thousands of words to tell two close models apart; this tells with minutes of speech.
--output_file is one object:

  what     git_commit, machine, threads, versions, and per model its folder_hash, attention, cached_values_per_frame
  how      command, dataset (SHA-256), dtype, exact, clips, audio_s
  results  per other model: frames; changed_frames (another best token) and their share; changed_transcripts (greedy);
           ctc_kl: KL(first || other) of the posteriors, nats a frame; ctc_kl_95: its bounds, bootstrap over clips;
           greatest_difference of any log-probability
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import asr
from asr.ctc import greedy
from asr.transcriber import DTYPES
from offline import cli, corpora, files, provenance
from offline.data import Utterance, batches_of

EXAMPLE = """python -m offline.agreement --model mha,mla --dataset data/speech/dev.jsonl \\
      --output_file results/agreement.json"""
BATCH_SECONDS, BATCH_SIZE = 60.0, 64
DRAWS = 2_000
Array = NDArray[np.float64]
SUMS = ["frames", "changed_frames", "changed_transcripts", "kl", "greatest_difference"]  # of each clip


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add(
        "--model",
        type=cli.names,
        required=True,
        help="the one, then the others: names, folders, hub ids: a,b,c",
    )
    add("--dataset", required=True, help="speech: a manifest, table, folder or LibriSpeech split")
    add("--data_dir", type=Path, help="folder of the LibriSpeech splits")
    add("--max_samples", type=cli.count, help="at most so many recordings, evenly spaced")
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--dtype", choices=list(DTYPES), default="float32", help="of the weights")
    exact = "run the first model in float64: how far the others, and itself when named twice, are from exact arithmetic"
    options.flag("--exact", default=False, help=exact)
    add("--device", help="cpu or cuda; default: cuda when there is one")
    return options


def of_clip(one: NDArray[np.float32], other: NDArray[np.float32], model: asr.Transcriber) -> list[float]:
    """The `SUMS` of one clip from log-probabilities [T, V] of both models."""
    teacher, student = (_normalised(scores.astype(np.float64)) for scores in (one, other))
    texts = {greedy(scores, model.vocabulary, model.seconds_per_frame)[0] for scores in (one, other)}
    return [
        len(one),
        float((one.argmax(-1) != other.argmax(-1)).sum()),
        len(texts) - 1,
        float((np.exp(teacher) * (teacher - student)).sum()),
        float(np.abs(teacher - student).max(initial=0.0)),
    ]


def _normalised(scores: Array) -> Array:
    """Log-probabilities that sum to one in float64, too: what float32 lacks is more than close models' KL."""
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def summary(clips: Array) -> dict[str, Any]:
    """Of [clips, SUMS]: the figures of one model."""
    frames, changed, texts, kl, greatest = clips.T
    draws = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    bounds = np.quantile(kl[draws].sum(1) / frames[draws].sum(1), [0.025, 0.975])
    return {
        "frames": int(frames.sum()),
        "changed_frames": int(changed.sum()),
        "changed_share": float(changed.sum() / frames.sum()),
        "changed_transcripts": int(texts.sum()),
        "ctc_kl": float(kl.sum() / frames.sum()),
        "ctc_kl_95": bounds.tolist(),
        "greatest_difference": float(greatest.max()),
    }


def compare(models: list[asr.Transcriber], found: list[Utterance]) -> list[Array]:
    """[clips, SUMS] of each model but the first, the clips in batches of like length."""
    durations_s = [utterance.duration_s for utterance in found]
    order = sorted(range(len(found)), key=durations_s.__getitem__, reverse=True)
    sums: list[list[list[float]]] = [[] for _ in models[1:]]
    for batch in tqdm(batches_of(order, durations_s, BATCH_SECONDS, BATCH_SIZE), "comparing", unit="batch"):
        waves = [found[index].wave() for index in batch]
        first, *others = [model.log_probs(waves) for model in models]
        for rows, other in zip(sums, others, strict=True):
            pairs = [pair for pair in zip(first, other, strict=True) if len(pair[0])]
            rows += [of_clip(*pair, models[0]) for pair in pairs]
    return [np.array(rows) for rows in sums]


def load(args: Namespace) -> list[asr.Transcriber]:
    """The models. Raises ValueError where there is nothing to compare, or vocabularies differ."""
    if len(args.model) < 2:
        raise ValueError(f"--model is {args.model[0]}: name the others too, with commas")
    models = [asr.load(name, device=args.device, dtype=args.dtype) for name in args.model]
    if args.exact:
        models[0] = asr.load(args.model[0], device=args.device, dtype="float32")
        models[0].model.double()
    for model in models[1:]:
        if model.vocabulary.tokens != models[0].vocabulary.tokens:
            raise ValueError(f"{model.name} has another vocabulary than {models[0].name}: no frame compares")
    return models


def work(args: Namespace) -> None:
    """What the command line asks for."""
    every = corpora.read_corpus(args.dataset, root=args.data_dir)
    found = corpora.evenly(every, args.max_samples)
    models = load(args)
    sums = compare(models, found)
    if not len(sums[0]):
        raise ValueError(f"{args.dataset}: no recording is long enough for a frame")
    figures = [summary(clips) for clips in sums]
    names = [provenance.tidy(name) for name in args.model]
    result = {
        "what": {
            "git_commit": provenance.git_commit(),
            "machine": provenance.machine(),
            "threads": torch.get_num_threads(),
            "versions": provenance.versions("torch", "numpy"),
            "models": {name: _facts(model) for name, model in zip(names, models, strict=True)},
        },
        "how": {
            "command": provenance.command("offline.agreement"),
            "dataset": {provenance.relative(args.dataset): corpora.digest(args.dataset, found)},
            "dtype": args.dtype,
            "exact": args.exact,
            "clips": len(found),
            "audio_s": round(sum(utterance.duration_s for utterance in found), 1),
        },
        "results": dict(zip(names[1:], figures, strict=True)),
    }
    files.write(args.output_file, json.dumps(result, indent=1) + "\n")
    print(table(result, names[0]), f"written: {args.output_file}", sep="\n")


def _facts(model: asr.Transcriber) -> dict[str, Any]:
    return {
        "folder_hash": model.folder_hash,
        "attention": model.config.attention.to_dict(),
        "cached_values_per_frame": model.config.cached_values_per_frame(),
    }


def table(result: dict[str, Any], first: str) -> str:
    """The figures for the screen."""
    how = result["how"]
    lines = [f"against {first}, {how['clips']} recordings, {how['audio_s']:.0f} s"]
    lines += [f"  {'model':34}{'KL, nats a frame':>18}{'frames changed':>16}{'texts':>7}{'greatest':>10}"]
    for name, row in result["results"].items():
        share, texts = f"{100 * row['changed_share']:.3f}%", row["changed_transcripts"]
        lines.append(
            f"  {name:34}{row['ctc_kl']:18.2e}{share:>16}{texts:7}{row['greatest_difference']:10.1e}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when compared, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.agreement", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
