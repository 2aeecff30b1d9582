from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.ctc import StreamDecoder, Vocabulary, Word, greedy
from tests.conftest import TOKENS

VOCABULARY = Vocabulary(TOKENS)
SYMBOLS = {"_": "<pad>", " ": "|", "<": "<s>", ">": "</s>", "?": "<unk>"}
HOP_S = 0.02


def frames(path: str, posterior: float | list[float] = 0.9) -> np.ndarray:
    """Log-probs [len(path), V] whose best token of each frame is the path's: _ blank, ? <unk>, < <s>, > </s>."""
    best = np.broadcast_to(np.asarray(posterior, np.float32), len(path))
    rows = np.repeat((1 - best[:, None]) / (len(TOKENS) - 1), len(TOKENS), axis=1)
    for row, symbol, value in zip(rows, path, best, strict=True):
        row[TOKENS.index(SYMBOLS.get(symbol, symbol))] = value
    return np.log(rows).astype(np.float32)


def read(path: str) -> str:
    return greedy(frames(path), VOCABULARY, HOP_S)[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("HHEEL_LLO", "HELLO"),  # both L, because of the blank between them
        ("HHEELLLLO", "HELO"),  # no blank: one letter held long
        ("_A__ _B_", "A B"),
        ("   A   B   ", "A B"),
        ("A _ B", "A B"),
        ("<HI?>", "HI"),  # specials are never text
        ("A<A", "AA"),  # but they part letters like any other token
        ("IT'S", "IT'S"),
        ("_____", ""),
        ("<??>", ""),
        (" ", ""),
    ],
)
def test_greedy_text(path: str, text: str) -> None:
    assert read(path) == text


def test_no_frames_no_words() -> None:
    assert greedy(frames(""), VOCABULARY, HOP_S) == ("", [])


def test_words_have_times_and_their_lowest_letter_posterior() -> None:
    posteriors = [0.9, 0.8, 0.6, 0.3, 0.7, 0.2, 0.9, 0.95, 0.9, 0.5]
    text, words = greedy(frames("_HHI_ __A_", posteriors), VOCABULARY, HOP_S)
    assert text == "HI A"
    assert words == [
        Word("HI", 0.02, 0.08, pytest.approx(0.3, rel=1e-4)),  # the blank after it, at 0.7, does not count
        Word("A", 0.16, 0.18, pytest.approx(0.9, rel=1e-4)),
    ]


def test_specials_inside_a_word_change_neither_its_confidence_nor_its_end() -> None:
    _, (word,) = greedy(frames("A?", [0.9, 0.4]), VOCABULARY, HOP_S)
    assert (word.end, word.confidence) == (0.02, pytest.approx(0.9, rel=1e-4))


@pytest.mark.parametrize("shape", [(5,), (5, 31), (1, 5, 32)])
def test_greedy_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \[frames, 32\]"):
        greedy(np.zeros(shape, np.float32), VOCABULARY, HOP_S)


def test_greedy_refuses_nan_rather_than_read_it_as_silence() -> None:
    broken = frames("ABC")
    broken[1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        greedy(broken, VOCABULARY, HOP_S)


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=60))
def test_greedy_agrees_with_its_definition(path: list[int]) -> None:
    """Against the textbook rule, written letter by letter: merge neighbours, drop what is not text, split at |."""
    log_probs = np.full((len(path), len(TOKENS)), -5.0, np.float32)
    log_probs[np.arange(len(path)), path] = -0.1
    merged = [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]
    spelled = "".join(TOKENS[t] if len(TOKENS[t]) == 1 else "" for t in merged)
    text, words = greedy(log_probs, VOCABULARY, HOP_S)
    assert text == " ".join(spelled.replace("|", " ").split())
    assert [word.word for word in words] == text.split()
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(0 <= time <= len(path) * HOP_S + 1e-9 for time in times)


def pieces(path: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(path)) for cut in cuts), len(path)]
    return [path[first:last] for first, last in pairwise(bounds)]


