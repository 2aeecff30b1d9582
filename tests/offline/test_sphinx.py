"""Files that pocketsphinx itself wrote, read as it reads them; and files that are none."""

import math
from pathlib import Path

import pocketsphinx
import pytest

from offline import sphinx

ARPA = r"""\data\
ngram 1=7
ngram 2=5
ngram 3=3

\1-grams:
-1.0 </s> 0.0
-99 <s> -0.5
-1.2 call -0.3
-1.3 anna -0.1
-1.5 o'neil -0.2
-4.5 zoe 0.0
-1.9 u.s. 0.0

\2-grams:
-0.4 <s> call -0.2
-0.6 call anna -0.15
-0.7 anna o'neil 0.0
-0.5 anna </s> 0.0
-0.5 call u.s. 0.0

\3-grams:
-0.1 <s> call anna
-0.25 call anna o'neil
-0.3 <s> call u.s.

\end\
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = pocketsphinx.NGramModel.readfile(str(tmp_path / "lm.arpa"))
    model.write(str(tmp_path / "lm.bin"), model.str_to_type("bin"))
    return tmp_path / "lm.bin"


def test_it_says_what_pocketsphinx_says(file: Path) -> None:
    theirs = pocketsphinx.NGramModel.readfile(str(file))
    ours = sphinx.read(file)
    words = ["<s>", "CALL", "ANNA", "O'NEIL", "ZOE"]
    for one in words:
        for two in words[1:]:
            for three in (*words[1:], "</s>"):
                log_prob = theirs.prob([three.lower(), two.lower(), one.lower()]) * math.log(1.0001)
                assert math.log(ours.prob((one, two), three)) == pytest.approx(log_prob, abs=3e-4)


def test_it_has_words_that_a_transcript_may_have(file: Path) -> None:
    model = sphinx.read(file)
    assert set(model.probs[0]) == {("</s>",), ("CALL",), ("ANNA",), ("O'NEIL",), ("ZOE",)}
    assert set(model.probs[2]) == {("<s>", "CALL", "ANNA"), ("CALL", "ANNA", "O'NEIL")}
    assert model.often["CALL"] == pytest.approx(10**-1.2, rel=1e-3)
    often = sphinx.read(file, least=1e-3)
    assert ("ZOE",) not in often.probs[0]
    assert ("<s>", "CALL", "ANNA") in often.probs[2] and often.weights["<s>",] == model.weights["<s>",]


def test_what_is_none_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trigram in CMU Sphinx's binary format"):
        sphinx.read(tmp_path / "lm.arpa")
    whole = file.read_bytes()
    damaged = whole[:28] + b"\xff\xff\xff\xff" + whole[32:]  # so many triples
    for content in (*(whole[:size] for size in (30, 1000, len(whole) // 2, len(whole) - 3)), damaged):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="cut short, or damaged"):
            sphinx.read(file)
