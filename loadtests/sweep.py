"""Measure what the service carries with each model, and write one report.

    python -m loadtests.sweep --quick
    python -m loadtests.sweep --models mha=mha mla=mla --output_dir results/loadtest
    python -m loadtests.sweep --models mha=big mla=runs/big-mla --serve "--device cuda" --stream_memory 40GiB

Starts `python -m service` by itself, one model in a process at a time, since memory of two models in one process cannot
be told apart. In each repeat, the models in turns (a b, b a, ...):

  closed    1 to 64 users who send a clip, wait for its text, and send the next
  streams   more and more live streams in real time, until 95% of the partials no longer come within a chunk
  memory    a process of its own for each number of streams, all of them held open with full caches
  open      requests at set times, seeded, at 25 to 120% of the requests a second that the model answered at best in
            `closed`: the same pattern for every model, as dense as that

Each service is warmed with what it is about to be measured with, but for memory. Every measurement that is finished is
kept in --work_dir, samples and all: stopped anywhere, the same command goes on where it was. How long it takes is said
before it begins; --dry_run says no more than that. The machine should do nothing else. The client runs on it as well
and takes its share, which the report gives.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtests import cells, clips, plan, report
from loadtests.cells import Bench
from loadtests.cli import Parser, count, positive, size_bytes
from loadtests.clips import ClipsError
from loadtests.figures import line, row
from loadtests.plan import Cell, Session, Sizes
from loadtests.scrape import scrape
from loadtests.service_process import ROOT, Service, ServiceError, git_commit, serving
from loadtests.store import Store, StoreError

PROFILE = "480+160/10"
MIX_CLIPS = 60
HELD_IDLE_S = "3600"  # held streams are silent until the last of them has been filled


class Sweep:
    """All sessions that are not finished, one after another."""

    def __init__(self, options: argparse.Namespace, sizes: Sizes, store: Store, bench: Bench) -> None:
        self.options, self.sizes, self.store, self.bench = options, sizes, store, bench
        self.models: dict[str, str] = options.models
        self.sessions = plan.sessions(list(self.models), sizes)

    def left(self) -> list[Session]:
        """Sessions with something to do."""
        return [session for session in self.sessions if any(map(self.wanted, session.cells))]

    def wanted(self, cell: Cell) -> bool:
        """Whether a cell is still to be measured: not after fewer streams have missed in the same repeat."""
        if self.store.has(cell):
            return False
        fewer = [n for n in self.sizes.streams if n < cell.level] if cell.kind == "streams" else []
        return not any(self._missed(Cell("streams", cell.model, cell.repeat, n)) for n in fewer)

    def _missed(self, cell: Cell) -> bool:
        return self.store.has(cell) and not row(*self.store.read(cell), self.goal)["meets_goal"]

    @property
    def goal(self) -> tuple[float, float]:
        return self.options.goal_p95_s, self.options.goal_p99_s

    def run(self, say: Callable[[str], None]) -> None:
        """Measure what is left. Raises ServiceError where the service does not start."""
        left = self.left()
        planned_s, started = plan.seconds(left, self.sizes), time.monotonic()
        for number, session in enumerate(left):
            rest_s = plan.seconds(left[number:], self.sizes)
            # This machine's pace so far, against what was planned.
            pace = (time.monotonic() - started) / (planned_s - rest_s) if number else 1.0
            say(
                f"[{number + 1}/{len(left)}] a service of {session.model}; about {duration(pace * rest_s)} left"
            )
            self._serve(session, say)

    def _serve(self, session: Session, say: Callable[[str], None]) -> None:
        source = {session.model: self.models[session.model]}
        kind = session.cells[0].kind
        with serving(source, self._service_options(session)) as service:
            left = [cell for cell in session.cells if self.wanted(cell)]
            if kind != "memory":
                self.bench.warm(service, left)
            if kind == "closed":
                self._note(service, session.model)
            for cell in filter(self.wanted, left):  # a miss leaves out what follows
                record, samples = self.bench.run(service, cell, self.rate(cell))
                self.store.write(cell, record, samples)
                say("  " + line(row(record, samples, self.goal)))

    def _note(self, service: Service, model: str) -> None:
        """What the other services are started with, and what runs."""
        self.store.note(f"memory-{model}", cells.memory_for(service, model))
        build = [dict(labels) for name, labels in scrape(service.url) if name == "asr_build_info"]
        self.store.note("build", build)

    def rate(self, cell: Cell) -> float:
        """Requests a second that an open cell asks for; 0 for others."""
        return round(cell.level * self.capacity(cell.model), 3) if cell.kind == "open" else 0.0

    def capacity(self, model: str) -> float:
        """Requests a second that a model answered at best."""
        found = [
            [
                row(*self.store.read(Cell("closed", model, repeat, users)), self.goal)["requests_per_s"]
                for users in self.sizes.users
            ]
            for repeat in range(1, self.sizes.repeats + 1)
        ]
        return cells.capacity(found)

    def _service_options(self, session: Session) -> list[str]:
        memory, streams = self.options.stream_memory, session.cells[0].level
        if session.cells[0].kind == "memory":
            noted = self.store.noted(f"memory-{session.model}")
            memory = round(streams * noted["each"] + noted["rest"]) if streams else 0
        given = ["--stream-profiles", f"load={self.options.profile}", "--stream-memory", str(memory)]
        if session.cells[0].kind == "memory":
            given += ["--stream-idle-s", HELD_IDLE_S]
        return [*given, *shlex.split(self.options.serve)]


def duration(seconds: float) -> str:
    """In words.

    >>> duration(3000), duration(7800)
    ('50 min', '2 h 10 min')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def provenance(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Which code measured, on what and how."""
    packages = ("httpx", "numpy", "websockets")
    return {
        "git_commit": git_commit(),
        "command": shlex.join(["python", "-m", "loadtests.sweep", *argv]),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": [round(load, 2) for load in os.getloadavg()],  # of other work, where it is above 0
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
    add(
        "--repeats",
        type=count,
        help="how often everything is measured, an even number (default: 6, with --quick 2)",
    )
    add("--manifest", type=Path, default=clips.SPEECH, help=clips.MANIFEST_HELP)
    add("--seed", type=int, default=1, help="of the mix, and of when requests are due (default: 1)")
    add(
        "--profile",
        default=PROFILE,
        help=f"of streams: chunk + look-ahead in ms / context in s (default: {PROFILE})",
    )
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
    names = [pair.partition("=")[0] for pair in options.models]
    if twice := [name for name in names if names.count(name) > 1]:
        parsing.error(f"--models: {twice[0]} is there twice")
    options.models = dict(pair.split("=", 1) for pair in options.models)
    if not re.fullmatch(r"\d+(\+\d+)?/\d+(\.\d+)?", options.profile):
        parsing.error(f"--profile: {options.profile!r} is not chunk/context, such as 640/10 or 480+160/10")
    if options.repeats is not None and (options.repeats % 2 or not options.repeats):
        parsing.error(
            f"--repeats is {options.repeats}; it must be even, so that each model is first equally often"
        )
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
    chunk, _, context_s = options.profile.partition("/")
    chunk_s = int(chunk.partition("+")[0]) / 1000
    bench = Bench(sounds, mix, sizes, options.seed, chunk_s, float(context_s))
    return Sweep(options, sizes, Store.open(options.work_dir, how), bench)


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when the report is written, 1 when the service failed, 2 for what cannot be used."""
    options = read_options(argv)
    try:
        earlier = report.read_earlier(options.against)
        sweep = prepare(options)
        left = sweep.left()
        long = duration(plan.seconds(left, sweep.sizes))
        print(
            f"{len(left)} of {len(sweep.sessions)} services to start, about {long}, less where streams miss early",
            flush=True,
        )
        print(f"kept in {options.work_dir}", flush=True)
        if options.dry_run:
            return 0
        sweep.store.begin()
        if left:  # a report that is written once more is of what was measured then
            what = provenance(options, sys.argv[1:] if argv is None else argv)
            begun = sweep.store.noted("what") or what
            sweep.store.note("what", what | {"begun": begun.get("begun", begun["git_commit"])})
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
