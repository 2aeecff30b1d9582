"""The pictures of a sweep's report: a line for each model, its range over the repeats shaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter

from loadtests.figures import Figures as Row

Panel = tuple[
    str, str, float, bool
]  # the figure, its name on the axis, its factor, and whether that axis is logarithmic
# File, kind, what it is drawn over, and its panels.
PICTURES: tuple[tuple[str, str, str, tuple[Panel, ...]], ...] = (
    (
        "closed.png",
        "closed",
        "users at once",
        (("requests_per_s", "answers a second", 1, False), ("p95_s", "p95, ms", 1e3, True)),
    ),
    (
        "open.png",
        "open",
        "requests a second",
        (("p50_s", "p50, ms", 1e3, True), ("p95_s", "p95, ms", 1e3, True)),
    ),
    (
        "streams.png",
        "streams",
        "live streams",
        (
            ("p95_s", "partials' p95, ms", 1e3, False),
            ("device_share", "share of the device's time", 1, False),
        ),
    ),
    ("memory.png", "memory", "streams held", (("process_bytes", "resident memory, MiB", 2**-20, False),)),
)
X = {"closed": "level", "open": "rate", "streams": "level", "memory": "streams"}


def draw(levels: Sequence[Row], goals: dict[str, float | None], folder: Path) -> list[str]:
    """Write a picture of each kind that was measured, with a line at its goal in seconds; the files' names."""
    written = []
    for name, kind, label, panels in PICTURES:
        entries = [entry for entry in levels if entry["kind"] == kind]
        if entries:
            figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
            for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                _panel(axes, entries, X[kind], panel, goals.get(kind))
                axes.set(xlabel=label)
                if kind == "closed":
                    axes.set_xscale("log", base=2)
                    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                elif kind != "open":
                    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            figure.savefig(folder / name, dpi=120)
            written.append(name)
    return written


def _panel(axes: Axes, entries: Sequence[Row], x: str, panel: Panel, goal_s: float | None) -> None:
    name, label, factor, is_log = panel
    highest = 0.0
    for model in dict.fromkeys(entry["model"] for entry in entries):
        there = [e for e in entries if e["model"] == model and e[name]["median"] is not None]
        places = [_place(entry[x]) for entry in there]
        low, middle, high = (
            [factor * entry[name][part] for entry in there] for part in ("low", "median", "high")
        )
        (drawn,) = axes.plot(places, middle, marker="o", markersize=4, label=model)
        highest = max([highest, *middle])
        axes.fill_between(places, low, high, alpha=0.2, color=drawn.get_color(), linewidth=0)
    if goal_s and name == "p95_s":
        axes.axhline(factor * goal_s, color="grey", linestyle="--", label="goal")
    axes.set(ylabel=label)
    if is_log and highest:
        axes.set(yscale="log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _place(value: Any) -> float:
    return float(value["median"] if isinstance(value, dict) else value)
