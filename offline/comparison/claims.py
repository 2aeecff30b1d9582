"""Each claim of the workflow judged by the figures of a report.

Everything is drawn from the figures by the thresholds below; nothing is known beforehand. The claims are about one
model, facebook/wav2vec2-conformer-rel-pos-large-960h-ft with 618M parameters. Figures of another model can show that a
claim holds under that model's conditions, never that it holds of the 618M one.
"""

from collections.abc import Sequence
from typing import Any

from offline.comparison.tables import interval, number

Row = dict[str, Any]
HOLDS, CONDITIONS, FAILS, UNDECIDED, UNMEASURED = (
    "holds",
    "holds under these conditions",
    "does not hold",
    "not decided by these files",
    "not measured in these files",
)
REFERENCE, REFERENCE_PARAMETERS = "wav2vec2-conformer-rel-pos-large-960h-ft", 500_000_000
K_ERROR, V_ERROR, ROUNDED = 0.062, 0.190, 0.0005  # relative errors, and what their last digit leaves open
WER_NARROW, WER_WIDE = 0.1, 0.3  # percent points
CACHE_CUT, FASTER, MEMORY_SAVED = 0.5, 1.10, 0.25
NOTICEABLE = 0.05  # share of speed, memory or parameters under which nobody would notice
STREAM_S = 30.0


def judge(found: Row) -> list[Row]:
    """Returns the claims in the workflow's order: claim, verdict, figures, where, at_618m."""
    return [_reconstruction(found), _wer(found), _cache(found), _speed(found), _memory(found)]


def verdict(outcomes: Sequence[bool | None], general: bool) -> str:
    """Returns a verdict on measured cases (None: not decided); general: they are what the claim is about."""
    if not outcomes:
        return UNMEASURED
    if any(outcomes):
        return HOLDS if all(outcomes) and general else CONDITIONS
    return UNDECIDED if None in outcomes else FAILS


def _claim(claim: str, outcomes: Sequence[bool | None], general: bool, **said: Any) -> Row:
    return {"claim": claim, "verdict": verdict(outcomes, general), **said}


def _at_618m(measured: bool, of_shapes: str = "") -> str:
    """of_shapes: what depends on the architecture alone, so that random weights will do."""
    if not measured:
        return "*unmeasured here*"
    return f"measured ({of_shapes} does not depend on what the weights are)" if of_shapes else "measured"


def _is_reference(row: Row) -> bool:
    return any(REFERENCE in str(row.get(key) or "") for key in ("source", "folder", "model"))


def _reconstruction(found: Row) -> Row:
    cases = {name: row for name, row in found["conversions"].items() if _is_the_workflows(row)}
    outcomes = [
        row["mean_k_relative_error"] <= K_ERROR + ROUNDED
        and row["mean_v_relative_error"] <= V_ERROR + ROUNDED
        for row in cases.values()
    ]
    general = any(_is_reference(row) for row in cases.values())
    figures = [
        f"{name}: K {100 * row['mean_k_relative_error']:.1f}%, V {100 * row['mean_v_relative_error']:.1f}%"
        for name, row in cases.items()
    ]
    return _claim(
        "reconstruction error of K 6.2% and of V 19.0%",
        outcomes,
        all(_is_reference(row) for row in cases.values()),
        figures="; ".join(figures)
        or "no model with separate latents of half the width from plain SVD was given",
        where="relative Frobenius error of the weights, mean of the layers; conversion reports",
        at_618m=_at_618m(general),
    )


