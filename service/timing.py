"""A request's time: what each phase took, and when it has to be done."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Seconds that each phase took, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started

    @property
    def header(self) -> str:
        """For `Server-Timing`, which counts in milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in self.seconds.items())


class Limit:
    """A request's time, counted from its start; it is set anew as more is known of the request."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.timer = asyncio.Timeout(None)
        self.at = math.inf  # of `time.monotonic()`
        self.text = ""

    def set(self, wanted_s: float | None, else_s: float, name: str) -> None:
        """Let the timer end at `wanted_s`, which is the client's, or at `else_s`, which `name` sets."""
        limit_s = wanted_s or else_s
        self.at = self._started + limit_s
        self.text = f"{round(limit_s, 3):g} s ({'timeout_s' if wanted_s else name})"
        self.timer.reschedule(asyncio.get_running_loop().time() + limit_s - self.passed_s())

    def passed_s(self) -> float:
        return time.monotonic() - self._started
