from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asr.ctc import Word
from asr.subtitles import LINE_CHARACTERS, MAX_CUE_S, PAUSE_S, cues, srt, vtt


def spoken(text: str, start: float = 0.0, word_s: float = 0.3, gap_s: float = 0.1) -> list[Word]:
    words = text.split()
    return [
        Word(word, start + i * (word_s + gap_s), start + i * (word_s + gap_s) + word_s, 0.9)
        for i, word in enumerate(words)
    ]


timed_words = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=60), st.floats(0.02, 9), st.floats(0, 3)), max_size=60
)


def laid_out(parts: list[tuple[str, float, float]]) -> list[Word]:
    words, now = [], 0.0
    for text, length, gap in parts:
        words.append(Word(text, now + gap, now + gap + length, 0.5))
        now += gap + length
    return words


@given(timed_words)
def test_cues_keep_all_words_and_all_limits(parts: list[tuple[str, float, float]]) -> None:
    words = laid_out(parts)
    found = cues(words)
    assert [word for cue in found for word in cue.words] == words
    for cue in found:
        assert cue.text == " ".join(word.word for word in cue.words)
        assert len(cue.lines) <= 2
        assert all(len(line) <= LINE_CHARACTERS or " " not in line for line in cue.lines)
        assert cue.start == cue.words[0].start
        assert cue.start < cue.end <= cue.start + MAX_CUE_S
    assert all(one.end <= two.start for one, two in pairwise(found))


def test_a_pause_parts_cues() -> None:
    words = spoken("good morning") + spoken("how are you", start=0.7 + PAUSE_S)
    assert [cue.lines for cue in cues(words)] == [["good morning"], ["how are you"]]


def test_two_lines_are_about_as_long() -> None:
    (cue,) = cues(spoken("the quick brown fox jumps over the lazy dog and runs", word_s=0.2))
    assert cue.lines == ["the quick brown fox jumps", "over the lazy dog and runs"]


def test_two_lines_part_at_a_pause() -> None:
    words = spoken("we went to the market early", word_s=0.2)
    words += spoken("and nobody was there", start=words[-1].end + 0.6, word_s=0.2)
    (cue,) = cues(words)
    assert cue.lines == ["we went to the market early", "and nobody was there"]


def test_no_pause_makes_a_line_too_long() -> None:
    words = spoken("yes", word_s=0.2)
    words += spoken("but the quick brown fox jumps over the lazy dog", start=0.8, word_s=0.2)
    (cue,) = cues(words)
    assert cue.lines == ["yes but the quick brown", "fox jumps over the lazy dog"]


def test_fast_speech_stays_to_be_read() -> None:
    words = spoken("twenty characters in a second take this reader", word_s=0.05, gap_s=0.02)
    (cue,) = cues(words)
    assert cue.end - cue.start == len(cue.text) / 20 > words[-1].end + 1.0
    first, _ = cues([*words, Word("next", 2.0, 2.2, 0.9)])
    assert first.end == 2.0


def test_fluent_speech_is_cut_at_its_longest_gap() -> None:
    first, second = "one two three four five six seven eight", "nine ten eleven twelve thirteen"
    words = spoken(first, word_s=0.5)
    words += spoken(second, start=words[-1].end + 0.5, word_s=0.5)
    assert [cue.text for cue in cues(words)] == [first, second]


def test_a_short_word_stays_for_a_second() -> None:
    (cue,) = cues([Word("yes", 2.0, 2.1, 0.9)])
    assert (cue.start, cue.end) == (2.0, 3.0)


def test_srt() -> None:
    words = [*spoken("well then", start=3599.5, word_s=0.2), Word("bye", 3603.0, 3603.5, 0.9)]
    assert srt(words) == (
        "1\n00:59:59,500 --> 01:00:00,500\nwell then\n\n2\n01:00:03,000 --> 01:00:04,000\nbye\n"
    )


def test_vtt_escapes_markup() -> None:
    words = [Word("<b>", 0.0, 0.5, 0.9), Word("R&B", 0.6, 1.2, 0.9)]
    assert vtt(words) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n&lt;b&gt; R&amp;B\n"


def test_no_words() -> None:
    assert (cues([]), srt([]), vtt([])) == ([], "", "WEBVTT\n")
