"""Measures speed and memory of one model's weights, run in every way that there is, in one process and in turns.

This is `offline`, over whole clips; `python -m offline.benchmark stream --help` tells of live streams.

Arms: our mha; our mla, made in memory from the mha weights (`mla-lossless`: a joint latent as wide as the model;
`mla-75` and `mla-87.5`: percent of the cache cut), each with the attention path `auto`, `absorbed` and `expanded`; and
stock `transformers`, eager and sdpa. An mla model named in --model runs on its own paths. With --large the weights are
seeded random ones in the 618M-parameter reference architecture: the words mean nothing, speed and memory do.

First, outputs are compared in float32, each clip alone: mha with mla-lossless and stock code, absorbed with expanded.
If log-probs differ by more than 1e-4 nothing is timed. In bfloat16 and float16 the frames whose best token changed are
counted as well. Then, after a warm-up of every shape, the arms take turns: each round begins one arm further, and every
other one goes backwards.

--clip_s 10 is uniform; --clip_s 5,10,20 is a seeded mix, unsorted, each length as often as the next. --output_file:

  what     git_commit, device, machine, threads, versions; per model and arm: attention, parameters, bytes, cache
  how      command, dtype, warm_up_rounds, repeats, sound
  ceiling_gflops  GFLOP/s of the fastest large matrix product, in float32 and in the dtype
  checks   per arm and dtype: against which arm, clips, frames, greatest difference of log-probs, changed_frames
  results  model, arm, path, batch_size, clip_s, batches (of a round), batch_s_median and _quartiles (waves in memory to
           text, a round's mean), rtfx, rtfx_quartiles, rtfx_model (forward alone, the normalised batch on its device),
           rtfx_model_quartiles, latency_s (p50 and p95 at batch size 1, over all rounds), padding_share,
           absorbed_layers (mla layers that attend on the latents), gflop_per_audio_s (the clips' own need), gflops
           (that over the forward's seconds), share_of_ceiling; on a GPU peak_allocated_bytes (this arm's weights, and
           what came and went); with --memory on a CPU peak_resident_bytes and idle_resident_bytes (of a process that
           holds this arm alone, at its peak in the batch and before it)
"""

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from asr.transcriber import DTYPES
from asr.windows import LONG_FRAMES
from offline import cli, provenance
from offline.speed import live
from offline.speed.arms import ARMS, Arm, Wave, build, cast, check, load_source
from offline.speed.ceiling import Ceiling
from offline.speed.equality import verify
from offline.speed.residence import resident_bytes
from offline.speed.rounds import WARM_UPS, Row, batches_of, measure, sound_of
from offline.speed.setup import counts, settle_device, show, what, write
from offline.speed.twins import PATHS

EXAMPLE = """python -m offline.benchmark offline --model mha --output_file results/benchmark.json
  python -m offline.benchmark offline --large --dtype bfloat16 --batch_size 1,4 --output_file results/large.json"""
LONGEST_S = LONG_FRAMES * 320 / SAMPLE_RATE  # a longer clip runs in windows


