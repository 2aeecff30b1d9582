"""hibari-tts and Pico: two voices each, and others made of them by scaling the vocal tract and the pitch."""

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from offline.engines.voice import Speech, Voice, run

_TRACTS = (1.0, 0.94, 0.88, 0.84, 1.05, 1.1, 0.91, 0.97)
_PITCHES = (1.0, 0.85, 0.66, 0.56, 1.1, 1.2, 0.7, 0.78)
_HELD_OUT = {1, 6}
_HIBARI_RATE = 24_000


def voices(engine: str) -> list[Voice]:
    return [
        Voice(engine, f"{engine}-{accent}-{index:02d}", (accent, tract, pitch), index in _HELD_OUT)
        for accent in ("us", "gb")
        for index, (tract, pitch) in enumerate(zip(_TRACTS, _PITCHES, strict=True))
    ]


@lru_cache(maxsize=1)
def _hibari_model() -> Any:
    from hibari import Hibari

    return Hibari(threads=1)


@lru_cache(maxsize=2)
def phonemes_of(accent: str) -> Any:
    from hibari.g2p import G2P

    return G2P(british=accent == "gb")


def hibari(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    """A longer vocal tract (below 1) is the sound played slower; pace and pitch are set to make up for it."""
    from hibari import dsp

    accent, tract, pitch = voice.settings
    model, pace = _hibari_model(), rng.uniform(0.85, 1.2)
    inputs = {
        "ids": np.array([model.ids(phonemes_of(accent)(sentence))], dtype=np.int64),
        "speed": np.array([pace / tract], dtype=np.float32),
    }
    *spectra, f0_hz = (output[0] for output in model.sess.run(None, inputs))
    f0_hz = f0_hz * np.float32(pitch * rng.uniform(0.95, 1.05) / tract)
    return dsp.synth(*spectra, f0_hz, rng), round(_HIBARI_RATE * tract)


def pico(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    """A process for each sentence: in one that goes on, what it says depends on what it said before."""
    accent, tract, pitch = voice.settings
    options = {
        "--voice": f"en-{accent.upper()}",
        "--speed": f"{rng.uniform(0.85, 1.2) / tract:.3f}",
        "--pitch": f"{pitch * rng.uniform(0.95, 1.05) / tract:.3f}",
        "--volume": "0.4",  # at 1 it clips
        "--output": "/dev/stdout",
    }
    words = [word for pair in options.items() for word in pair]
    wave, rate = run([sys.executable, "-m", "py_nanotts", *words, "--", sentence])
    return wave, round(rate * tract)
