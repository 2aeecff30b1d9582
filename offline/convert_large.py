"""Time and memory of a conversion at 618M parameters: random weights, which are converted like any others.

A process of its own does the work, with the command line of offline.convert, so its peak is that of nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from asr import checkpoint
from asr.config import ModelConfig
from asr.encoder import ConformerCTC
from offline import files, provenance
from offline.convert import parser

OWN = (
    "model_name",
    "output_dir",
    "output_file",
    "large",
    "overwrite",
    "dry_run",
    "export_hf",
)  # not passed on


def measure(args: Namespace, config: ModelConfig | None = None) -> None:
    """Write a model of the reference architecture, convert it, and write what that took to --output_file.

    Raises ValueError when there is no --output_file, or the conversion fails.
    """
    if args.output_file is None:
        raise ValueError("--large needs an --output_file for what it measures")
    with tempfile.TemporaryDirectory(prefix="convert-large-") as folder:
        source, target = Path(folder, "mha"), Path(folder, "mla")
        write_random(config or ModelConfig(), source)
        words = ["-m", "offline.convert", "--model_name", str(source), "--output_dir", str(target)]
        started, used = time.monotonic(), processor_seconds()
        done = subprocess.run([sys.executable, *words, *options(args)])
        seconds, used = time.monotonic() - started, processor_seconds() - used
        if done.returncode:
            raise ValueError("the conversion failed; its own words are above")
        report = json.loads((target / "report.json").read_text())
    spent = {"seconds_whole_process": round(seconds, 1), "processor_seconds": round(used, 1)}
    model = "random weights in the architecture of asr.ModelConfig()" if config is None else "as given"
    result = summary(report, model, spent)
    files.write(args.output_file, json.dumps(result, indent=1) + "\n")
    peak_gib = report["peak_process_bytes"] / 2**30
    print(f"{seconds:.0f} s, peak {peak_gib:.2f} GiB; written: {args.output_file}")


def summary(report: dict[str, Any], model: str, spent: dict[str, float]) -> dict[str, Any]:
    """What the file says, from the report of the conversion and what the whole process spent."""
    return {
        "what": {
            "model": model,
            "git_commit": provenance.git_commit(),
            "versions": report["versions"],
            "machine": provenance.machine(),
            "load_average": os.getloadavg(),
        },
        "how": {
            "command": provenance.command("offline.convert"),
            "threads": torch.get_num_threads(),
            "method": report["method"],
            "calibration": report["calibration"],
        },
        "results": {
            **spent,
            "seconds": report["seconds"],
            "peak_resident_bytes": report["peak_process_bytes"],
            **{key: report[key] for key in ("parameters", "flops_per_frame", "cache_bytes_per_frame")},
        },
    }


def processor_seconds() -> float:
    """What all finished child processes took of processors: unlike the clock it does not count what others took."""
    times = os.times()
    return times.children_user + times.children_system


def write_random(config: ModelConfig, folder: Path) -> None:
    """A checkpoint folder of seeded random weights in float32, as the reference model's are."""
    torch.manual_seed(0)
    vocabulary = checkpoint.read_vocabulary(checkpoint.resolve("mha"))
    checkpoint.save(ConformerCTC(config).eval(), vocabulary, folder, dtype=torch.float32)


def options(args: Namespace) -> list[str]:
    """The options of this conversion that the measured one gets, too."""
    default = vars(parser().parse_args([]))
    words = []
    for name, value in vars(args).items():
        if name in OWN or value == default[name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", ",".join(value) if isinstance(value, list) else str(value)]
    return words
