"""All measurements of a sweep, one service after another, those that are finished left out."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable

from loadtests import cells, plan
from loadtests.cells import Bench
from loadtests.plan import Cell, Session, Sizes
from loadtests.rows import line, row
from loadtests.scrape import scrape
from loadtests.service_process import Service, serving
from loadtests.store import Store


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
            if kind != "memory":
                self.bench.warm(service, session.model)
            if kind == "closed":
                self._note(service, session.model)
            for cell in filter(self.wanted, session.cells):
                record, samples = self.bench.run(service, cell, self.rate(cell))
                self.store.write(cell, record, samples)
                say("  " + line(row(record, samples, self.goal)))

    def _note(self, service: Service, model: str) -> None:
        """What the other services are started with, and what runs."""
        self.store.note(f"memory-{model}", cells.memory_for(service, model, self.options.stream_memory))
        build = [dict(labels) for name, labels in scrape(service.url) if name == "asr_build_info"]
        self.store.note("build", build)

    def rate(self, cell: Cell) -> float:
        """Requests a second that an open cell asks for; 0 for others."""
        return round(cell.level * self.capacity(), 3) if cell.kind == "open" else 0.0

    def capacity(self) -> float:
        """Requests a second that the first model answered at best."""
        first = next(iter(self.models))
        found = [
            [
                row(*self.store.read(Cell("closed", first, repeat, users)), self.goal)["requests_per_s"]
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
        cache = ["--stream-profiles", f"load={self.options.profile}", "--stream-memory", str(memory)]
        return [*cache, *shlex.split(self.options.serve)]


def duration(seconds: float) -> str:
    """In words.

    >>> duration(3000), duration(7800)
    ('50 min', '2 h 10 min')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
