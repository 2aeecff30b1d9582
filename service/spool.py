"""The folder for uploads in work: one per process, locked, so that what a killed one left can be told and removed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import Unavailable

log = logging.getLogger(__name__)

PREFIX = "mla-asr-"


@contextmanager
def opened(parent: Path | None) -> Iterator[Path]:
    """A new folder in `parent` (by default the system's), gone afterwards. Removes those of dead processes first."""
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        _remove_stale(folder)
    with tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}{os.getpid()}-", dir=parent, ignore_cleanup_errors=True
    ) as name:
        lock = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def request_folder(spool: Path | None) -> Path:
    """A new folder in `spool`, which is made again where something that tidies up took it for forgotten.

    Raises:
        Unavailable: neither works.
    """
    with suppress(OSError):
        return Path(tempfile.mkdtemp(dir=spool))
    try:
        if spool:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=spool))
    except OSError as error:
        log.error("no folder for an upload: %s", error)
        raise Unavailable("the server has no room for the upload", code="no_disk_space") from None


def _remove_stale(folder: Path) -> None:
    """Remove the folder of a process that is no more.

    Its number alone does not tell: in a container it is often 1, and a shared folder has those of several containers.
    """
    pid = folder.name.removeprefix(PREFIX).partition("-")[0]
    if not pid.isdecimal() or _lives(int(pid)):
        return
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            log.info("removed %s, left behind by a process that was killed", folder)
        finally:
            os.close(lock)


def _lives(pid: int) -> bool:
    """Whether another process has this number; with our own, the folder is of one before us."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
