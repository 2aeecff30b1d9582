"""Reading ARPA text, and what its numbers come to."""

import gzip
import math
from itertools import product
from pathlib import Path

import pytest

from asr import ngram
from asr.ngram import UNKNOWN, UNKNOWN_LETTER, read

ARPA = """made by hand

\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-2.0\t<unk>\t0.0
-99\t<s>\t-0.5
-1.0\tcall\t-0.3
-1.2\tAnna\t-0.1
-1.3\t</s>

\\2-grams:
-0.4\t<s> call\t-0.2
-0.6\tcall anna

\\3-grams:
-0.1\t<s> call anna

\\end\\
"""
LN_10 = math.log(10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lm.arpa").write_text(ARPA)
    return tmp_path / "lm.arpa"


@pytest.mark.parametrize(
    ("context", "word", "log10", "after"),
    [
        (("<s>",), "CALL", -0.4, ("<s>", "CALL")),
        (("<s>", "CALL"), "ANNA", -0.1, ("CALL", "ANNA")),
        (("CALL",), "ANNA", -0.6, ("CALL", "ANNA")),
        (("<s>", "CALL"), "CALL", -0.2 - 0.3 - 1.0, ("CALL",)),  # by both back-offs
        (("CALL", "ANNA"), "ANNA", -0.1 - 1.2, ("ANNA",)),  # no weight is a weight of 1
        (("CALL",), "ZOE", -0.3 - 2.0 + 3 * UNKNOWN_LETTER / LN_10, ("<unk>",)),
    ],
)
def test_scores_back_off(
    file: Path, context: tuple[str, ...], word: str, log10: float, after: tuple[str, ...]
) -> None:
    log_prob, following = read(file).score(context, word)
    assert log_prob == pytest.approx(LN_10 * log10)
    assert following == after


def test_words_are_looked_up_in_any_case(file: Path) -> None:
    assert read(file).score(("CALL",), "anna") == read(file).score(("CALL",), "ANNA")
    assert read(file).ahead((), "an") == read(file).ahead((), "AN")


@pytest.mark.parametrize(
    ("beginning", "log10"),
    [
        ("C", -1.0),
        ("CALL", -1.0),
        ("AN", -1.2),
        ("CALLS", -2.0 + 5 * UNKNOWN_LETTER / LN_10),
        ("Z", -2.0 + UNKNOWN_LETTER / LN_10),
    ],
)
def test_what_a_beginning_may_become(file: Path, beginning: str, log10: float) -> None:
    assert read(file).ahead((), beginning) == pytest.approx(LN_10 * log10)


def test_a_word_that_was_named_is_as_likely_as_the_rarest(file: Path) -> None:
    assert read(file).ahead((), "ZOE", named=True) == pytest.approx(LN_10 * -1.2)  # of Anna
    assert read(file).ahead((), "CALL", named=True) == read(file).ahead((), "CALL")
    named, unnamed = (read(file).score(("CALL",), "ZOE", named) for named in (True, False))
    assert named[0] == pytest.approx(LN_10 * -1.2)
    assert unnamed[0] == pytest.approx(LN_10 * (-0.3 - 2.0) + 3 * UNKNOWN_LETTER)
    assert named[1] == unnamed[1]
    assert read(file).score(("CALL",), "anna", True) == read(file).score(("CALL",), "anna")


def test_no_word_is_likelier_than_any_of_its_beginnings(file: Path) -> None:
    lm = read(file)
    contexts = {gram[:-1] for gram in lm._entries} | {("ANNA", "CALL"), ("ZOE",)}
    assert ("CALL",) in contexts
    for context, word in product(contexts, ("CALL", "ANNA", "ANN", "ZOE")):
        for size in range(1, len(word) + 1):
            assert lm.score(context, word)[0] <= lm.ahead(context, word[:size]) + 1e-9


def test_a_beginning_is_worth_what_may_follow_its_context(file: Path) -> None:
    lm = read(file)
    assert lm.ahead(("CALL",), "AN") == lm.score(("CALL",), "ANNA")[0] > lm.ahead((), "AN")
    assert lm.ahead(("CALL",), "CA") == lm.score(("CALL",), "CALL")[0] < lm.ahead((), "CA")  # backs off
    assert lm.ahead(("CALL",), "Z") == lm.score(("CALL",), "Z")[0]


BRANCHING = """\\data\\
ngram 1=7
ngram 2=5
ngram 3=4

\\1-grams:
-3.0\t<unk>\t0.0
-99\t<s>\t-0.5
-1.0\tA\t-0.3
-2.0\tANN\t-0.2
-1.2\tANNA\t-0.1
-1.1\tBOB
-1.3\t</s>

\\2-grams:
-0.7\tA ANN\t-0.4
-0.3\tA ANNA\t-0.6
-0.9\tA BOB
-0.2\tANN A\t-0.9
-0.8\tANN ANNA

\\3-grams:
-0.9\tANN A A
-1.5\tANN A ANN
-0.1\tANN A BOB
-2.5\tA ANN A

\\end\\
"""


def test_the_bound_is_the_most_of_all_ways_to_say_a_word(tmp_path: Path) -> None:
    """By each n-gram that ends in a word that begins so, and by the back-off to it, worked out one by one."""
    (tmp_path / "lm.arpa").write_text(BRANCHING)
    lm = read(tmp_path / "lm.arpa")
    for context in ((), ("A",), ("ANN",), ("ANN", "A"), ("A", "ANN"), ("BOB", "A")):
        for beginning in ("A", "AN", "ANN", "ANNA", "B", "BO", "C"):
            ways = [lm.score(context, UNKNOWN)[0] + UNKNOWN_LETTER * len(beginning)]
            weight = 0.0
            for first in range(len(context) + 1):
                heads = context[first:]
                for gram, (log_prob, _) in lm._entries.items():
                    if gram[:-1] == heads and gram[-1].startswith(beginning):
                        ways.append(weight + log_prob)
                weight += lm._entries.get(heads, (0.0, 0.0))[1]
            assert lm.ahead(context, beginning) == pytest.approx(max(ways)), (context, beginning)


def test_compressed_is_the_same(file: Path, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    assert read(tmp_path / "lm.arpa.gz")._entries == read(file)._entries
    assert len(read(file)) == 8


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (ARPA.replace("ngram 2=2", "ngram 2=3"), "8 n-grams where 9"),
        (ARPA[: -len("\\end\\\n")], "no end"),
        (ARPA.replace("-0.6\tcall anna", "-0.6\tcall anna and you"), "line 17 has 5 fields"),
        (ARPA.replace("-0.6", "often"), "often"),
        (ARPA.replace("<unk>", "unk"), "no <unk>"),
        (ARPA.replace("-1.3\t</s>", "-1.3\tCall"), "'CALL' twice"),
        ("", "no end"),
    ],
)
def test_what_is_no_arpa_file_says_why(tmp_path: Path, wrong: str, said: str) -> None:
    (tmp_path / "wrong.arpa").write_text(wrong)
    with pytest.raises(ValueError, match=said) as raised:
        read(tmp_path / "wrong.arpa")
    assert "wrong.arpa" in str(raised.value)


def test_the_bundled_one_is_small_and_knows_what_follows() -> None:
    assert ngram.BUNDLED.stat().st_size <= 5 * 2**20
    lm = read(ngram.BUNDLED)
    assert lm.score(("IN",), "THE")[0] > lm.score(("IN",), "THEM")[0]