def _is_the_workflows(row: Row) -> bool:
    """Separate latents, half as wide as the model in every layer, by plain SVD."""
    ranks = [*row["ranks"].get("rank_k", []), *row["ranks"].get("rank_v", [])]
    half = row["latent"] == "separate" and set(ranks) == {row["width"] // 2}
    known = row["mean_k_relative_error"] is not None and row["mean_v_relative_error"] is not None
    return half and known and row["method"] == "weight"


def latent_pairs(found: Row) -> list[Row]:
    """Returns the comparisons of an mla arm with an mha arm."""
    kinds = {name: arm["kind"] for name, arm in found["arms"].items()}
    return [
        row for row in found["comparisons"] if (kinds[row["arm"]], kinds[row["baseline"]]) == ("mla", "mha")
    ]


def _wer(found: Row) -> Row:
    pairs = latent_pairs(found)
    arms = [found["arms"][row["arm"]] for row in pairs]
    return _claim(
        "WER within 0.1 to 0.3 points of the baseline after fine-tuning",
        [_within(row["interval_95"], WER_WIDE) for row in pairs],
        all(map(_is_reference, arms)),
        figures="; ".join(map(_wer_figures, pairs)) or "no mla arm was compared with an mha arm",
        where=f"{found['utterances']['words']:,} words of {', '.join(found['utterances']['manifests'])}; "
        f"{_sizes(found, pairs)}",
        at_618m=_at_618m(any(map(_is_reference, arms))),
    )


def _within(interval: Sequence[float], bound: float) -> bool | None:
    low, high = interval
    return True if high < bound else False if low > bound else None


def _wer_figures(row: Row) -> str:
    low, high = row["interval_95"]
    bounds = [bound for bound in (WER_NARROW, WER_WIDE) if high < bound]
    word = f"within {bounds[0]}" if bounds else "not within 0.3" if low > WER_WIDE else "undecided"
    figures = f"{number(row['difference'], sign=True)} {interval(row['interval_95'], sign=True)}"
    return f"{row['arm']}: {figures}, {word}"


def _sizes(found: Row, pairs: Sequence[Row]) -> str:
    """The sizes of the models that were measured."""
    sizes = sorted({found["arms"][row["baseline"]]["parameters"] or 0 for row in pairs} - {0})
    return (
        ("a model of " + " and ".join(f"{size / 1e6:.1f}M" for size in sizes) + " parameters")
        if sizes
        else ""
    )


def _cache(found: Row) -> Row:
    cuts = {name: arm["cache_cut"] for name, arm in found["arms"].items() if arm["kind"] == "mla"}
    cuts = {name: cut for name, cut in cuts.items() if cut is not None}
    streamed = any("chunk_frames" in arm["settings"] for arm in found["arms"].values())
    return _claim(
        "KV cache 50% smaller",
        [cut >= CACHE_CUT - 1e-9 for cut in cuts.values()],
        True,
        figures="; ".join(f"{name}: {100 * cut:.1f}% less" for name, cut in cuts.items())
        or "no mla arm names its cached values",
        where="values a frame that a live stream keeps, of the models as loaded, "
        + ("some measured in chunks" if streamed else "no stream among these files")
        + "; recordings that are transcribed whole keep no cache, so nothing is saved there",
        at_618m="a ratio of shapes: the same at any size",
    )


def _speed(found: Row) -> Row:
    cases, large = speed_cases(found), _measured_large(found, "rtfx")
    return _claim(
        "10-15% faster",
        [None if ratio >= FASTER and noisy else ratio >= FASTER for _, ratio, noisy in cases],
        large,
        figures=spread(cases, lambda ratio: f"{100 * (ratio - 1):+.1f}%")
        or "no mha and mla were timed in one run",
        where=f"{_places(found, 'rtfx')}; end to end, seconds of audio per second",
        at_618m=_at_618m(large, "speed"),
    )


def speed_cases(found: Row) -> list[tuple[str, float, bool]]:
    """Returns (where, RTFx of mla over that of mha, whether rounds differ as much) where both were timed in one run."""
    cases = [
        (_condition(row), row["rtfx"], row["beyond_noise"] is False)
        for bench in found["benchmarks"]
        for row in bench["ratios"]
        if row["rtfx"] is not None
    ]
    for row in latent_pairs(found):
        ratio = rtfx_ratio(found, row)
        if row["same_run"] and ratio is not None:
            cases.append((in_evaluation(row), ratio, False))
    return cases


def in_evaluation(pair: Row) -> str:
    """Returns how the figures of a pair that offline.evaluate measured are called."""
    return f"{pair['arm']} in evaluation"


def rtfx_ratio(found: Row, pair: Row, key: str = "rtfx") -> float | None:
    """Returns one figure of an arm's speed over that of its baseline; None where either is not there."""
    ours, theirs = (found["arms"][pair[name]][key] for name in ("arm", "baseline"))
    return ours / theirs if ours and theirs else None


def _condition(row: Row) -> str:
    return f"{row['arm']}, batch {row['batch_size']}"


def spread(cases: Sequence[tuple[Any, ...]], text: Any) -> str:
    """The least and the most of all cases (where, figure, ...); one case stands alone."""
    if not cases:
        return ""
    (low_where, low, *_), (high_where, high, *_) = (
        pick(cases, key=lambda case: case[1]) for pick in (min, max)
    )
    if len(cases) == 1:
        return f"{text(low)} ({low_where})"
    return f"{text(low)} ({low_where}) to {text(high)} ({high_where}), {len(cases)} cases"


def _measured_large(found: Row, figure: str) -> bool:
    """Whether a benchmark of the 618M architecture has this figure."""
    large = [bench for bench in found["benchmarks"] if (bench["parameters"] or 0) >= REFERENCE_PARAMETERS]
    return any(row[figure] is not None for bench in large for row in bench["ratios"])


def _places(found: Row, figure: str) -> str:
    places = [
        f"{bench['file']} ({bench['device']}, {bench['dtype']}"
        + (f", {bench['parameters'] / 1e6:.1f}M parameters)" if bench["parameters"] else ")")
        for bench in found["benchmarks"]
        if any(row[figure] is not None for row in bench["ratios"])
    ]
    wanted = "same_run" if figure == "rtfx" else "same_machine"
    arms = [
        found["arms"][row[side]] for row in latent_pairs(found) if row[wanted] for side in ("arm", "baseline")
    ]
    files = sorted({arm["file"] for arm in arms if figure == "rtfx" or arm["alone_in_its_process"]})
    return ", ".join([*places, *files]) or "nowhere"


def _memory(found: Row) -> Row:
    cases, streams, large = memory_cases(found), _streams(found), _measured_large(found, "memory_saved")
    return _claim(
        "25-30% less memory during inference",
        [saved >= MEMORY_SAVED for _, saved in cases],
        large,
        figures=(spread(cases, lambda saved: f"{-100 * saved:+.1f}%") or "no peak of each model by itself")
        + (f"; {streams}" if streams else ""),
        where=f"{_places(found, 'memory_saved')}; peaks of a process, or of a GPU's memory, with one model",
        at_618m=_at_618m(large, "memory"),
    )


def memory_cases(found: Row) -> list[tuple[str, float]]:
    """Returns (where, share of the peak that mla saves) wherever each model was measured by itself."""
    cases = [
        (_condition(row), row["memory_saved"]) for bench in found["benchmarks"] for row in bench["ratios"]
    ]
    cases = [(where, saved) for where, saved in cases if saved is not None]
    for row in latent_pairs(found):
        ours, theirs = (found["arms"][row[name]] for name in ("arm", "baseline"))
        by_itself = ours["alone_in_its_process"] and theirs["alone_in_its_process"] and row["same_machine"]
        same_kind = ours["memory_kind"] == theirs["memory_kind"] is not None
        if by_itself and same_kind and "dtype" not in row["settings_that_differ"]:
            cases.append((in_evaluation(row), 1 - ours["memory_bytes"] / theirs["memory_bytes"]))
    return cases


def _streams(found: Row) -> str:
    """From how many live streams on the cache makes up a quarter of the memory, by arithmetic."""
    said = []
    for row in latent_pairs(found):
        ours, theirs = (found["arms"][row[name]] for name in ("arm", "baseline"))
        keys = ("weight_bytes", "cache_bytes_per_second")
        if "dtype" in row["settings_that_differ"] or not all(
            arm[key] for arm in (ours, theirs) for key in keys
        ):
            continue
        gain = (1 - MEMORY_SAVED) * theirs["cache_bytes_per_second"] - ours["cache_bytes_per_second"]
        lack = ours["weight_bytes"] - (1 - MEMORY_SAVED) * theirs["weight_bytes"]
        if gain > 0:
            said.append(f"{row['arm']} from {max(1, -int(-lack // (STREAM_S * gain))):,}")
    return (
        f"by arithmetic (weights and cache alone) 25% is reached by live streams of {STREAM_S:g} s: "
        f"{', '.join(said)} streams on"
        if said
        else ""
    )
