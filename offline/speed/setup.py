"""What both benchmarks share: device and dtype to run on, where a result comes from, the file that it goes to."""

import json
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from offline import cli, files, provenance
from offline.speed.arms import Arm
from offline.speed.rounds import WARM_UPS


def counts(text: str) -> list[int]:
    """Parses "1,8" into [1, 8]; refuses what is no whole number of at least one."""
    return [cli.count(part) for part in cli.names(text)]


def settle_device(args: Namespace) -> None:
    """Fills in the device and dtype that are not given. Raises ValueError for what cannot be used, before any work."""
    gpu = torch.cuda.is_available()
    args.device = args.device or ("cuda" if gpu else "cpu")
    kind = args.device.partition(":")[0]
    if kind not in WARM_UPS or (kind == "cuda" and not gpu):
        raise ValueError(f"--device is {args.device!r}; choices here: {'cpu, cuda' if gpu else 'cpu'}")
    args.dtype = args.dtype or ("bfloat16" if kind == "cuda" else "float32")
    if args.plot and args.plot.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {args.plot}: the picture is a .png or an .svg")
    if args.plot and find_spec("matplotlib") is None:
        raise ValueError("--plot draws with matplotlib, which is not installed: pip install matplotlib")


def what(arms: list[Arm], device: torch.device) -> dict[str, Any]:
    """Returns what ran: code, machine, versions, arms."""
    return {
        "git_commit": provenance.git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions("torch", "numpy", "transformers"),
        "models": {f"{arm.label.model}: {arm.label.arm}": arm.describe() for arm in arms},
    }


def show(
    result: dict[str, Any],
    args: Namespace,
    table: Callable[[dict[str, Any]], str],
    plot: Callable[[dict[str, Any], Path], None],
) -> None:
    """Prints the figures, draws them where that is asked for, and says what was written."""
    print(table(result))
    if args.plot:
        plot(result, args.plot)
    print(f"written: {', '.join(str(file) for file in (args.output_file, args.plot) if file)}")


def write(result: dict[str, Any], file: Path) -> None:
    """Writes the result as it is so far."""
    files.write(file, json.dumps(result, indent=1) + "\n")
