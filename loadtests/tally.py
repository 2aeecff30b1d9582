"""What Locust's own statistics do not hold: wrong words, and how long partials take, by what was asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.clips import Clip, word_errors
from loadtests.figures import Figures, quantiles, wer


class Tally:
    """Errors and words by name, and how often a partial took how many milliseconds; with a file, texts as well."""

    def __init__(self) -> None:
        self._errors: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._partials: Counter[tuple[str, int]] = Counter()
        self._file: Path | None = None

    def begin(self, file: Path | None) -> None:
        """Count from 0, and add texts to this file, if any."""
        self.take()
        self._file = file
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, clip: Clip, text: str) -> None:
        """Count one text against what was said."""
        errors, words = word_errors(clip.text, text)
        self._errors[name] += errors
        self._words[name] += words
        if self._file:
            entry = {
                "name": name,
                "clip": clip.name,
                "audio_s": clip.audio_s,
                "reference": clip.text,
                "text": text,
            }
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")

    def partial(self, name: str, seconds: float) -> None:
        """Count a partial that took so long."""
        self._partials[name, round(1000 * seconds)] += 1

    def merge(self, counts: dict[str, Any]) -> None:
        """Add what another has taken."""
        for name, errors, words in counts["words"]:
            self._errors[name] += errors
            self._words[name] += words
        for name, took_ms, often in counts["partials"]:
            self._partials[name, took_ms] += often

    def take(self) -> dict[str, Any]:
        """All counts, in lists that a worker can send, and begin at 0."""
        counts = {
            "words": [(name, self._errors[name], self._words[name]) for name in self._words],
            "partials": [(name, took_ms, often) for (name, took_ms), often in self._partials.items()],
        }
        for counter in (self._errors, self._words, self._partials):
            counter.clear()
        return counts

    def found(self) -> dict[str, dict[str, Figures]]:
        """Word error rates, and quantiles of what partials took in seconds, by name."""
        took: dict[str, list[float]] = {}
        for (name, took_ms), often in sorted(self._partials.items()):
            took.setdefault(name, []).extend(np.full(often, took_ms / 1000).tolist())
        rates = {name: wer([(self._errors[name], self._words[name])]) for name in sorted(self._words)}
        return {"wer": rates, "partial_s": {name: quantiles(values) for name, values in took.items()}}

    def lines(self) -> Iterator[str]:
        """For the screen."""
        found = self.found()
        for name, rate in found["wer"].items():
            yield f"WER {name}: {rate['percent']}% ({rate['errors']} of {rate['words']} words)"
        for name, took in found["partial_s"].items():
            times = "/".join(f"{1000 * took[share]:.0f}" for share in ("p50", "p95", "p99"))
            yield f"partials {name}: {took['count']}, p50/p95/p99 {times} ms"
