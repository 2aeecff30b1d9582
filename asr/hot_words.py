"""Hot words: phrases that a search prefers, letter by letter, for as long as a text may still become one of them.

The phrases form a prefix tree, with fall-backs as in Aho and Corasick (1975) to the longest later beginning of a
phrase. A phrase begins and ends where words do. Each of its letters earns the boost at once, so that a text with it
survives until it is complete; where the text turns out to be another, all that was earned is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence


class _Place:
    """How far into a phrase a text is; `pending` is what it has earned since a phrase was last complete."""

    __slots__ = ("children", "end", "fallback", "number", "pending")  # there are thousands of them

    def __init__(self, pending: float = 0.0) -> None:
        self.number = 0
        self.pending = pending
        self.end = False
        self.children: dict[str, _Place] = {}
        self.fallback: _Place | None = None

    def chain(self) -> Iterator[_Place]:
        """This place, and those of the later beginnings of phrases that the text may be in just as well."""
        place: _Place | None = self
        while place:
            yield place
            place = place.fallback


class HotWords:
    """The phrases as an automaton over the characters of a text; a text starts at place 0."""

    def __init__(self, phrases: Iterable[Sequence[str]], boost: float) -> None:
        """Take phrases as words, in the case of the text, and the boost of a letter (a natural logarithm)."""
        self._start, self._nowhere = (
            _Place(),
            _Place(),
        )  # at the beginning of a word, and in one that is in no phrase
        for phrase in sorted(
            " ".join(words) for words in phrases
        ):  # what another begins with comes before it
            self._add(phrase, boost)
        self._places = [self._start, self._nowhere, *self._link()]
        for number, place in enumerate(self._places):
            place.number = number

    def move(self, place: int, character: str) -> tuple[int, float]:
        """The place after one more letter or space, and the factor by which the text's probability changes."""
        before = self._places[place]
        after = self._after(before, character)
        complete = (one.pending for one in before.chain() if one.end and character == " ")
        return after.number, math.exp(next(complete, 0.0) + after.pending - before.pending)

    def pending(self, place: int) -> float:
        """What a text has earned that is taken back if it ends there (a natural logarithm)."""
        return self._places[place].pending

    def _add(self, phrase: str, boost: float) -> None:
        place = self._start
        for character in phrase:
            complete = place.end and character == " "
            pending = (0.0 if complete else place.pending) + boost * (character != " ")
            place = place.children.setdefault(character, _Place(pending))
        place.end = True

    def _link(self) -> list[_Place]:
        """Find the fall-backs, breadth first: a shorter text's are known before a longer one's are looked for."""
        linked, level = [], [self._start]
        while level:
            for place in level:
                for character, child in place.children.items():
                    later = place.fallback
                    child.fallback = self._after(later, character) if later else self._outside(character)
            level = [child for place in level for child in place.children.values()]
            linked += level
        return linked

    def _after(self, place: _Place, character: str) -> _Place:
        one: _Place | None = place
        while one:
            if character in one.children:
                return one.children[character]
            one = one.fallback
        return self._outside(character)

    def _outside(self, character: str) -> _Place:
        return self._start if character == " " else self._nowhere
