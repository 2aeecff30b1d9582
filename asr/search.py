"""What a beam search goes by: its settings, the texts that it compares, the n-gram and the hot words.

See `asr.beam` for the search itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from asr import ngram
from asr.ctc import Vocabulary
from asr.hot_words import HotWords
from asr.ngram import Context, NGram

Letter = tuple[int, int, float]  # first and last frame, lowest posterior in them
Candidates = list[tuple[str, float]]  # letters, or a space, that a frame may hold, and their posteriors


@dataclass(frozen=True)
class Beam:
    """How to search.

    Attributes:
        width: the most texts that are kept after a frame.
        hot_words: words and phrases to prefer, in any case.
        boost: what each of their letters earns, as a natural logarithm.
        lm: file of a word n-gram (see `asr.ngram`); `ngram.BUNDLED` is the bundled one.
        alpha: weight of the n-gram's log-probabilities.
        beta: what each word earns beside them, as a natural logarithm: without it, fewer words are likelier.
        blank_penalty: what each blank costs where an n-gram is, as a natural logarithm: CTC is too sure of them, so
            that words would get lost.
        least_token: posterior below which a frame cannot hold a letter.
        least_text: share of the best text's probability below which another is given up.
    """

    width: int = 128
    hot_words: tuple[str, ...] = ()
    boost: float = 1.0
    lm: Path | None = None
    alpha: float = 1.1
    beta: float = 0.5
    blank_penalty: float = 1.0
    least_token: float = 1e-3
    least_text: float = 1e-6


class Text:
    """One text of the beam. Never changed after its frame.

    All of the beam share the scale of the probabilities, and that of the best paths' own, which fall faster.
    """

    __slots__ = (
        "ahead",
        "best_blank",
        "best_token",
        "blank",
        "context",
        "last",
        "path_blank",
        "path_token",
        "place",
        "text",
        "token",
    )

    def __init__(self, text: str, last: str, context: Context, place: int, ahead: float = 0.0) -> None:
        self.text, self.last, self.context, self.place = text, last, context, place
        self.ahead = ahead  # what its open word has been given in advance, a natural logarithm
        self.blank = self.token = 0.0  # probability with a blank last, with the letter `last` last
        self.best_blank = self.best_token = 0.0  # of the best paths that end so
        self.path_blank: tuple[Letter, ...] = ()
        self.path_token: tuple[Letter, ...] = ()

    @property
    def mass(self) -> float:
        return self.blank + self.token

    @property
    def in_word(self) -> bool:
        return bool(self.text) and self.text[-1] != " "

    @property
    def open_word(self) -> str:
        """What of it is behind the last space."""
        return self.text[self.text.rfind(" ") + 1 :]

    @property
    def future(self) -> tuple[object, ...]:
        """All that what comes next depends on, but for the probabilities so far."""
        return self.context, self.open_word, self.last, self.place

    @property
    def best(self) -> tuple[float, tuple[Letter, ...]]:
        """The best path, whatever it ends in, and its probability on the best paths' scale."""
        if self.best_blank > self.best_token or not self.token:
            return self.best_blank, self.path_blank
        return self.best_token, self.path_token

    def scaled(self, factor: float, best_factor: float) -> Text:
        other = copy.copy(self)
        other.blank, other.token = self.blank * factor, self.token * factor
        other.best_blank, other.best_token = self.best_blank * best_factor, self.best_token * best_factor
        return other

    def without(self, letters: int) -> Text:
        """The same without its first characters, up to a space, or all of them; in time it goes on."""
        other = copy.copy(self)
        other.text = self.text[letters:].lstrip(" ")
        gone = len(self.text[:letters].replace(" ", ""))
        other.path_blank, other.path_token = self.path_blank[gone:], self.path_token[gone:]
        return other


