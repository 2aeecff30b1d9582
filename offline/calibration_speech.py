"""The speech that a conversion listens to: read, refused where it is held out, drawn, cut."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from offline.corpora import SPLITS, read_corpus
from offline.data import ManifestError, Utterance

CLIP_S = 20.0  # longer recordings are cut: attention takes memory by the square
HELD_OUT = re.compile(r"(?<![a-z])(test|dev|eval|valid|validation)(?![a-z])", re.IGNORECASE)


def read(
    sources: Sequence[str], force: bool = False, *, root: Path | None = None, download: bool = False
) -> list[Utterance]:
    """The utterances of all sources (`offline.corpora.read_corpus` says which there are, and of root and download).

    Raises ManifestError where one cannot be read, or is held out (see `held_out`) and `force` is not set.
    """
    found = []
    for source in sources:
        if Path(source).suffix == ".jsonl" and not Path(source).is_file():
            raise ManifestError(f"{source}: no such manifest; `make speech` writes data/speech/train.jsonl")
        utterances = read_corpus(source, root=root, download=download)
        reason = None if force else held_out(source, utterances)
        if reason:
            raise ManifestError(
                f"{source}: {reason}; what a model is calibrated on cannot test it. Give training speech, "
                "or add --force_calibration"
            )
        found += utterances
    return found


def held_out(source: str, utterances: Sequence[Utterance]) -> str | None:
    """Why a source looks like speech to test on: its name, a `split` in its lines, or its audio's folders."""
    path = Path(source)
    name = re.split(r"[:/]", source.rstrip("/"))[-1]
    if HELD_OUT.search(name):
        return f"the name {name!r} says that it is no training split"
    for split in _splits(path):
        if HELD_OUT.search(split):
            return f"it has lines of the split {split!r}"
    for folder in sorted({folder for utterance in utterances for folder in _folders(utterance.audio, path)}):
        if HELD_OUT.search(folder):
            return f"it names audio in a folder {folder!r}"
    return None


def _splits(path: Path) -> set[str]:
    """The `split` (or `subset`) of a manifest's lines; of anything else none."""
    if path.suffix.lower() not in (".json", ".jsonl") or not path.is_file():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {str(row[key]) for row in rows for key in ("split", "subset") if row.get(key)}


def _folders(audio: Path, manifest: Path) -> tuple[str, ...]:
    """The folders that a source puts a recording in, of one that lies elsewhere the last three; LibriSpeech's split."""
    splits = tuple(part for part in audio.parts if part in SPLITS)
    with suppress(ValueError):
        return audio.relative_to(manifest.parent).parent.parts + splits
    return audio.parent.parts[-3:] + splits


def draw(utterances: Sequence[Utterance], limit_s: float, seed: int = 0) -> list[Tensor]:
    """Waves [samples] of at most `limit_s` in all: recordings in seeded order, each in pieces of at most CLIP_S."""
    left, longest = round(limit_s * SAMPLE_RATE), round(CLIP_S * SAMPLE_RATE)
    waves: list[Tensor] = []
    with tqdm(total=round(limit_s), unit="s", desc="reading") as bar:
        for index in np.random.default_rng(seed).permutation(len(utterances)):
            wave = torch.from_numpy(utterances[index].wave())[:left]
            waves += wave.split(longest)
            left -= len(wave)
            bar.update(round(limit_s - left / SAMPLE_RATE) - bar.n)
            if left <= 0:
                break
    return waves
