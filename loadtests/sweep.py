"""Measure what the service carries with each model, and write one report.

    python -m loadtests.sweep --quick
    python -m loadtests.sweep --models mha=mha mla=mla --output_dir results/loadtest
    python -m loadtests.sweep --models mha=big mla=runs/big-mla --serve "--device cuda" --stream_memory 40GiB

Starts `python -m service` by itself, one model in a process at a time, since memory of two models in one process cannot
be told apart. In each repeat, the models in turns (a b, b a, ...):

  closed    1 to 64 users who send a clip, wait for its text, and send the next
  streams   more and more live streams in real time, until 95% of the partials no longer come within a chunk
  memory    a process of its own for each number of streams, all of them held open with full caches
  open      requests at set times, seeded, at 25 to 120% of the requests a second that the first model answered at best
            in `closed`, the same times for every model

Every measurement that is finished is kept in --work_dir, samples and all: stopped anywhere, the same command goes on
where it was. How long it takes is said before it begins; --dry_run says no more than that. The machine should do
nothing else. The client runs on it as well and takes its share, which the report gives.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtests import clips, plan, report
from loadtests.cells import Bench
from loadtests.cli import Parser, count, positive, size_bytes
from loadtests.clips import ClipsError
from loadtests.runner import Sweep, duration
from loadtests.service_process import ROOT, ServiceError
from loadtests.store import Store, StoreError

PROFILE = "640/10"
MIX_CLIPS = 120


def provenance(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Which code measured, on what and how."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=40"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False)
    packages = ("httpx", "numpy", "websockets")
    return {
        "git_commit": commit.stdout.strip() or None,
        "command": shlex.join(["python", "-m", "loadtests.sweep", *argv]),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "service_options": options.serve,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def parser() -> Parser:
    options = Parser("loadtests.sweep", __doc__)
    add = options.add_argument
    pairs = "name=source pairs; the others are compared with the first (default: mha=mha mla=mla)"
    work = "where finished measurements are kept (default: runs/loadtest, with --quick runs/loadtest-quick)"
    add("--models", nargs="+", default=["mha=mha", "mla=mla"], help=pairs)
    add("--quick", action="store_true", help="a few seconds each: to see that it works, not to quote")
    add("--repeats", type=count, help="how often everything is measured (default: 5, with --quick 2)")
    add("--manifest", type=Path, default=clips.SPEECH, help=clips.MANIFEST_HELP)
    add("--seed", type=int, default=1, help="of the mix, and of when requests are due (default: 1)")
    add("--profile", default=PROFILE, help=f"of streams: chunk in ms / context in s (default: {PROFILE})")
    add(
        "--stream_memory",
        type=size_bytes,
        default=512 * 2**20,
        help="for streams' caches, of every model (default: 512MiB)",
    )
    add("--serve", default="", metavar="OPTIONS", help='more of the service\'s: --serve "--device cuda"')
    add("--goal_p95_s", type=positive, default=1.0, help="95%% of the requests within that (default: 1)")
    add("--goal_p99_s", type=positive, default=2.0, help="and 99%% within that (default: 2)")
    add("--work_dir", type=Path, help=work)
    add(
        "--output_dir",
        type=Path,
        help="for the report (default: results/loadtest, with --quick the work_dir)",
    )
    add("--against", type=Path, help="report.json of an earlier sweep, to say how far the two agree")
    add("--dry_run", action="store_true", help="say what there is to do and how long it takes, and end")
    return options


def read_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line; ends with 2 and one line for what cannot be used."""
    parsing = parser()
    options = parsing.parse(argv)
    wrong = [pair for pair in options.models if not all(pair.partition("=")[::2])]
    if wrong:
        parsing.error(f"--models: {wrong[0]!r} is not name=source, such as mla=mla")
    options.models = dict(pair.split("=", 1) for pair in options.models)
    chunk, _, context = options.profile.partition("/")
    if not (chunk.isdigit() and context.replace(".", "", 1).isdigit()):
        parsing.error(f"--profile: {options.profile!r} is not chunk/context, such as 640/10")
    if options.repeats == 0:
        parsing.error("--repeats is 0; it must be 1 or more")
    kept, results = "loadtest-quick" if options.quick else "loadtest", ROOT / "results" / "loadtest"
    options.work_dir = options.work_dir or ROOT / "runs" / kept
    options.output_dir = options.output_dir or (options.work_dir if options.quick else results)
    return options


def prepare(options: argparse.Namespace) -> Sweep:
    """All that it takes. Raises ClipsError, StoreError or OSError for what cannot be used."""
    chosen = plan.QUICK if options.quick else plan.FULL
    sizes = replace(chosen, repeats=options.repeats or chosen.repeats)
    how = {
        **{name: getattr(options, name) for name in ("models", "seed", "profile", "stream_memory", "serve")},
        "sizes": plan.described(sizes),
        "goal": {"p95_s": options.goal_p95_s, "p99_s": options.goal_p99_s},
        "manifest": options.manifest.name,
        "mix": [list(part) for part in clips.MIX],
    }
    sounds = clips.read(options.manifest)
    mix = clips.mixed(sounds, MIX_CLIPS, options.seed)
    context_s = float(options.profile.partition("/")[2])
    bench = Bench(sounds, mix, sizes, options.seed, context_s)
    return Sweep(options, sizes, Store.open(options.work_dir, how), bench)


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when the report is written, 1 when the service failed, 2 for what cannot be used."""
    options = read_options(argv)
    try:
        earlier = json.loads(options.against.read_text()) if options.against else None
        sweep = prepare(options)
        left = sweep.left()
        long = duration(plan.seconds(left, sweep.sizes))
        print(f"{len(left)} of {len(sweep.sessions)} services to start, about {long}", flush=True)
        print(f"kept in {options.work_dir}", flush=True)
        if options.dry_run:
            return 0
        sweep.store.begin()
        sweep.store.note("what", provenance(options, sys.argv[1:] if argv is None else argv))
        started = time.monotonic()
        sweep.run(lambda text: print(text, flush=True))
        print(f"measured in {duration(time.monotonic() - started)}")
        written = report.write(sweep.store, options.output_dir, earlier)
    except (ClipsError, StoreError, OSError, ValueError) as error:
        parser().error(str(error))
    except ServiceError as error:
        print(f"python -m loadtests.sweep: {error}", file=sys.stderr)
        return 1
    print(*(f"written: {file}" for file in written), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
