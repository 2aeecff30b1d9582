"""Word and character errors of one transcript, and the rates of many; sclite's .trn files.

Two word error rates: of the texts in upper case and nothing else, and of the texts as the Open ASR Leaderboard compares
them, normalised by Whisper's English rules (numbers to digits, contractions written out, fillers dropped, British to
American spelling). Those are the rules that the leaderboard's figures of March 2026 stand on, but for the spelling of
ten words; it has since added tables of names and compounds, which are not in here. Offline: the rules are
those of `transformers`, the spelling table that of the package `whisper-normalizer`.
"""

import json
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

RESAMPLES = 1000
COUNTS = ("substitutions", "deletions", "insertions")
# What corpora write where nothing is to be compared.
NOT_SCORED = "ignore time segment in scoring"
Row = dict[str, Any]  # a line of X.jsonl; see offline/evaluation/records.py


@cache
def _normaliser() -> EnglishTextNormalizer:
    table = (files("whisper_normalizer") / "normalizers" / "english.json").read_text(encoding="utf-8")
    # One entry of the table carries a stray tag.
    return EnglishTextNormalizer({k: v.removesuffix("</span>") for k, v in json.loads(table).items()})


@lru_cache(maxsize=4096)  # of a reference and the transcripts that are alike, once
def normalise(text: str) -> str:
    """Returns text by Whisper's English rules, in lower case; "" where nothing is left of it.

    >>> normalise("MR. BROWN'S COLOUR: TWENTY-ONE!")
    'mister brown is color 21'
    """
    return str(_normaliser()(text)).strip()


def is_scored(reference: str) -> bool:
    """Returns whether a reference takes part: it has words, and is not a corpus's mark for the opposite."""
    return bool(reference.strip()) and reference.strip().lower().replace("_", " ") != NOT_SCORED


def score(reference: str, hypothesis: str) -> dict[str, Any]:
    """Returns the errors of one transcript as X.jsonl holds them: counts, edits, and the counts when normalised.

    A reference that normalises to nothing counts no words and no errors there, as the leaderboard leaves it out.
    """
    said, heard = normalise(reference), normalise(hypothesis)
    raw = jiwer.process_words(reference.upper(), hypothesis.upper())
    normalised = {"words": 0, **dict.fromkeys(COUNTS, 0)}
    if said:
        normalised = {"words": len(said.split()), **_counts(jiwer.process_words(said, heard))}
    return {"text": hypothesis, **_counts(raw), "normalised": normalised, "edits": _edits(raw)}


def _counts(measured: jiwer.WordOutput) -> dict[str, int]:
    return {name: getattr(measured, name) for name in COUNTS}


def _edits(measured: jiwer.WordOutput) -> list[list[str]]:
    """The errors in order, [what, reference word, hypothesis word]; a word that is not there is empty."""
    said, heard, edits = measured.references[0], measured.hypotheses[0], []
    for chunk in measured.alignments[0]:
        length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        if chunk.type == "equal":
            continue
        missing = [""] * length
        words = said[chunk.ref_start_idx : chunk.ref_end_idx] or missing
        others = heard[chunk.hyp_start_idx : chunk.hyp_end_idx] or missing
        edits += [[chunk.type, word, other] for word, other in zip(words, others, strict=True)]
    return edits


def figures(rows: Sequence[Row], model: str) -> dict[str, Any]:
    """Returns the error rates of one model over rows of X.jsonl, in percent, on the corpus level."""
    entries = [row["models"][model] for row in rows]
    words = np.array([row["words"] for row in rows])
    errors = np.array([sum(entry[name] for name in COUNTS) for entry in entries])
    normalised = [entry["normalised"] for entry in entries]
    texts = [(row["reference"].upper(), row["models"][model]["text"].upper()) for row in rows]
    characters, character_errors = np.array([_characters(*pair) for pair in texts]).sum(0)
    return {
        "utterances": len(rows),
        "words": int(words.sum()),
        "audio_s": round(sum(row["duration_s"] for row in rows), 2),
        "wer": _percent(errors.sum(), words.sum()),
        "wer_95": _bounds(words, errors),
        "wer_normalised": _percent(
            sum(counts[name] for counts in normalised for name in COUNTS),
            sum(counts["words"] for counts in normalised),
        ),
        "cer": _percent(character_errors, characters),
        **{name: sum(entry[name] for entry in entries) for name in COUNTS},
    }


@lru_cache(maxsize=1 << 16)  # every row is in several groups
def _characters(reference: str, text: str) -> tuple[int, int]:
    """Characters and character errors."""
    measured = jiwer.process_characters(reference, text)
    wrong = measured.substitutions + measured.deletions
    return measured.hits + wrong, wrong + measured.insertions


def _percent(errors: int, words: int) -> float | None:
    """None where there are no words to be wrong about."""
    return round(100 * float(errors) / float(words), 3) if words else None


def _bounds(words: Any, errors: Any) -> list[float]:
    """95 % bounds of the error rate in percent: bootstrap of the ratio of sums, utterances drawn anew."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(words), size=(RESAMPLES, len(words)))
    rates = 100 * errors[drawn].sum(1) / words[drawn].sum(1)
    return [round(float(bound), 3) for bound in np.quantile(rates, [0.025, 0.975])]


def write_trn(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes ref.trn and one <model>.trn for sclite (`sclite -i spu_id -r ref.trn -h mha.trn -o sgml`).

    A line is `WORDS (speaker-utterance)`; sclite takes what is before the first - or _ for the speaker, and brackets in
    the words for marks of its own, so they are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"ref": [row["reference"] for row in rows]}
    for model in rows[0]["models"]:
        stem = re.sub(r"[^\w.-]+", "-", model).strip("-")
        while stem in texts:
            stem += "-2"
        texts[stem] = [row["models"][model]["text"] for row in rows]
    names = [_trn_id(row) for row in rows]
    written = []
    for stem, lines in texts.items():
        written.append(folder / f"{stem}.trn")
        plain = (" ".join(re.sub(r"[(){}]", " ", line.upper()).split()) for line in lines)
        written[-1].write_text(
            "".join(f"{line} ({name})\n" for line, name in zip(plain, names, strict=True)), encoding="utf-8"
        )
    return written


def _trn_id(row: Row) -> str:
    """The utterance's id, begun with its speaker (or voice) where it is not already."""
    name = re.sub(r"[\s()]+", ".", row["id"])
    speaker = re.sub(r"[\s()_-]+", ".", row["speaker"] or row["voice"] or "unknown")
    return name if name.startswith((f"{speaker}-", f"{speaker}_")) else f"{speaker}-{name}"
