"""Corpora in the forms that they come in, as utterances: `read_corpus` takes any of them.

  x.jsonl                      a manifest (offline/data.py says the fields)
  test-clean                   a LibriSpeech split by name, below a root; or any folder with *.trans.txt in it
  a folder with wav.scp        Kaldi: wav.scp and text, maybe segments, utt2spk, utt2dur
  x.csv, x.tsv                 a table with a column of sound files and one of texts
  hf:dataset[:config]:split    a data set that `datasets` reads (an extra, offline/hub_data.py): a folder or a hub id

Texts come in upper case, and otherwise as they are. Nothing is fetched unless `download` is set.
"""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import soundfile

from asr.audio import SAMPLE_RATE
from offline import provenance
from offline.data import ManifestError, Utterance, load_wave, read_manifest

ROOT_VARIABLE = "LIBRISPEECH_ROOT"
# Where a split is looked for when neither an argument nor the variable names a root.
ROOTS = ("data/LibriSpeech", "data/librispeech/LibriSpeech", "data/librispeech", "data")
SPLITS = {  # megabytes of the archive
    "dev-clean": 337,
    "dev-other": 314,
    "test-clean": 346,
    "test-other": 328,
    "train-clean-100": 6_300,
    "train-clean-360": 23_000,
    "train-other-500": 30_000,
}
AUDIO_COLUMNS = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav", "audio_path")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text", "reference")
ID_COLUMNS = ("id", "utt_id", "utterance_id", "utterance")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
COLUMNS = {
    "audio": AUDIO_COLUMNS,
    "text": TEXT_COLUMNS,
    "id": ID_COLUMNS,
    "speaker": SPEAKER_COLUMNS,
    "duration": ("duration", "duration_s"),
    **{name: (name,) for name in ("domain", "engine", "voice")},
}
T = TypeVar("T")


@dataclass(frozen=True)
class Named(Utterance):
    """An utterance that its corpus gives an id."""

    id: str = ""


def read_corpus(
    source: str | Path, *, root: Path | None = None, limit: int | None = None, download: bool = False
) -> list[Utterance]:
    """Returns the utterances of a corpus, in its own order.

    Args:
        source: see the top of this file.
        root: where LibriSpeech splits lie; default: the folder in the variable LIBRISPEECH_ROOT, or ROOTS.
        limit: at most so many utterances, evenly spaced over the corpus.
        download: a split that is not here, or an hf: data set that is no folder, may be fetched from the hub.

    Raises:
        ManifestError: there is no such corpus, or a line of it cannot be used: names the file and the line.
    """
    name = str(source)
    if name.startswith("hf:"):
        return _hub(name, limit, download)
    path = Path(name).expanduser()
    if name in SPLITS:
        folder = find_split(name, root)
        if folder is None and not download:
            raise ManifestError(_not_here(name, root))
        if folder is None:
            return _hub(name, limit, download)
        return list(_librispeech(folder, limit))
    if path.is_dir():
        return list(_folder(path, limit))
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return list(_table(path, limit))
    if path.suffix.lower() in (".json", ".jsonl"):
        return [replace(u, text=u.text.upper()) for u in evenly(read_manifest(path), limit)]
    known = "a manifest (.jsonl), a table (.csv, .tsv), a folder (LibriSpeech, Kaldi), hf:dataset:split"
    raise ManifestError(f"no corpus {name!r}: it is neither {known}, nor one of {', '.join(SPLITS)}")


