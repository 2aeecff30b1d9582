"""espeak-ng and flite, to train on, and Festival, for tests: Debian's programs."""

import shutil
from pathlib import Path

import numpy as np

from offline.engines.voice import Speech, Voice, run

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


def espeak_voices() -> list[Voice]:
    voices = []
    for accent in _ESPEAK_ACCENTS:
        for variant in _ESPEAK_VARIANTS:
            held_out = bool({accent, variant} & _ESPEAK_HELD_OUT)
            name = f"{accent}+{variant}"
            voices.append(Voice("espeak", f"espeak-{name}", (name,), held_out))
    return voices


def espeak(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    pitch, words_per_minute = int(rng.integers(25, 76)), int(rng.integers(125, 206))
    return run(
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


def flite_voices() -> list[Voice]:
    return [Voice("flite", f"flite-{name}", (name,), name in _FLITE_HELD_OUT) for name in _FLITE_F0_HZ]


def flite(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    name = voice.settings[0]
    stretch, f0_hz = rng.uniform(0.8, 1.3), _FLITE_F0_HZ[name] * rng.uniform(0.8, 1.3)
    prosody = ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"int_f0_target_mean={f0_hz:.1f}"]
    return run(["flite", "-voice", name, *prosody, "-t", sentence, "-o", "/dev/stdout"])


def festival_problem() -> str | None:
    packages = [
        package for voice, package in _FESTIVAL_VOICES.items() if not any(_FESTIVAL_FOLDER.glob(f"*/{voice}"))
    ]
    if packages or not shutil.which("text2wave"):
        return f"not all of it is installed: apt-get install {' '.join(['festival', *packages])}"
    return None


def festival_voices() -> list[Voice]:
    return [
        Voice("festival", f"festival-{name}", (name,), name in _FESTIVAL_HELD_OUT)
        for name in _FESTIVAL_VOICES
    ]


def festival(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.85, 1.2):.3f})"
    name = voice.settings[0]
    return run(
        ["text2wave", "-eval", f"(voice_{name})", "-eval", stretch, "-otype", "riff", "-o", "-"], sentence
    )
