"""The iso-memory answer as Markdown: verdicts first, then the tables that they stand on."""

from collections.abc import Sequence

from offline.isomemory.points import Costs, Point
from offline.isomemory.verdicts import (
    ALONE,
    SHORTER,
    UNDECIDED,
    WORTH,
    Difference,
    Verdict,
    at_equal_context,
    front,
    what_context_buys,
)

MIB = 2**20
NONE = "No compressed arm was measured."


def markdown(
    points: Sequence[Point],
    verdicts: Sequence[Verdict],
    costs: Costs,
    sources: Sequence[str],
    left_out: Sequence[str],
) -> str:
    """Returns the whole report."""
    parts = [
        "# What a compressed cache buys at equal memory",
        *answer(points, verdicts),
        "## At equal bytes",
        "Each compressed point beside the best of K/V and lossless latent that takes no more bytes, whatever its "
        "window. The rival is chosen by the WER that it is compared by, which favours it a little.",
        _table(
            ("point", "MiB", "WER", "rival", "MiB", "WER", "difference", "step time", "verdict"),
            map(_beside, verdicts),
        ),
        "## The best for a given budget",
        "No other point is as good with so few bytes.",
        _table(
            ("MiB a stream", "point", "WER", "ms a stream and step"), map(_stair, front(points, time=False))
        ),
        "## At equal context",
        "Beside K/V with the same window and type of cache.",
        _table(("point", "WER difference", "bytes", "step time"), map(_equal, at_equal_context(points))),
        "## All points",
        "On the front of WER, bytes and step time where marked.",
        _table(
            ("point", "WER", "MiB a stream", "of it attention", "ms a stream and step", "front"), _all(points)
        ),
        "![WER by bytes](wer_by_bytes.png)",
        "![WER by step time](wer_by_step_time.png)",
        "## Where the figures come from",
        *_sources(points, costs, sources, left_out),
    ]
    return "\n\n".join(parts) + "\n"


def answer(points: Sequence[Point], verdicts: Sequence[Verdict]) -> list[str]:
    """Returns the verdict in plain sentences, from the figures alone."""
    lines = [f"- {_context(row['from'], row['to'], row['gap'])}" for row in what_context_buys(points)]
    said = ["How much the longer window helps:\n\n" + "\n".join(lines)] if lines else []
    by_text = _by_text(verdicts)
    said += [_sentence(text, found) for text, found in by_text.items() if found]
    families = dict.fromkeys(each.point.family for each in verdicts)
    return [*said, *(_conclusion_of(family, verdicts) for family in families)] if verdicts else [*said, NONE]


def conclusion(by_text: dict[str, list[Verdict]]) -> str:
    """The one sentence to remember."""
    worth, shorter = len(by_text[WORTH]), len(by_text[SHORTER])
    if worth and not shorter:
        return "at equal memory it is worth it here wherever chance can be ruled out."
    if shorter and not worth:
        return "at equal memory a shorter window of uncompressed frames is the better choice here."
    if worth:
        return "at equal memory it depends on the point: the lists above say where which one is better."
    return (
        "at equal memory neither is better here beyond chance. Then a shorter window is the plain choice, as it "
        "leaves the outputs as they are; MLA is for budgets below the shortest window that was measured without it."
    )


def _by_text(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    return {
        text: [each for each in verdicts if each.text == text] for text in (WORTH, SHORTER, UNDECIDED, ALONE)
    }


def _conclusion_of(family: str, verdicts: Sequence[Verdict]) -> str:
    """A cut may pay where a deeper one does not."""
    own = [each for each in verdicts if each.point.family == family]
    ratios = sorted(each.point.step_s / each.rival.step_s for each in own if each.rival)
    time = (
        f" Its steps take {ratios[0]:.2f} to {ratios[-1]:.2f} times as long as its rivals'." if ratios else ""
    )
    return f"**{family}: {conclusion(_by_text(own))}{time}**"


def _sentence(text: str, found: Sequence[Verdict]) -> str:
    shown = [
        f"- {each.point.label} ({each.point.bytes_per_stream / MIB:.2f} MiB)"
        + (f" beside {each.rival.label}: WER {each.difference}" if each.rival else "")
        for each in found
    ]
    return f"{text[0].upper()}{text[1:]}:\n\n" + "\n".join(shown)


def _context(short: str, long: str, gap: Difference) -> str:
    judged = {True: "it helps", False: "it harms", None: "no difference beyond chance"}[gap.better]
    return f"{long} beside {short}: WER {gap} ({judged})"


def _beside(verdict: Verdict) -> list[str]:
    point, rival = verdict.point, verdict.rival
    mine = [point.label, _mib(point), f"{point.wer:.2f}"]
    if rival is None:
        return [*mine, "-", "-", "-", "-", "-", verdict.text]
    ratio = f"x {point.step_s / rival.step_s:.2f}"
    return [*mine, rival.label, _mib(rival), f"{rival.wer:.2f}", str(verdict.difference), ratio, verdict.text]


def _stair(point: Point) -> list[str]:
    return [_mib(point), point.label, f"{point.wer:.2f}", f"{1000 * point.step_s:.1f}"]


def _equal(row: dict[str, object]) -> list[str]:
    return [str(row["label"]), str(row["gap"]), f"x {row['bytes_ratio']:.3f}", f"x {row['step_ratio']:.2f}"]


def _all(points: Sequence[Point]) -> list[list[str]]:
    best = {id(point) for point in front(points)}
    return [
        [
            point.label,
            f"{point.wer:.2f}",
            _mib(point),
            f"{point.attention_bytes / MIB:.2f}",
            f"{1000 * point.step_s:.1f}",
            "yes" if id(point) in best else "",
        ]
        for point in sorted(points, key=lambda point: point.bytes_per_stream)
    ]


def _intervals(points: Sequence[Point]) -> str:
    words = next((point.words for point in points if point.words is not None), None)
    if words is None:
        return "No intervals: the transcripts were not beside the evaluation."
    return f"Intervals: 95 %, a paired bootstrap over {len(words)} recordings of {int(words.sum()):,} words together."


def _sources(
    points: Sequence[Point], costs: Costs, sources: Sequence[str], left_out: Sequence[str]
) -> list[str]:
    what, how = costs.content["what"], costs.content["how"]
    machine = what["machine"]["cpu"] if what["device"] == "cpu" else what["device"]
    said = [
        f"Files: {', '.join(sources)}.",
        f"Bytes and seconds: {', '.join(what['models'])}, weights in {how['dtype']}, on {machine}, "
        f"threads: {what['threads']}, {costs.streams} streams in a step, the cost model's path. "
        "Words: the arms of the evaluation. Where these are not the same model, the share "
        "of K and V that a cache keeps is what joins them: how well a large model hears "
        "with such a cache is not measured here.",
        f"Bytes are those of a stream's tensors: attention, convolution and rest. {_intervals(points)}",
    ]
    return [*said, f"Without a cost in the benchmark: {', '.join(left_out)}."] if left_out else said


def _mib(point: Point) -> str:
    return f"{point.bytes_per_stream / MIB:.2f}"


def _table(head: Sequence[str], rows: object) -> str:
    lines = [head, ["---"] * len(head), *rows]  # type: ignore[misc]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
