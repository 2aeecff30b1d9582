"""The beam search against all paths there are, in pieces as in one, and what hot words and an n-gram do to it."""

import itertools
import math
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import ngram
from asr.beam import BeamDecoder
from asr.ctc import Vocabulary, greedy
from asr.search import Beam, BeamSearch, search_of
from tests.conftest import TOKENS

SMALL = Vocabulary(["<pad>", "<s>", "|", "A", "B"])
LARGE = Vocabulary(TOKENS)
HOP_S = 0.02
EVERYTHING = Beam(width=10**6, least_token=0.0, least_text=0.0)


def scores(frames: int, seed: int, vocabulary: Vocabulary = SMALL, sharpness: float = 2.0) -> np.ndarray:
    """Random log-probs [frames, vocabulary]."""
    logits = np.random.default_rng(seed).normal(0, sharpness, (frames, len(vocabulary)))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def spelled(texts: dict[str, float]) -> np.ndarray:
    """Log-probs in which each of the texts, of equal length, a frame a letter and a blank between, has its share."""
    (length,) = {len(text) for text in texts}
    rows = np.full((2 * length, len(LARGE)), 1e-9)
    rows[1::2, LARGE.blank] = 1.0
    for text, share in texts.items():
        for at, letter in enumerate(LARGE.encode(text)):
            rows[2 * at, letter] += share
    return np.log(rows / rows.sum(1, keepdims=True))


def decoded(log_probs: np.ndarray, beam: Beam = EVERYTHING, vocabulary: Vocabulary = SMALL) -> BeamDecoder:
    decoder = BeamDecoder(BeamSearch(beam, vocabulary), HOP_S)
    decoder.push(log_probs)
    return decoder


def all_texts(log_probs: np.ndarray, blank_penalty: float = 0.0) -> dict[str, float]:
    """The probability of every text: of all paths, one by one, in which blanks may cost something."""
    log_probs = log_probs.copy()
    log_probs[:, :2] -= blank_penalty  # <s> is one as well
    texts: dict[str, float] = {}
    for path in itertools.product(range(len(SMALL)), repeat=len(log_probs)):
        kept = [token for token, group in itertools.groupby(path)]
        text = SMALL.decode(kept)
        probability = float(np.exp(sum(row[token] for row, token in zip(log_probs, path, strict=True))))
        texts[text] = texts.get(text, 0.0) + probability
    return texts


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_likeliest_of_all_texts_and_its_probability(seed: int) -> None:
    log_probs = scores(1 + seed % 6, seed)
    texts = all_texts(log_probs)
    search = decoded(log_probs)
    best = max(texts, key=texts.__getitem__)
    assert search.text == best
    if not search.finished:  # what is agreed on is no longer in the beam's texts
        found: dict[str, float] = {}
        for one in search._beam:
            found[one.text.strip()] = found.get(one.text.strip(), 0.0) + one.mass
        assert found == pytest.approx({text: texts[text] for text in found})
        assert found[best] == pytest.approx(texts[best])


