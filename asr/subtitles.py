"""Words with times to subtitles: cues of readable length, in SubRip (srt) and WebVTT (vtt)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.ctc import Word

LINE_CHARACTERS = 42
MAX_CUE_S = 7.0
MIN_CUE_S = 1.0
# Longer than the gaps that spiking letters leave inside fluent speech (see asr/ctc.py).
PAUSE_S = 0.8
# CTC words end before their sound does, and a reader is glad of a moment.
LINGER_S = 0.3
# What is read comfortably; a cue of fast speech stays longer where there is room.
READ_CHARACTERS_PER_S = 20.0
# How much less even two lines may be for a pause between them.
CHARACTERS_PER_PAUSE_S = 40.0


@dataclass(frozen=True)
class Cue:
    """What stands on the screen from `start` to `end` seconds: one or two lines, and the words in them."""

    start: float
    end: float
    lines: list[str]
    words: list[Word]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def cues(words: Sequence[Word], duration_s: float = math.inf) -> list[Cue]:
    """Group words, in their order, into cues.

    A cue has at most two lines of 42 characters (a longer word keeps a line to itself) and lasts at most 7 s. Speech
    is cut at every pause of 0.8 s, and what is still too long at its longest gap near the middle. Two lines are about
    as long, or broken at a pause. A cue stays a moment after its last word, at least a second in all and as long as
    20 characters a second take to read, where the next cue and the sound's end, at `duration_s`, leave room for that.
    """
    groups = [part for phrase in _phrases(words) for part in _split(phrase)]
    ends_s = [*(group[0].start for group in groups[1:]), duration_s]
    return [_cue(group, end_s) for group, end_s in zip(groups, ends_s, strict=False)]


def srt(words: Sequence[Word], duration_s: float = math.inf) -> str:
    """Return a SubRip document; empty when there are no words."""
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(words, duration_s), start=1)
    )
    return "\n".join(blocks)


def vtt(words: Sequence[Word], duration_s: float = math.inf) -> str:
    """Return a WebVTT document; only its header when there are no words."""
    blocks = (
        f"\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + html.escape("\n".join(cue.lines), quote=False)
        + "\n"
        for cue in cues(words, duration_s)
    )
    return "WEBVTT\n" + "".join(blocks)


def _phrases(words: Sequence[Word]) -> list[list[Word]]:
    phrases: list[list[Word]] = []
    for word in words:
        if phrases and word.start - phrases[-1][-1].end < PAUSE_S:
            phrases[-1].append(word)
        else:
            phrases.append([word])
    return phrases


def _split(words: list[Word]) -> list[list[Word]]:
    if len(words) == 1 or _fits(words):
        return [words]
    cut = _cut(words)
    return _split(words[:cut]) + _split(words[cut:])


def _fits(words: list[Word]) -> bool:
    spoken_s = words[-1].end - words[0].start
    return spoken_s + LINGER_S <= MAX_CUE_S and max(map(len, _lines(words))) <= LINE_CHARACTERS


def _cut(words: list[Word]) -> int:
    """The longest gap of the middle half; of gaps alike, the one nearest to the middle."""
    middle = len(words) / 2
    allowed = range(max(1, len(words) // 4), max(2, len(words) - len(words) // 4))
    return max(allowed, key=lambda cut: (words[cut].start - words[cut - 1].end, -abs(cut - middle)))


def _lines(words: list[Word]) -> list[str]:
    """One line where it is short enough, else two that fit if any do: even ones, or parted by a pause."""
    text = _text(words)
    if len(text) <= LINE_CHARACTERS or len(words) == 1:
        return [text]

    def unevenness(cut: int) -> tuple[bool, float]:
        longer = max(len(_text(words[:cut])), len(_text(words[cut:])))
        pause_s = words[cut].start - words[cut - 1].end
        return longer > LINE_CHARACTERS, round(longer - CHARACTERS_PER_PAUSE_S * pause_s, 3)

    best = min(range(1, len(words)), key=unevenness)
    return [_text(words[:best]), _text(words[best:])]


def _text(words: list[Word]) -> str:
    return " ".join(word.word for word in words)


def _cue(words: list[Word], latest_s: float) -> Cue:
    start = words[0].start
    read_s = max(MIN_CUE_S, len(_text(words)) / READ_CHARACTERS_PER_S)
    wished = min(max(words[-1].end + LINGER_S, start + read_s), start + MAX_CUE_S)
    return Cue(start, min(wished, latest_s), _lines(words), words)


def _clock(seconds: float, decimal_mark: str) -> str:
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{decimal_mark}{ms % 1000:03d}"
