"""The service as a process of its own, as it is deployed: started, asked for its memory, stopped. Linux only."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtests.scrape import scrape, total

ROOT = Path(__file__).parents[1]
PROC = Path("/proc")
START_S = 600.0  # a large model from a cold disk
STOP_S = 60.0


def git_commit() -> str | None:
    """The commit of this code, with "+" where it (results aside) differs from that; None outside of a repository."""
    commit, changed = (
        subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        ).stdout.strip()
        for words in (
            ["rev-parse", "HEAD"],
            ["status", "--porcelain", "-uno", "--", ".", ":!results", ":!reports"],
        )
    )
    return commit + "+" * bool(changed) or None


class ServiceError(Exception):
    """The service did not start: its last lines."""


@dataclass
class Service:
    """A running service."""

    child: subprocess.Popen[bytes]
    url: str

    def models(self) -> list[dict[str, Any]]:
        """What it says of its models."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as answer:
            cards: list[dict[str, Any]] = json.load(answer)["data"]
        return cards

    def memory(self) -> dict[str, int | None]:
        """What it takes now, in bytes.

        `process` is its resident memory (RSS); `peak` the highest since `forget_peak`; `tree` is of the decoding
        processes as well, shared pages counted once (PSS). On a GPU, `device` is what the driver says of it (NVML, by
        nvidia-smi; in a container often nothing), `allocated` what the service itself says of its tensors there.
        """
        status = (PROC / str(self.child.pid) / "status").read_text()
        rss, peak = (_kib(status, name) for name in ("VmRSS", "VmHWM"))
        tree = sum(_pss(pid) for pid in family(self.child.pid))
        allocated = round(total(scrape(self.url), "asr_gpu_memory_allocated_bytes")) or None
        on_gpu = {"device": device_bytes(self.child.pid), "allocated": allocated}
        return {"process": rss, "peak": peak, "tree": tree, **on_gpu}

    def forget_peak(self) -> None:
        """Let `peak` begin anew. Where that is not permitted it stays that of the whole life."""
        with suppress(OSError):
            (PROC / str(self.child.pid) / "clear_refs").write_text("5")


def family(pid: int) -> Iterator[int]:
    """A process and all that it has started, and they."""
    yield pid
    for task in PROC.glob(f"{pid}/task/*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


def _pss(pid: int) -> int:
    try:
        return _kib((PROC / str(pid) / "smaps_rollup").read_text(), "Pss")
    except OSError:  # it has just ended
        return 0


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def device_bytes(pid: int) -> int | None:
    """Memory of all GPUs that the driver counts for a process; None where there is none, or it does not say."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    pairs = [line.split(",") for line in said.splitlines() if line.count(",") == 1]
    used = [int(mib) * 2**20 for number, mib in pairs if number.strip() == str(pid) and mib.strip().isdigit()]
    return sum(used) if used else None


@contextmanager
def serving(models: dict[str, str], options: Sequence[str] = ()) -> Iterator[Service]:
    """Run `python -m service` of these models (name: source) on a free port until the block ends.

    Raises ServiceError where it does not become ready.
    """
    pairs = ",".join(f"{name}={source}" for name, source in models.items())
    place = ["--host", "127.0.0.1", "--port", "0", "--drain-delay-s", "0"]
    command = [sys.executable, "-m", "service", *place, "--models", pairs, *options]
    with TemporaryDirectory() as folder, _stopped_in_order():
        log = Path(folder) / "log"
        with log.open("ab") as sink:
            child = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        try:
            yield _ready(child, log)
        finally:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """SIGTERM ends the block as an exception does: the service must not outlive who measures it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ready(child: subprocess.Popen[bytes], log: Path) -> Service:
    end = time.monotonic() + START_S
    while time.monotonic() < end and child.poll() is None:
        url = re.search(r"running on (http://[\d.:]+)", log.read_text(errors="replace"))
        if url and _all_ready(url[1]):
            return Service(child, url[1])
        time.sleep(0.1)
    last = log.read_text(errors="replace").splitlines()[-8:]
    raise ServiceError("\n  ".join(["the service did not become ready:", *last]))


def _all_ready(url: str) -> bool:
    """Whether every model takes requests. Raises ServiceError where one never will."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=30) as answer:
            health = json.load(answer)
    except urllib.error.HTTPError as error:
        health = json.load(error)
    except OSError:
        return False
    models = health.get("models", {})
    failed = {name: state.get("reason") for name, state in models.items() if state["status"] == "failed"}
    if failed:
        raise ServiceError(f"models that did not load: {failed}")
    return health.get("status") == "ok" and all(state["status"] == "ready" for state in models.values())
