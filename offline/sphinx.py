"""Reads n-grams in CMU Sphinx's binary format: PyPI's pocketsphinx has one of general American English.

It knows 73,000 words, 2.1M pairs and 1.7M triples; what they were counted in is not written down. The package says how
probable given words are, but cannot list what it knows, so its file is read here. The layout is that of
`ngram_model_trie_read_bin` in pocketsphinx 5: a trie from the last word of an n-gram to its first, each level a row of
records of so many bits, the numbers in them places in tables of logarithms.
"""

import re
import struct
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from asr.ngram import START
from offline.language import END, BackOff, Gram
from offline.sentences import WORD

HEADER = b"Trie Language Model\x03"  # 3: of trigrams
LOG_BASE = 1.0001  # of all logarithms
TABLE_BITS = 16  # of a place in a table
SINGLE = np.dtype([("log_prob", "<f4"), ("log_weight", "<f4"), ("first_pair", "<u4")])


def english(least: float) -> BackOff:
    """Returns pocketsphinx's trigram of English, see `read`.

    Raises:
        ValueError: pocketsphinx is not installed, or its file is no such trigram; says what to do.
    """
    spec = find_spec("pocketsphinx")
    if spec is None or spec.origin is None:
        raise ValueError(
            "general English comes from pocketsphinx, which is not installed: pip install '.[synthesis]', or"
            " leave english out of --weights"
        )
    return read(Path(spec.origin).parent / "model" / "en-us" / "en-us.lm.bin", least)


def read(file: Path, least: float = 0.0) -> BackOff:
    """Returns the trigram of a file in upper case, of words of letters and apostrophes no rarer than a probability.

    Raises:
        ValueError: it is no trigram in that format, or cut short.
    """
    data = file.read_bytes()
    if not data.startswith(HEADER):
        raise ValueError(f"{file} is no trigram in CMU Sphinx's binary format")
    try:
        return _read(data, least)
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"{file} is cut short, or damaged: {error}") from None


def _read(data: bytes, least: float) -> BackOff:
    at = len(HEADER)
    sizes = struct.unpack_from("<3I", data, at)
    at += 16  # behind the sizes, a number that is always 1
    tables = np.frombuffer(data, "<f4", 3 << TABLE_BITS, at)
    at += tables.nbytes
    pair_probs, pair_weights, triple_probs = _linear(tables).reshape(3, -1)
    singles = np.frombuffer(data, SINGLE, sizes[0] + 1, at)
    at += singles.nbytes
    word_bits, place_bits = sizes[0].bit_length(), sizes[2].bit_length()
    (before, weight, prob, first_triple), at = _records(
        data, at, sizes[1], (word_bits, TABLE_BITS, TABLE_BITS, place_bits)
    )
    (before_pair, triple_prob), at = _records(data, at, sizes[2], (word_bits, TABLE_BITS))
    (length,) = struct.unpack_from("<I", data, at)
    words = data[at + 4 : at + 4 + length].decode("latin-1").split("\0")[:-1]

    # What belongs to a record ends where that of the next begins; more may have been announced than there are.
    pairs = int(singles["first_pair"][-1])
    last = np.repeat(np.arange(sizes[0]), np.diff(singles["first_pair"]).astype(np.int64))
    pair = np.repeat(np.arange(pairs), np.diff(first_triple[: pairs + 1]).astype(np.int64))

    single_probs = _linear(singles["log_prob"][:-1])
    # <s> is in the list with hardly any probability, as it is never said.
    said = [
        _said(word) if often >= least or word == START else ""
        for word, often in zip(words, single_probs, strict=True)
    ]
    ones: list[Gram] = [(word,) if word else () for word in said]
    twos = _joined(ones, before[:pairs], [() if gram == (START,) else gram for gram in ones], last)
    threes = _joined(ones, before_pair[: len(pair)], twos, pair)
    weights = _listed(ones, _linear(singles["log_weight"][:-1])) | _listed(twos, pair_weights[weight[:pairs]])
    probs = [
        _listed(ones, single_probs),
        _listed(twos, pair_probs[prob[:pairs]]),
        _listed(threes, triple_probs[triple_prob[: len(pair)]]),
    ]
    probs[0].pop((START,), None)
    return BackOff(probs, weights, {word: prob for (word,), prob in probs[0].items()})


def _linear(logarithms: np.ndarray) -> np.ndarray:
    return np.exp(logarithms.astype(np.float64) * np.log(LOG_BASE))


def _records(data: bytes, start: int, count: int, widths: tuple[int, ...]) -> tuple[list[np.ndarray], int]:
    """The numbers of so many bits each that the records hold, and of one record more; where what follows them begins.

    Bits are counted from a byte's lowest. Eight bytes are kept free at the end.
    """
    end = start + ((1 + count) * sum(widths) + 7) // 8 + 8
    if end > len(data):
        raise ValueError(f"{count} records are announced, beyond its end")
    content = np.frombuffer(data[start:end], np.uint8).astype(np.uint64)
    columns = []
    for number, width in enumerate(widths):
        bits = np.arange(count + 1, dtype=np.int64) * sum(widths) + sum(widths[:number])
        value = np.zeros(count + 1, np.uint64)
        for byte in range((width + 7 + 7) // 8):
            value |= content[(bits >> 3) + byte] << np.uint64(8 * byte)
        value >>= (bits & 7).astype(np.uint64)
        columns.append((value & np.uint64((1 << width) - 1)).astype(np.int64))
    return columns, end


def _said(word: str) -> str:
    """The word as a transcript has it; empty if none would."""
    return word if word in (START, END) else word.upper() if re.fullmatch(WORD, word.upper()) else ""


def _joined(heads: list[Gram], head: np.ndarray, tails: list[Gram], tail: np.ndarray) -> list[Gram]:
    pairs = zip(head.tolist(), tail.tolist(), strict=True)
    return [heads[h] + tails[t] if heads[h] and tails[t] else () for h, t in pairs]


def _listed(grams: Iterable[Gram], numbers: np.ndarray) -> dict[Gram, float]:
    return {gram: number for gram, number in zip(grams, numbers.tolist(), strict=True) if gram}
