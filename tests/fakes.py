"""Stand-ins for a loaded model, that record what they are given."""

import threading
from collections.abc import Sequence

import numpy as np

from asr import Transcript, Word
from asr.audio import SAMPLE_RATE

HOP_SAMPLES = 320


class FakeConfig:
    def frames(self, samples: int) -> int:
        return samples // HOP_SAMPLES


class FakeTranscriber:
    """Says how many samples a clip had; keeps the lengths of each batch in `batches`.

    `gate` holds every batch until it is set; a wave that holds the value POISON raises RuntimeError.
    """

    POISON = 123.0

    def __init__(self, *, held: bool = False) -> None:
        self.config = FakeConfig()
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.entered = threading.Event()
        if not held:
            self.gate.set()

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
