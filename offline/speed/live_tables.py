"""The figures of live streams as Markdown, and as a picture."""

from pathlib import Path
from typing import Any

from offline.speed.placed import sizes_of
from offline.speed.rounds import Row

LIMIT_HEAD = ("arm", "cache", "chunk x context", "KiB a stream", "kept up", "interpolated", "fit", "binds")
STEP_HEAD = (
    "arm",
    "cache",
    "chunk x context",
    "streams",
    "steps",
    "p50 ms",
    "p95 ms",
    "quartiles",
    "GFLOP/s",
    "ceiling",
)


def table(result: dict[str, Any]) -> str:
    """Returns the steps, the limits and the crossover as Markdown tables."""
    rates = ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in result["ceiling_gflops"].items())
    timed = [row for row in result["results"] if not row["out_of_memory"]]
    parts = [f"ceiling, GFLOP/s: {rates}", _markdown(STEP_HEAD, [_step(row) for row in timed])]
    first = {_which(row): sum(row["bytes_per_stream"].values()) for row in timed}
    parts.append(_markdown(LIMIT_HEAD, [_limit(row, first.get(_which(row))) for row in result["limits"]]))
    parts += [_crossing(row) for row in result["crossover"]]
    return "\n\n".join(parts)


def name(row: Row) -> str:
    """Returns an arm with its path."""
    return " ".join(filter(None, (row["arm"], row["path"])))


def _which(row: Row) -> tuple[str, str, str]:
    return name(row), row["cache_dtype"], str(sizes_of(row))


def _step(row: Row) -> list[str]:
    low, high = (1000 * value for value in row["step_s_quartiles"])
    times = [f"{1000 * row['step_s'][quantile]:.1f}" for quantile in ("p50", "p95")]
    work = [f"{row['gflops']:.0f}", f"{row['share_of_ceiling']:.0%}"]
    return [*_which(row), str(row["streams"]), str(row["steps"]), *times, f"{low:.1f}-{high:.1f}", *work]


def _limit(row: Row, stream_bytes: int | None) -> list[str]:
    numbers = (row["streams_measured"], row["streams_interpolated"], row["streams_in_memory"])
    size = "-" if stream_bytes is None else f"{stream_bytes / 1024:,.0f}"
    return [
        *_which(row),
        size,
        *("-" if n is None else f"{n:,}" for n in numbers),
        row["binds"] or "not reached",
    ]


def _crossing(row: Row) -> str:
    measured, model = row["crossover_frames"], row["crossover_frames_by_model"]
    always = "absorbed" if row["absorbed_s"][-1] < row["expanded_s"][-1] else "expanded"
    found = f"expanded from {measured:g} frames on" if measured else f"{always} at every chunk measured"
    predicted = f"expanded from {model} frames on" if model else "always absorbed"
    head = f"{row['arm']}, {row['left_context_frames']} frames of context"
    return f"{head}: the cheaper path is {found}; by the cost model {predicted}"


def _markdown(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(result: dict[str, Any], file: Path) -> None:
    """Draws p95 of a step against the streams in it, one panel a profile; the dashed line is the chunk."""
    from matplotlib.figure import Figure

    timed = [row for row in result["results"] if not row["out_of_memory"]]
    profiles = list(dict.fromkeys(_which(row)[2] for row in timed))
    figure = Figure(figsize=(max(8, 3 * len(profiles) + 2), 6), layout="constrained")
    panels = figure.subplots(1, max(len(profiles), 1), squeeze=False, sharey=True)[0]
    for panel, sizes in zip(panels, profiles, strict=False):
        rows = [row for row in timed if _which(row)[2] == sizes]
        _panel(panel, rows)
        panel.set(title=f"{sizes.replace('x', ' ms after ')} s", xlabel="streams", ylabel="p95 of a step, s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="x-small")
    figure.savefig(file, dpi=150)


def _panel(panel: Any, rows: list[Row]) -> None:
    arms = list(dict.fromkeys((row["arm"], row["path"]) for row in rows))
    for row_of in dict.fromkeys(_which(row)[:2] for row in rows):
        mine = [row for row in rows if _which(row)[:2] == row_of]
        colour = f"C{arms.index((mine[0]['arm'], mine[0]['path']))}"
        style = "--" if row_of[1] == "int8" else "-"
        x, y = [row["streams"] for row in mine], [row["step_s"]["p95"] for row in mine]
        panel.plot(x, y, style, color=colour, marker="o", markersize=4, label=" ".join(row_of))
    panel.axhline(rows[0]["chunk_ms"] / 1000, color="black", linestyle=":", linewidth=1)
    numbers = sorted({row["streams"] for row in rows})
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(numbers, [f"{number:,}" for number in numbers], minor=False)
    panel.set_xticks([], minor=True)
