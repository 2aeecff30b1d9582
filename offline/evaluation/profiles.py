"""Ways to hear a recording: whole, in a live stream's chunks, or chunk by chunk with nothing kept in between.

>>> [str(parse(name)) for name in ("full", "balanced", "320x2/int8", "naive-640x10")]
['full', '480+160ms/10s', '320ms/2s/int8', 'naive-640ms/10s']
"""

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace

FRAME_MS = 20
LEFT_CONTEXT_FRAMES = 500
NAMED = {
    "fast": "200+120x5",
    "balanced": "480+160x10",
    "long": "480+160x30",
}  # the service's names, and what they stand for
FORMS = (
    "<chunk ms>x<seconds before it> such as 640x10 (640x10/int8: cache in int8), 480+160x10 (160 ms of look-ahead), "
    "naive-640x10 (no cache)"
)
CHOICES = ("full", *NAMED, FORMS)


@dataclass(frozen=True)
class Profile:
    """What a frame may see: everything, or its chunk of C frames, R frames after it, and at most F before it."""

    chunk_frames: int | None = None
    left_context_frames: int = 0
    naive: bool = False  # each chunk and what is before it as a clip of its own
    int8: bool = False
    lookahead_frames: int = 0

    @property
    def streamed(self) -> bool:
        """Whether a cache goes from chunk to chunk."""
        return self.chunk_frames is not None and not self.naive

    @property
    def left_context_s(self) -> float:
        return self.left_context_frames * FRAME_MS / 1000

    def __str__(self) -> str:
        if self.chunk_frames is None:
            return "full"
        ahead = f"+{self.lookahead_frames * FRAME_MS}" if self.lookahead_frames else ""
        sizes = f"{self.chunk_frames * FRAME_MS}{ahead}ms/{self.left_context_s:g}s"
        return f"{'naive-' * self.naive}{sizes}{'/int8' * self.int8}"


FULL = Profile()


def parse(text: str) -> Profile:
    """Returns the profile of a name, or of sizes. Raises ValueError, which lists the choices."""
    body, slash, kind = text.partition("/")
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(naive-)?{number}(?:\+{number})?x{number}", NAMED.get(body, body))
    if text == "full":
        return FULL
    if not found or (slash and (kind != "int8" or found[1])) or (found[1] and found[3]):
        raise ValueError(f"--profile {text!r} is none; choices: {', '.join(CHOICES)}")
    chunk = whole_frames(f"--profile {text}: the chunk", float(found[2]), 1, 1)
    ahead = whole_frames(f"--profile {text}: the look-ahead", float(found[3] or 0), 1, 0)
    left = whole_frames(f"--profile {text}: the context", float(found[4]), 1000, 0)
    return Profile(chunk, left, bool(found[1]), kind == "int8", ahead)


def whole_frames(what: str, value: float, unit_ms: int, least: int) -> int:
    """Returns a time as frames. Raises ValueError where that is no whole number, or too few; names the nearest."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value:g}: give a number of {'ms' if unit_ms == 1 else 's'}")
    exact = value * unit_ms / FRAME_MS
    frames = max(round(exact), least)
    if abs(exact - frames) > 1e-6:  # 0.14 s is not exactly 7 frames
        step, nearest = FRAME_MS / unit_ms, frames * FRAME_MS / unit_ms
        raise ValueError(f"{what} is {value:g}, no multiple of {step:g}; the nearest is {nearest:g}")
    return frames


def chosen(args: Namespace) -> list[Profile]:
    """Returns the profiles that the options ask for: at least one, each once.

    Raises:
        ValueError: one thing is said in two ways, or is no profile.
    """
    single = _single(args)
    if args.profile and single is not FULL:
        raise ValueError("--profile and --chunk_ms say the same thing twice; give one")
    profiles = [parse(text) for text in args.profile] if args.profile else [single]
    twice = [str(profile) for profile in profiles if profiles.count(profile) > 1]
    if twice:
        raise ValueError(f"--profile names {twice[0]} more than once")
    return _with_caches(profiles, args.cache_dtype)


def _single(args: Namespace) -> Profile:
    """What --chunk_ms, --left_context_s and their twins in frames say."""
    chunk = _frames("chunk", args.chunk_ms, 1, "ms", args.chunk_frames)
    left = _frames("left_context", args.left_context_s, 1000, "s", args.left_context_frames)
    if chunk is None and left is not None:
        raise ValueError("a left context is what a chunk sees before it: give --chunk_ms, too")
    if chunk is None:
        return FULL
    return Profile(chunk, LEFT_CONTEXT_FRAMES if left is None else left)


def _frames(name: str, value: float | None, unit_ms: int, unit: str, frames: int | None) -> int | None:
    if value is None:
        return frames
    if frames is not None:
        raise ValueError(f"--{name}_{unit} and --{name}_frames say the same thing twice; give one")
    return whole_frames(f"--{name}_{unit}", value, unit_ms, 1 if name == "chunk" else 0)


def _with_caches(profiles: Sequence[Profile], kinds: Sequence[str]) -> list[Profile]:
    """Each streamed profile with each kind of cache; one that says int8 itself stays as it is."""
    unknown = [kind for kind in kinds if kind not in ("model", "int8")]
    if unknown:
        raise ValueError(f"--cache_dtype {unknown[0]!r} is none; choices: model, int8")
    if list(kinds) != ["model"] and not any(profile.streamed for profile in profiles):
        raise ValueError("--cache_dtype is of a live stream's cache: give --profile or --chunk_ms, too")
    found: list[Profile] = []
    for profile in profiles:
        split = profile.streamed and not profile.int8
        found += [replace(profile, int8=kind == "int8") for kind in kinds] if split else [profile]
    return list(dict.fromkeys(found))
