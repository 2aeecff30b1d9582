"""What a stream says as its scores come in: text so far, and finals where a speaker pauses.

A segment ends
- before a word that starts `silence_s` or more after the one before it, or when nothing was said for that long;
- once it has gone on for `longest_s`, with the last word that was over by then.
Its time counts from the end of the one before it, and anew after every `empty_s` in which nothing was said.
All this goes by the words' times, not by chunks. Only the text is cut: the model's own context lives on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asr.beam import BeamDecoder
from asr.ctc import StreamDecoder, Word

Decoder = StreamDecoder | BeamDecoder


@dataclass(frozen=True)
class Rules:
    """When a segment ends, in seconds; see this file's docstring."""

    silence_s: float = 1.2
    empty_s: float = 2.4
    longest_s: float = 20.0


@dataclass(frozen=True)
class Partial:
    """The text of a segment so far; it may change. It covers `audio_s` of the stream."""

    segment: int
    text: str
    audio_s: float


@dataclass(frozen=True)
class Final:
    """A segment that no longer changes; times in seconds of the stream, from its first word to the end of its last."""

    segment: int
    text: str
    words: list[Word]
    start: float
    end: float


class Segments:
    """One stream's text, cut into segments numbered from 0."""

    def __init__(self, decoder: Decoder, seconds_per_frame: float, rules: Rules) -> None:
        self.decoder, self._seconds_per_frame, self._rules = decoder, seconds_per_frame, rules
        self._number = 0
        self._shown = ""  # what the client takes for the segment's text
        self._told = False  # whether it was ever shown one
        self._since_s = 0.0

    def push(self, log_probs: np.ndarray) -> list[Partial | Final]:
        """Scores [frames, vocabulary] to what there is to say: finals, and a partial where the text has changed."""
        self.decoder.push(log_probs)
        return self.heard(self.decoder)

    def heard(self, decoder: Decoder) -> list[Partial | Final]:
        """The same once `decoder`, which goes on from the one so far, has heard the scores."""
        self.decoder = decoder
        finals = []
        while count := self._complete():
            finals.append(self._final(count))
        return [*finals, *self._partial(self.decoder)]

    def preview(self, log_probs: np.ndarray) -> list[Partial | Final]:
        """What `push` would make of the text, without hearing it."""
        decoder = self.decoder.copy()
        decoder.push(log_probs)
        return self.tried(decoder)

    def tried(self, decoder: Decoder) -> list[Partial | Final]:
        """The same of a decoder that has heard it, in place of the one that goes on."""
        return list(self._partial(decoder))

    def end(self) -> list[Partial | Final]:
        """The last final, where there is text, or has been."""
        return [self._final(len(self.decoder.words))] if self.decoder.words or self._told else []

    @property
    def _now_s(self) -> float:
        return self.decoder.frames * self._seconds_per_frame

    def _complete(self) -> int:
        """How many words make a segment that is over; 0 while it goes on."""
        words = self.decoder.words
        starts = [word.start for word in words[1:]] + [self._now_s]
        for count, (word, after_s) in enumerate(zip(words, starts, strict=False), 1):
            if _span_s(word.end, after_s) >= self._rules.silence_s:
                return count
        silent_s = _span_s(self._since_s, words[0].start if words else self._now_s)
        self._since_s += silent_s - silent_s % self._rules.empty_s
        if _span_s(self._since_s, self._now_s) < self._rules.longest_s:
            return 0
        finished = self.decoder.finished
        fit = [word for word in finished if _span_s(self._since_s, word.end) <= self._rules.longest_s]
        return len(fit or finished[:1])

    def _final(self, count: int) -> Final:
        words = self.decoder.cut(count)
        start, end = (words[0].start, words[-1].end) if words else (self._now_s, self._now_s)
        final = Final(self._number, " ".join(word.word for word in words), words, start, end)
        self._number, self._shown, self._told, self._since_s = self._number + 1, "", False, end
        return final

    def _partial(self, decoder: Decoder) -> list[Partial]:
        text = decoder.text
        if text == self._shown:
            return []
        self._shown, self._told = text, True
        return [Partial(self._number, text, round(decoder.frames * self._seconds_per_frame, 3))]


def _span_s(start_s: float, end_s: float) -> float:
    """From one time to another, without the last digits, in which 0.3 - 0.1 is less than 0.2."""
    return round(end_s - start_s, 6)
