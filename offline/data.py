"""Manifests, batches and the training set.

A manifest is JSON lines, one recording each: audio_filepath (absolute, or relative to the manifest), duration
(seconds), text (upper case), and maybe domain, engine, voice, speaker.

Everything random is a function of (seed, step), so a run resumes exactly by skipping steps: nothing is decoded.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from asr.audio import SAMPLE_RATE, AudioError, read
from asr.ctc import Vocabulary
from offline.augment import augment

PAD_STEP_S = 0.5  # padded lengths are multiples of this, to keep the shapes few
# what a streaming client may ask for, both ends included
CHUNK_FRAMES, LEFT_CONTEXT_FRAMES = (8, 64), (0, 500)
_ORDER, _CHUNK, _AUGMENT, _JOIN = range(4)  # keeps the random streams of one seed apart


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
    more: tuple[Path, ...] = ()  # further recordings that follow it, where several are joined
    start_s: float = 0.0  # where it begins and ends in its file, of which it may be a part
    end_s: float | None = None

    def wave(self) -> NDArray[np.float32]:
        """Returns the samples, float32 [samples], mono at 16 kHz. Raises ManifestError, which names the file."""
        own = self.own_wave()
        return np.concatenate([own, *map(load_wave, self.more)]) if self.more else own

    def own_wave(self) -> NDArray[np.float32]:
        """Returns the samples without those of `more`."""
        return load_wave(self.audio, self.start_s, self.end_s)

    @property
    def is_part(self) -> bool:
        """Whether it is a part of its file only."""
        return self.start_s > 0 or self.end_s is not None


def join(utterances: Sequence[Utterance], limit_s: float, copies: int, seed: int) -> list[Utterance]:
    """Returns every recording `copies` times, each time in other company: alone, or as one of several in a row.

    A row is as long as a draw from 0 to limit_s lets it be. It teaches a model to go on past the end of a sentence, and
    wastes less of a batch than short recordings do, whose padding and added silence weigh more.
    """
    rng = np.random.default_rng([seed, _JOIN])
    rows: list[list[Utterance]] = []
    for _ in range(copies):
        room_s = 0.0
        for index in rng.permutation(len(utterances)):
            if utterances[index].duration_s > room_s:
                rows.append([])
                room_s = rng.uniform(0, limit_s)
            rows[-1].append(utterances[index])
            room_s -= utterances[index].duration_s
    return [_joined(row) for row in rows]


def _joined(row: list[Utterance]) -> Utterance:
    first, *rest = row
    if any(utterance.is_part for utterance in rest):
        raise ManifestError(f"{rest[0].audio}: parts of longer recordings cannot be joined")
    text = " ".join(utterance.text for utterance in row)
    more = tuple(utterance.audio for utterance in rest)
    return replace(first, duration_s=sum(u.duration_s for u in row), text=text, more=more)


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
    with path.open(encoding="utf-8") as lines:
        found = [
            _parse(path, number, line, vocabulary) for number, line in enumerate(lines, 1) if line.strip()
        ]
    if not found:
        raise ManifestError(f"{path}: no recordings in it")
    return found


def _parse(path: Path, number: int, line: str, vocabulary: Vocabulary | None) -> Utterance:
    where = f"{path}, line {number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error.msg}): {line.strip()[:80]!r}") from None
    if not isinstance(fields, dict):
        raise ManifestError(f"{where}: not a JSON object: {line.strip()[:80]!r}")
    for name, kind in (("audio_filepath", str), ("duration", (int, float)), ("text", str)):
        if not isinstance(fields.get(name), kind) or isinstance(fields[name], bool):
            raise ManifestError(f"{where}: {name} is {fields.get(name)!r}")
    if not fields["duration"] > 0:
        raise ManifestError(f"{where}: duration is {fields['duration']!r}, must be above 0")
    audio = path.parent / fields["audio_filepath"]
    if not audio.is_file():
        raise ManifestError(f"{where}: no such file: {audio}")
    _check_spelling(where, fields["text"], vocabulary)
    domain, engine, voice, speaker = (
        str(fields.get(name, "")) for name in ("domain", "engine", "voice", "speaker")
    )
    return Utterance(audio, float(fields["duration"]), fields["text"], domain, engine, voice, speaker)


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


def batches_of(order: Sequence[int], durations_s: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Cuts order into batches, each at most batch_seconds of padded audio, or a single longer recording."""
    batches: list[list[int]] = []
    longest_s = 0.0
    for index in order:
        longest_s = max(longest_s, padded_s(durations_s[index]))
        if not batches or longest_s * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            longest_s = padded_s(durations_s[index])
        batches[-1].append(index)
    return batches


