"""Memory of one arm on a CPU: the resident peak of a process that holds nothing else. Linux alone can say it.

Two models in one process cannot be told apart, and what building a model took must not count as running it. So each arm
is built in a process of its own, and the kernel's mark of the peak is put back before every measured batch.
"""

import gc
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from asr.transcriber import DTYPES
from offline.speed.arms import Wave, build, cast, load_source

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Resident(NamedTuple):
    """Bytes of the whole process: before a batch, with the weights and the libraries in it, and at most during it."""

    idle: int
    peak: int


def resident_bytes(
    args: Namespace, source: int, arm: str, path: str | None, batches: Sequence[list[Wave]]
) -> list[Resident]:
    """Returns the memory of each batch in a new process that builds this arm of the source-th model of args.

    Raises ValueError where there is no /proc, or the process was killed, as for want of memory.
    """
    if not CLEAR.exists():
        raise ValueError(f"--memory reads {CLEAR}, which this system does not have")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        try:
            return alone.submit(_measure, args, source, arm, path, batches).result()
        except BrokenProcessPool:
            raise ValueError(f"the process of {arm} alone was killed: too little memory?") from None


def _measure(
    args: Namespace, source: int, arm: str, path: str | None, batches: Sequence[list[Wave]]
) -> list[Resident]:
    arms = build(
        load_source(args, source), [arm], [path or "auto"]
    )  # what it shares goes on, the rest is freed
    cast(arms, DTYPES[args.dtype])
    return [_of_batch(arms[0].texts, batch) for batch in batches]


def _of_batch(run: Callable[[list[Wave]], object], batch: list[Wave]) -> Resident:
    run(batch)  # what libraries keep for a new shape is theirs
    gc.collect()
    CLEAR.write_text("5")  # the peak becomes what is resident now
    idle = _status_bytes("VmRSS")
    run(batch)
    return Resident(idle, _status_bytes("VmHWM"))


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{STATUS} has no {field}")
    return int(found[1]) * 1024
