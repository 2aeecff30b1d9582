"""What to run a model on: the device, the type of its arithmetic, and how many threads an operation has on a CPU.

The type is what the device is fast in and the model can be trusted in:

- CUDA: as `asr.precision` has it for the library, too.
- CPU: bfloat16 for models from LARGE parameters on where the processor multiplies it (AVX512-BF16, AMX), else float32.
  With AVX512-BF16, a model of 610M parameters takes 14 s instead of 38 s for a clip of 5 s on one thread. Small models
  stay in float32, where a clip's text does not depend on what runs beside it: the bundled ones would be a quarter
  faster in bfloat16, for 3 other texts in 60.

Threads: a small model's operations are over before many threads have met. On two cores that were busy with other work,
two threads took the bundled models 3 to 13 times as long as one (0.3 s to 4 s for a clip of 5 s); so a small model gets
half of the cores, at the most SMALL_THREADS, and the decoding processes find the others free. A large one gets all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.precision import cuda_dtype

LARGE = 100_000_000
SMALL_THREADS = 4
NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Choice:
    """What a model runs on; `threads` is None where it is not on a CPU, and `why` tells a person all of it."""

    device: str
    dtype: str
    threads: int | None
    why: str


def choose(
    parameters: int, *, device: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Choice:
    """Choose what is not given, for a model of so many parameters."""
    place = device or default_device()
    kind, because = (dtype, "as set") if dtype else _dtype(place, parameters)
    why = f"{place}{'' if device else _why_device(place)}, {kind} ({because})"
    if not place.startswith("cpu"):
        return Choice(place, kind, None, why)
    count, of_cores = _threads(parameters, threads)
    return Choice(place, kind, count, f"{why}, {count} thread{'s' * (count > 1)} ({of_cores})")


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _why_device(device: str) -> str:
    return " (there is no CUDA device)" if device == "cpu" else f" ({torch.cuda.get_device_name(device)})"


def _dtype(device: str, parameters: int) -> tuple[str, str]:
    if device.startswith("cuda"):
        return cuda_dtype(torch.cuda.get_device_capability(device))
    if not device.startswith("cpu"):
        return "float32", "the safe choice on this device"
    return cpu_dtype(cpu_flags(), parameters)


def cpu_dtype(flags: set[str], parameters: int) -> tuple[str, str]:
    """The type for a processor with these flags, and why."""
    native = sorted(flags & NATIVE_BFLOAT16)
    if not native:
        return "float32", "the processor has no bfloat16"
    if parameters < LARGE:
        return "float32", f"{parameters / 1e6:.0f}M parameters: exact, and fast enough"
    return "bfloat16", ", ".join(native)


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the processor can do, by Linux' names; nothing elsewhere."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def _threads(parameters: int, wanted: int | None) -> tuple[int, str]:
    if wanted:
        return wanted, "as set"
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads(), "OMP_NUM_THREADS"
    count = cores()
    return threads_for(parameters, count), f"of {count} core{'s' * (count > 1)}"


def threads_for(parameters: int, cores: int) -> int:
    """How many threads an operation of a model of this size has."""
    return cores if parameters >= LARGE else max(1, min(SMALL_THREADS, cores // 2))


def cores(root: Path = Path("/")) -> int:
    """How many cores this process may keep busy: by its affinity, and by the quotas of its control groups."""
    has_affinity = hasattr(os, "sched_getaffinity")
    mine = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quotas = (_quota(folder) for folder in control_groups(root, "cpu"))
    return max(1, min([mine, *(int(quota) for quota in quotas if quota)]))


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders, under `root`, of the groups that this process is in (cgroup v1 and v2), and of those around them."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (group.split(":", 2) for group in groups):
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.strip("/")
        # In a container the path may be the host's, and its own limit stands at the top.
        yield group
        yield from (parent for parent in group.parents if parent.is_relative_to(top))


def _quota(folder: Path) -> float | None:
    """Cores that a group may use; None without a limit, or a group."""
    try:
        if (folder / "cpu.max").exists():
            quota_us, period_us = (folder / "cpu.max").read_text().split()
        else:
            quota_us, period_us = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return float(quota_us) / float(period_us) if float(quota_us) > 0 else None
    except (OSError, ValueError):  # none such, or "max"
        return None