def evenly(items: Sequence[T], limit: int | None) -> list[T]:
    """Returns `limit` of the items, evenly spaced from the first on; all where there are no more, or without limit."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


def names(utterances: Sequence[Utterance]) -> list[str]:
    """Returns an id for each: its own, or its file's name (and place in it), or its file's path where names repeat."""
    own = [u.id if isinstance(u, Named) else u.audio.stem + _place(u) for u in utterances]
    if len(set(own)) == len(own):
        return own
    paths = [
        f"{provenance.relative(u.audio)}{_place(u)}:{name}" for u, name in zip(utterances, own, strict=True)
    ]
    seen: Counter[str] = Counter()
    unique = []
    for path in paths:
        unique.append(f"{path}#{seen[path]}" if seen[path] else path)
        seen[path] += 1
    return unique


def _place(utterance: Utterance) -> str:
    return f"@{utterance.start_s:g}" if utterance.start_s else ""


def digest(source: str | Path, utterances: Sequence[Utterance]) -> str:
    """Returns a SHA-256 that tells which data a result stands on: of a file's bytes, else of ids, texts and lengths."""
    if Path(source).is_file():
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    facts = [
        (name, u.text, u.duration_s, u.start_s) for name, u in zip(names(utterances), utterances, strict=True)
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def find_split(name: str, root: Path | None) -> Path | None:
    """Returns the folder of a LibriSpeech split, None where it lies in none of the places to look in."""
    found = [place for place in _places(name, root) if place.is_dir()]
    return found[0] if found else None


def _places(name: str, root: Path | None) -> list[Path]:
    given = root or os.environ.get(ROOT_VARIABLE)
    roots = [Path(given).expanduser()] if given else [Path(folder) for folder in ROOTS]
    return [place for folder in roots for place in (folder / "LibriSpeech" / name, folder / name)]


def _not_here(name: str, root: Path | None) -> str:
    looked = ", ".join(map(str, _places(name, root)))
    return (
        f"LibriSpeech {name} is not here; looked for {looked}. Unpack https://www.openslr.org/resources/12/"
        f"{name}.tar.gz ({SPLITS[name]:,} MB) and say where with --data_dir or {ROOT_VARIABLE}, or let --download "
        "fetch about as much from the Hugging Face hub"
    )


def _hub(name: str, limit: int | None, download: bool) -> list[Utterance]:
    try:
        from offline import hub_data
    except ImportError as error:
        raise ManifestError(f"{name}: for this: pip install 'mla-asr[hf-datasets]' ({error})") from None
    return hub_data.read(name, limit, download)


def _folder(folder: Path, limit: int | None) -> Iterator[Utterance]:
    if (folder / "wav.scp").is_file():
        return _kaldi(folder, limit)
    if next(folder.rglob("*.trans.txt"), None):
        return _librispeech(folder, limit)
    raise ManifestError(
        f"{folder}: neither LibriSpeech (*.trans.txt) nor Kaldi (wav.scp): no recordings in it"
    )


def _librispeech(folder: Path, limit: int | None) -> Iterator[Utterance]:
    """The split's utterances by the names of their files; the speaker is an id's first part."""
    rows = [(file, *row) for file in sorted(folder.rglob("*.trans.txt")) for row in _pairs(file)]
    for file, where, name, text in evenly(_some(rows, folder), limit):
        wav = file.with_name(f"{name}.wav")
        audio = wav if wav.is_file() else _sound_file(where, f"{name}.flac", file.parent)
        yield Named(audio, length_s(audio), text.upper(), speaker=name.partition("-")[0], id=name)


def _kaldi(folder: Path, limit: int | None) -> Iterator[Utterance]:
    recordings = {name: (where, value) for where, name, value in _pairs(folder / "wav.scp")}
    parts = {name: (where, value.split()) for where, name, value in _optional(folder / "segments")}
    speakers = {name: value for _, name, value in _optional(folder / "utt2spk")}
    lengths = {name: (where, value) for where, name, value in _optional(folder / "utt2dur")}
    for where, name, text in evenly(_some(list(_pairs(folder / "text")), folder), limit):
        if parts and name not in parts:
            raise ManifestError(f"{where}: {name!r} is not in {folder / 'segments'}")
        recording, start_s, end_s = _part(*parts[name]) if parts else (name, 0.0, None)
        if recording not in recordings:
            at = parts[name][0] if parts else where
            raise ManifestError(f"{at}: recording {recording!r} is not in {folder / 'wav.scp'}")
        audio = _kaldi_file(folder, *recordings[recording])
        if name in lengths:
            duration_s = _seconds(*lengths[name])
        else:
            duration_s = (length_s(audio) if end_s is None else end_s) - start_s
        labels: Any = {"speaker": speakers.get(name, ""), "id": name}
        yield Named(audio, duration_s, text.upper(), **labels, start_s=start_s, end_s=end_s)


def _part(where: str, fields: list[str]) -> tuple[str, float, float | None]:
    """A line of segments: recording, start and end in seconds; -1 is the recording's end."""
    if len(fields) != 3:
        raise ManifestError(
            f"{where}: segments are `utterance recording start end`, this has {len(fields) + 1} words"
        )
    start_s, end_s = (_seconds(where, field, low=-1) for field in fields[1:])
    if start_s < 0 or (end_s != -1 and end_s <= start_s):
        raise ManifestError(f"{where}: from {start_s:g} to {end_s:g} s is no segment")
    return fields[0], start_s, None if end_s == -1 else end_s


def _kaldi_file(folder: Path, where: str, value: str) -> Path:
    """The file of a line of wav.scp; of `flac -c -d -s x.flac |` and `cat x.wav |` the file that they read."""
    if value.endswith("|"):
        reads = re.fullmatch(r"(?:flac|cat)\s+(?:-\S+\s+)*(\S+)\s*\|", value)
        if not reads:
            raise ManifestError(f"{where}: commands are not run, only files read: {value!r}")
        value = reads[1]
    return _sound_file(where, value, folder)


def _sound_file(where: str, name: str, *folders: Path) -> Path:
    """The file of that name in one of the folders, or where the process stands."""
    places = [folder / name for folder in (*folders, Path())]
    found = [place for place in places if place.is_file()]
    if not found:
        raise ManifestError(f"{where}: no such file: {places[0]}")
    return found[0]


def _table(path: Path, limit: int | None) -> Iterator[Utterance]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        tabs = path.suffix.lower() == ".tsv"
        reader = csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
        header = [name.strip().lower() for name in next(reader, [])]
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader if row]
    places = {name: _column(path, header, columns) for name, columns in COLUMNS.items()}
    for where, row in evenly(_some(rows, path), limit):
        if len(row) != len(header):
            raise ManifestError(f"{where}: {len(row)} fields, the first line has {len(header)}")
        cells = {name: "" if place is None else row[place].strip() for name, place in places.items()}
        audio = _sound_file(where, cells["audio"], path.parent, path.parent / "clips")  # clips: Common Voice
        duration_s = _seconds(where, cells["duration"]) if cells["duration"] else length_s(audio)
        labels: Any = {name: cells[name] for name in ("domain", "engine", "voice", "speaker")}
        own = cells["id"] or Path(cells["audio"]).stem
        yield Named(audio, duration_s, cells["text"].upper(), **labels, id=own)


