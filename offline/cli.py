"""What every offline command line shares: help that teaches, and two spellings of each option.

>>> options = parser("Measures.", "python -m offline.measure --batch_seconds 30")
>>> _ = options.add_argument("--batch_seconds", type=positive, default=60.0, help="audio in one batch")
>>> options.parse_args(["--batch-seconds", "30"]).batch_seconds
30.0
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose options, registered as --a_b, also answer to --a-b."""

    def flag(
        self, name: str, *, default: bool, help: str, group: argparse._ArgumentGroup | None = None
    ) -> None:
        """Registers --name and --no_name for one boolean, below the title of a group where one is given."""
        twin = f"--no_{name.removeprefix('--')}"
        either = (group or self).add_mutually_exclusive_group()
        told = f"{help} (turn off: {twin})" if default else help
        either.add_argument(name, action="store_true", default=default, help=told)
        either.add_argument(twin, dest=name[2:], action="store_false", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"{self.prog.rpartition(' ')[2]}: {message} (--help shows all options)\n")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse, after --a-b has become --a_b where only that is registered."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._registered(token) for token in given], namespace)

    def _registered(self, token: str) -> str:
        name, equals, value = token.partition("=")
        respelled = "--" + name[2:].replace("-", "_")
        known = self._option_string_actions
        if not name.startswith("--") or name in known or respelled not in known:
            return token
        return respelled + equals + value


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and leaves the example's line breaks alone."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, list):  # as it would be typed
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        quiet = action.default is None or isinstance(action.default, bool | dict)
        return action.help if quiet else super()._get_help_string(action)


def parser(description: str, example: str) -> Parser:
    """Returns an empty parser: description above the options, example below them."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    return Parser(
        prog=started,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


def run(command: str, work: Callable[[], object]) -> int:
    """Does a command's work; returns 0, or 2 after one line to stderr where something given cannot be used.

    Interrupted from the keyboard, it says so in one line too; 130 is what shells make of that.
    """
    try:
        work()
    except KeyboardInterrupt:
        print(f"\n{command}: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{command}: {reason(error)}", file=sys.stderr)
        return 2
    return 0


def reason(error: Exception) -> str:
    """Returns what went wrong; of an error in a data worker, without the worker's traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "Traceback" in str(error) else str(error)


def names(text: str) -> list[str]:
    """Parses "a,b" into ["a", "b"]; refuses an empty list."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; give one or more, separated by commas")
    return found


def paths(text: str) -> list[Path]:
    """Parses "a.jsonl,b.jsonl" into existing files; refuses one that is not there."""
    found = [Path(name) for name in names(text)]
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise argparse.ArgumentTypeError(f"no such file: {', '.join(missing)}")
    return found


def positive(text: str) -> float:
    """Parses a number above zero."""
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def count(text: str) -> int:
    """Parses a whole number of at least one."""
    return int(_number(text, int, lambda value: value >= 1, "a whole number of at least 1"))


def natural(text: str) -> int:
    """Parses a whole number of at least zero."""
    return int(_number(text, int, lambda value: value >= 0, "a whole number of at least 0"))


def weight(text: str) -> float:
    """Parses a number of at least zero."""
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number of at least 0")


def share(text: str) -> float:
    """Parses a share between 0 and 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(text: str, kind: Any, fits: Any, wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
