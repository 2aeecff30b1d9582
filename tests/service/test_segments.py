"""Where a stream's text is cut, and when it is said, as its frames come in."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.ctc import StreamDecoder, Vocabulary, greedy
from service.segments import Final, Partial, Rules, Segments
from tests.fakes import LETTERS

VOCABULARY = Vocabulary(LETTERS)
HOP_S = 0.02
RULES = Rules(silence_s=0.2, empty_s=0.4, longest_s=1.0)  # 10, 20 and 50 frames


def frames(path: str) -> np.ndarray:
    """Scores of one frame a symbol: letters, space, and _ for nothing."""
    scores = np.full((len(path), len(LETTERS)), -5.0, np.float32)
    best = [LETTERS.index({" ": "|", "_": "<pad>"}.get(symbol, symbol)) for symbol in path]
    scores[np.arange(len(path)), best] = -0.1
    return scores


def segments(rules: Rules = RULES) -> Segments:
    return Segments(StreamDecoder(VOCABULARY, HOP_S), HOP_S, rules)


def spans(said: list[Partial | Final]) -> list[tuple[int, str, float, float]]:
    return [(s.segment, s.text, s.start, s.end) for s in said if isinstance(s, Final)]


def hear(path: str, size: int, rules: Rules = RULES) -> list[Partial | Final]:
    """What is said of a path that comes `size` frames at a time."""
    stream = segments(rules)
    said = []
    for at in range(0, len(path), size):
        said += stream.push(frames(path[at : at + size]))
    return said + stream.end()


def test_a_partial_has_the_segments_whole_text_and_says_how_far_it_goes() -> None:
    stream = segments()
    assert stream.push(frames("_AB")) == [Partial(0, "AB", 0.06)]
    assert stream.push(frames("__")) == []
    assert stream.push(frames("_C_ D")) == [Partial(0, "ABC D", 0.2)]


def test_silence_after_text_makes_a_final_at_once() -> None:
    stream = segments()
    stream.push(frames("HI "))
    assert stream.push(frames("_" * 8)) == []
    (final,) = stream.push(frames("_"))
    assert isinstance(final, Final)
    assert (final.segment, final.text, final.start, final.end) == (0, "HI", 0.0, 0.04)
    assert [word.word for word in final.words] == ["HI"]
    assert stream.push(frames("_" * 100)) == [] and stream.end() == []


@pytest.mark.parametrize("size", [1, 3, 8, 32, 1000])
def test_a_pause_between_words_parts_them_however_long_the_chunks_are(size: int) -> None:
    path = "AB CD" + " _________" + "EF" + " " + "_" * 30 + "G"
    assert spans(hear(path, size)) == [
        (0, "AB CD", 0.0, 0.1),
        (1, "EF", 0.3, 0.34),
        (2, "G", 0.96, 0.98),
    ]


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_long_segment_ends_with_the_last_word_that_fits(size: int) -> None:
    said = spans(hear("ABC " * 30, size))
    assert [len(text.split()) for _, text, _, _ in said] == [12, 12, 6]
    assert [end for *_, end in said] == [0.94, 1.9, 2.38]


def test_a_word_that_does_not_end_is_not_cut() -> None:
    assert [text for _, text, *_ in spans(hear("AB" * 100 + " CD", 8))] == ["AB" * 100, "CD"]


@pytest.mark.parametrize("size", [1, 8, 1000])
def test_silence_before_text_does_not_count_towards_its_length(size: int) -> None:
    said = spans(hear("_" * 165 + "ABC " * 20, size))
    assert [len(text.split()) for _, text, *_ in said] == [11, 9]  # 5 frames of the silence count, not 165


def test_what_was_shown_for_a_flush_is_taken_back_when_it_was_wrong() -> None:
    stream = segments()
    assert stream.preview(frames("AB")) == [Partial(0, "AB", 0.04)]
    assert stream.preview(frames("AB")) == []
    assert stream.push(frames("A___")) == [Partial(0, "A", 0.08)]
    assert stream.preview(frames("___B")) == [Partial(0, "AB", 0.16)]
    assert spans(stream.end()) == [(0, "A", 0.0, 0.02)]


def test_text_that_was_shown_and_is_gone_gets_an_empty_final() -> None:
    stream = segments()
    stream.preview(frames("AB"))
    (final,) = stream.end()
    assert isinstance(final, Final) and (final.text, final.words) == ("", [])
    stream = segments()
    stream.preview(frames("AB"))
    (gone,) = stream.push(
        frames("__")
    )  # a session leaves the last chunk's partial out: its final comes at once
    (final,) = stream.end()
    assert isinstance(gone, Partial) and isinstance(final, Final) and gone.text == final.text == ""


@settings(deadline=None)
@given(st.text(alphabet="AB_ ", max_size=400), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_finals_have_every_word_once_in_order_with_the_streams_own_times(path: str, sizes: list[int]) -> None:
    stream, said, at = segments(), [], 0
    while at < len(path):
        size = sizes.pop(0) if sizes else 32
        said += stream.push(frames(path[at : at + size]))
        at += size
    said += stream.end()
    finals = [event for event in said if isinstance(event, Final)]
    assert [final.segment for final in finals] == list(range(len(finals)))
    words = [word for final in finals for word in final.words]
    text, expected = greedy(frames(path), VOCABULARY, HOP_S)
    # A pause within a word, with no space in it, ends the word: there is no knowing whether it will go on.
    assert "".join(word.word for word in words) == text.replace(" ", "")
    assert {word.start for word in expected} <= {word.start for word in words}
    for before, after in pairwise(words):
        assert before.end <= after.start
    for final in finals:
        assert final.text == " ".join(word.word for word in final.words)
        assert (final.start, final.end) == (final.words[0].start, final.words[-1].end)
        assert all(after.start - before.end < RULES.silence_s for before, after in pairwise(final.words))


@settings(deadline=None)
@given(st.text(alphabet="AB_ ", max_size=200), st.integers(1, 60))
def test_a_client_that_replaces_partials_and_keeps_finals_has_the_text(path: str, size: int) -> None:
    kept: list[str] = []
    shown = ""
    for event in hear(path, size):
        assert event.segment == len(kept)
        if isinstance(event, Final):
            kept, shown = [*kept, event.text], ""
        else:
            assert event.text != shown
            shown = event.text
    assert shown == ""
    assert "".join(kept).replace(" ", "") == greedy(frames(path), VOCABULARY, HOP_S)[0].replace(" ", "")
