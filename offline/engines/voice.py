"""What a voice and an engine are, and what several engines need."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Speech = tuple[np.ndarray, int]  # float32 [samples], samples a second
_TIMEOUT_S = 60


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


def run(command: list[str], text: str = "") -> Speech:
    wav = subprocess.run(
        command, input=text.encode(), capture_output=True, check=True, timeout=_TIMEOUT_S
    ).stdout
    # espeak-ng writes its header before it knows the length: the samples are simply all that follows.
    if wav[:4] != b"RIFF" or len(wav) < 44:
        raise RuntimeError(f"no speech from: {' '.join(command)}")
    rate = int.from_bytes(wav[24:28], "little")
    return np.frombuffer(wav[44 : len(wav) // 2 * 2], dtype="<i2").astype(np.float32) / 32768, rate


def without_program(program: str) -> str | None:
    return None if shutil.which(program) else f"{program} is not installed: apt-get install {program}"


def without_packages(modules: list[str], install: str) -> str | None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"Python packages missing ({', '.join(missing)}): pip install {install}" if missing else None
