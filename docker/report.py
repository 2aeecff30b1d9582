"""What was checked, and what held: for `docker.smoke` and `docker.host_check`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass
class Report:
    """What was checked, in order."""

    checks: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, run: Callable[[], Any]) -> Any:
        """Run a check and note whether it held, what it gave, and what it took."""
        started, error, found = time.monotonic(), None, None
        try:
            found = run()
        except Exception as failure:
            traceback.print_exc()
            error = f"{type(failure).__name__}: {failure}"[:2000]
        took_s = round(time.monotonic() - started, 2)
        print(f"{'FAILED' if error else 'ok':6} {took_s:7.2f} s  {name}", flush=True)
        self.checks.append({"check": name, "held": not error, "seconds": took_s, "found": error or found})
        return found

    def write(
        self, path: Path, command: Sequence[str], versions: Mapping[str, Sequence[str]], note: str
    ) -> None:
        """Write it as JSON, with what ran where; `versions` has the commands that print them."""
        about = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": said_by("git", "rev-parse", "HEAD"),
            "changed_files": bool(said_by("git", "status", "--porcelain")),
            "command": list(command),
            "machine": {"system": platform.platform(), "processors": os.cpu_count()},
            "versions": {"python": platform.python_version()}
            | {name: said_by(*words) for name, words in versions.items()},
            "note": note,
        }
        path.write_text(json.dumps(about | {"held": self.held, "checks": self.checks}, indent=1) + "\n")

    @property
    def held(self) -> bool:
        return all(check["held"] for check in self.checks)


def said_by(*command: str) -> str:
    """The first line that a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip().partition("\n")[0]
