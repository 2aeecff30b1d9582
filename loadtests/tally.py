"""Words that came back wrong, by what was asked, while a load runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadtests.clips import Clip, word_errors
from loadtests.figures import Figures, wer

Counts = dict[str, tuple[int, int]]


class Tally:
    """Errors and words by name; with a file, every text as well."""

    def __init__(self) -> None:
        self._errors: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
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
        self.merge({name: (errors, words)})
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

    def merge(self, counts: Counts) -> None:
        """Add what another has taken."""
        for name, (errors, words) in counts.items():
            self._errors[name] += errors
            self._words[name] += words

    def take(self) -> Counts:
        """All counts, and begin at 0."""
        counts = {name: (self._errors[name], self._words[name]) for name in self._words}
        self._errors.clear()
        self._words.clear()
        return counts

    def rates(self) -> dict[str, Figures]:
        """The word error rate of each name."""
        return {name: wer([(self._errors[name], self._words[name])]) for name in sorted(self._words)}

    def lines(self) -> Iterator[str]:
        """For the screen."""
        for name, rate in self.rates().items():
            yield f"WER {name}: {rate['percent']}% ({rate['errors']} of {rate['words']} words)"
