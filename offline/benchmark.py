"""Measures speed and memory of models on one machine: seconds of audio per second, by batch size, mha beside mla.

The models take turns, one batch each, so that a busy machine disturbs them alike; after a warm-up of every shape the
median and quartiles of --repeats rounds are written. With --large the models are those of the 618M-parameter reference
architecture with seeded random weights (mha, and mla with a joint latent of 512): their words mean nothing, their
speed and memory do. The sound is seeded noise. On a GPU peak_allocated_bytes is of this model and batch size, the
weights of all loaded models in it.
"""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import asr
from asr.audio import SAMPLE_RATE
from asr.config import Attention
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from asr.transcriber import DTYPES
from offline import cli, provenance
from offline.evaluate import Arm, environment, load, timed
from offline.train import TOKENS

EXAMPLE = (
    "python -m offline.benchmark --large --batch_size 1,4 --dtype bfloat16 --output_file results/large.json"
)
Round = tuple[float, int]  # seconds, peak allocated bytes
LARGE = asr.ModelConfig()
LARGE_LATENT = Attention(kind="mla", latent="joint", rank=(512,) * LARGE.num_hidden_layers, method="random")


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add(
        "--model",
        "--model_name",
        type=cli.names,
        default=["mha", "mla"],
        help="bundled names, folders or hub ids: a,b",
    )
    options.flag("--large", default=False, help="random weights in the 618M architecture instead of --model")
    add(
        "--batch_size",
        type=lambda text: [cli.count(n) for n in cli.names(text)],
        default=[1, 8],
        help="clips: 1,8",
    )
    add("--clip_s", type=cli.positive, default=10.0, help="length of each clip")
    add("--repeats", type=cli.count, default=5, help="rounds that are measured")
    add("--dtype", choices=list(DTYPES), help="default: float32 on CPU, bfloat16 on GPU")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    add("--output_file", type=Path, required=True, help="JSON to write")
    return options


def large_models(args: Namespace) -> list[asr.Transcriber]:
    """mha and mla of the reference architecture, seeded random weights."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = DTYPES[args.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    models = []
    for config in (LARGE, replace(LARGE, attention=LARGE_LATENT)):
        torch.manual_seed(0)
        model = ConformerCTC(config).to(device, dtype).eval()
        name = f"{config.attention.kind}-large-random"
        models.append(asr.Transcriber(name, model, Vocabulary(TOKENS), folder=None))
    return models


def measure(models: list[asr.Transcriber], args: Namespace) -> list[dict[str, Any]]:
    """One row a model and batch size."""
    rng = np.random.default_rng(0)
    rows = []
    for size in args.batch_size:
        waves = [rng.normal(0, 0.05, int(args.clip_s * SAMPLE_RATE)).astype(np.float32) for _ in range(size)]
        rounds: dict[str, list[Round]] = {model.name: [] for model in models}
        for number in tqdm(range(args.repeats + 1), f"batches of {size}"):
            for model in models if number % 2 else reversed(models):
                _, seconds, (peak_bytes, _) = timed(model, partial(model.log_probs, waves))
                rounds[model.name].append((seconds, peak_bytes))
        rows += [_row(model, size, args.clip_s, rounds[model.name][1:]) for model in models]
    return rows


def _row(model: asr.Transcriber, size: int, clip_s: float, rounds: list[Round]) -> dict[str, Any]:
    seconds, peaks_bytes = zip(*rounds, strict=True)
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    row = {"model": model.name, "batch_size": size, "clip_s": clip_s}
    row |= {"batch_s_median": round(median, 5), "batch_s_quartiles": [round(low, 5), round(high, 5)]}
    row |= {"rtfx": round(size * clip_s / median, 2)}
    if model.device.type == "cuda":
        row["peak_allocated_bytes"] = max(peaks_bytes)
    return row


def benchmark(args: Namespace) -> dict[str, Any]:
    """The whole JSON object: what ran, how, and the rows."""
    models = large_models(args) if args.large else load(args)
    rows = measure(models, args)
    return {
        "what": environment([Arm(model) for model in models]),
        "how": {
            "command": provenance.command("offline.benchmark"),
            "dtype": str(models[0].dtype).removeprefix("torch."),
            "repeats": args.repeats,
        },
        "results": rows,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    try:
        result = benchmark(args)
    except (ValueError, OSError) as error:
        print(f"offline.benchmark: {error}", file=sys.stderr)
        return 2
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    args.output_file.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["results"]:
        print(f"{row['model']:18} batch {row['batch_size']:3}: {row['rtfx']:8.1f} s of audio per s")
    print(f"written: {args.output_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