def parser() -> cli.Parser:
    """The command line of `offline`."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    models = "bundled names, folders or hub ids: a,b"
    add("--model", "--model_name", type=cli.names, default=["mha"], help=models)
    options.flag("--large", default=False, help="random weights in the 618M architecture instead of --model")
    add("--arms", type=cli.names, default=ARMS, help="ways to run an mha model; any cut as in mla-93.75")
    add("--paths", type=cli.names, default=list(PATHS), help="of the attention of mla")
    add("--batch_size", type=counts, default=[1, 8, 24], help="clips: 1,8")
    add(
        "--clip_s",
        type=_lengths,
        default=[10.0],
        help="length of every clip, or the lengths of a mix: 5,10,20",
    )
    add("--manifest", type=Path, help="recordings to cut the clips from; default: seeded noise")
    add("--repeats", "--num_samples", type=cli.count, default=5, help="rounds that are measured")
    options.flag("--memory", default=False, help="on a CPU: also the resident peak, one process an arm")
    add("--dtype", choices=list(DTYPES), help="default: float32 on CPU, bfloat16 on GPU")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    add("--output_file", type=Path, required=True, help="JSON to write; anew after every batch size")
    add("--plot", type=Path, help="picture to draw, .png or .svg")
    return options


def _lengths(text: str) -> list[float]:
    found = [cli.positive(part) for part in cli.names(text)]
    if not all(0.1 <= length_s <= LONGEST_S for length_s in found):
        raise ArgumentTypeError(f"{text!r}: clips are 0.1 to {LONGEST_S:g} s long")
    return found


def benchmark(args: Namespace) -> dict[str, Any]:
    """Checks, measures, and returns the whole JSON object, written anew to --output_file after every batch size.

    Raises ValueError for what cannot be used, UnequalError where outputs differ that should not.
    """
    device, dtype, sound = torch.device(args.device), DTYPES[args.dtype], sound_of(args.manifest)
    groups = [batches_of(size, args.clip_s, sound) for size in args.batch_size]
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean float32
    arms, checks = prepare(args, [sound[:SAMPLE_RATE], sound[-4 * SAMPLE_RATE :]])
    ceiling = Ceiling(device, dtype)
    result: dict[str, Any] = {"what": what(arms, device), "how": how(args)}
    result |= {"ceiling_gflops": ceiling.gflops, "checks": checks, "results": []}
    for batches in groups:
        ceiling.measure()
        result["results"] += measure(arms, batches, args.repeats)
        ceiling.measure()
        for figures in result["results"]:
            figures["share_of_ceiling"] = round(figures["gflops"] / ceiling.gflops[args.dtype], 4)
        write(result, args.output_file)
    if args.memory and device.type == "cpu":
        del arms
        add_memory(result["results"], groups, args)
        write(result, args.output_file)
    return result


def prepare(args: Namespace, clips: list[Wave]) -> tuple[list[Arm], list[Row]]:
    """Returns the arms to measure, in their dtype, and what comparing their outputs gave.

    All paths of an mla arm are compared, and mha is there to be compared with, whether or not they are to be measured.
    """
    arms: list[Arm] = []
    checks: list[Row] = []
    for index in range(_models(args)):
        built = build(
            load_source(args, index), ["mha", *(arm for arm in args.arms if arm != "mha")], list(PATHS)
        )
        checks += verify(built, clips)
        if args.dtype != "float32":
            cast(built, DTYPES[args.dtype])
            checks += verify(built, clips)
        arms += [arm for arm in built if _wanted(arm, args)]
    return arms, checks


def _wanted(arm: Arm, args: Namespace) -> bool:
    return arm.label.arm in (*args.arms, "mla") and arm.label.path in (None, *args.paths)


def add_memory(rows: list[Row], groups: list[list[list[Wave]]], args: Namespace) -> None:
    """Adds the resident bytes of each arm and batch size to its row."""
    models = list(dict.fromkeys(figures["model"] for figures in rows))
    for start in tqdm(range(len(rows) // len(groups)), "memory, one process an arm"):
        mine = rows[start :: len(rows) // len(groups)]
        source = models.index(mine[0]["model"])
        batches = [max(batches, key=lambda waves: max(map(len, waves))) for batches in groups]
        found = resident_bytes(args, source, mine[0]["arm"], mine[0]["path"], batches)
        for figures, resident in zip(mine, found, strict=True):
            figures |= {"peak_resident_bytes": resident.peak, "idle_resident_bytes": resident.idle}


def how(args: Namespace) -> dict[str, Any]:
    """Returns how it was measured."""
    return {
        "command": provenance.command("offline.benchmark"),
        "dtype": args.dtype,
        "warm_up_rounds": WARM_UPS[torch.device(args.device).type],
        "repeats": args.repeats,
        "sound": provenance.hashes([args.manifest]) if args.manifest else "seeded noise",
    }


def table(result: dict[str, Any]) -> str:
    """Returns the figures as lines of text."""
    rates = ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in result["ceiling_gflops"].items())
    lines = [f"ceiling, GFLOP/s: {rates}"]
    columns = "".join(f"{name:>9}" for name in ("model", "p50 ms", "p95 ms", "GFLOP/s", "share", "MiB"))
    head = f"{'':26}{'RTFx':>9}{'quartiles':>16}{columns}"
    for size in dict.fromkeys(figures["batch_size"] for figures in result["results"]):
        lines += ["", f"batch size {size}", head]
        rows = [figures for figures in result["results"] if figures["batch_size"] == size]
        lines += [_line(name, figures) for name, figures in zip(_names(rows), rows, strict=True)]
    return "\n".join(lines)


def _names(rows: list[Row]) -> list[str]:
    """What to call each row: its arm and path, after the model's last name where there are several models."""
    several = len({figures["model"] for figures in rows}) > 1
    models = [Path(figures["model"]).name if several else None for figures in rows]
    labels = [(model, row["arm"], row["path"]) for model, row in zip(models, rows, strict=True)]
    return [" ".join(filter(None, label)) for label in labels]


def _line(name: str, figures: Row) -> str:
    low, high = figures["rtfx_quartiles"]
    latency = figures["latency_s"] or {}
    times = "".join(f"{1000 * latency[q]:9.1f}" if latency else f"{'-':>9}" for q in ("p50", "p95"))
    peak = figures.get("peak_allocated_bytes", figures.get("peak_resident_bytes"))
    memory = f"{peak / 2**20:9.0f}" if peak else f"{'-':>9}"
    return (
        f"{name:26}{figures['rtfx']:9.2f}{f'{low:.2f}-{high:.2f}':>16}{figures['rtfx_model']:9.2f}{times}"
        f"{figures['gflops']:9.1f}{figures['share_of_ceiling']:9.1%}{memory}"
    )


def plot(result: dict[str, Any], file: Path) -> None:
    """Draws RTFx end to end, one panel a batch size; the lines are quartiles."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(figures["batch_size"] for figures in result["results"]))
    figure = Figure(figsize=(4 * len(sizes) + 2, 5), layout="constrained")
    for panel, size in zip(figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0], sizes, strict=True):
        rows = [figures for figures in result["results"] if figures["batch_size"] == size]
        names = _names(rows)
        medians = np.array([figures["rtfx"] for figures in rows])
        quartiles = np.array([figures["rtfx_quartiles"] for figures in rows]).T
        panel.barh(names, medians, xerr=np.abs(quartiles - medians), color="#4878a8")
        panel.set(title=f"batch size {size}", xlabel="seconds of audio per second")
    panel.invert_yaxis()  # of all panels: they share it
    figure.savefig(file)


def offline(argv: list[str]) -> int:
    """Runs `offline.benchmark offline`."""
    args = parser().parse_args(argv)

    def work() -> None:
        check(args.arms, args.paths)
        settle_device(args)
        show(benchmark(args), args, table, plot)

    return cli.run("offline.benchmark", work)


COMMANDS = {"offline": offline, "stream": live.stream}


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand, `offline` when none is named; 0 when measured, 2 when something given cannot be used."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0].startswith("-"):
        return offline(words)
    if words[0] not in COMMANDS:
        print(
            f"offline.benchmark: no subcommand {words[0]!r}; choices: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    return COMMANDS[words[0]](words[1:])


def _models(args: Namespace) -> int:
    return 1 if args.large else len(args.model)


if __name__ == "__main__":
    sys.exit(main())
