"""What a sweep measures, in which order, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("closed", "streams", "memory", "open")
START_S = 10.0  # until a service is ready, on two cores
WARM_S = 12.0  # until it is warm
HELD_S = 1.0  # to measure held streams
FILL_S = 0.8  # to fill one of them
USER_S = 0.15  # longer for each user: with many, one answer takes seconds


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    repeats: int
    users: tuple[int, ...]
    shares: tuple[float, ...]  # of the measured capacity
    streams: tuple[int, ...]
    held: tuple[int, ...]  # streams while memory is measured
    closed_s: float  # and USER_S for each user
    open_s: float
    stream_s: float

    def users_s(self, users: float) -> float:
        """For how long so many users send."""
        return self.closed_s + USER_S * users


# An even number of repeats, so that each model is first equally often.
FULL = Sizes(
    repeats=6,
    users=(1, 2, 4, 8, 16, 32, 64),
    shares=(0.25, 0.5, 0.75, 1.0, 1.2),
    streams=(4, 8, 16, 24, 32, 40, 48, 64, 96, 128),
    held=(0, 8, 16, 24),
    closed_s=6.0,
    open_s=15.0,
    stream_s=12.0,
)
QUICK = Sizes(
    repeats=2,
    users=(1, 8),
    shares=(0.5, 1.0),
    streams=(4, 8),
    held=(0, 4, 8),
    closed_s=4.0,
    open_s=5.0,
    stream_s=6.0,
)


@dataclass(frozen=True)
class Cell:
    """One measurement: `level` is users, a share of capacity, or streams."""

    kind: str
    model: str
    repeat: int
    level: float

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.kind}-{self.model}-{self.repeat}-{self.level:g}"


@dataclass(frozen=True)
class Session:
    """Cells that one process of the service answers, one after another. It serves one model alone."""

    model: str
    cells: tuple[Cell, ...]


def turns(models: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Who is measured when: a b, b a, a b, ... so that what drifts meets both alike."""
    for repeat in range(1, repeats + 1):
        for model in models if repeat % 2 else models[::-1]:
            yield repeat, model


def sessions(models: Sequence[str], sizes: Sizes) -> list[Session]:
    """All in order. What comes at set rates is last, as the rates are shares of what the rest has found.

    Memory hardly varies: it is measured in the first repeat of each half.
    """
    planned = []
    halves = 1, sizes.repeats // 2 + 1
    for repeat, model in turns(models, sizes.repeats):
        closed = _cells("closed", model, repeat, sizes.users)
        planned.append(Session(model, (*closed, *_cells("streams", model, repeat, sizes.streams))))
        held = sizes.held if repeat in halves else ()
        planned += [Session(model, (cell,)) for cell in _cells("memory", model, repeat, held)]
    for repeat, model in turns(models, sizes.repeats):
        planned.append(Session(model, _cells("open", model, repeat, sizes.shares)))
    return planned


def _cells(kind: str, model: str, repeat: int, levels: Sequence[float]) -> tuple[Cell, ...]:
    return tuple(Cell(kind, model, repeat, level) for level in levels)


def seconds(planned: Sequence[Session], sizes: Sizes) -> float:
    """About how long it takes, on two cores: less where streams miss early, more where answers come slowly."""
    return sum(session_seconds(session, sizes) for session in planned)


def session_seconds(session: Session, sizes: Sizes) -> float:
    """The same for one process, from start to stop. Answers are still waited for when a cell's time is over."""
    most = max(sizes.users)
    each = {
        "closed": lambda users: sizes.users_s(users) + 1 + USER_S * users,
        "streams": lambda _: sizes.stream_s + 6,
        "memory": lambda streams: (
            HELD_S + FILL_S * streams if streams else sizes.users_s(most) + USER_S * most
        ),
        "open": lambda _: sizes.open_s + 3,
    }
    warm_s = 0.0 if session.cells[0].kind == "memory" else WARM_S
    return START_S + warm_s + sum(each[cell.kind](cell.level) for cell in session.cells)


def described(sizes: Sizes) -> dict[str, Any]:
    """As JSON holds it, to tell whether finished cells belong to this plan."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(sizes).items()}
