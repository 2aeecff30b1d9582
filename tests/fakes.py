"""Stand-ins for a loaded model, that record what they are given."""

import threading
from collections.abc import Sequence

import numpy as np

from asr import Transcript, Word
from asr.audio import SAMPLE_RATE
from asr.ctc import Vocabulary

HOP_SAMPLES = 320
TAIL_SAMPLES = 80
LETTERS = ["<pad>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
LOUDNESS = 0.01  # of one step in LETTERS


class FakeConfig:
    tail_samples = TAIL_SAMPLES

    def frames(self, samples: int) -> int:
        return samples // HOP_SAMPLES


class FakeCache:
    """The grid of a `StreamCache`, the tail of each slot, and the scores that wait for their look-ahead."""

    bytes_per_slot = 1000
    table_bytes = 0

    def __init__(self, slots: int, chunk_frames: int, lookahead_frames: int) -> None:
        self.slots, self.lookahead_frames = slots, lookahead_frames
        self.chunk_samples = chunk_frames * HOP_SAMPLES
        self.tails = [np.zeros(0, np.float32)] * slots
        self.waiting = [np.zeros((0, len(LETTERS)), np.float32)] * slots
        self.ended = [False] * slots
        self.resets: list[int] = []

    @property
    def nbytes(self) -> int:
        return self.slots * self.bytes_per_slot

    def reset(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.tails[slot], self.ended[slot] = np.zeros(0, np.float32), False
            self.waiting[slot] = np.zeros((0, len(LETTERS)), np.float32)
            self.resets.append(slot)


class FakeTranscriber:
    """Says how many samples a clip had; keeps the lengths of each batch in `batches`.

    `gate` holds every batch until it is set; a wave that holds the value POISON raises RuntimeError. What a stream says
    is what `spoken` was given; `steps` keeps who was in each step, with how many samples, and `step_gate` holds them.
    """

    POISON = 123.0

    def __init__(self, *, held: bool = False) -> None:
        self.config = FakeConfig()
        self.vocabulary = Vocabulary(LETTERS)
        self.seconds_per_frame = HOP_SAMPLES / SAMPLE_RATE
        self.batches: list[list[int]] = []
        self.steps: list[dict[int, int]] = []
        self.threads: set[str] = set()
        self.gate, self.step_gate = threading.Event(), threading.Event()
        self.entered, self.stepped = threading.Event(), threading.Event()
        self.step_gate.set()
        if not held:
            self.gate.set()

    def is_long(self, samples: int) -> bool:
        return False

    def transcribe(self, waves: Sequence[np.ndarray]) -> list[Transcript]:
        self.batches.append([len(wave) for wave in waves])
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(120)
        if any((wave == self.POISON).any() for wave in waves):
            raise RuntimeError("/secret/path: a wave is poisoned")
        return [self._transcript(wave) for wave in waves]

    def _transcript(self, wave: np.ndarray) -> Transcript:
        duration_s = len(wave) / SAMPLE_RATE
        text = f"SAMPLES {len(wave)}" if len(wave) >= 400 else ""
        words = [Word(word, 0.0, duration_s, 0.5) for word in text.split()]
        return Transcript(text, words, duration_s)

    def new_cache(
        self,
        slots: int,
        *,
        chunk_frames: int,
        left_context_frames: int,
        lookahead_frames: int = 0,
        dtype: str | None = None,
    ) -> FakeCache:
        return FakeCache(slots, chunk_frames, lookahead_frames)

    def step(
        self, cache: FakeCache, slots: Sequence[int], chunks: Sequence[np.ndarray], *, keep: bool = True
    ) -> list[np.ndarray]:
        self.steps.append({slot: len(chunk) for slot, chunk in zip(slots, chunks, strict=True)})
        self.threads.add(threading.current_thread().name)
        self.stepped.set()
        assert self.step_gate.wait(120)
        if any((chunk == self.POISON).any() for chunk in chunks):
            raise RuntimeError("/secret/path: a chunk is poisoned")
        return [self._hear(cache, slot, chunk, keep) for slot, chunk in zip(slots, chunks, strict=True)]

    def _hear(self, cache: FakeCache, slot: int, chunk: np.ndarray, keep: bool) -> np.ndarray:
        assert not cache.ended[slot], f"slot {slot} was not reset"
        wave = np.concatenate((cache.tails[slot], chunk))
        full = cache.chunk_samples + TAIL_SAMPLES
        going = len(wave) == full
        assert len(wave) < full or (going and keep)
        if keep:
            cache.tails[slot] = wave[-TAIL_SAMPLES:]
            cache.ended[slot] = len(wave) < full
        frames = max(0, (len(wave) - TAIL_SAMPLES) // HOP_SAMPLES)
        best = np.round(wave[: frames * HOP_SAMPLES : HOP_SAMPLES] / LOUDNESS).astype(int) % len(LETTERS)
        scores = np.full((frames, len(LETTERS)), -5.0, np.float32)
        scores[np.arange(frames), best] = -0.1
        scores = np.concatenate((cache.waiting[slot], scores))
        said = max(len(scores) - cache.lookahead_frames, 0) if going else len(scores)
        if going:
            cache.waiting[slot] = scores[said:]
        return scores[:said]


def spoken(text: str, *, frames_per_letter: int = 4) -> np.ndarray:
    """float32 [samples] at 16 kHz in which a fake hears `text`: letters, spaces, and _ for nothing.

    Each lasts `frames_per_letter` frames, the last of them blank, so that doubles are heard as two.
    """
    symbols = [LETTERS.index({" ": "|", "_": "<pad>"}.get(letter, letter)) for letter in text]
    frames = np.array([[symbol] * (frames_per_letter - 1) + [0] for symbol in symbols], np.float32).ravel()
    return np.append(np.repeat(frames, HOP_SAMPLES), np.zeros(TAIL_SAMPLES, np.float32)) * np.float32(
        LOUDNESS
    )
