"""Where a stopped run goes on, and whether it is still the same run."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATE, FACTS = "trainer_state.json", "run.json"  # the state is written last of a checkpoint


def newest_checkpoint(output_dir: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end, or None."""
    complete = [state.parent for state in output_dir.glob(f"checkpoint-*/{STATE}") if _is_whole(state)]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_whole(state: Path) -> bool:
    with suppress(ValueError):
        return bool(json.loads(state.read_text()))
    return False


def resume_point(output_dir: Path, resume: bool, facts: dict[str, Any]) -> str | None:
    """Returns the checkpoint to go on from, None where there is none; notes the facts of a run that begins.

    Raises:
        ValueError: going on would not continue the same run, since some facts differ: names them. Or there is a run
            to go on with, and not resume; or a model that no run made.
    """
    newest = newest_checkpoint(output_dir)
    if newest is None and not any((output_dir / name).exists() for name in ("config.json", "final")):
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        return None
    if not (output_dir / FACTS).is_file():
        raise ValueError(
            f"{output_dir} holds a model that was not trained there; choose another --output_dir"
        )
    if not resume:
        raise ValueError(f"--no_resume, but {output_dir} holds a run; choose another --output_dir")
    before = json.loads((output_dir / FACTS).read_text())
    different = [name for name in facts if before.get(name, facts[name]) != facts[name]]
    if different:
        raise ValueError(
            f"{output_dir} holds a run with other {', '.join(different)}; choose another --output_dir"
        )
    if newest is None:
        return None
    print(f"going on from {newest}", file=sys.stderr)
    return str(newest)