def test_searches_for_many_callers_names_take_little_memory() -> None:
    """Of as many callers as are remembered, each with as many and as long names as the service takes."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 9)) for _ in range(500)]
    names = tuple(" ".join(words[at : at + 5]) for at in range(0, 500, 5))
    tracemalloc.start()
    try:
        hot_words = BeamSearch(Beam(hot_words=names), LARGE).hot_words
        assert hot_words
        for place in range(len(hot_words._places)):
            for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ ":
                hot_words.move(place, letter)
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken_bytes * search_of.cache_info().maxsize < 100e6


def test_a_text_of_many_paths_beats_the_best_path() -> None:
    """Blank is likeliest in both frames, but three paths say A."""
    log_probs = np.log(np.array([[0.6, 1e-9, 1e-9, 0.4, 1e-9]] * 2))
    assert greedy(log_probs, SMALL, HOP_S)[0] == ""
    assert decoded(log_probs).text == "A"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 25), st.integers(0, 10**6), st.lists(st.integers(1, 7), max_size=40))
def test_pieces_say_exactly_what_the_whole_says(frames: int, seed: int, sizes: list[int]) -> None:
    log_probs = scores(frames, seed, sharpness=4.0)
    beam = Beam(width=4, hot_words=("ab", "b a"))
    whole = decoded(log_probs, beam)
    pieces, at = BeamDecoder(whole.search, HOP_S), 0
    for size in [*sizes, frames]:
        pieces.push(log_probs[at : at + size])
        at += size
        assert pieces.words == decoded(log_probs[:at], beam).words  # all the way
    assert (pieces.words, pieces.finished, pieces.frames) == (whole.words, whole.finished, frames)
    assert [one.mass for one in pieces._beam] == [one.mass for one in whole._beam]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 10**6))
def test_a_search_goes_on_in_another_process(frames: int, seed: int) -> None:
    log_probs = scores(frames, seed, sharpness=4.0)
    whole = decoded(log_probs, Beam(hot_words=("ba",)))
    half = decoded(log_probs[: frames // 2], Beam(hot_words=("ba",)))
    moved = pickle.loads(pickle.dumps(half))
    moved.push(log_probs[frames // 2 :])
    assert moved.words == whole.words


def test_times_and_confidences_are_those_of_the_greedy_path_where_it_is_clear() -> None:
    log_probs = spelled({"HELLO YOU ALL": 1.0})
    text, words = greedy(log_probs, LARGE, HOP_S)
    search = decoded(log_probs, Beam(), LARGE)
    assert search.text == text == "HELLO YOU ALL"
    for ours, theirs in zip(search.words, words, strict=True):
        assert (ours.word, ours.start, ours.end) == (theirs.word, theirs.start, theirs.end)
        assert ours.confidence == pytest.approx(theirs.confidence)
    assert [word.word for word in search.finished] == ["HELLO", "YOU"]


def test_specials_part_letters_and_are_never_text() -> None:
    path = [LARGE.tokens.index(token) for token in ("A", "<s>", "A", "<unk>", "|", "|", "B")]
    log_probs = np.log(np.eye(len(LARGE))[path] * (1 - 1e-6) + 1e-9)
    assert decoded(log_probs, Beam(), LARGE).text == "AA B"


@pytest.mark.parametrize(
    ("shares", "hot_words", "text"),
    [
        ({"CALL ANNA": 0.4, "CALL HANA": 0.6}, (), "CALL HANA"),
        ({"CALL ANNA": 0.4, "CALL HANA": 0.6}, ("anna",), "CALL ANNA"),
        ({"CALL ANNA": 0.4, "CALL HANA": 0.6}, ("Call Anna",), "CALL ANNA"),
        ({"CALL ANNA": 0.4, "CALL HANA": 0.6}, ("ann", "nna", "call ann"), "CALL HANA"),  # parts of words
        ({"NEW YORK": 0.4, "NEW PORK": 0.6}, ("new york city",), "NEW PORK"),  # never complete
        ({"NEW YORK": 0.4, "NEW PORK": 0.6}, ("new york city", "york"), "NEW YORK"),  # begun within another
    ],
)
def test_hot_words_are_preferred_where_they_are_whole(
    shares: dict[str, float], hot_words: tuple[str, ...], text: str
) -> None:
    # One letter differs, or several; where letters mix, neither text is one of these.
    assert decoded(spelled(shares), Beam(hot_words=hot_words), LARGE).text == text


def test_a_hot_word_that_cannot_be_spelled_is_named() -> None:
    with pytest.raises(ValueError, match=r"hot word 'R2D2'.*'2'"):
        BeamSearch(Beam(hot_words=("R2D2",)), LARGE)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"boost": -1.0}, {"alpha": float("nan")}])
def test_numbers_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BeamSearch(Beam(**wrong), LARGE)  # type: ignore[arg-type]


def test_scores_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="frames, 32"):
        decoded(scores(3, 0), Beam(), LARGE)


def test_words_that_were_cut_off_are_forgotten_and_their_last_letter_may_go_on() -> None:
    search = decoded(spelled({"HI YOU": 1.0})[:-1], Beam(), LARGE)  # U is the latest frame
    assert [word.word for word in search.cut(2)] == ["HI", "YOU"]
    assert search.words == []
    search.push(spelled({"U AN": 1.0}))  # the same U, a space, another word
    assert search.text == "AN"
    assert search.words[0].start == pytest.approx((11 + 4) * HOP_S)


def test_what_is_cut_rules_out_other_beginnings() -> None:
    search = decoded(spelled({"HAT": 0.6, "HIT": 0.4}), Beam(), LARGE)
    assert [word.word for word in search.cut(1)] == ["HAT"]
    search.push(spelled({" UP": 1.0}))
    assert search.text == "UP"


ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-1.5\tcall\t-0.3
-1.0\thana
-1.0\tanna
-1.0\t</s>

\\2-grams:
-0.1\t<s> call
-0.2\tcall anna

\\end\\
"""


