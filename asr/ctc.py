"""CTC: the vocabulary, and the greedy path from frame posteriors to words.

Greedy CTC takes the best token of each frame, merges equal neighbours, then drops blanks (Graves et al.,
2006). So HELLO keeps both L only if a blank lies between them: that is what the loss teaches a model to emit.

Word times are those of the letters' frames. CTC may place a letter anywhere in its sound, and learns spikes:
one or two frames, rather late, blanks around them. So a word tends to start a little late, to end early (at
its last letter's spike, not with its sound), and A lasts one frame. Expect errors of tens of milliseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

BLANKS = ("<pad>", "[PAD]")
DELIMITERS = ("|", " ")


@dataclass(frozen=True)
class Word:
    """A recognised word: `start` and `end` in s, `confidence` the lowest posterior of its letters' frames."""

    word: str
    start: float
    end: float
    confidence: float


class Vocabulary:
    """The tokens of a CTC model: letters, a word delimiter, a blank, and specials that are never text."""

    def __init__(self, tokens: list[str]) -> None:
        """Take the tokens in the order of their ids.

        Raises:
            ValueError: a token occurs twice, or there is no blank or no word delimiter.
        """
        if len(set(tokens)) != len(tokens):
            raise ValueError(f"tokens occur twice: {sorted({t for t in tokens if tokens.count(t) > 1})}")
        self.tokens = list(tokens)
        self._ids = {token: index for index, token in enumerate(tokens)}
        self.blank = self._first(BLANKS, "blank")
        self.delimiter = self._first(DELIMITERS, "word delimiter")
        self._is_text = np.array([not _is_special(token) for token in tokens], dtype=bool)
        self._is_text[self.delimiter] = True

    @classmethod
    def from_tokens(cls, ids: Mapping[str, int]) -> Vocabulary:
        """Build from a `vocab.json` mapping of token to id.

        Raises:
            ValueError: the ids are not 0..n-1, each once, or see `__init__`.
        """
        if sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"token ids must be 0..{len(ids) - 1}, each once; got {sorted(ids.values())}")
        return cls(sorted(ids, key=ids.__getitem__))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, folded to the vocabulary's case; words are parted by one delimiter.

        Raises:
            ValueError: characters that the vocabulary lacks; names them.
        """
        joined = " ".join(text.split())
        ids = {character: self._id(character) for character in set(joined)}
        known = {character: index for character, index in ids.items() if index is not None}
        if unknown := sorted(ids.keys() - known):
            raise ValueError(f"characters not in the vocabulary: {' '.join(map(repr, unknown))}")
        return [known[character] for character in joined]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, the inverse of `encode`: specials and blanks drop, nothing is merged."""
        kept = (index for index in ids if self._is_text[index])
        return " ".join("".join(" " if i == self.delimiter else self.tokens[i] for i in kept).split())

    def is_text(self, ids: np.ndarray) -> np.ndarray:
        """Return a bool array like `ids` [n]: letters and the delimiter True, blank and specials False."""
        text: np.ndarray = self._is_text[ids]
        return text

    def _first(self, names: tuple[str, ...], what: str) -> int:
        found = [self._ids[name] for name in names if name in self._ids]
        if not found:
            raise ValueError(f"the vocabulary has no {what}: one of {', '.join(map(repr, names))} is needed")
        return found[0]

    def _id(self, character: str) -> int | None:
        if character == " ":
            return self.delimiter
        folds = (character, character.upper(), character.lower())
        found = [self._ids[c] for c in folds if c in self._ids and c != self.tokens[self.delimiter]]
        return found[0] if found else None


def greedy(log_probs: np.ndarray, vocabulary: Vocabulary, seconds_per_frame: float) -> tuple[str, list[Word]]:
    """Return the best path's text and words.

    Args:
        log_probs: float [frames, vocabulary], natural logarithms, each row's probabilities sum to 1.
        vocabulary: the tokens, one per column.
        seconds_per_frame: the hop between frames; frame i starts at i times this.

    Returns:
        The text in the vocabulary's case, and its words. A word lasts from the start of its first letter's
        first frame to the end of its last letter's last frame (this file's docstring says how exact that is).

    Raises:
        ValueError: wrong shape, or NaN, which would otherwise read as silence.
    """
    decoder = StreamDecoder(vocabulary, seconds_per_frame)
    decoder.push(log_probs)
    return decoder.text, decoder.words


