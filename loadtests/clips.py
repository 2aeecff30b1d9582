"""What clients send: recordings with the texts that are spoken in them, alone or joined to longer ones."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jiwer
import numpy as np
import soundfile

SPEECH = Path(__file__).parents[1] / "tests" / "speech"
MANIFEST_HELP = "recordings with texts: JSON lines, or a folder of them (default: tests/speech)"
GAP_S = 0.3  # of silence between two clips that are joined
# Of the requests in a mix: their share, and up to which length clips are joined; 0 leaves them alone.
MIX = ((0.6, 0.0), (0.3, 8.0), (0.1, 15.0))


class ClipsError(ValueError):
    """A manifest that cannot be used: which, and why."""


@dataclass(frozen=True)
class Clip:
    """A sound file's bytes, and what is said in it."""

    name: str
    audio_s: float
    text: str
    body: bytes

    @cached_property
    def decoded(self) -> tuple[np.ndarray, int]:
        """Samples float32 [n], mono, and their rate in Hz."""
        samples, rate = soundfile.read(io.BytesIO(self.body), dtype="float32", always_2d=True)
        return samples.mean(axis=1), rate


def read(manifest: Path) -> list[Clip]:
    """The clips of a manifest in JSON lines (audio_filepath, duration, text), or of all in a folder.

    Raises ClipsError where there are none, a line is something else, or a file is missing.
    """
    files = sorted(manifest.glob("*.jsonl")) if manifest.is_dir() else [manifest]
    clips = [clip for file in files for clip in _read(file)]
    if not clips:
        raise ClipsError(f"{manifest}: no clips; give a manifest in JSON lines, or a folder with *.jsonl")
    return clips


def _read(file: Path) -> Iterator[Clip]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ClipsError(f"{file}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            sound = file.parent / entry["audio_filepath"]
            yield Clip(sound.name, float(entry["duration"]), entry["text"], sound.read_bytes())
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ClipsError(f"{file}, line {number}: {type(error).__name__}: {error}") from None


def join(clips: Sequence[Clip], gap_s: float = GAP_S) -> Clip:
    """One recording (FLAC) of all, with so much silence after each. Raises ClipsError where their rates differ."""
    rates = {clip.decoded[1] for clip in clips}
    if len(rates) != 1:
        raise ClipsError(f"clips of {sorted(rates)} Hz cannot be joined; all must have one rate")
    (rate,) = rates
    silence = np.zeros(round(gap_s * rate), np.float32)
    samples = np.concatenate([part for clip in clips for part in (clip.decoded[0], silence)])
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    text = " ".join(clip.text for clip in clips)
    return Clip("+".join(clip.name for clip in clips), len(samples) / rate, text, file.getvalue())


def joined(
    clips: Sequence[Clip],
    longest_s: float,
    generator: random.Random,
    gap_s: float = GAP_S,
    *,
    over: bool = False,
) -> Clip:
    """Clips by chance, joined: as many as stay within that length, one at least; with `over`, until it is reached."""
    chosen = [generator.choice(clips)]
    length_s = chosen[0].audio_s + gap_s
    while length_s < longest_s:
        clip = generator.choice(clips)
        length_s += clip.audio_s + gap_s
        if length_s > longest_s and not over:
            break
        chosen.append(clip)
    return join(chosen, gap_s)


def mixed(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """So many requests' worth, short and longer as MIX says; the same for the same seed."""
    generator = random.Random(seed)
    shares = [share for share, _ in MIX]
    lengths = generator.choices([longest_s for _, longest_s in MIX], shares, k=count)
    return [joined(clips, s, generator) if s else generator.choice(clips) for s in lengths]


def words(text: str) -> list[str]:
    """Its words without case and punctuation: services write both as they like.

    >>> words("Don't STOP, now.")
    ["don't", 'stop', 'now']
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.casefold())


def word_errors(reference: str, text: str) -> tuple[int, int]:
    """How many words are wrong, missing or too many, and of how many in the reference."""
    expected, heard = words(reference), words(text)
    if not expected:
        return len(heard), 0
    found = jiwer.process_words(" ".join(expected), " ".join(heard))
    return found.substitutions + found.deletions + found.insertions, len(expected)