@given(
    st.text(alphabet="AB_ <?", max_size=40),
    st.lists(st.integers(0, 40), max_size=8),
    st.integers(0, 99),
)
def test_in_pieces_it_says_at_any_time_what_greedy_says_of_all_so_far(
    path: str, cuts: list[int], seed: int
) -> None:
    scores = frames(path, np.random.default_rng(seed).uniform(0.1, 0.99, len(path)).tolist())
    decoder, heard = StreamDecoder(VOCABULARY, HOP_S), 0
    for piece in pieces(path, cuts):
        decoder.push(scores[heard : heard + len(piece)])
        heard += len(piece)
        text, words = greedy(scores[:heard], VOCABULARY, HOP_S)
        assert (decoder.text, decoder.frames) == (text, heard)
        assert decoder.words == words
        assert decoder.finished == (words if path[:heard].rstrip("_<?").endswith(" ") else words[:-1])


@given(st.text(alphabet="AB_ ", max_size=40), st.lists(st.integers(0, 40), max_size=8), st.data())
def test_words_that_were_cut_off_are_said_once(path: str, cuts: list[int], data: st.DataObject) -> None:
    """Cutting at spaces changes nothing, and a letter that is held over a cut is not a new one."""
    decoder, said = StreamDecoder(VOCABULARY, HOP_S), []
    for piece in pieces(path, cuts):
        decoder.push(frames(piece))
        count = data.draw(st.integers(0, len(decoder.finished)))
        said += decoder.cut(count)
    assert said + decoder.words == greedy(frames(path), VOCABULARY, HOP_S)[1]


def test_a_cut_ends_the_open_word_and_forgets_its_held_letter() -> None:
    decoder = StreamDecoder(VOCABULARY, HOP_S)
    decoder.push(frames("_HI"))
    assert [word.word for word in decoder.cut(1)] == ["HI"]
    assert (decoder.text, decoder.words, decoder.finished) == ("", [], [])
    decoder.push(frames("II_T"))
    assert decoder.text == "T"
    assert (decoder.words[0].start, decoder.frames) == (0.12, 7)


def test_a_copy_goes_its_own_way() -> None:
    decoder = StreamDecoder(VOCABULARY, HOP_S)
    decoder.push(frames("A BB"))
    other = decoder.copy()
    other.push(frames("B _C D"))
    assert (decoder.text, other.text) == ("A B", "A B C D")
    decoder.push(frames("_B"))
    assert decoder.text == "A BB"


def test_pieces_are_checked_as_greedy_checks_them() -> None:
    decoder = StreamDecoder(VOCABULARY, HOP_S)
    with pytest.raises(ValueError, match="NaN"):
        decoder.push(np.full((2, 32), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"must be \[frames, 32\]"):
        decoder.push(np.zeros((2, 31), np.float32))


@given(st.text(alphabet="ABCXYZabcxyz' ", max_size=40))
def test_decode_undoes_encode(text: str) -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == " ".join(text.upper().split())


def test_encode_folds_to_a_lower_case_vocabulary_too() -> None:
    lower = Vocabulary([token.lower() for token in TOKENS])
    assert lower.decode(lower.encode("Hello World")) == "hello world"


@pytest.mark.parametrize(("text", "named"), [("café 7", "'7' 'é'"), ("a|b", r"'\|'"), ("<pad>", "'<' '>'")])
def test_encode_names_what_it_does_not_know(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        VOCABULARY.encode(text)


def test_vocabulary_from_the_reference_models_file() -> None:
    vocabulary = Vocabulary.from_tokens({token: index for index, token in reversed(list(enumerate(TOKENS)))})
    assert (vocabulary.tokens, vocabulary.blank, vocabulary.delimiter, len(vocabulary)) == (TOKENS, 0, 4, 32)


def test_vocabulary_with_bracketed_specials() -> None:
    vocabulary = Vocabulary.from_tokens({"a": 0, "|": 1, "[UNK]": 2, "[PAD]": 3})
    assert vocabulary.blank == 3
    assert vocabulary.decode([0, 2, 1, 3, 0]) == "a a"


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ({"<pad>": 0, "|": 2}, "0..1, each once"),
        ({"A": 0, "|": 1}, "no blank"),
        ({"<pad>": 0, "A": 1}, "no word delimiter"),
    ],
)
def test_vocabulary_refuses_nonsense(tokens: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Vocabulary.from_tokens(tokens)
