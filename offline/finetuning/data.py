"""What fine-tuning hears: any corpus, its texts fitted to the model's vocabulary, in batches of so many clips."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asr.config import ModelConfig
from asr.ctc import Vocabulary
from offline.corpora import evenly, find_split, read_corpus
from offline.data import ManifestError, Utterance, batches_of
from offline.training_data import groups_of, rising, why_not

_ORDER = 10  # keeps these draws apart from those of offline/training_data.py
LIBRISPEECH = ("train-clean-100", "dev-clean")
HERE = (Path("data/speech/train.jsonl"), Path("data/speech/dev.jsonl"))
WHAT_TO_DO = (
    "no training data: give --train_manifest and --dev_manifest (manifests, tables, Kaldi or LibriSpeech folders), or "
    "--data_dir with a LibriSpeech tree, or --use_hf_dataset to fetch LibriSpeech's train-clean-100, or make "
    "data/speech with `make speech`"
)


@dataclass(frozen=True)
class Chosen:
    """The utterances to learn from or to score, and what was left out of the corpora."""

    sources: list[str]
    utterances: list[Utterance]
    left_out: dict[str, int]  # reasons, and how many utterances
    dropped: dict[str, int]  # characters that were taken out of the texts, and how often

    @property
    def hours(self) -> float:
        return sum(utterance.duration_s for utterance in self.utterances) / 3600

    def report(self) -> dict[str, object]:
        """What metadata.json says of this data."""
        return {
            "sources": self.sources,
            "utterances": len(self.utterances),
            "hours": round(self.hours, 4),
            "left_out": self.left_out,
            "dropped_characters": self.dropped,
            "sha256": digest(self.utterances),
        }


def digest(utterances: Iterable[Utterance]) -> str:
    """Returns a hash of names, parts, lengths and texts, in order: the same wherever the corpus lies."""
    facts = [[u.audio.name, u.start_s, u.end_s, u.duration_s, u.text] for u in utterances]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def sources(
    train: list[str] | None, dev: list[str] | None, root: Path | None, fetch: bool
) -> tuple[list[str], list[str]]:
    """Returns what to read for training and for dev: as given, else LibriSpeech, else data/speech where that is here.

    Raises:
        ManifestError: only one of the two is given, or there is no data at all; says what to do.
    """
    if train and dev:
        return train, dev
    if train or dev:
        given, lacking = ("train", "dev") if train else ("dev", "train")
        raise ManifestError(f"--{given}_manifest is given without --{lacking}_manifest; they go together")
    if root or fetch or all(find_split(name, None) for name in LIBRISPEECH):
        return [LIBRISPEECH[0]], [LIBRISPEECH[1]]
    if all(path.is_file() for path in HERE):
        return [str(HERE[0])], [str(HERE[1])]
    raise ManifestError(WHAT_TO_DO)


def choose(
    names: list[str],
    config: ModelConfig,
    vocabulary: Vocabulary,
    *,
    limit: int | None,
    max_duration_s: float,
    drop_unknown: bool,
    root: Path | None = None,
    fetch: bool = False,
) -> Chosen:
    """Reads corpora, at most `limit` utterances evenly spaced, and keeps what the model can learn from.

    Raises:
        ManifestError: a corpus cannot be read, nothing in it can be used, or (without drop_unknown) texts hold
            characters that the vocabulary lacks.
    """
    read = [u for name in names for u in read_corpus(name, root=root, limit=limit, download=fetch)]
    spelt, dropped = spell(evenly(read, limit), vocabulary, drop_unknown)
    reasons = [why_not(utterance, config, vocabulary, max_duration_s) for utterance in spelt]
    kept = [utterance for utterance, reason in zip(spelt, reasons, strict=True) if reason is None]
    left_out = dict(Counter(reason for reason in reasons if reason))
    if not kept:
        raise ManifestError(f"{', '.join(names)}: no usable recording; left out: {left_out}")
    return Chosen(names, kept, left_out, dropped)


def spell(
    utterances: list[Utterance], vocabulary: Vocabulary, drop: bool
) -> tuple[list[Utterance], dict[str, int]]:
    """Returns the utterances with texts that the vocabulary can spell in one case or the other, and what was dropped.

    Typographic apostrophes become plain ones. Of other unknown characters, dashes and slashes become spaces, and the
    rest goes.

    Raises:
        ManifestError: there are unknown characters and not `drop`; names them and one text.
    """
    utterances = [replace(u, text=u.text.replace("\u2019", "'")) for u in utterances]
    unknown = Counter(c for u in utterances for c in u.text if not _known(c, vocabulary))
    counts = dict(unknown.most_common())
    if counts and not drop:
        text = next(u.text for u in utterances if set(u.text) & set(counts))
        named = ", ".join(f"{character!r} ({count})" for character, count in list(counts.items())[:12])
        raise ManifestError(
            f"characters not in the model's vocabulary: {named}; first in {text[:80]!r}. Correct the texts, or let "
            "--unknown_characters drop leave them out"
        )
    table = str.maketrans({c: " " if unicodedata.category(c) == "Pd" or c == "/" else "" for c in counts})
    return [replace(u, text=u.text.translate(table)) for u in utterances], counts


def _known(character: str, vocabulary: Vocabulary) -> bool:
    try:
        return vocabulary.encode(character) is not None
    except ValueError:
        return False


def plan(
    durations_s: Sequence[float], epochs: int, max_steps: int | None, **how: Any
) -> list[list[list[list[int]]]]:
    """Returns the steps of each epoch: so many epochs, or, given max_steps, as many as those take. how: see `epoch`."""
    planned: list[list[list[list[int]]]] = []
    left = max_steps
    while left if left is not None else len(planned) < epochs:
        planned.append(epoch(durations_s, len(planned), **how)[:left])
        left = None if left is None else left - len(planned[-1])
    return planned


def epoch(
    durations_s: Sequence[float],
    number: int,
    *,
    batch_size: int,
    batch_seconds: float | None,
    seed: int,
    together: int,
) -> list[list[list[int]]]:
    """Returns one epoch's steps, each of `together` batches of indices into durations_s: every recording once.

    Clips of like length are batched, and batches of like length make one step; the steps are shuffled. Draws are keyed
    by seed and epoch. Where the last step lacks batches, it repeats some of the epoch's middle.
    """
    rng = np.random.default_rng([seed, _ORDER, number])
    limit_s = float("inf") if batch_seconds is None else batch_seconds
    steps = groups_of(batches_of(rising(durations_s, rng), durations_s, limit_s, batch_size), together)
    return [steps[position] for position in rng.permutation(len(steps))]
