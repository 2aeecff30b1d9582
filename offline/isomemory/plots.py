"""The pictures of the iso-memory answer: WER against bytes, and against step time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offline.isomemory.points import Point
from offline.isomemory.verdicts import front


def draw(points: Sequence[Point], folder: Path) -> list[str]:
    """Writes both pictures; returns the files' names."""
    pictures = {
        "wer_by_bytes.png": _by(points, "bytes_per_stream", 2**20, "MiB a stream"),
        "wer_by_step_time.png": _by(points, "step_s", 1e-3, "ms a stream and step"),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=150)
    return list(pictures)


def _by(points: Sequence[Point], name: str, unit: float, label: str) -> Figure:
    """A line for each family and type of cache, along the window; what is on the front of all three has a ring."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    families = list(dict.fromkeys(point.family for point in sorted(points, key=lambda point: -point.kept)))
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: (-point.kept, point.left_context_s)):
        groups.setdefault((point.family, point.cache_dtype, point.chunk), []).append(point)
    for (family, dtype, chunk), group in groups.items():
        x, y = [getattr(point, name) / unit for point in group], [point.wer for point in group]
        style = "--" if dtype == "int8" else "-"
        called = f"{family}{', int8' if dtype == 'int8' else ''}, {chunk} ms"
        axes.plot(x, y, style, marker="o", markersize=4, color=f"C{families.index(family)}", label=called)
        for point, at, height in zip(group, x, y, strict=True):
            shift = (4, 4)
            axes.annotate(
                f"{point.left_context_s:g} s", (at, height), shift, textcoords="offset points", fontsize=6
            )
    best = front(points)
    rings = [getattr(point, name) / unit for point in best], [point.wer for point in best]
    axes.scatter(*rings, s=90, facecolors="none", edgecolors="black", label="on the front")
    axes.set(xscale="log", xlabel=label, ylabel="WER, %")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
