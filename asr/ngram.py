"""A word n-gram with back-off, read from ARPA text: how likely a word is after the one or two before it.

Any ARPA file will do, of any order and in either case, plain or gzip-compressed. `offline.ngram` makes one.
"""

from __future__ import annotations

import gzip
import math
import re
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

Context = tuple[str, ...]

BUNDLED = Path(__file__).parent / "bundled" / "words.arpa.gz"
START, UNKNOWN = "<s>", "<unk>"
LN_10 = math.log(10.0)
# What each letter of a word that the model lacks costs beside <unk>, which stands for all such words together. One of
# 27 symbols would be 3.3. The less it is the more unknown words come out right, and the more often what is no word is
# written where a known one was said (EXPERIMENTS.md, decoding).
UNKNOWN_LETTER = -3.0
CACHED_SCORES = 1 << 16
LAST = chr(sys.maxunicode)  # behind every letter


class NGram:
    """Scores of words in natural logarithms; words are compared in upper case."""

    def __init__(self, entries: dict[Context, tuple[float, float]]) -> None:
        """Take the natural logarithms of the probability and the back-off weight of each n-gram.

        Raises:
            ValueError: there are no single words, or no <unk> among them.
        """
        if (UNKNOWN,) not in entries:
            raise ValueError(f"the n-gram has no {UNKNOWN}: words that it lacks could not be said")
        self._entries = entries
        self.order = max(map(len, entries))
        self.start: Context = (START,) if self.order > 1 else ()
        self.score = lru_cache(CACHED_SCORES)(self._score)
        self.ahead = lru_cache(CACHED_SCORES)(self._ahead)
        self._likeliest = self._of_beginnings()
        words = [gram for gram in entries if len(gram) == 1 and gram[0][0] != "<"]
        self._rarest = min((entries[word][0] for word in words), default=-math.inf)
        # The last words of the longer n-grams and their scores, by context and in order: those that follow a context
        # stand together, and among them those with the same beginning.
        self._followers: list[str] = []
        self._scores = array("d")
        self._places = self._of_contexts()

    def __len__(self) -> int:
        return len(self._entries)

    def _score(self, context: Context, word: str, named: bool = False) -> tuple[float, Context]:
        """Return ln P(word | context), and the context of the next word.

        Of a word that the model lacks: of <unk>, and of its letters, see `UNKNOWN_LETTER`; if it was named beforehand,
        no less than of the rarest word that the model knows.
        """
        word = _folded(word)
        known = (word,) in self._entries
        log_prob = 0.0 if known else UNKNOWN_LETTER * len(word)
        symbol = word if known else UNKNOWN
        for first in range(len(context) + 1):
            found = self._entries.get((*context[first:], symbol))
            if found:
                log_prob += found[0]
                if named and not known:
                    log_prob = max(log_prob, self._rarest)
                return log_prob, self._shortened((*context, symbol))
            log_prob += self._entries.get(context[first:], (0.0, 0.0))[1]
        raise AssertionError("every word, or <unk>, is an entry of its own")

    def _ahead(self, context: Context, beginning: str, named: bool = False) -> float:
        """Return a bound: ln P of no word with this beginning is more after the context.

        named: a word that begins so was named beforehand, see `_score`.

        The look-ahead of Ortmanns, Ney and Eiden (1996), max_w ln P(w | context) over the words w that begin so, but
        that a word whose n-gram is listed may count by back-off, where that is more. The word that the model lacks is
        among them with the letters that it has so far.
        """
        folded = _folded(beginning)
        most = self.score(context, UNKNOWN)[0] + UNKNOWN_LETTER * len(beginning)
        if named:
            most = max(most, self._rarest)
        weight = 0.0
        for first in range(len(context)):
            place = self._places.get(context[first:])
            if place:
                start = bisect_left(self._followers, folded, *place)
                end = bisect_left(self._followers, folded + LAST, start, place[1])
                if start < end:
                    most = max(most, weight + max(self._scores[start:end]))
            weight += self._entries.get(context[first:], (0.0, 0.0))[1]
        return max(most, weight + self._likeliest.get(folded, -math.inf))

    def _of_beginnings(self) -> dict[str, float]:
        likeliest: dict[str, float] = {}
        for gram, (log_prob, _) in self._entries.items():
            if len(gram) == 1 and gram[0][0] != "<":
                for size in range(1, len(gram[0]) + 1):
                    beginning = gram[0][:size]
                    likeliest[beginning] = max(log_prob, likeliest.get(beginning, log_prob))
        return likeliest

    def _of_contexts(self) -> dict[Context, tuple[int, int]]:
        places: dict[Context, tuple[int, int]] = {}
        for order in range(2, self.order + 1):
            for gram in sorted(gram for gram in self._entries if len(gram) == order):
                at = len(self._followers)
                self._followers.append(gram[-1])
                self._scores.append(self._entries[gram][0])
                places[gram[:-1]] = (places.get(gram[:-1], (at,))[0], at + 1)
        return places

    def _shortened(self, words: Context) -> Context:
        """The last words that the model knows as a context: equal contexts make equal hypotheses."""
        for first in range(max(0, len(words) - self.order + 1), len(words)):
            if words[first:] in self._entries:
                return words[first:]
        return ()


@lru_cache(maxsize=2)
def read(path: Path) -> NGram:
    """Return the n-gram of an ARPA file, plain or gzip-compressed; read once.

    Raises:
        ValueError: it is no ARPA file, or incomplete; says what is wrong.
        OSError: it cannot be read.
    """
    compressed = path.read_bytes()[:2] == b"\x1f\x8b"
    try:
        with (gzip.open if compressed else open)(path, "rt", encoding="utf-8") as file:
            return NGram(_once(_entries(file)))
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no ARPA file: {error}") from None


def _entries(lines: Iterable[str]) -> Iterator[tuple[Context, tuple[float, float]]]:
    order, expected, found = 0, 0, 0
    for number, line in enumerate(lines, 1):
        if line[0] not in "\\n\r\n":
            if order:
                found += 1
                yield _entry(line.split(), order, number)
        elif line.startswith("ngram "):
            expected += int(line.partition("=")[2])
        elif section := re.match(r"\\(\d+)-grams:", line):
            order = int(section[1])
        elif line.startswith("\\end\\"):
            if found != expected:
                raise ValueError(f"{found} n-grams where {expected} were announced")
            return
    raise ValueError("it has no end")


def _once(entries: Iterable[tuple[Context, tuple[float, float]]]) -> dict[Context, tuple[float, float]]:
    """What is the same but for its case cannot be told apart, and the weights of such contexts do not add up."""
    found: dict[Context, tuple[float, float]] = {}
    for gram, numbers in entries:
        if gram in found:
            raise ValueError(f"in upper case it has {' '.join(gram)!r} twice; make it of text in one case")
        found[gram] = numbers
    return found


def _entry(fields: list[str], order: int, number: int) -> tuple[Context, tuple[float, float]]:
    if not order < len(fields) <= order + 2:
        raise ValueError(
            f"line {number} has {len(fields)} fields; a {order}-gram has {order + 1} or one more"
        )
    backoff = LN_10 * float(fields[-1]) if len(fields) == order + 2 else 0.0
    words = fields[1 : order + 1]
    return tuple([_folded(word) for word in words]), (LN_10 * float(fields[0]), backoff)


def _folded(word: str) -> str:
    """In upper case, but for marks such as <s>; one object for a word, as it is in many n-grams."""
    return sys.intern(word if word[0] == "<" else word.upper())
