"""Measures steps of live streams: how many a machine sustains, what each takes in memory, and what runs out first.

Arms, made in memory from one model: mha, which caches K and V; mla-lossless, a latent as wide as the model, in bytes
what caching the layers' input is; mla-75 and mla-87.5, percent of the cache cut. Those of mla run with the attention
path `auto`, which the cost model picks, `absorbed` and `expanded`. With --large the weights are seeded random ones in
the 618M-parameter architecture. Caches are kept in the model's dtype, and in int8 with a scale for each frame.

First, in float32: streamed log-probs against the chunk-masked whole forward's, absorbed against expanded, mla-lossless
against mha. If any differ by more than 1e-4 nothing is timed. Then the arms take turns; a turn is: memory for the
streams is taken, rings are filled with noise as if every stream had been heard for longer than its context, each at
another place of its ring, so that no minutes of sound are played; some steps; memory is given back. A step is a chunk
of every stream, in batches of at most --step_streams. A machine keeps up while p95 of the steps is under the chunk.
--streams auto doubles their number until that fails or memory is full. --output_file:

  what       as in `offline`
  how        command, dtype, repeats, steps (of a round), step_streams, memory_bytes (the budget)
  ceiling_gflops  GFLOP/s of the fastest large matrix product, in float32 and in the dtype
  checks     what equals what: arm, path, dtype, cache_dtype, against, frames, max_log_prob_difference, changed_frames
  crossover  per mla arm and left context, one layer: seconds by chunk_frames on either path, crossover_frames measured
             (None: no crossing between those), crossover_frames_by_model
  results    arm, path, cache_dtype, chunk_ms, left_context_s, lookahead_ms, streams, out_of_memory; where that is
             false: realtime (p95 under the chunk), steps, step_s (p50, p95 over all of those, p95 of fewer than 20
             being nearly the longest: samples in memory to log-probs in memory), step_s_median and _quartiles (of
             rounds), network_s_median (first convolution to scores), absorbed_layers, gflop_per_step
             (the model's need), gflops, share_of_ceiling, bytes_per_stream (attention, convolution, rest: of the
             tensors), cache_bytes; on a GPU transient_bytes (what came and went in a step) and peak_allocated_bytes
             (weights, tables, caches and that)
  table_bytes     of each profile's positions, shared by all streams
  limits     per arm, path, cache_dtype and profile: streams_measured (most that kept up), streams_interpolated (between
             two measured numbers), streams_in_memory, out_of_memory_at, binds (memory, arithmetic, None: not reached)
"""

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

import torch

from asr.transcriber import DTYPES
from offline import cli, provenance
from offline.speed import crossover, stream_equality
from offline.speed.arms import Arm, OurArm, build, cast, check, load_source
from offline.speed.ceiling import Ceiling
from offline.speed.limits import limits
from offline.speed.live_tables import plot, table
from offline.speed.placed import Profile, profile, sizes_of, tables
from offline.speed.rounds import Row, sound_of
from offline.speed.setup import counts, settle_device, show, what, write
from offline.speed.steps import CACHE_DTYPES, Plan, Runner, device_memory_bytes, measure
from offline.speed.twins import PATHS

EXAMPLE = """python -m offline.benchmark stream --model mha --output_file results/benchmark-stream.json
  python -m offline.benchmark stream --large --dtype bfloat16 --profile 640x10,640x30 --streams 1,2 \\
      --output_file results/benchmark-stream-large.json"""
ARMS = ["mha", "mla-lossless", "mla-75", "mla-87.5"]
STREAMS = {"cpu": [1, 2, 4], "cuda": None}
AUTO = "auto"