class StreamDecoder:
    """`greedy` for scores that come in pieces: at any time it says what `greedy` would of all pieces joined.

    The text of a long stream can be taken off in segments (`cut`): it is forgotten, but time, and `frames`, count on.
    """

    def __init__(self, vocabulary: Vocabulary, seconds_per_frame: float) -> None:
        """Take the tokens of the scores' columns, and the hop between frames."""
        self._vocabulary, self._seconds_per_frame = vocabulary, seconds_per_frame
        self.frames = 0
        self._last_token = -1
        self._finished: list[Word] = []
        self._letters: list[_Run] = []  # of the word that has no delimiter behind it yet

    def push(self, log_probs: np.ndarray) -> None:
        """Hear the next piece, as `greedy` takes it, of any length. Raises what `greedy` raises."""
        check(log_probs, self._vocabulary)
        if not len(log_probs):
            return
        best = log_probs.argmax(axis=1)
        for run in _runs(log_probs, best, self.frames, self._vocabulary):
            if run.first == self.frames and best[0] == self._last_token:
                self._prolong(run)
            elif run.token is None:
                self._finish_word()
            else:
                self._letters.append(run)
        self._last_token = int(best[-1])
        self.frames += len(best)

    @property
    def finished(self) -> list[Word]:
        """The words since the last cut that nothing can change any more."""
        return list(self._finished)

    @property
    def words(self) -> list[Word]:
        """All words since the last cut; the next piece may prolong the last one."""
        return self._finished + ([self._word(self._letters)] if self._letters else [])

    @property
    def text(self) -> str:
        """The same as one string."""
        return " ".join(word.word for word in self.words)

    def cut(self, count: int) -> list[Word]:
        """Take the first `count` words off. If that is all, the last one ends here, with or without a delimiter."""
        taken = self.words[:count]
        if count > len(self._finished):
            self._letters = []
        self._finished = self._finished[count:]
        return taken

    def copy(self) -> StreamDecoder:
        """Another one that stands where this one does."""
        other = copy.copy(self)
        other._finished, other._letters = list(self._finished), list(self._letters)
        return other

    def _prolong(self, run: _Run) -> None:
        """The last piece's last token goes on; where its word was cut off, that has been said already."""
        if run.token is not None and self._letters:
            before = self._letters[-1]
            confidence = min(before.confidence, run.confidence)
            self._letters[-1] = replace(before, last=run.last, confidence=confidence)

    def _finish_word(self) -> None:
        if self._letters:
            self._finished.append(self._word(self._letters))
            self._letters = []

    def _word(self, runs: list[_Run]) -> Word:
        return Word(
            word="".join(self._vocabulary.tokens[run.token] for run in runs if run.token is not None),
            start=round(runs[0].first * self._seconds_per_frame, 6),
            end=round((runs[-1].last + 1) * self._seconds_per_frame, 6),
            confidence=min(run.confidence for run in runs),
        )


@dataclass(frozen=True)
class _Run:
    """Neighbouring frames [first, last] with one best token; `token` None is the word delimiter."""

    token: int | None
    first: int
    last: int
    confidence: float


def _runs(log_probs: np.ndarray, best: np.ndarray, start: int, vocabulary: Vocabulary) -> Iterator[_Run]:
    """The runs of letters and delimiters in frames whose first is the stream's frame `start`."""
    posteriors = np.exp(np.minimum(log_probs.max(axis=1), 0.0))
    firsts = np.flatnonzero(np.diff(best, prepend=-1))
    lasts = np.append(firsts[1:], len(best)) - 1
    lowest = np.minimum.reduceat(posteriors, firsts)
    for run in np.flatnonzero(vocabulary.is_text(best[firsts])):
        token = int(best[firsts[run]])
        yield _Run(
            token if token != vocabulary.delimiter else None,
            start + int(firsts[run]),
            start + int(lasts[run]),
            float(lowest[run]),
        )


def check(log_probs: np.ndarray, vocabulary: Vocabulary) -> None:
    """Raise ValueError where scores are not [frames, vocabulary], or hold NaN."""
    if log_probs.ndim != 2 or log_probs.shape[1] != len(vocabulary):
        raise ValueError(f"log-probs must be [frames, {len(vocabulary)}], got {list(log_probs.shape)}")
    if np.isnan(log_probs).any():
        raise ValueError("log-probs hold NaN")


def _is_special(token: str) -> bool:
    return len(token) > 2 and (token[0] + token[-1] in ("<>", "[]"))
