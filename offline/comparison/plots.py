"""The two pictures of a report: WER against cache cut by method, and every difference with its interval."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from offline.comparison.tables import setting

Row = dict[str, Any]
LONGEST_NAME = 30
COLOURS = {"non-inferior": "#2a7f3f", "undecided": "#8a8a8a", "worse by more than the margin": "#b3261e"}


def draw(found: Row, folder: Path) -> list[str]:
    """Writes both pictures as PNG and SVG; returns the files' names."""
    pictures = {"wer_by_cache_cut": by_cache_cut(found), "wer_differences": forest(found)}
    names = []
    with rc_context({"svg.hashsalt": "mla-asr"}):  # the same figures, the same file
        for stem, figure in pictures.items():
            for kind, metadata in (("png", {}), ("svg", {"Date": None})):
                names.append(f"{stem}.{kind}")
                figure.savefig(folder / names[-1], dpi=150, metadata=metadata)
    return names


def lines(found: Row) -> dict[str, list[tuple[float, float, float, float]]]:
    """Returns points (cache cut, WER, and its ends by the interval of the difference) of each method, all in percent.

    An arm that was run in other ways than the baseline has a line of its own, as has a second one at the same cut; an
    arm without a cut has none.
    """
    found_lines: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for pair in found["comparisons"]:
        arm, base = found["arms"][pair["arm"]], found["arms"][pair["baseline"]]
        if arm["cache_cut"] is None or pair["same_model"]:
            continue
        low, high = (base["wer"] + bound for bound in pair["interval_95"])
        cut, name = 100 * arm["cache_cut"], _line(arm, found)
        if any(point[0] == cut for point in found_lines[name]):
            name = f"{name} ({short(pair['arm'])})"
        found_lines[name].append((cut, arm["wer"], low, high))
    return {name: sorted(points) for name, points in found_lines.items()}


def _line(arm: Row, found: Row) -> str:
    """The method, and settings where they are not those of the baseline."""
    own, usual = arm["settings"], found["arms"][found["how"]["baseline"]]["settings"]
    changed = [
        f"{name} {setting(name, value, whole=False)}"
        for name, value in own.items()
        if value != usual.get(name)
    ]
    method = " ".join(filter(None, (arm["latent"] or arm["kind"], arm["method"])))
    return ", ".join([method, *changed])


def short(name: str) -> str:
    """Returns an arm's name without folders, so that it fits beside a picture."""
    file, colon, model = name.rpartition(":")
    return (file.rpartition("/")[2] + colon + model.rpartition("/")[2])[-LONGEST_NAME:]


def by_cache_cut(found: Row) -> Figure:
    """Draws WER against the share of the cache that is saved, a line a method; the baseline's interval is a band."""
    name, margin = found["how"]["baseline"], found["how"]["margin"]
    base, (low, high) = found["arms"][name]["wer"], found["arms"][name]["wer_95"]
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(low, high, color="#4878a8", alpha=0.12, linewidth=0)
    axes.axhline(
        base, color="#4878a8", linewidth=1, label=f"{short(name)} {base:.2f} [{low:.2f}, {high:.2f}]"
    )
    axes.axhline(base + margin, color="#b3261e", linestyle="--", linewidth=1, label=f"margin {margin:g}")
    drawn, seen = lines(found), [base, base + margin]
    for number, (method, points) in enumerate(drawn.items()):
        cuts, wers, lows, highs = map(list, zip(*points, strict=True))
        aside = 0.6 * (number - (len(drawn) - 1) / 2)  # bars of equal cuts side by side
        below = [max(wer - end, 0.0) for wer, end in zip(wers, lows, strict=True)]
        above = [max(end - wer, 0.0) for wer, end in zip(wers, highs, strict=True)]
        axes.errorbar(
            [cut + aside for cut in cuts], wers, yerr=[below, above], marker="o", capsize=3, label=method
        )
        seen += [*lows, *highs]
    room = 0.08 * (max(seen) - min(seen))  # the band is often far wider than any difference: cut it off
    axes.set(xlim=(-2, 100), ylim=(min(seen) - room, max(seen) + room))
    axes.set(
        xlabel="cache saved, %", ylabel="WER, %", title="WER by cache; bars: 95 % of the paired difference"
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def forest(found: Row) -> Figure:
    """Draws every difference of WER with its interval, beside the margin."""
    pairs, margin = found["comparisons"], found["how"]["margin"]
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(margin, color="#b3261e", linestyle="--", linewidth=1, label=f"margin {margin:g}")
    for row, pair in enumerate(pairs):
        low, high = pair["interval_95"]
        colour = "#4878a8" if pair["same_model"] else COLOURS[pair["verdict"]]
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([pair["difference"]], [row], "o", color=colour)
        if pair["margin"] != margin:
            axes.plot([pair["margin"]] * 2, [row - 0.4, row + 0.4], "--", color="#b3261e", linewidth=1)
    axes.set_yticks(
        range(len(pairs)), [f"{short(pair['arm'])} against {short(pair['baseline'])}" for pair in pairs]
    )
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="difference of WER, points, with 95 % interval")
    for verdict, colour in [*COLOURS.items(), ("same model", "#4878a8")]:
        axes.plot([], [], color=colour, linewidth=2, label=verdict)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
