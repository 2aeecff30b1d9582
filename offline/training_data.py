"""What training hears, step by step: the plan of a run, its recordings augmented, in batches, under chunk masks.

Everything random is a function of (seed, step), so a run resumes exactly by skipping steps: nothing is decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from asr.audio import SAMPLE_RATE
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from offline.augment import augment
from offline.data import PAD_STEP_S, Utterance, batches_of, padded_s

# what a streaming client may ask for, both ends included
CHUNK_FRAMES, LEFT_CONTEXT_FRAMES = (8, 64), (0, 500)
_ORDER, _CHUNK, _AUGMENT, _JOIN = range(4)  # keeps the random streams of one seed apart
T = TypeVar("T")


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
    text = " ".join(utterance.text for utterance in row)
    return replace(row[0], duration_s=sum(u.duration_s for u in row), text=text, more=tuple(row[1:]))


def why_not(utterance: Utterance, config: ModelConfig, vocabulary: Vocabulary, limit_s: float) -> str | None:
    """Returns why CTC cannot learn from an utterance, or that it is longer than limit_s; None where it can."""
    needed = frames_needed(vocabulary.encode(utterance.text))
    if needed == 0:
        return "without text"
    if utterance.duration_s > limit_s:
        return f"longer than {limit_s:g} s"
    if needed > config.frames(int(utterance.duration_s * SAMPLE_RATE)):
        return "too few frames for their text"
    return None


def frames_needed(target: Sequence[int]) -> int:
    """Returns the least frames that can spell target in CTC: one a label, and a blank between equal neighbours."""
    return len(target) + sum(a == b for a, b in pairwise(target))


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
        groups = groups_of(batches_of(rising(durations_s, rng), durations_s, batch_seconds), together)
        if epoch == 0 and curriculum_steps:
            sample = np.linspace(0, len(groups) - 1, min(curriculum_steps, len(groups)))
            chosen += [groups[int(position)] for position in sample]
        else:
            chosen += [groups[position] for position in rng.permutation(len(groups))]
        epoch += 1
    return [batch for group in chosen[:steps] for batch in group]


def rising(durations_s: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Returns the recordings by length, which is jittered, so that batches are of others every time."""
    jitter_s = rng.uniform(-PAD_STEP_S, PAD_STEP_S, len(durations_s))
    order: list[int] = np.argsort(np.asarray(durations_s) + jitter_s, kind="stable").tolist()
    return order


def groups_of(batches: list[T], size: int) -> list[list[T]]:
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


def draw_chunk(
    seed: int, step: int, chunk_share: float, smallest: int = CHUNK_FRAMES[0]
) -> tuple[int | None, int]:
    """Draws (chunk_frames, left_context_frames) of one batch; (None, 0), full context, in the other share."""
    rng = np.random.default_rng([seed, _CHUNK, step])
    if rng.random() >= chunk_share:
        return None, 0
    bounds = ((smallest, CHUNK_FRAMES[1]), LEFT_CONTEXT_FRAMES)
    chunk, left = (int(rng.integers(low, high, endpoint=True)) for low, high in bounds)
    return chunk, left


class Collator:
    """Pads examples into one batch for the objective, with the chunk mask of its step."""

    def __init__(
        self,
        seed: int,
        chunk_share: float,
        chunk_start_step: int = 0,
        smallest_chunk: int = CHUNK_FRAMES[0],
    ) -> None:
        self.seed, self.chunk_share, self.chunk_start_step = seed, chunk_share, chunk_start_step
        self.smallest_chunk = smallest_chunk

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
        chunk_frames, left_context_frames = draw_chunk(self.seed, step, share, self.smallest_chunk)
        return {
            "waves": waves,
            "lengths": lengths,
            "targets": targets,
            "target_lengths": target_lengths,
            "chunk_frames": chunk_frames,
            "left_context_frames": left_context_frames,
        }