def parser() -> cli.Parser:
    """The command line of `stream`."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--model", "--model_name", default="mha", help="bundled name, folder or hub id")
    options.flag("--large", default=False, help="random weights in the 618M architecture instead of --model")
    add("--arms", type=cli.names, default=ARMS, help="mha, mla-lossless, and any cut as in mla-93.75")
    add("--paths", type=cli.names, default=["auto"], help=f"of the attention of mla: {','.join(PATHS)}")
    add("--cache_dtype", type=_dtypes, default=list(CACHE_DTYPES), help="of the caches: model,int8")
    profiles = "chunk ms x left context s: 640x10,320x5; 480+160x10 with look-ahead; or fast, balanced, long"
    add("--profile", type=_profiles, default="640x10", help=profiles)
    add(
        "--streams",
        type=_streams,
        help="numbers of streams: 1,2,4, or auto; default: 1,2,4 on CPU, auto on GPU",
    )
    add(
        "--step_streams",
        type=cli.count,
        default=256,
        help="streams in one batch, as the service's max_step_streams",
    )
    add("--repeats", type=cli.count, default=5, help="rounds that are measured")
    add("--steps", type=cli.count, default=2, help="steps in a round")
    add("--memory_gib", type=cli.positive, help="budget to say what binds; default: all that the device has")
    add("--dtype", choices=list(DTYPES), help="default: float32 on CPU, bfloat16 on GPU")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    add("--output_file", type=Path, required=True, help="JSON to write; anew after every number of streams")
    add("--plot", type=Path, help="picture to draw, .png or .svg")
    return options


def _profiles(text: str) -> list[Profile]:
    return list(dict.fromkeys(map(profile, cli.names(text))))


def _streams(text: str) -> list[int] | str:
    return AUTO if text == AUTO else counts(text)


def _dtypes(text: str) -> list[str]:
    found = cli.names(text)
    for name in found:
        if name not in CACHE_DTYPES:
            raise ArgumentTypeError(f"{name!r} is no type of cache; choices: {', '.join(CACHE_DTYPES)}")
    return found


def benchmark(args: Namespace) -> dict[str, Any]:
    """Checks, measures, and returns the whole JSON object, written anew after every number of streams.

    Raises ValueError for what cannot be used, UnequalError where outputs differ that should not.
    """
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean float32
    arms, checks = prepare(args)
    ceiling = Ceiling(device, dtype)
    ceiling.measure()
    contexts = sorted({sizes.left_context_frames for sizes in args.profile})
    wanted = [arm for arm in arms if arm.label.path in (None, *args.paths)]
    result: dict[str, Any] = {"what": what(list[Arm](wanted), device), "how": how(args)}
    result |= {
        "ceiling_gflops": ceiling.gflops,
        "checks": checks,
        "crossover": crossover.measure(arms, contexts, args.repeats),
        "results": [],
    }
    result |= {"table_bytes": {}, "limits": []}
    runners = [Runner(arm, dtype == "int8") for arm in wanted for dtype in args.cache_dtype]
    for sizes in args.profile:
        shared = tables(arms[0].transcriber, sizes)
        result["table_bytes"][str(sizes)] = sum(each.nbytes for each in shared)
        for rows in measure(runners, plan_of(args, sizes), shared):
            result["results"] += rows
            ceiling.measure()
            finish(result, wanted, args)
            write(result, args.output_file)
    return result


def prepare(args: Namespace) -> tuple[list[OurArm], list[Row]]:
    """Returns the arms in their dtype, mla ones on all paths, and what comparing their streams gave."""
    names = [name for name in ARMS if name in args.arms] + [name for name in args.arms if name not in ARMS]
    arms = [arm for arm in build(load_source(args, 0), names, list(PATHS)) if isinstance(arm, OurArm)]
    checks = stream_equality.verify(arms, args.cache_dtype, sound_of(None))
    if args.dtype != "float32":
        cast(arms, DTYPES[args.dtype])
        checks += stream_equality.verify(arms, args.cache_dtype, sound_of(None))
    return arms, checks


def plan_of(args: Namespace, sizes: Profile) -> Plan:
    """What to measure of a profile."""
    streams = None if args.streams == AUTO else args.streams
    return Plan(sizes, streams, args.step_streams, args.repeats, args.steps, args.memory_bytes)


def finish(result: dict[str, Any], arms: list[OurArm], args: Namespace) -> None:
    """Adds what follows from the rows so far: shares of the ceiling, peaks, limits."""
    weight_bytes = {arm.label.arm: arm.weight_bytes for arm in arms}
    for row in result["results"]:
        if row["out_of_memory"]:
            continue
        row["share_of_ceiling"] = round(row["gflops"] / result["ceiling_gflops"][args.dtype], 4)
        if "transient_bytes" in row:
            shared = result["table_bytes"][str(sizes_of(row))]
            row["peak_allocated_bytes"] = (
                weight_bytes[row["arm"]] + shared + row["cache_bytes"] + row["transient_bytes"]
            )
    result["limits"] = limits(result["results"], weight_bytes, result["table_bytes"], args.memory_bytes)


def how(args: Namespace) -> dict[str, Any]:
    """Returns how it was measured."""
    names = ("dtype", "repeats", "steps", "step_streams", "memory_bytes")
    return {
        "command": provenance.command("offline.benchmark"),
        **{name: getattr(args, name) for name in names},
    }


def settle(args: Namespace) -> None:
    """Fills in what hangs on the device. Raises ValueError for what cannot be used, before any work."""
    check(args.arms, args.paths)
    if stock := [name for name in args.arms if name.startswith("stock")]:
        raise ValueError(f"{stock[0]!r} has no streams; choices: {', '.join(ARMS)}, or another cut")
    settle_device(args)
    device = torch.device(args.device)
    args.model = [args.model]
    args.streams = args.streams or STREAMS[device.type] or AUTO
    budget_bytes = round(args.memory_gib * 2**30) if args.memory_gib else device_memory_bytes(device)
    args.memory_bytes = budget_bytes


def stream(argv: list[str]) -> int:
    """Runs `offline.benchmark stream`; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)

    def work() -> None:
        settle(args)
        show(benchmark(args), args, table, plot)

    return cli.run("offline.benchmark", work)