def plan(
    durations_s: Sequence[float],
    batch_seconds: float,
    steps: int,
    *,
    seed: int,
    curriculum_steps: int = 0,
    together: int = 1,
) -> list[list[int]]:
    """Returns the steps * together batches (indices into durations_s) of a run, the same for the same arguments.

    The first curriculum_steps steps rise in duration over a sample of the whole set; then every epoch sees every
    recording, in batches of like durations, shuffled. The batches of one step (one for each process and accumulation)
    are alike too, so that nobody waits. A longer run begins as a shorter one does.
    """
    chosen: list[list[list[int]]] = []
    epoch = 0
    while len(chosen) < steps:
        rng = np.random.default_rng([seed, _ORDER, epoch])
        jitter_s = rng.uniform(-PAD_STEP_S, PAD_STEP_S, len(durations_s))
        order = np.argsort(np.asarray(durations_s) + jitter_s, kind="stable").tolist()
        groups = _groups(batches_of(order, durations_s, batch_seconds), together)
        if epoch == 0 and curriculum_steps:
            rising = np.linspace(0, len(groups) - 1, min(curriculum_steps, len(groups)))
            chosen += [groups[int(position)] for position in rising]
        else:
            chosen += [groups[position] for position in rng.permutation(len(groups))]
        epoch += 1
    return [batch for group in chosen[:steps] for batch in group]


def _groups(batches: list[list[int]], size: int) -> list[list[list[int]]]:
    """Neighbours in groups of size; the last group repeats batches from the middle, should it lack some."""
    lacking = -len(batches) % size
    middle = [batches[(len(batches) // 2 + i) % len(batches)] for i in range(lacking)]
    full = batches + middle
    return [full[i : i + size] for i in range(0, len(full), size)]


class RunSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (step, index) for one of world_size processes; step also seeds what happens to the recording."""

    def __init__(self, batches: list[list[int]], rank: int = 0, world_size: int = 1) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __len__(self) -> int:
        return len(self.batches) // self.world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.rank, len(self) * self.world_size, self.world_size):
            yield [(step, index) for index in self.batches[step]]


@dataclass(frozen=True)
class Example:
    """One recording as the model sees it at one step."""

    step: int
    wave: NDArray[np.float32]
    target: list[int]


class SpeechDataset(Dataset[Example]):
    """Recordings by (step, index), augmented as (seed, step, index) says; strength rises over ramp_steps."""

    def __init__(
        self,
        utterances: list[Utterance],
        vocabulary: Vocabulary,
        *,
        seed: int = 0,
        strength: float = 0.0,
        ramp_steps: int = 0,
        frames: Callable[[int], int] | None = None,
    ) -> None:
        """frames: how many frames the model makes of so many samples; a change that leaves too few is not made."""
        self.utterances = utterances
        self.targets = [vocabulary.encode(utterance.text) for utterance in utterances]
        self.seed, self.strength, self.ramp_steps, self.frames = seed, strength, ramp_steps, frames

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        step, index = key
        wave = self.utterances[index].wave()
        strength = self.strength * min(1.0, (step + 1) / max(self.ramp_steps, 1))
        if strength > 0:
            rng = np.random.default_rng([self.seed, _AUGMENT, step, index])
            changed = augment(wave, rng, strength, self._somebody_else)
            wave = changed if self._spells(changed, index) else wave
        return Example(step, wave, self.targets[index])

    def _spells(self, wave: NDArray[np.float32], index: int) -> bool:
        return self.frames is None or self.frames(len(wave)) >= frames_needed(self.targets[index])

    def _somebody_else(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return self.utterances[int(rng.integers(len(self.utterances)))].own_wave()


def draw_chunk(seed: int, step: int, chunk_share: float) -> tuple[int | None, int]:
    """Draws (chunk_frames, left_context_frames) of one batch; (None, 0), full context, in the other share."""
    rng = np.random.default_rng([seed, _CHUNK, step])
    if rng.random() >= chunk_share:
        return None, 0
    chunk, left = (
        int(rng.integers(low, high, endpoint=True)) for low, high in (CHUNK_FRAMES, LEFT_CONTEXT_FRAMES)
    )
    return chunk, left


class Collator:
    """Pads examples into one batch for the objective, with the chunk mask of its step."""

    def __init__(self, seed: int, chunk_share: float, chunk_start_step: int = 0) -> None:
        self.seed, self.chunk_share, self.chunk_start_step = seed, chunk_share, chunk_start_step

    def __call__(self, examples: list[Example], whole: bool = False) -> dict[str, Any]:
        """Returns waves [B, samples], lengths [B], targets [B, labels] and target_lengths [B], and the mask.

        whole: full context, whatever the step says.
        """
        lengths = torch.tensor([len(example.wave) for example in examples])
        samples = int(padded_s(int(lengths.max()) / SAMPLE_RATE) * SAMPLE_RATE)
        target_lengths = torch.tensor([len(example.target) for example in examples])
        waves = torch.zeros(len(examples), samples)
        targets = torch.zeros(len(examples), int(target_lengths.max()), dtype=torch.int64)
        for row, example in enumerate(examples):
            waves[row, : len(example.wave)] = torch.from_numpy(example.wave)
            targets[row, : len(example.target)] = torch.tensor(example.target)
        step = examples[0].step
        share = 0.0 if whole or step < self.chunk_start_step else self.chunk_share
        chunk_frames, left_context_frames = draw_chunk(self.seed, step, share)
        return {
            "waves": waves,
            "lengths": lengths,
            "targets": targets,
            "target_lengths": target_lengths,
            "chunk_frames": chunk_frames,
            "left_context_frames": left_context_frames,
        }


def frames_needed(target: Sequence[int]) -> int:
    """Returns the least frames that can spell target in CTC: one a label, and a blank between equal neighbours."""
    return len(target) + sum(a == b for a, b in pairwise(target))
