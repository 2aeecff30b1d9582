"""The speech engines, each optional: espeak-ng, flite, hibari-tts, Pico, Kokoro-82M, Silero to train on; two for tests.

A `Voice` is one recognisable speaker of one engine (an accent and a variant, a mixture of styles, ...); what a speaker
varies from sentence to sentence (pitch, pace) is drawn anew for every sentence. Some voices of every engine are
held out: no training sentence is ever read by them.
"""

import sys

from offline.engines import kokoro, piper, programs, silero, warped
from offline.engines.voice import Engine, without_packages, without_program

ENGINES: dict[str, Engine] = {
    "espeak": Engine(lambda: without_program("espeak-ng"), programs.espeak_voices, programs.espeak),
    "flite": Engine(lambda: without_program("flite"), programs.flite_voices, programs.flite),
    "festival": Engine(programs.festival_problem, programs.festival_voices, programs.festival),
    "hibari": Engine(
        lambda: without_packages(["hibari", "onnxruntime"], "hibari-tts onnxruntime"),
        lambda: warped.voices("hibari"),
        warped.hibari,
    ),
    "kokoro": Engine(kokoro.problem, kokoro.mixed_voices, kokoro.speak),
    "kokoro-wide": Engine(kokoro.problem, kokoro.wide_voices, kokoro.speak),
    "kokoro-en": Engine(kokoro.english_problem, kokoro.english_voices, kokoro.speak_english),
    "kokoro-clear": Engine(kokoro.english_problem, kokoro.clear_voices, kokoro.speak_clearly),
    "pico": Engine(
        lambda: without_packages(["py_nanotts"], "py-nanotts"), lambda: warped.voices("pico"), warped.pico
    ),
    "silero": Engine(silero.problem, silero.voices, silero.speak),
    "piper": Engine(piper.problem, piper.voices, piper.speak),
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
