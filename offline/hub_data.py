"""Data sets through Hugging Face's `datasets`, an extra (hf-datasets): folders here, and what the hub holds.

Their sound stays in their own files and is decoded with soundfile, one recording at a time; `datasets` itself would ask
for torchcodec.
"""

import io
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, AudioError
from asr.audio import read as decode
from offline.corpora import (
    AUDIO_COLUMNS,
    ID_COLUMNS,
    SPEAKER_COLUMNS,
    SPLITS,
    TEXT_COLUMNS,
    Named,
    evenly,
    length_s,
)
from offline.data import ManifestError, Utterance

LIBRISPEECH = "hf://datasets/openslr/librispeech_asr/all"  # a folder a split, so that only the one is fetched


@dataclass(frozen=True)
class Row(Named):
    """An utterance whose sound lies in a row of a data set."""

    rows: Any = field(default=None, repr=False, compare=False)
    column: str = ""
    index: int = 0

    def own_wave(self) -> NDArray[np.float32]:
        """Returns the samples, float32 [samples], mono at 16 kHz. Raises ManifestError."""
        try:
            return decode(self.rows[self.index][self.column]["bytes"])
        except AudioError as error:
            raise ManifestError(f"{self.id}: {error}") from None


def read(name: str, limit: int | None, download: bool) -> list[Utterance]:
    """Returns the utterances of `hf:dataset[:config]:split`, or of a LibriSpeech split by its name.

    Raises:
        ManifestError: there is no such data set, it would have to be fetched without `download`, or it lacks a column
            of sound or of text.
    """
    try:
        rows = _librispeech(name) if name in SPLITS else _named(name, download)
    except ManifestError:
        raise
    except Exception as error:  # the library and the hub raise types of their own
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ManifestError(f"{name}: {type(error).__name__}: {reason}") from None
    sound, text = _column(name, rows, AUDIO_COLUMNS, "sound"), _column(name, rows, TEXT_COLUMNS, "texts")
    if not isinstance(rows.features[sound], datasets.Value):
        rows = rows.cast_column(sound, datasets.Audio(decode=False))
    return [_utterance(name, rows, sound, text, index) for index in evenly(range(len(rows)), limit)]


def _librispeech(split: str) -> Any:
    part = split.replace("dev", "validation").replace("-", ".")
    print(
        f"fetching LibriSpeech {split}, about {SPLITS[split]:,} MB, from the Hugging Face hub",
        file=sys.stderr,
    )
    return datasets.load_dataset("parquet", data_files=f"{LIBRISPEECH}/{part}/*.parquet", split="train")


def _named(name: str, download: bool) -> Any:
    source, *config, split = [*name.split(":")[1:], ""] if name.count(":") < 2 else name.split(":")[1:]
    if not source or not split or len(config) > 1:
        raise ManifestError(f"{name}: a data set is named hf:dataset:split or hf:dataset:config:split")
    folder = Path(source).expanduser()
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))[split]
    if (folder / "state.json").is_file():
        rows = datasets.load_from_disk(str(folder))
        if split not in (own := str(rows.split or "all"), "all"):
            raise ManifestError(f"{name}: {folder} holds one split, {own}; no {split}")
        return rows
    if not folder.is_dir():
        _may_fetch(name, source, config, download)
    return datasets.load_dataset(str(folder) if folder.is_dir() else source, *config, split=split)


def _may_fetch(name: str, source: str, config: list[str], download: bool) -> None:
    if datasets.config.HF_HUB_OFFLINE:
        return  # only what was fetched before
    if not download:
        raise ManifestError(
            f"{name}: {source} is no folder here; --download fetches it from the Hugging Face hub"
        )
    builder = datasets.load_dataset_builder(source, *config)
    size = f"{builder.info.download_size / 1e6:,.0f} MB" if builder.info.download_size else "of unknown size"
    print(f"fetching {source}, {size}, from the Hugging Face hub", file=sys.stderr)


def _column(name: str, rows: Any, names: tuple[str, ...], what: str) -> str:
    found = [column for column in names if column in rows.column_names]
    if not found:
        raise ManifestError(
            f"{name}: no column of {what}: {' or '.join(names)}; it has {', '.join(rows.column_names)}"
        )
    return found[0]


def _utterance(name: str, rows: Any, sound: str, text: str, index: int) -> Utterance:
    row = rows[index]
    where = f"{name}, row {index}"
    held = row[sound] if isinstance(row[sound], dict) else {"bytes": None, "path": row[sound]}
    path = Path(held["path"] or f"{index}")
    speaker, own = _label(row, SPEAKER_COLUMNS), _label(row, ID_COLUMNS) or path.stem
    words = str(row[text]).upper()
    if held["bytes"]:
        length = _length_s(where, held["bytes"])
        return Row(path, length, words, speaker=speaker, id=own, rows=rows, column=sound, index=index)
    if not path.is_file():
        raise ManifestError(f"{where}: no such file: {path}")
    return Named(path, length_s(path), words, speaker=speaker, id=own)


def _label(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return str(next((row[name] for name in names if row.get(name) is not None), ""))


def _length_s(where: str, sound: bytes) -> float:
    with suppress(soundfile.LibsndfileError):
        return float(soundfile.info(io.BytesIO(sound)).duration)
    try:
        return len(decode(sound)) / SAMPLE_RATE
    except AudioError as error:
        raise ManifestError(f"{where}: {error}") from None
