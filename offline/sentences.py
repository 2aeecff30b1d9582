"""The texts that the training voices read.

Two domains are for tests, too: `everyday` sentences come from a small grammar of templates (numbers, dates, times,
money, names, places, commands, questions), `open` ones from the texts of Debian's `fortunes` package. Three are for
training alone: `dictionary`, the definitions and examples of its `wordnet-base`, for the sake of rare words;
`telephone`, a grammar of menus, mailboxes and conferences; `words`, one to five common words of its `scowl` in no
order, so that each of them occurs. A sentence is kept as it is handed to a voice ("Call Jane at ten thirty.");
`normalise` gives the words a recogniser must find.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from offline import everyday, telephone

FORTUNES = Path("/usr/share/games/fortunes")
WORDNET = Path("/usr/share/wordnet")
SCOWL = Path("/usr/share/dict/scowl")
# Its lists of common words, the commonest first, and how often a word is drawn from each.
WORD_LISTS = {10: 0.3, 20: 0.4, 35: 0.3}
# Drawings, code, other languages, and jokes at the cost of groups of people: not what a speech sample should say.
SKIPPED_FILES = {"ascii-art", "drugs", "ethnic", "men-women", "perl", "translate-me"}
SENTENCE_WORDS = range(3, 17)
SPLIT_PER_MILLE = {"train": 940, "dev": 20, "test": 40}

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_TITLES = {"Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor"}
_SLOT = re.compile(r"\{(\w+)\}")
WORD = r"[A-Z]+(?:'[A-Z]+)*"
_TEXT = re.compile(f"{WORD}(?: {WORD})*")


def spell_number(number: int) -> str:
    """The cardinal in words ("three hundred and five"), 0 to 999,999.

    Raises:
        ValueError: outside of that range.
    """
    if not 0 <= number < 1_000_000:
        raise ValueError(f"cannot spell {number}: only 0 to 999,999")
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    joint = " and " if 0 < rest < 100 else " "
    return f"{spell_number(head)} {name}" + (joint + spell_number(rest) if rest else "")


def spell_year(year: int) -> str:
    """A year as it is said: "nineteen eighty four", "nineteen oh five", "two thousand and six"."""
    century, rest = divmod(year, 100)
    if not 1100 <= year < 2100 or 2000 <= year < 2010:
        return spell_number(year)
    if rest == 0:
        return f"{spell_number(century)} hundred"
    return f"{spell_number(century)} {'oh ' if rest < 10 else ''}{spell_number(rest)}"


def normalise(sentence: str) -> str:
    """The words in upper case, A-Z ' and single spaces only.

    Raises:
        ValueError: what remains holds another character (a digit, say), or nothing remains.
    """
    words = re.sub(r"[.,!?;:\-]", " ", sentence).upper().split()
    text = " ".join(words)
    if not _TEXT.fullmatch(text):
        raise ValueError(f"not plain words: {sentence!r}")
    return text


def split_of(text: str) -> str:
    """train, dev or test: a sentence always falls on the same side, whoever reads it."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 1000
    for split, share in SPLIT_PER_MILLE.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("SPLIT_PER_MILLE must sum to 1000")


def everyday_sentence(rng: np.random.Generator) -> str:
    """One sentence of the everyday grammar."""
    return _written(everyday.TEMPLATES, everyday.SLOTS, rng)


def telephone_sentence(rng: np.random.Generator) -> str:
    """One sentence of the telephone's grammar."""
    return _written(telephone.TEMPLATES, telephone.SLOTS, rng)


