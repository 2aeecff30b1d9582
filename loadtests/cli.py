"""What the command lines here share."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Takes its help from a module's docstring, --like_this and --like-this alike; an error is one line, and exit 2."""

    def __init__(self, module: str, doc: str | None) -> None:
        description, _, rest = (doc or "").partition("\n\n")
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=f"python -m {module}", description=description, epilog=rest, formatter_class=kind
        )

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """The options of a command line; of the process's own where none is given."""
        words = sys.argv[1:] if argv is None else argv
        return self.parse_args([self._spelled(word) for word in words])

    def _spelled(self, word: str) -> str:
        """--stream-memory=1-2 as --stream_memory=1-2; what names no option here is a value, and stays as it is."""
        name, equals, value = word.partition("=")
        name = name.replace("-", "_").replace("__", "--", 1)
        return name + equals + value if name in self._option_string_actions else word


def positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError for all else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def size_bytes(text: str) -> int:
    """512MiB, 2GiB or a number of bytes. Raises argparse.ArgumentTypeError for all else."""
    found = re.fullmatch(r"(\d+)(?:([KMGT])iB)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 512MiB or 2GiB")
    return int(found[1]) * 1024 ** (" KMGT".index(found[2]) if found[2] else 0)


def count(text: str) -> int:
    """A whole number of 0 or more. Raises argparse.ArgumentTypeError for all else."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def share(text: str) -> float:
    """A number above 0, up to 1. Raises argparse.ArgumentTypeError for all else."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: above 0, up to 1")
    return value


def rates(text: str) -> list[float]:
    """Numbers above 0, parted by commas."""
    return [positive(part) for part in text.split(",")]
