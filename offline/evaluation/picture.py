"""WER against left context: a line for each model, chunk and cache, dashed where whole recordings were heard."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offline.evaluation.profiles import FRAME_MS

LEAST_S = 0.5  # where a context of nothing is drawn: the axis is logarithmic
Points = list[tuple[float, float]]


def curves(result: dict[str, Any]) -> dict[tuple[str, str], Points]:
    """Returns (context in seconds, WER in percent) of each (model, kind of chunk and decoding), by rising context."""
    found: dict[tuple[str, str], Points] = defaultdict(list)
    for name, entry in result["results"].items():
        facts = result["what"]["models"][name]
        if facts["chunk_frames"] is not None:
            chunk, _, rest = facts["profile"].partition("/")
            kind = chunk.replace("ms", " ms") + (" int8" if rest.endswith("int8") else "")
            searched = name.removeprefix(f"{facts['model']}@{facts['profile']}").split("+")[1:]
            kind += "".join(f", {way}" for way in searched if "decoding" in facts)
            context_s = facts["left_context_frames"] * FRAME_MS / 1000
            found[facts["model"], kind].append((context_s, entry["total"]["wer"]))
    return {key: sorted(points) for key, points in found.items()}


def draw(result: dict[str, Any], file: Path) -> None:
    """Writes the picture; the file's ending says which kind."""
    drawn = curves(result)
    kinds = list(dict.fromkeys(kind for _, kind in drawn))
    names = list(dict.fromkeys(facts["model"] for facts in result["what"]["models"].values()))
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for (model, kind), points in drawn.items():
        xs, ys = zip(*((max(context_s, LEAST_S), wer) for context_s, wer in points), strict=True)
        style, marker = _look(names, model)
        colour = f"C{kinds.index(kind) % 10}"
        axes.plot(xs, ys, color=colour, linestyle=style, marker=marker, label=f"{model}, {kind}")
    for name, facts in result["what"]["models"].items():
        if facts["chunk_frames"] is None:
            style, _ = _look(names, facts["model"])
            wer = result["results"][name]["total"]["wer"]
            axes.axhline(wer, color="black", linewidth=0.9, linestyle=style, label=f"{name}, whole")
    _dress(axes, sorted({x for points in drawn.values() for x, _ in points}))
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    dateless = {"Date": None} if file.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "mla-asr"}):  # the same figures, the same file
        figure.savefig(file, dpi=150, metadata=dateless)


def _look(names: list[str], model: str) -> tuple[str, str]:
    """A model's line and marker."""
    place = names.index(model) % 4
    return ("-", "--", ":", "-.")[place], "os^D"[place]


def _dress(axes: Axes, contexts_s: list[float]) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([max(x, LEAST_S) for x in contexts_s], [f"{x:g}" for x in contexts_s])
    axes.set(xlabel="left context, s", ylabel="WER, %", title="WER by chunk and left context")
    axes.grid(alpha=0.3)
