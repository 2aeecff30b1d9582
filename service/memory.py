"""How much memory is free where the model lies, and on a GPU how much a call takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from service.device import control_groups

LIMITS = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # of version 1: without a limit it is a huge one
)


def free_bytes(device: str, root: Path = Path("/")) -> int:
    """Of a GPU, what its driver says; else what the machine, or the container, has left for a process."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    free = [int(lines["MemAvailable"].split()[0]) * 1024]
    for folder in control_groups(root, "memory"):
        for limit, used in LIMITS:
            numbers = _number(folder / limit), _number(folder / used)
            if numbers[0] is not None and numbers[1] is not None:
                free.append(numbers[0] - numbers[1])
    return max(0, min(free))


def forget_peak(device: str) -> None:
    """Count a GPU's highest allocation anew from here: loading takes more than serving."""
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)


def measure(device: str) -> Callable[[Callable[[], None]], int] | None:
    """What tells the bytes that a call takes at its height, beyond those there before it; None on what is no GPU."""
    return partial(_height_bytes, device) if device.startswith("cuda") else None


def _height_bytes(device: str, call: Callable[[], None]) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # none such, or "max"
        return None