def test_an_n_gram_decides_between_words_that_sound_alike(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    log_probs = spelled({"CALL ANNA": 0.4, "CALL HANA": 0.6})
    assert decoded(log_probs, Beam(lm=tmp_path / "lm.arpa", alpha=1.0), LARGE).text == "CALL ANNA"
    assert decoded(log_probs, Beam(lm=tmp_path / "lm.arpa", alpha=0.0), LARGE).text == "CALL HANA"


ONES = """\\data\\
ngram 1=4

\\1-grams:
-9.0\t<unk>
-99\t<s>
-0.5\tcat
-0.5\tdog

\\end\\
"""


def test_old_doubts_do_not_crowd_out_new_ones(tmp_path: Path) -> None:
    """Three letters of an unknown word may be others: eight texts, as many as the beam holds, each likelier with C than
    with D. They have one future, so the best of them with D stays, and wins when the word turns out to be DOG."""
    (tmp_path / "lm.arpa").write_text(ONES)
    sure = spelled({"XYZ DOG": 1.0})
    rows = np.exp(sure)
    for frame, other, share in ((0, "A", 0.45), (2, "B", 0.45), (4, "E", 0.45), (8, "C", 0.9)):
        (letter,) = LARGE.encode(other)
        rows[frame] = rows[frame] * (1 - share)
        rows[frame, letter] += share
    beam = Beam(width=8, lm=tmp_path / "lm.arpa", least_text=0.0)
    search = decoded(np.log(rows), beam, LARGE)
    assert search.text == decoded(np.log(rows), replace(beam, width=10**6), LARGE).text == "XYZ DOG"


TINY = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-1.0\t<unk>\t-0.2
-99\t<s>\t-0.5
-0.5\tA\t-0.3
-0.9\tBA

\\2-grams:
-0.1\t<s> BA
-0.4\tA A
-0.2\t<unk> A

\\end\\
"""


@pytest.mark.parametrize("named", [(), ("AAB",), ("A", "B")])
@pytest.mark.parametrize("seed", range(8))
def test_with_an_n_gram_a_text_has_its_paths_times_its_words(
    seed: int, named: tuple[str, ...], tmp_path: Path
) -> None:
    """What words have in advance is in no text's end; those that are named are as likely as the rarest known."""
    (tmp_path / "lm.arpa").write_text(TINY)
    words = Beam(lm=tmp_path / "lm.arpa", alpha=0.7, beta=0.9, hot_words=named, boost=0.0, blank_penalty=0.4)
    beam = replace(words, width=EVERYTHING.width, least_token=0.0, least_text=0.0)
    log_probs = scores(2 + seed % 4, seed)
    texts = all_texts(log_probs, blank_penalty=0.4)
    lm = ngram.read(tmp_path / "lm.arpa")
    for text in texts:
        context = lm.start
        for word in text.split():
            log_prob, context = lm.score(context, word)
            if word in named and word not in ("A", "BA"):
                log_prob = max(log_prob, ngram.LN_10 * -0.9)  # of BA, the rarest
            texts[text] *= math.exp(0.7 * log_prob + 0.9)
    search = decoded(log_probs, beam)
    assert search.text == max(texts, key=texts.__getitem__)
    if not search.finished:
        found: dict[str, float] = {}
        for one in search._beam:
            found[one.text.strip()] = found.get(one.text.strip(), 0.0) + one.mass * search.search.ended(one)
        assert found == pytest.approx({text: texts[text] for text in found})


@pytest.mark.parametrize("lm", [None, ngram.BUNDLED])
def test_long_speech_neither_vanishes_nor_runs_together(lm: Path | None) -> None:
    """Every letter may be in either of two frames, so that single paths get ever less likely than texts; spaces are
    unsure, and no word is known. A float can hold the paths of some 650 letters; here are 1,000."""
    once = np.full((12 * 4, len(LARGE)), 1e-9)
    once[:, LARGE.blank] = 0.5
    for at, letter in enumerate(LARGE.encode("ZURQ VOXLE K")):
        once[4 * at : 4 * at + 2, letter] = 0.35 if letter == LARGE.delimiter else 0.5
    log_probs = np.log(np.tile(once / once.sum(1, keepdims=True), (100, 1)))
    words = decoded(log_probs, Beam(lm=lm, alpha=0.3), LARGE).words
    assert max(len(word.word) for word in words) < 20
    assert len(words) > 100
    assert all(one.end <= other.start for one, other in itertools.pairwise(words))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), max_size=15))
def test_words_follow_each_other_however_they_are_cut(seed: int, pieces: list[tuple[int, int]]) -> None:
    search, words = BeamDecoder(BeamSearch(Beam(width=4), SMALL), HOP_S), []
    for size, count in pieces:
        search.push(scores(size, seed + search.frames, sharpness=4.0))
        words += search.cut(count)
    words += search.words
    assert all(word.start < word.end for word in words)
    assert all(one.end <= other.start for one, other in itertools.pairwise(words))


def test_an_n_gram_permits_words_that_it_has_never_seen(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    log_probs = spelled({"CALL ZZYZX": 1.0})
    assert decoded(log_probs, Beam(lm=tmp_path / "lm.arpa"), LARGE).text == "CALL ZZYZX"
