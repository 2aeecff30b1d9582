"""Manifests, the recordings that they name, and batches of them.

A manifest is JSON lines, one recording each: audio_filepath (absolute, or relative to the manifest), duration
(seconds), text (upper case), and maybe domain, engine, voice, speaker. With an offset (seconds), as NeMo has it, the
recording is the part of its file that begins there and lasts as long as duration says.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, AudioError, read
from asr.ctc import Vocabulary

LABELS = ("domain", "engine", "voice", "speaker")
PAD_STEP_S = 0.5  # padded lengths are multiples of this, to keep the shapes few


class ManifestError(ValueError):
    """A manifest that cannot be read: says which file, which line, and what is wrong."""


@dataclass(frozen=True)
class Utterance:
    """One recording of a manifest."""

    audio: Path
    duration_s: float
    text: str
    domain: str = ""
    engine: str = ""
    voice: str = ""
    speaker: str = ""
    more: tuple["Utterance", ...] = ()  # further recordings that follow it, where several are joined
    start_s: float = 0.0  # where it begins and ends in its file, of which it may be a part
    end_s: float | None = None

    def wave(self) -> NDArray[np.float32]:
        """Returns the samples, float32 [samples], mono at 16 kHz. Raises ManifestError, which names the file."""
        own = self.own_wave()
        return np.concatenate([own, *(other.own_wave() for other in self.more)]) if self.more else own

    def own_wave(self) -> NDArray[np.float32]:
        """Returns the samples without those of `more`."""
        return load_wave(self.audio, self.start_s, self.end_s)


def read_manifests(paths: Iterable[Path], vocabulary: Vocabulary | None = None) -> list[Utterance]:
    """Returns the utterances of all manifests, in order. Raises ManifestError; see read_manifest."""
    return [utterance for path in paths for utterance in read_manifest(path, vocabulary)]


def read_manifest(path: Path, vocabulary: Vocabulary | None = None) -> list[Utterance]:
    """Returns the utterances of one manifest.

    Raises:
        ManifestError: a line is not JSON, lacks a field, names a missing file, or (given a vocabulary) has a text
            that it cannot spell. Or the manifest is empty or missing.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    found = [_parse(path, number, line, vocabulary) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ManifestError(f"{path}: no recordings in it")
    return found


def labels_of(utterance: Utterance) -> dict[str, str]:
    """Who speaks, and of what, as a manifest's line has it: the labels that are known."""
    return {name: label for name in LABELS if (label := getattr(utterance, name))}


def _parse(path: Path, number: int, line: str, vocabulary: Vocabulary | None) -> Utterance:
    where = f"{path}, line {number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error.msg}): {line.strip()[:80]!r}") from None
    if not isinstance(fields, dict):
        raise ManifestError(f"{where}: not a JSON object: {line.strip()[:80]!r}")
    _check_fields(where, fields)
    audio = path.parent / fields["audio_filepath"]
    if not audio.is_file():
        raise ManifestError(f"{where}: no such file: {audio}")
    _check_spelling(where, fields["text"], vocabulary)
    duration_s, start_s = float(fields["duration"]), fields.get("offset")
    labels: Any = {name: str(fields[name]) if fields.get(name) is not None else "" for name in LABELS}
    return Utterance(
        audio,
        duration_s,
        fields["text"],
        **labels,
        start_s=float(start_s or 0),
        end_s=None if start_s is None else start_s + duration_s,
    )


def _check_fields(where: str, fields: dict[str, Any]) -> None:
    kinds: dict[str, Any] = {"audio_filepath": str, "duration": (int, float), "text": str}
    if fields.get("offset") is not None:
        kinds["offset"] = (int, float)
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind) or isinstance(fields[name], bool):
            raise ManifestError(f"{where}: {name} is {fields.get(name)!r}")
    if not 0 < fields["duration"] < float("inf"):
        raise ManifestError(f"{where}: duration is {fields['duration']!r}, must be above 0")
    if not 0 <= (fields.get("offset") or 0) < float("inf"):
        raise ManifestError(f"{where}: offset is {fields['offset']!r}, must be at least 0")


def _check_spelling(where: str, text: str, vocabulary: Vocabulary | None) -> None:
    try:
        if vocabulary is not None:
            vocabulary.encode(text)
    except ValueError as error:
        raise ManifestError(f"{where}: {error} in text {text[:80]!r}") from None


def load_wave(path: Path, start_s: float = 0.0, end_s: float | None = None) -> NDArray[np.float32]:
    """Returns one recording or a part of it, float32 [samples], mono at 16 kHz.

    Raises:
        ManifestError: it cannot be read, or has no samples between start_s and end_s; names the file.
    """
    if start_s == 0 and end_s is None:
        return _load_whole(path)
    start, stop = round(start_s * SAMPLE_RATE), None if end_s is None else round(end_s * SAMPLE_RATE)
    wave = _load_part(path, start, stop)
    if wave is None:
        wave = _load_whole(path)[start:stop]
    if not len(wave):
        raise ManifestError(
            f"{path}: holds nothing from {start_s:g} s to {'its end' if end_s is None else f'{end_s:g} s'}"
        )
    return wave


def _load_part(path: Path, start: int, stop: int | None) -> NDArray[np.float32] | None:
    """Returns a part without decoding the rest, where the file is as a model takes it, else None."""
    with suppress(soundfile.LibsndfileError), soundfile.SoundFile(path) as file:
        exact = file.format in ("WAV", "FLAC") and file.subtype.startswith("PCM") and file.seekable()
        if exact and file.samplerate == SAMPLE_RATE and file.channels == 1 and start < file.frames:
            file.seek(start)
            part: NDArray[np.float32] = file.read(-1 if stop is None else stop - start, dtype="float32")
            return part
    return None


def _load_whole(path: Path) -> NDArray[np.float32]:
    if path.suffix.lower() == ".flac":  # what training reads all the time: whole numbers, never NaN
        with suppress(soundfile.LibsndfileError):  # `read` tells better what is wrong
            wave, rate = soundfile.read(path, dtype="float32")
            if rate == SAMPLE_RATE and wave.ndim == 1 and len(wave):
                return wave
    try:
        return read(path)
    except (AudioError, OSError) as error:
        raise ManifestError(str(error)) from None


def padded_s(duration_s: float) -> float:
    """Returns duration_s rounded up to the lengths that batches are padded to."""
    return float(np.ceil(duration_s / PAD_STEP_S) * PAD_STEP_S)


def batches_of(
    order: Sequence[int],
    durations_s: Sequence[float],
    batch_seconds: float = float("inf"),
    batch_size: int | None = None,
) -> list[list[int]]:
    """Cuts order into batches of at most batch_seconds of padded audio and batch_size clips, or one longer clip."""
    batches: list[list[int]] = []
    longest_s = 0.0
    for index in order:
        longest_s = max(longest_s, padded_s(durations_s[index]))
        size = len(batches[-1]) + 1 if batches else 0
        if not batches or longest_s * size > batch_seconds or size > (batch_size or size):
            batches.append([])
            longest_s = padded_s(durations_s[index])
        batches[-1].append(index)
    return batches