def _written(templates: Sequence[str], slots: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    sentence = templates[int(rng.integers(len(templates)))]
    while _SLOT.search(sentence):
        sentence = _SLOT.sub(lambda slot: _fill(slot[1], slots, rng), sentence)
    sentence = re.sub(r"\b([Aa]) (?=[aeio]|un|um|urg)(?!one\b|eu)", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:]


def _fill(slot: str, slots: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    if slot == "number":
        return spell_number(int(rng.integers(2, 10 ** int(rng.integers(2, 5)))))
    if slot == "small":
        return spell_number(int(rng.integers(2, 21)))
    if slot == "tens":
        return spell_number(int(rng.integers(2, 100)))
    if slot == "year":
        return spell_year(int(rng.integers(1900, 2040)))
    if slot == "digits":
        return " ".join(_ONES[digit] for digit in rng.integers(0, 10, size=int(rng.integers(3, 8))))
    choices = slots[slot]
    return choices[int(rng.integers(len(choices)))]


def word_sentence(rng: np.random.Generator) -> str:
    """One to five common words, as a list that nobody would say: "Invalid, harbor, seventeenth."."""
    lists = common_words()
    drawn = rng.choice(list(lists), p=list(WORD_LISTS.values()), size=int(rng.integers(1, 6)))
    words = ", ".join(lists[size][rng.integers(len(lists[size]))] for size in drawn)
    return words[0].upper() + words[1:] + "."


@lru_cache(maxsize=1)
def common_words() -> dict[int, list[str]]:
    """The plain words of each of WORD_LISTS, American spelling, without those of the smaller lists.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    if not SCOWL.is_dir():
        raise FileNotFoundError(f"lists of words come from {SCOWL}, which is missing: apt-get install scowl")
    lists: dict[int, list[str]] = {}
    known: set[str] = set()
    for size in WORD_LISTS:
        files = [SCOWL / f"{kind}-words.{size}" for kind in ("english", "american")]
        words = {word for file in files for word in file.read_text("latin-1").split()}
        lists[size] = sorted(
            word for word in words - known if re.fullmatch("[a-z]+", word) and _is_word(word)
        )
        known |= words
    return lists


@lru_cache(maxsize=1)
def open_sentences() -> dict[str, list[str]]:
    """The usable sentences of `fortunes` by split, sorted, without repeats.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    if not FORTUNES.is_dir():
        raise FileNotFoundError(
            f"open sentences come from {FORTUNES}, which is missing: apt-get install fortunes"
        )
    files = sorted(path for path in FORTUNES.iterdir() if not path.suffix and path.name not in SKIPPED_FILES)
    return _by_split(
        s for path in files for s in _sentences(path.read_text(encoding="utf-8", errors="replace"))
    )


@lru_cache(maxsize=1)
def dictionary_sentences() -> dict[str, list[str]]:
    """The usable definitions and examples of WordNet by split, sorted, without repeats.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    files = sorted(WORDNET.glob("data.*"))
    if not files:
        raise FileNotFoundError(
            f"dictionary sentences come from {WORDNET}, which is missing: apt-get install wordnet-base"
        )
    glosses = [gloss for path in files for gloss in re.findall(r"\| (.*)", path.read_text(encoding="utf-8"))]
    return _by_split(sentence for gloss in glosses for part in _parts(gloss) for sentence in _clean(part))


def _parts(gloss: str) -> list[str]:
    """Definition and examples: 'large and strong; "a big man"' -> ["Large and strong.", "A big man."]."""
    parts = [part.strip(' ";') for part in re.split(r"; |(?<=\")\s", gloss)]
    return [part[0].upper() + part[1:] + ("" if part[-1] in ".!?" else ".") for part in parts if part]


def _by_split(sentences: Iterable[str]) -> dict[str, list[str]]:
    """The sentences without repeats and without rare words, by the side they fall on."""
    texts: dict[str, str] = {}
    for sentence in sentences:
        texts.setdefault(normalise(sentence), sentence)
    seen_times = Counter(word for text in texts for word in set(text.split()))
    by_split: dict[str, list[str]] = {split: [] for split in SPLIT_PER_MILLE}
    for text, sentence in sorted(texts.items()):
        # Words of one sentence alone are mostly typos and names that no voice reads right.
        if all(seen_times[word] > 1 for word in text.split()):
            by_split[split_of(text)].append(sentence)
    return by_split


def _sentences(fortunes: str) -> list[str]:
    """The clean sentences and clauses of one file, numbers in words."""
    found = []
    for entry in re.split(r"^%.*$", fortunes, flags=re.MULTILINE):
        body = re.split(r"^\s*--", entry, maxsplit=1, flags=re.MULTILINE)[0]
        for sentence in re.split(r"(?<=[.!?])\s+", _plain(body)):
            found += _clean(sentence)
    return found


def _clean(sentence: str) -> list[str]:
    """What of a sentence every voice reads alike: all of it, some of its clauses, or nothing."""
    return [piece for piece in _pieces(_with_numbers_spelled(sentence)) if _is_clean(piece)]


def _plain(body: str) -> str:
    """One line, without quotes, brackets, nicknames, list numbers; shouting in lower case."""
    text = re.sub(r"^\s*(<[^>]*>|[QA]:|\(?\w{1,2}[.)])\s", " ", body, flags=re.MULTILINE)
    text = re.sub(r"[\"()\[\]]|``|\B'(?=\w)(?!em|til|tis|twas)", " ", text)
    text = re.sub(r"\b(Mr|Mrs|Dr)\.", lambda title: _TITLES[title[1]], text)
    text = re.sub(r"\.{2,}|\s--+\s", ", ", text)
    text = re.sub(r"([!?])[!?]+", r"\1", text)
    text = re.sub(r"\b[A-Z]{5,}\b", lambda shout: shout[0].lower(), text)
    return re.sub(r"\s+", " ", text).replace(" ,", ",").strip()


def _pieces(sentence: str) -> list[str]:
    """A long sentence as its clauses, each written like a sentence; a short one as it is."""
    if len(sentence.split()) in SENTENCE_WORDS:
        return [sentence[:1].upper() + sentence[1:]]
    clauses = [clause.rstrip(".!?") for clause in re.split(r"[,;:]\s+", sentence)]
    return [clause[:1].upper() + clause[1:] + "." for clause in clauses if clause]


def _with_numbers_spelled(sentence: str) -> str:
    """Whole numbers of up to five digits as words; anything else with digits stays, and is thrown out later."""

    def spell(match: re.Match[str]) -> str:
        number = int(match[0].replace(",", ""))
        return spell_year(number) if len(match[0]) == 4 else spell_number(number)

    return re.sub(r"(?<![\w.,$/])(?:\d{1,4}|\d{1,2},\d{3})(?![\w%/]|[.,:]\d)", spell, sentence)


def _is_clean(sentence: str) -> bool:
    """Begins like a sentence, ends like one, and holds only words that every voice reads alike."""
    whole = re.fullmatch(r"[A-Z][A-Za-z ',;:.!?-]*[A-Za-z][.!?]", sentence)
    if not whole or re.search(r"[.,!?]{2}|[a-z][A-Z]", sentence):
        return False
    words = re.sub(r"[.,!?;:\-]", " ", sentence).split()
    return len(words) in SENTENCE_WORDS and all(_is_word(word) for word in words)


def _is_word(word: str) -> bool:
    if word in {"a", "A", "I", "O"}:
        return True
    spelled_out = len(word) == 1 or word.isupper()
    quoted = word.startswith("'") or word.endswith("'") or "''" in word
    return not spelled_out and not quoted and len(word) <= 16 and bool(re.search("[aeiouyAEIOUY]", word))
