"""The figures of a comparison: one entry an arm, one a pair of arms, with intervals, tests and a verdict.

Everything is a plain dict that goes into report.json; rates and differences are in percent (of words), shares in 0..1.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from offline import significance
from offline.comparison.rates import GROUPS, Question, Rates, Row, factors, groups
from offline.comparison.transcripts import SIGHT, Arm

MOST_FREQUENT = 20
MEMORY = ("peak_allocated_bytes", "peak_resident_bytes", "peak_process_bytes")


def describe(arm: Arm, question: Question, rates: Rates) -> Row:
    """Returns the entry of one arm: what it is, how it was run, its rates and what it costs."""
    attention, result = arm.facts.get("attention", {}), arm.result
    wer, (speed, memory) = rates.interval("wer", arm.name), (result.get(name) or {} for name in _COSTS)
    ours, theirs = (each.facts.get("cached_values_per_frame") for each in (arm, question.baseline))
    kind = next((name for name in MEMORY if memory.get(name)), None)
    return {
        "file": str(arm.file),
        "model": arm.model,
        "kind": arm.kind,
        "latent": attention.get("latent"),
        "method": arm.facts.get("method") or attention.get("method"),
        "source": attention.get("source"),
        "folder": arm.facts.get("folder"),
        "folder_hash": arm.folder_hash,
        "settings": arm.settings,
        "wer": wer["value"],
        "wer_95": wer["interval_95"],
        **{name: result["total"].get(name) for name in ("wer_normalised", "cer")},
        **{name: arm.facts.get(name) for name in ("parameters", "weight_bytes", "cache_bytes_per_second")},
        "cached_values_per_frame": ours,
        "cache_cut": round(1 - ours / theirs, 4) if ours and theirs else None,
        **{name: speed.get(name) for name in ("rtfx", "rtfx_model", "latency_ms")},
        "memory_bytes": memory.get(kind) if kind else None,
        "memory_kind": kind,
        "alone_in_its_process": len(arm.content["results"]) == 1,
    }


_COSTS = ("speed", "memory")


def compare(arm: Arm, other: Arm, rates: Rates) -> Row:
    """Returns the entry of one pair."""
    names, question = (arm.name, other.name), rates.question
    base_wer = rates.interval("wer", other.name)["value"]
    found = rates.interval("difference", *names)
    low, high = found["interval_95"]
    cut = [segment for pair in zip(arm.slot_errors, other.slot_errors, strict=True)
           for segment in significance.segments(*pair)]  # fmt: skip
    words, discordant = int(rates.words.sum()), _discordant(arm, other)
    margin = question.margin_of(arm.name)
    return {
        "arm": arm.name,
        "baseline": other.name,
        "same_model": same_model(arm, other),
        "settings_that_differ": settings_that_differ(arm, other),
        "same_run": arm.content is other.content,
        "same_machine": _machine(arm) == _machine(other),
        "difference": found["value"],
        "interval_95": [low, high],
        "relative": _relative(found["value"], base_wer),
        "relative_95": [_relative(low, base_wer), _relative(high, base_wer)],
        "margin": margin,
        "verdict": significance.verdict(low, high, margin),
        "words": words,
        "discordant_errors": discordant,
        "over_dispersion": _over_dispersion(low, high, words, discordant),
        "words_needed": _words_needed(words, low, high, found["value"], margin),
        "p": {
            "mapsswe": _finite(significance.mapsswe(cut)),
            "sign_flip": round(rates.sign_flip[names], 5),
            **rates.p_values(*names),
        },
        "segments": len(cut),
        "identical": identical(arm, other),
        "normalised": rates.interval("normalised", *names) if rates.has("normalised", *names) else None,
        **{f"by_{field}": _by(field, arm, other, rates) for field in (*GROUPS, *_voices(arm))},
        "only_arm": only(arm, other),
        "only_baseline": only(other, arm),
    }


def _finite(p: float) -> float | None:
    return None if math.isnan(p) else round(p, 5)


def _relative(difference: float | None, base: float | None) -> float | None:
    return round(100 * difference / base, 2) if base and difference is not None else None


def _over_dispersion(low: float, high: float, words: int, discordant: int) -> float | None:
    """The variance over that of discordant errors which fall independently."""
    deviation = (high - low) / (2 * significance.Z_LEVEL) / 100
    return round((deviation * words) ** 2 / discordant, 2) if discordant else None


def _words_needed(words: int, low: float, high: float, difference: float, margin: float) -> Row | None:
    """For a verdict with a power of 80 %, None when decided: were the arms equal (as far as they may be), and were they
    as they look.
    """
    if significance.verdict(low, high, margin) != "undecided":
        return None
    return {
        "if_equal": significance.words_needed(words, low, high, margin) if low <= 0 <= high else None,
        "if_as_seen": significance.words_needed(words, low, high, margin, difference),
    }


def _discordant(arm: Arm, other: Arm) -> int:
    """Errors in places where the other makes none or fewer, either way."""
    places = zip(arm.slot_errors, other.slot_errors, strict=True)
    return sum(abs(a - b) for ours, theirs in places for a, b in zip(ours, theirs, strict=True))


def identical(arm: Arm, other: Arm) -> float:
    """Returns the share of utterances whose texts are the same."""
    same = sum(a == b for a, b in zip(arm.texts, other.texts, strict=True))
    return round(same / len(arm.texts), 5)


def _voices(arm: Arm) -> list[str]:
    return [name for name in factors(arm.lines) if name in ("speaker", "voice")]


def _by(field: str, arm: Arm, other: Arm, rates: Rates) -> Row:
    """Rates of both in each group; with an interval of the difference but for voices, which are too small."""
    found = {}
    for value, mask in groups(arm.lines, field).items():
        words = float(mask @ rates.words)
        key = (field, value, arm.name, other.name)
        ours, theirs = (100 * float(mask @ each.errors) / words for each in (arm, other))
        found[value] = {
            "utterances": int(mask.sum()),
            "words": int(words),
            "wer": [round(ours, 4), round(theirs, 4)],
            "difference": round(ours - theirs, 4),
            **({"interval_95": rates.interval(*key)["interval_95"]} if rates.has(*key) else {}),
        }
    return found


def only(arm: Arm, other: Arm) -> list[Row]:
    """Returns the errors that arm makes where other is right, the most frequent first, each with an example."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], int] = {}
    for number, words in enumerate(arm.references):
        for slot, heard in enumerate(arm.slots[number]):
            if arm.slot_errors[number][slot] and not other.slot_errors[number][slot]:
                error = _error(words[slot // 2] if slot % 2 else "", heard)
                counts[error] += 1
                examples.setdefault(error, number)
    order = sorted(counts, key=lambda error: (-counts[error], error))[:MOST_FREQUENT]
    return [
        {
            **dict(zip(("kind", "reference", "heard"), error, strict=True)),
            "count": counts[error],
            "example": _example(arm, other, examples[error]),
        }
        for error in order
    ]


def _error(word: str, heard: str) -> tuple[str, str, str]:
    kind = "substitution" if word and heard else "deletion" if word else "insertion"
    return kind, word, heard


def _example(arm: Arm, other: Arm, number: int) -> Row:
    said = " ".join(arm.references[number])
    texts = {"reference": said, "heard": arm.texts[number], "heard_by_other": other.texts[number]}
    return {"id": arm.lines[number]["id"], **texts}


def settings_that_differ(arm: Arm, other: Arm) -> dict[str, list[Any]]:
    """Returns the settings of two arms, [arm's, other's], where they are not the same."""
    ours, theirs = arm.settings, other.settings
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return {name: [ours.get(name), theirs.get(name)] for name in names}


def same_model(arm: Arm, other: Arm) -> bool:
    """Whether two arms are the same weights on the same task, so that only rounding tells them apart."""
    return (
        arm.folder_hash is not None
        and arm.folder_hash == other.folder_hash
        and not set(settings_that_differ(arm, other)) & set(SIGHT)
    )


def _machine(arm: Arm) -> tuple[Any, ...]:
    what = arm.content["what"]
    return what.get("device"), (what.get("machine") or {}).get("cpu"), what.get("threads")


def null_pairs(arms: Sequence[Arm]) -> list[Row]:
    """Returns what rounding alone changes: identical transcripts of the same model, run in other ways."""
    return [
        {
            "arms": [arm.name, other.name],
            "differs": settings_that_differ(arm, other),
            "identical": identical(arm, other),
            "difference": round(
                100 * float((other.errors - arm.errors).sum()) / sum(map(len, arm.references)), 4
            ),
        }
        for number, arm in enumerate(arms)
        for other in arms[number + 1 :]
        if same_model(arm, other)
    ]


def adjust(comparisons: list[Row]) -> None:
    """Adds to each p its Holm-adjusted value over all comparisons of different models."""
    family = [row for row in comparisons if not row["same_model"]]
    for name in ("mapsswe", "sign_flip", "non_inferiority"):
        values = [math.nan if row["p"][name] is None else row["p"][name] for row in family]
        for row, adjusted in zip(family, significance.holm(values), strict=True):
            row["p"][f"{name}_holm"] = round(adjusted, 5)
