"""How settings are written: amounts of memory, pairs, profiles of streams. Raises ValueError for what is none."""

from __future__ import annotations

import re

FRAME_MS = 20  # of all models of this architecture


def amount(text: str) -> float:
    """Bytes, or below 1 a share."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?)B?|B)?", text.strip(), flags=re.IGNORECASE)
    if not found:
        raise ValueError("give bytes, such as 536870912, 512MiB or 2GB, or a share below 1, such as 0.5")
    number, unit, binary = found.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return float(number) * (1024 if binary else 1000) ** power


def sizes(text: str) -> tuple[str, str]:
    """name=sizes, the sizes as they are."""
    name, _, rest = (part.strip() for part in text.partition("="))
    return name, rest


def pair(text: str) -> tuple[str, str]:
    """name=source."""
    name, _, source = (part.strip() for part in text.partition("="))
    if not name or not source:
        raise ValueError(f"{text!r} is not name=source, such as mla=mla or big=org/model")
    return name, source


def profile(name: str, sizes: str) -> tuple[int, float, int]:
    """Milliseconds of a chunk, seconds of context, milliseconds of look-ahead, from chunk+lookahead/context."""
    found = re.fullmatch(r"(\d+)(?:\+(\d+))?/(\d+(?:\.\d+)?)", sizes)
    chunk_ms, lookahead_ms = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    context_ms = float(found[3]) * 1000 if found else 0.0
    whole = all(
        abs(ms - round(ms / FRAME_MS) * FRAME_MS) < 1e-6 for ms in (chunk_ms, lookahead_ms, context_ms)
    )
    if not (found and name and whole and FRAME_MS <= chunk_ms <= 10_000 and lookahead_ms <= 10_000):
        raise ValueError(
            f"{name}={sizes} is not name=chunk/context or name=chunk+lookahead/context, such as balanced=480+160/10: a "
            f"chunk and a look-ahead of up to 10000 ms, and seconds of context, all of them multiples of {FRAME_MS} ms"
        )
    return chunk_ms, float(found[3]), lookahead_ms