def _column(path: Path, header: list[str], columns: tuple[str, ...]) -> int | None:
    found = [header.index(name) for name in columns if name in header]
    if not found and columns in (AUDIO_COLUMNS, TEXT_COLUMNS):
        kind = "sound files" if columns == AUDIO_COLUMNS else "texts"
        known = f"{' or '.join(columns)}; it has {', '.join(header)}"
        raise ManifestError(f"{path}, line 1: no column of {kind}: {known}")
    return found[0] if found else None


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (where, first word, the rest) of each line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, *rest = line.split(maxsplit=1)
            yield f"{path}, line {number}", name, rest[0].strip() if rest else ""


def _optional(path: Path) -> Iterable[tuple[str, str, str]]:
    return _pairs(path) if path.is_file() else ()


def _some(rows: list[T], path: Path) -> list[T]:
    if not rows:
        raise ManifestError(f"{path}: no recordings in it")
    return rows


def _seconds(where: str, text: str, low: float = 0.0) -> float:
    with suppress(ValueError):
        if low <= float(text) < float("inf"):
            return float(text)
    raise ManifestError(f"{where}: {text!r} is no number of seconds")


def length_s(path: Path) -> float:
    """Returns a recording's length, from its header where it has one. Raises ManifestError."""
    with suppress(soundfile.LibsndfileError):
        if (seconds := float(soundfile.info(path).duration)) > 0:
            return seconds
    return len(load_wave(path)) / SAMPLE_RATE
