"""Where a result comes from: code, command, options, data, versions. Paths inside the repository are relative to it.

>>> relative(ROOT / "offline" / "recipes")
'offline/recipes'
"""

import hashlib
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asr import checkpoint

ROOT = Path(__file__).absolute().parent.parent
CODE = (".", ":!results", ":!reports")


def relative(path: str | Path) -> str:
    """Returns path relative to the repository where it lies inside, else as given."""
    whole = Path(os.path.abspath(path))  # links stay as they are: data/ may be one
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else str(path)


def tidy(value: Any) -> Any:
    """Returns value as JSON can hold it, through all lists and dicts: paths become texts, as `relative` says."""
    if isinstance(value, dict):
        return {tidy(key): tidy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(entry) for entry in value]
    if isinstance(value, Path) or (isinstance(value, str) and os.path.isabs(value)):
        return relative(value)
    return value


def command(module: str) -> str:
    """Returns the line that started this process."""
    root = re.compile(rf"(?<![^=,]){re.escape(str(ROOT))}/")
    return shlex.join(["python", "-m", module, *(root.sub("", word) for word in sys.argv[1:])])


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file's bytes, to tell which data a result stands on."""
    return {relative(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of Python and of these packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def source_report(name: str | Path) -> dict[str, Any] | None:
    """Returns the report.json of a bundled name, folder or hub id; None where it has none.

    Raises ValueError when there is no such model, or the report is not JSON.
    """
    file = checkpoint.resolve(name) / "report.json"
    return tidy(json.loads(file.read_text())) if file.is_file() else None


def of_run(module: str, args: Namespace, manifests: Iterable[Path], source: str | None) -> dict[str, Any]:
    """Returns what every report.json says: how it was made, on which data, with which versions, from which model."""
    options = tidy(vars(args))
    if options.get("init_from"):
        options.pop("model_config", None)  # not used then
    return {
        "made_by": module,
        "command": command(module),
        "git_commit": git_commit(),
        "options": options,
        "manifests_sha256": hashes(manifests),
        "versions": versions("torch", "transformers", "accelerate", "numpy"),
        "source_report": source_report(source) if source else None,
    }


def git_commit() -> str | None:
    """Returns the commit of this code, with "+" where it differs from that; None outside of a repository.

    What was measured just before is no part of it: results/ and reports/ do not count.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")) != ROOT.resolve():
            return None  # installed somewhere in a repository of another project
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def machine() -> dict[str, Any]:
    """Returns processor, cores and operating system."""
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}


def peak_resident_bytes() -> int:
    """Returns the most memory that this process has had, resident."""
    try:  # the kernel's count for getrusage starts from the peak of the process that started this one
        (line,) = (
            row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
