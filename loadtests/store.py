"""Finished measurements on disk: for each a JSON file, and its samples beside it as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.plan import KINDS, Cell

Record = dict[str, Any]


class StoreError(Exception):
    """A folder that holds something else."""


@dataclass(frozen=True)
class Store:
    """A folder of cells: `how` they were asked for, and notes that hold for all."""

    folder: Path
    how: Record

    @classmethod
    def open(cls, folder: Path, how: Record) -> Store:
        """The folder, new or as it was left. Raises StoreError where it was begun in another way."""
        file = folder / "how.json"
        if file.exists():
            begun = json.loads(file.read_text())
            differ = sorted(name for name in begun.keys() | how.keys() if begun.get(name) != how.get(name))
            if differ:
                raise StoreError(
                    f"{folder} was begun with another {', '.join(differ)}: remove it, or name another --work_dir"
                )
        return cls(folder, how)

    def begin(self) -> None:
        """Make the folder, and say in it how it was begun."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "how.json", self.how)

    @classmethod
    def found(cls, folder: Path) -> Store:
        """A folder that is there. Raises StoreError where it is none."""
        try:
            return cls(folder, json.loads((folder / "how.json").read_text()))
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder} holds no measurements: {error}") from None

    def has(self, cell: Cell) -> bool:
        return (self.folder / f"{cell.name}.json").exists()

    def write(self, cell: Cell, record: Record, samples: Sequence[Record]) -> None:
        """Keep a finished cell; its JSON comes last, so that one without it is not finished."""
        with (self.folder / f"{cell.name}.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(sample) + "\n" for sample in samples)
        _replace(self.folder / f"{cell.name}.json", record)

    def read(self, cell: Cell) -> tuple[Record, list[Record]]:
        """A finished cell and its samples."""
        record = json.loads((self.folder / f"{cell.name}.json").read_text())
        lines = (self.folder / f"{cell.name}.jsonl").read_text().splitlines()
        return record, [json.loads(line) for line in lines]

    def cells(self) -> Iterator[Cell]:
        """All that are finished."""
        kinds = (self.folder.glob(f"{kind}-*.json") for kind in KINDS)
        for file in sorted(file for files in kinds for file in files):
            yield Cell(**json.loads(file.read_text())["cell"])

    def note(self, name: str, value: Any) -> None:
        """Keep a fact of the whole; the last one holds."""
        _replace(self.folder / f"note_{name}.json", value)

    def noted(self, name: str) -> Any:
        """A fact that was kept; None where it was not."""
        file = self.folder / f"note_{name}.json"
        return json.loads(file.read_text()) if file.exists() else None


def _replace(file: Path, value: Any) -> None:
    """Write all of it or nothing."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(part, file)
