"""API keys: who may call, and how much at a time.

A file, or MLA_ASR_API_KEYS, has one key a line:

    # comments, and empty lines
    alice:1f0c2e...            name:key
    bob:sha256$9b74c9...       name:sha256$ and what `printf %s KEY | sha256sum` prints

Only SHA-256 of a key is kept: keys are long and random (`openssl rand -hex 32`), so that nobody finds one by trying,
and one that is given is compared with all there are, in the same time whichever it is. The file is read again when it
changes; a name may have two keys, so that the old one can go when all have the new. A file that cannot be read, or has
no keys, changes nothing: a mistake may neither open the door nor close it for those who are in.

Knows no web framework: `service.guard` stands at the door.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.errors import Overloaded, Unauthorized

log = logging.getLogger(__name__)

Entry = tuple[str, str]  # name, SHA-256 of the key in hexadecimal
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What every part of HTTP lets through: also as a WebSocket's subprotocol, where / and = may not stand.
KEY = re.compile(r"[A-Za-z0-9._~-]{16,256}")
HASHED = re.compile(r"sha256\$([0-9a-fA-F]{64})")
SETTLED_S = 2.0  # a file that was written less than this ago may change again within one tick of its clock


def parse(text: str) -> list[Entry]:
    """The entries of a file. Raises ValueError, with the line's number and never with what might be a key."""
    lines = [line.strip() for line in text.splitlines()]
    entries = [_entry(number, line) for number, line in enumerate(lines, 1) if line and line[0] != "#"]
    if not entries:
        raise ValueError("there are no keys; give name:key, one a line")
    return entries


def read(file: Path) -> list[Entry]:
    """The entries of `file`. Raises ValueError."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _entry(number: int, line: str) -> Entry:
    name, colon, key = (part.strip() for part in line.partition(":"))
    if not colon or not NAME.fullmatch(name):
        raise ValueError(f"line {number} is not name:key, with a name of letters, digits and . _ -")
    if hashed := HASHED.fullmatch(key):
        return name, hashed[1].lower()
    if not KEY.fullmatch(key):
        raise ValueError(
            f"line {number}: the key of {name} is not 16 to 256 letters, digits and . _ ~ - "
            "(`openssl rand -hex 32` makes one), nor sha256$ and 64 hexadecimal digits"
        )
    return name, _hash(key)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


class Keys:
    """The keys in force, and how many requests each name has in work."""

    def __init__(
        self, fixed: Sequence[Entry] = (), file: Path | None = None, *, most_at_once: int | None = None
    ) -> None:
        """Read `file`, which may change later. Raises ValueError where there are no keys in it.

        `most_at_once` bounds the requests and live streams that a name may have in work.
        """
        self._fixed = list(fixed)
        self._file = file
        self._most_at_once = most_at_once
        self._stamp: object = None
        self._complaint = ""
        self._from_file: list[Entry] = []
        if file:
            self._from_file = read(file)
        self.in_work: Counter[str] = Counter()

    @property
    def on(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._fixed or self._file)

    @property
    def names(self) -> list[str]:
        """Whose keys are in force."""
        return sorted({name for name, _ in self._entries()})

    def check(self, key: str | None) -> str:
        """The name whose key this is. Raises Unauthorized."""
        self._refresh()
        if key is None:
            raise Unauthorized(
                "an API key is needed: send 'Authorization: Bearer <key>'", code="missing_api_key"
            )
        given, found = _hash(key), None
        for name, known in self._entries():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, known):
                found = name
        if found is None:
            raise Unauthorized("this API key is not known here")
        return found

    @contextmanager
    def admit(self, name: str) -> Iterator[None]:
        """Count a request of this name while the block lasts. Raises Overloaded when it has too many."""
        if self._most_at_once and self.in_work[name] >= self._most_at_once:
            raise Overloaded(
                f"{self._most_at_once} requests of this key are in work, its limit (max_requests_per_key)",
                code="key_busy",
            )
        self.in_work[name] += 1
        try:
            yield
        finally:
            self.in_work[name] -= 1

    def _entries(self) -> list[Entry]:
        return self._fixed + self._from_file

    def _refresh(self) -> None:
        """Read the file again if it may have changed."""
        if not self._file:
            return
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            entries = read(self._file)
        except (OSError, ValueError) as error:
            self._complain(str(error))
            return
        self._stamp, self._complaint = stamp, ""
        if entries != self._from_file:
            self._from_file = entries
            log.info("API keys were read again: %s", ", ".join(self.names))

    def _complain(self, reason: str) -> None:
        """Say it once: this comes with every request until it is mended."""
        if reason != self._complaint:
            self._complaint = reason
            log.error("%s has no keys to read, those from before stay: %s", self._file, reason)


def _stamp(file: Path) -> object:
    """Differs after a change; and, while one may still be too recent to be told from the next, every time."""
    found = file.stat()
    recent = 0 <= time.time() - found.st_mtime < SETTLED_S
    return (
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        time.monotonic() if recent else 0,
    )
