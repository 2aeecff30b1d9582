"""Converts, trains, evaluates and compares models. Its commands say in one line which package they lack."""

import sys
from pathlib import Path
from types import TracebackType

OURS = ("asr", "offline")


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception hook: of a package that is not installed, what installs it; of all else the traceback."""
    name = getattr(error, "name", None)
    if not isinstance(error, ModuleNotFoundError) or not name or name.partition(".")[0] in OURS:
        return sys.__excepthook__(kind, error, trace)
    print(f"offline: needs {name}, which is not installed: pip install 'mla-asr[offline]', or in a checkout "
          "make setup", file=sys.stderr)  # fmt: skip
    raise SystemExit(2)


# Only of our own commands: `python -m offline.x`, whose first word is -m while this is imported, and scripts/.
if (
    sys.argv[0] == "-m"
    or Path(sys.argv[0]).absolute().parent == Path(__file__).absolute().parents[1] / "scripts"
):
    sys.excepthook = _in_one_line