class BeamSearch:
    """What a search goes by: the vocabulary, the n-gram, the hot words. Shared by all decoders that search alike."""

    def __init__(self, beam: Beam, vocabulary: Vocabulary) -> None:
        """Take how to search, and the tokens of the scores' columns.

        Raises:
            ValueError: a number out of range, or a hot word that the vocabulary cannot spell; names it.
        """
        self.beam, self.vocabulary = beam, vocabulary
        _check_numbers(beam)
        self._spelled = [spelled.split() for spelled in map(self._spell, beam.hot_words) if spelled.strip()]
        self._named = {word for phrase in self._spelled for word in phrase}
        self._named_begun = {word[:size] for word in self._named for size in range(1, len(word) + 1)}
        ids = np.arange(len(vocabulary))
        self._is_text = vocabulary.is_text(ids)
        self._letters = [
            " " if i == vocabulary.delimiter else vocabulary.tokens[i] for i in ids[self._is_text]
        ]

    def __reduce__(self) -> tuple[object, ...]:
        """To another process go the settings alone; the rest is made there, once."""
        return search_of, (self.beam, tuple(self.vocabulary.tokens))

    @cached_property
    def lm(self) -> NGram | None:
        """Read when it is first needed. Raises what `ngram.read` raises."""
        return ngram.read(self.beam.lm) if self.beam.lm else None

    @cached_property
    def hot_words(self) -> HotWords | None:
        return HotWords(self._spelled, self.beam.boost) if self._spelled else None

    def start(self) -> Text:
        """The empty text."""
        text = Text("", " ", self.lm.start if self.lm else (), 0)
        text.blank = text.best_blank = 1.0
        return text

    def frames(self, log_probs: np.ndarray) -> Iterator[tuple[float, Candidates]]:
        """Of each frame the posterior of a blank, which specials are as well, and what letters it may hold."""
        posteriors = np.exp(log_probs.astype(np.float64))
        cost = math.exp(-self.beam.blank_penalty) if self.beam.lm else 1.0
        blanks = (cost * posteriors[:, ~self._is_text].sum(axis=1)).tolist()
        letters = posteriors[:, self._is_text]
        candidates: list[Candidates] = [[] for _ in blanks]
        for frame, column in np.argwhere(letters > self.beam.least_token).tolist():
            candidates[frame].append((self._letters[column], float(letters[frame, column])))
        return zip(blanks, candidates, strict=True)

    def grown(self, one: Text, letter: str) -> tuple[float, int, float]:
        """What one more letter changes: a factor, where the hot words then are, and the new `ahead`.

        With the n-gram an open word w has alpha max ln P(w... | context) + beta in advance (`NGram.ahead`), so that a
        word pays as its letters come. Were it all due at the end of the word, a text would gain by never ending one.
        """
        factor, place, ahead = 1.0, one.place, 0.0
        if self.lm:
            begun = one.open_word + letter
            most = self.lm.ahead(one.context, begun, begun in self._named_begun)
            ahead = self.beam.alpha * most + self.beam.beta
            factor = math.exp(ahead - one.ahead)
        if self.hot_words:
            place, change = self.hot_words.move(place, letter)
            factor *= change
        return factor, place, ahead

    def closed(self, one: Text) -> tuple[float, Context, int]:
        """What the end of the word that `one` is in changes: a factor, and where n-gram and hot words then are."""
        factor, context, place = 1.0, one.context, one.place
        if self.lm:
            word = one.open_word
            log_prob, context = self.lm.score(context, word, word in self._named)
            factor = math.exp(self.beam.alpha * log_prob + self.beam.beta - one.ahead)
        if self.hot_words:
            place, change = self.hot_words.move(place, " ")
            factor *= change
        return factor, context, place

    def ended(self, one: Text) -> float:
        """What it changes if the text ends here: its last word, and hot words that are not complete."""
        factor, _, place = self.closed(one) if one.in_word else (1.0, (), one.place)
        return factor * math.exp(-self.hot_words.pending(place)) if self.hot_words else factor

    def _spell(self, phrase: str) -> str:
        try:
            return self.vocabulary.decode(self.vocabulary.encode(phrase))
        except ValueError as error:
            raise ValueError(f"hot word {phrase!r}: {error}") from None


@lru_cache(maxsize=32)  # of so many callers with names of their own at a time; a hundred long names take 2 MB
def search_of(beam: Beam, tokens: tuple[str, ...]) -> BeamSearch:
    """The search with these settings over these tokens, made once. Raises what `BeamSearch` raises."""
    return BeamSearch(beam, Vocabulary(list(tokens)))


def _check_numbers(beam: Beam) -> None:
    if beam.width < 1:
        raise ValueError(f"a beam's width is {beam.width}; at least 1")
    for name, most in {
        "boost": 10.0,
        "alpha": 10.0,
        "beta": 10.0,
        "blank_penalty": 10.0,
        "least_token": 1.0,
        "least_text": 1.0,
    }.items():
        if not 0.0 <= getattr(beam, name) <= most:
            raise ValueError(f"a beam's {name} is {getattr(beam, name)}; from 0 to {most:g}")
