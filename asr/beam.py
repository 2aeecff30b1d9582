"""CTC prefix beam search, with hot words and a word n-gram: from frame posteriors to words (Hannun et al., 2014).

A text's probability is the sum over all paths that spell it (Graves et al., 2006); the greedy path is but one of them.
For each text there is the probability that the latest frame was a blank, and that it was the text's last letter; the
texts that are worth keeping after a frame are the beam. What a text gets for its words and hot words is a factor of its
own, the same on whichever path it was reached. A word pays as its letters come (`search.BeamSearch.grown`).

Beside these sums each text keeps its single best path (Viterbi): the words' times and confidences are those of its
letters' frames, as they are for the greedy path in `ctc`.

What comes before a space up to which all texts agree is done with; only what is open is kept and compared. None of this
looks ahead, or at how the frames were cut into pieces, so what comes in pieces says what the whole does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np

from asr.ctc import Word, check
from asr.search import BeamSearch, Candidates, Letter, Text

# Characters on which the beam does not agree; beyond, the best text's first half is taken as agreed. With more (400)
# texts that differ in a word long ago crowd out those that differ in the latest: more errors, and later finished words.
MOST_OPEN = 60
SMALL = 1e-100


class BeamDecoder:
    """A beam search over scores that come in pieces; used like `ctc.StreamDecoder`.

    At any time it says what the search would of all pieces joined, were that the end.
    """

    def __init__(self, search: BeamSearch, seconds_per_frame: float) -> None:
        """Take what to search by, and the hop between frames."""
        self.search = search
        self.frames = 0
        self.seconds_per_frame = seconds_per_frame
        self._beam: list[Text] = []  # first the likeliest; empty before the first frame
        self._silent = False  # whether in all texts the latest frame was a blank
        self._finished: list[Word] = []
        self._open: list[Word] = []  # what the best text says after those
        self._cut: list[str] = []  # words taken off it, which the beam does not know of yet
        self._over_s = 0.0  # end of the last word that is finished or cut

    def push(self, log_probs: np.ndarray) -> None:
        """Hear the next piece, float [frames, vocabulary] of natural logarithms, of any length.

        Raises:
            ValueError: wrong shape, NaN, or a file of the n-gram that is none.
            OSError: that file cannot be read.
        """
        check(log_probs, self.search.vocabulary)
        self._beam = self._beam or [self.search.start()]
        self._take_off()
        for blank, candidates in self.search.frames(log_probs):
            # Once all texts end in a blank, more of them change nothing.
            if candidates or not self._silent:
                self._hear(blank, candidates)
                self._agree()
            self._silent = not candidates
            self.frames += 1
        self._conclude()

    @property
    def finished(self) -> list[Word]:
        """The words since the last cut that nothing can change any more."""
        return list(self._finished)

    @property
    def words(self) -> list[Word]:
        """All words since the last cut; the next piece may change those that are not finished."""
        return self._finished + self._open

    @property
    def text(self) -> str:
        """The same as one string."""
        return " ".join(word.word for word in self.words)

    def cut(self, count: int) -> list[Word]:
        """Take the first `count` words off, for good: texts that have others there are given up."""
        taken = self.words[:count]
        self._over_s = max([self._over_s, *(word.end for word in taken[-1:])])
        more = max(0, count - len(self._finished))
        self._finished = self._finished[count:]
        self._cut = [*self._cut, *(word.word for word in self._open[:more])]
        self._open = self._open[more:]
        return taken

    def put_back(self, words: list[Word]) -> None:
        """Undo a cut of finished words, so that those who carry a search from place to place need not carry them."""
        self._finished = words + self._finished

    def copy(self) -> BeamDecoder:
        """Another one that stands where this one does."""
        return copy.copy(self)

    def _hear(self, blank: float, candidates: Candidates) -> None:
        """One frame: every text stays as it is, or grows by one of the candidates; the likeliest are kept."""
        posteriors = dict(candidates)
        texts = {one.text: self._stay(one, blank, posteriors) for one in self._beam}
        least = max(one.mass for one in texts.values()) * self.search.beam.least_text
        for one in self._beam:
            for letter, posterior in candidates:
                if letter != " ":
                    self._grow(texts, one, letter, posterior, least)
                elif one.in_word:
                    self._end_word(texts, one, posterior, least)
        self._keep(texts)

    def _stay(self, one: Text, blank: float, posteriors: dict[str, float]) -> Text:
        """The same text a frame later: a blank, or more of its last letter; between words spaces are blanks."""
        if not one.in_word:
            blank += posteriors.get(" ", 0.0)
        stays = Text(one.text, one.last, one.context, one.place, one.ahead)
        stays.blank = (one.blank + one.token) * blank
        best, stays.path_blank = one.best
        stays.best_blank = best * blank
        again = posteriors.get(one.last, 0.0) if one.last != " " else 0.0
        if again and one.token:
            stays.token, stays.best_token = one.token * again, one.best_token * again
            stays.path_token = _prolonged(one.path_token, self.frames, again) if one.text else ()
        return stays

    def _grow(self, texts: dict[str, Text], one: Text, letter: str, posterior: float, least: float) -> None:
        factor, place, ahead = self.search.grown(one, letter)
        factor *= posterior
        doubled = letter == one.last
        mass = (one.blank if doubled else one.blank + one.token) * factor
        if mass <= least:
            return
        best, path = (one.best_blank, one.path_blank) if doubled else one.best
        grown = texts.get(one.text + letter)
        if not grown:
            grown = texts[one.text + letter] = Text(one.text + letter, letter, one.context, place, ahead)
        grown.token += mass
        if best * factor > grown.best_token or not grown.path_token:
            grown.best_token = best * factor
            grown.path_token = (*path, (self.frames, self.frames, posterior))

    def _end_word(self, texts: dict[str, Text], one: Text, posterior: float, least: float) -> None:
        factor, context, place = self.search.closed(one)
        mass = (one.blank + one.token) * posterior * factor
        if mass <= least:
            return
        grown = texts.get(one.text + " ")
        if not grown:
            grown = texts[one.text + " "] = Text(one.text + " ", " ", context, place)
        best, path = one.best
        grown.token += mass
        if best * posterior * factor > grown.best_token or not grown.path_token:
            grown.best_token, grown.path_token = best * posterior * factor, path

    def _keep(self, texts: dict[str, Text]) -> None:
        """Make the beam of `texts`, on scales that fit into a float."""
        ranked = sorted(texts.values(), key=lambda one: one.blank + one.token, reverse=True)
        best = ranked[0].mass
        least = best * self.search.beam.least_text
        ranked = [one for one in ranked if one.blank + one.token >= least]
        self._beam = ranked if len(ranked) <= self.search.beam.width else self._chosen(ranked)
        best_path = max(one.best[0] for one in self._beam)
        if not (SMALL < best < 1 / SMALL and SMALL < best_path < 1 / SMALL):
            self._beam = [one.scaled(1.0 / (best or 1.0), 1.0 / (best_path or 1.0)) for one in self._beam]

    def _chosen(self, ranked: list[Text]) -> list[Text]:
        """As many as the beam holds: first those that are not behind the likeliest with the same future.

        What comes after two such texts is the same, and adds to the one what it adds to the other: the one that is
        behind hardly ever wins, and would stand in the way of those that differ in what they are about to say.
        """
        leaders: dict[tuple[object, ...], Text] = {}
        chosen: list[Text] = []
        behind: list[Text] = []
        for one in ranked:
            leader = leaders.setdefault(one.future, one)
            ahead = leader is one or one.blank > leader.blank or one.token > leader.token
            (chosen if ahead else behind).append(one)
            if len(chosen) == self.search.beam.width:
                return chosen
        return (chosen + behind)[: self.search.beam.width]

    def _agree(self) -> None:
        """Finish the words that all texts have in common, with the times that the best of them gives."""
        best = self._beam[0]
        if " " not in best.text:
            return
        agreed = _common(min(one.text for one in self._beam), max(one.text for one in self._beam))
        if not agreed and len(best.text) > MOST_OPEN:
            agreed = best.text.rfind(" ", 0, MOST_OPEN // 2) + 1 or best.text.find(" ") + 1
        if agreed:
            words = best.text[:agreed]
            self._finished = self._finished + list(self._timed(words, best.best[1]))
            self._over_s = self._finished[-1].end
            self._beam = [one.without(agreed) for one in self._beam if one.text.startswith(words)]

    def _take_off(self) -> None:
        """Have the beam forget the words that were cut, and give up the texts without them."""
        words, self._cut = " ".join(self._cut), []
        if not words:
            return
        rest: dict[str, Text] = {}
        for one in self._beam:
            if one.text == words:  # its last word ends here, without a space
                factor, context, place = self.search.closed(one)
                one = one.scaled(factor, factor)
                one.context, one.place, one.ahead = context, place, 0.0
            if one.text == words or one.text.startswith(f"{words} "):
                one = one.without(len(words))
                rest[one.text] = _joined(rest[one.text], one) if one.text in rest else one
        self._beam = sorted(rest.values(), key=lambda one: one.mass, reverse=True)

    def _conclude(self) -> None:
        """Find the best text, were this the end. With or without a space behind it, it is the same."""
        ends: dict[str, tuple[float, float, tuple[Letter, ...]]] = {}
        for one in self._beam:
            factor = self.search.ended(one)
            best, path = one.best
            mass, before, kept = ends.get(one.text.rstrip(), (0.0, -1.0, ()))
            ends[one.text.rstrip()] = (
                mass + one.mass * factor,
                max(before, best * factor),
                path if best * factor > before else kept,
            )
        text = max(ends, key=lambda text: ends[text][0])
        self._open = list(self._timed(text, ends[text][2]))

    def _timed(self, text: str, path: tuple[Letter, ...]) -> Iterator[Word]:
        """The words with their times, none before the end of those that had theirs from another text's path."""
        at, over_s = 0, self._over_s
        for word in text.split():
            letters = path[at : at + len(word)]
            at += len(word)
            start_s = max(round(letters[0][0] * self.seconds_per_frame, 6), over_s)
            over_s = round((letters[-1][1] + 1) * self.seconds_per_frame, 6)
            over_s = max(over_s, round(start_s + self.seconds_per_frame, 6))
            confidence = min(1.0, *(posterior for _, _, posterior in letters))
            yield Word(word, start=start_s, end=over_s, confidence=confidence)


def _common(first: str, last: str) -> int:
    """How many letters the words that both begin with have, with a space behind each."""
    pairs = enumerate(zip(first, last, strict=False))
    differ = next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))
    return first.rfind(" ", 0, differ) + 1


def _prolonged(path: tuple[Letter, ...], frame: int, posterior: float) -> tuple[Letter, ...]:
    first, _, lowest = path[-1]
    return (*path[:-1], (first, frame, min(lowest, posterior)))


def _joined(one: Text, other: Text) -> Text:
    """Two empty texts, all their words cut off: one went on with a space, the other's last letter may still go on."""
    stays, spaced = (one, other) if other.last == " " else (other, one)
    stays.blank += spaced.mass
    stays.best_blank = max(stays.best_blank, spaced.best[0])
    return stays
