"""All rates and differences of a report, resampled together: the same draws of utterances for every figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline import significance
from offline.comparison.transcripts import Arm
from offline.significance import Array, Bootstrap

Row = dict[str, Any]
Pair = tuple[Arm, Arm]  # an arm and what it is compared with
GROUPS = ("domain", "engine")


@dataclass(frozen=True)
class Question:
    """What is asked of the arms."""

    baseline: Arm
    pairs: list[Pair]
    margin: float  # percent
    margins: dict[str, float]  # of arms that have one of their own
    resamples: int
    seed: int

    def margin_of(self, arm: str) -> float:
        """Percent."""
        return self.margins.get(arm, self.margin)


def factors(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns what utterances are clustered by, [N] labels: sentence, and speaker or else voice, where they vary.

    Who is known by neither is a speaker of their own.
    """
    speaker = next((name for name in ("speaker", "voice") if any(line.get(name) for line in lines)), None)
    found = {"sentence": [" ".join(line["reference"].upper().split()) for line in lines]}
    if speaker:
        found[speaker] = [
            str(line.get("speaker") or line.get("voice") or f"utterance {number}")
            for number, line in enumerate(lines)
        ]
    varied = {name: labels for name, labels in found.items() if len(set(labels)) > 1}
    return varied or {"utterance": [str(number) for number in range(len(lines))]}


def groups(lines: list[dict[str, Any]], field: str) -> dict[str, Array]:
    """Returns a mask [N] for each value of a field; none where only one value is there."""
    values = np.array([str(line.get(field) or "-") for line in lines])
    names = sorted(set(values.tolist()))
    return {name: (values == name).astype(float) for name in names} if len(names) > 1 else {}


class Rates:
    """Error rates of arms and differences of pairs; in shares inside, in percent outside."""

    def __init__(self, arms: Sequence[Arm], question: Question) -> None:
        self.words = np.array([len(words) for words in arms[0].references], dtype=float)
        self.lines, self.question = arms[0].lines, question
        self._columns: dict[tuple[str, ...], tuple[Array, Array]] = {}
        for arm in arms:
            self._columns["wer", arm.name] = arm.errors, self.words
        for pair in question.pairs:
            self._add(*pair)
        keys = list(self._columns)
        self._number = {key: number for number, key in enumerate(keys)}
        numerators, denominators = (np.stack([self._columns[key][i] for key in keys], 1) for i in range(2))
        by = list(factors(self.lines).values())
        self._drawn: Bootstrap = significance.bootstrap(
            numerators, denominators, by, question.resamples, question.seed
        )
        flipped = np.stack([arm.errors - other.errors for arm, other in question.pairs], 1)
        found = significance.sign_flip(flipped, by, question.resamples, question.seed)
        self.sign_flip = {
            (arm.name, other.name): p for (arm, other), p in zip(question.pairs, found, strict=True)
        }

    def _add(self, arm: Arm, other: Arm) -> None:
        names, difference = (arm.name, other.name), arm.errors - other.errors
        self._columns["difference", *names] = difference, self.words
        if arm.normalised is not None and other.normalised is not None:
            (words, errors), (_, others) = arm.normalised, other.normalised
            self._columns["normalised", *names] = errors - others, words
        for field in GROUPS:
            for value, mask in groups(self.lines, field).items():
                self._columns[field, value, *names] = mask * difference, mask * self.words

    def interval(self, *key: str) -> Row:
        """Returns value and interval_95 of one column, in percent."""
        number = self._number[key]
        bounds = [_percent(bound) for bound in self._drawn.interval(number)]
        return {"value": _percent(self._drawn.estimate[number]), "interval_95": bounds}

    def has(self, *key: str) -> bool:
        return key in self._number

    def p_values(self, *names: str) -> Row:
        """Returns the one-sided p of non-inferiority, and that of equivalence (the two one-sided tests' larger)."""
        number, margin = self._number["difference", *names], self.question.margin_of(names[0]) / 100
        above = self._drawn.p_at_least(number, margin)
        below = self._drawn.p_at_most(number, -margin)
        return {"non_inferiority": round(above, 5), "equivalence": round(max(above, below), 5)}


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 4)
