"""What MLA bought and what it did not, in sentences that follow from the figures of a report."""

from typing import Any

from offline.comparison.claims import (
    NOTICEABLE,
    in_evaluation,
    latent_pairs,
    memory_cases,
    rtfx_ratio,
    speed_cases,
    spread,
)
from offline.comparison.tables import interval, number

Row = dict[str, Any]


def summarise(found: Row) -> dict[str, list[str]]:
    """Returns bought, not_bought (or paid for it) and not_shown: a sentence of every mla arm against its mha."""
    said: dict[str, list[str]] = {"bought": [], "not_bought": [], "not_shown": []}
    for pair in latent_pairs(found):
        arm, base = (found["arms"][pair[name]] for name in ("arm", "baseline"))
        parts = [
            _cache(arm),
            _wer(pair, pair["margin"]),
            _transcripts(pair, found["null"]),
            _size(arm["parameters"], base["parameters"]),
            _speed(found, pair),
            _memory(found, pair),
        ]
        for key, sentences in said.items():
            texts = [text for its, text in parts if its == key]
            sentences += [f"{pair['arm']}: {'; '.join(texts)}"] if texts else []
    for key, text in _benchmarks(found):
        said[key].append(text)
    return said


def _cache(arm: Row) -> tuple[str, str]:
    cut, seconds = arm["cache_cut"], arm["cache_bytes_per_second"]
    if cut is None:
        return "not_shown", "its cached values are not in these files"
    size = (
        f" ({seconds / 1000:,.0f} kB a second of live context, {arm['settings']['dtype']})" if seconds else ""
    )
    if cut <= 0:
        return "not_bought", f"no smaller cache{size}"
    return "bought", f"a cache {100 * cut:.1f}% smaller{size}"


def _wer(pair: Row, margin: float) -> tuple[str, str]:
    figures = (
        f"{number(pair['difference'], sign=True)} points, 95 % {interval(pair['interval_95'], sign=True)}"
    )
    if pair["verdict"] == "non-inferior":
        return "bought", f"WER no more than {margin:g} points higher ({figures})"
    if pair["verdict"] == "undecided":
        return "not_shown", f"whether WER stays within {margin:g} points ({figures})"
    return "not_bought", f"WER rises by more than {margin:g} points ({figures})"


def _transcripts(pair: Row, null: list[Row]) -> tuple[str, str]:
    """Changed transcripts, beside the most that rounding alone changes."""
    changed = 1 - pair["identical"]
    rounding = [1 - row["identical"] for row in null if row["differs"]]
    beside = f" (rounding alone changes up to {100 * max(rounding):.1f}%)" if rounding else ""
    if not changed:
        return "bought", f"not one transcript changed{beside}"
    if rounding and changed <= max(rounding):
        return (
            "bought",
            f"{100 * changed:.1f}% of the transcripts changed, no more than by rounding alone{beside}",
        )
    return "not_bought", f"{100 * changed:.1f}% of the transcripts changed{beside}"


def _size(ours: float | None, theirs: float | None) -> tuple[str, str]:
    if not ours or not theirs:
        return "not_shown", "a smaller model: parameters are not in these files"
    saved = 1 - ours / theirs
    text = f"a smaller model ({abs(100 * saved):.1f}% {'fewer' if saved >= 0 else 'more'} parameters)"
    return ("bought" if saved >= NOTICEABLE else "not_bought"), text


def _speed(found: Row, pair: Row) -> tuple[str, str]:
    ratio, model = rtfx_ratio(found, pair), rtfx_ratio(found, pair, "rtfx_model")
    if ratio is None or not pair["same_run"]:
        return "not_shown", "speed: it was not timed in one run with its baseline"
    model_only = f", {_change(model)} model-only" if model else ""
    return _faster([ratio], f"{_change(ratio)} RTFx end to end{model_only}")


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"


def _faster(ratios: list[float], text: str) -> tuple[str, str]:
    if min(ratios) >= 1 + NOTICEABLE:
        return "bought", f"speed ({text})"
    slower = "speed, it is slower" if max(ratios) <= 1 - NOTICEABLE else "speed"
    return "not_bought", f"{slower} ({text})"


def _memory(found: Row, pair: Row) -> tuple[str, str]:
    cases = [saved for where, saved in memory_cases(found) if where == in_evaluation(pair)]
    if not cases:
        return "not_shown", "memory: not measured of each model in a process by itself"
    text = f"memory ({_change(1 - cases[0])} at the peak of whole recordings)"
    return ("bought" if cases[0] >= NOTICEABLE else "not_bought"), text


def _benchmarks(found: Row) -> list[tuple[str, str]]:
    """Speed in each benchmark, over all its ways to run mla."""
    said = []
    for bench in found["benchmarks"]:
        cases = speed_cases({**found, "benchmarks": [bench], "comparisons": []})
        if cases:
            key, text = _faster([ratio for _, ratio, _ in cases], spread(cases, _change))
            said.append((key, f"{bench['file']}: {text}"))
    return said
