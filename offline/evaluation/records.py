"""What an evaluation writes as it goes, so that a killed one goes on where it stood: three files beside each other.

X.jsonl          a line an utterance, appended batch by batch, longest recordings first:
                 id, audio, duration_s (as decoded), manifest, domain, engine, voice, speaker, words, reference, batch,
                 joined (ids of the utterances in it, where several are), models (arm: text, seconds and forward_seconds
                 (the batch's by its size), substitutions, deletions, insertions, edits ([what, reference word,
                 hypothesis word] of the errors), normalised: words, substitutions, deletions, insertions; and, in the
                 first line of a batch, peak_bytes: [allocated, reserved] of the GPU, or [resident] of the process)
X.partial.json   what and how of a run that is not done
X.json           the result, once it is done (offline/evaluate.py says what is in it); takes X.partial.json's place
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline import files
from offline.scoring import Row

Header = dict[str, Any]  # what and how


class RecordError(ValueError):
    """Records that a run cannot go on from: says which setting differs, or which file does not fit."""


class Record:
    """The files of one output; `rows` are those of whole batches that are measured already."""

    def __init__(self, output: Path, header: Header, overwrite: bool) -> None:
        """Goes on from what lies there, if it was made with the same models, recordings and settings.

        Raises:
            RecordError: it was made with others (names them), or some of its files are missing.
        """
        self.output = output
        self.lines = output.with_suffix(".jsonl")
        self.partial = output.with_suffix(".partial.json")
        if output == self.lines:
            raise RecordError(f"{output}: transcripts go into a .jsonl beside it, so call it .json")
        if overwrite:
            for file in (self.output, self.lines, self.partial):
                file.unlink(missing_ok=True)
        self.finished: dict[str, Any] | None = None
        self.rows: list[Row] = []
        self.header = header  # of the run that began it
        if any(file.is_file() for file in (self.output, self.lines, self.partial)):
            self._go_on(header)
        else:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            _write(self.partial, header)

    def _go_on(self, header: Header) -> None:
        there = [file for file in (self.partial, self.output) if file.is_file()]
        if not there or (there[0] == self.output and not self.lines.is_file()):
            here, gone = (self.output, self.lines) if there else (self.lines, self.output)
            raise RecordError(f"{here} is there already, without {gone.name}; --overwrite measures anew")
        before = json.loads(there[0].read_text(encoding="utf-8"))
        changed = differences(before, header)
        if changed:
            raise RecordError(
                f"{there[0]} was made with other settings: {'; '.join(changed)}. Measure anew with --overwrite, or "
                "write to another file"
            )
        self.rows = read_rows(self.lines) if self.lines.is_file() else []
        self.header = before
        self.finished = before if there[0] == self.output else None

    def keep(self, batches: Sequence[Sequence[str]]) -> int:
        """Keeps the rows of whole batches and drops the rest of a torn one; returns how many batches are kept.

        Args:
            batches: the ids of the utterances of each batch, as this run will do them.

        Raises:
            RecordError: the rows are not those of these batches.
        """
        whole = kept = 0
        for ids in batches:
            if kept + len(ids) > len(self.rows):
                break
            whole, kept = whole + 1, kept + len(ids)
        planned = [name for ids in batches for name in ids]
        if [row["id"] for row in self.rows] != planned[: len(self.rows)]:
            raise RecordError(f"{self.lines}: holds other utterances than these; --overwrite measures anew")
        self.rows = self.rows[:kept]
        files.write(self.lines, "".join(map(_line, self.rows)))
        return whole

    def append(self, rows: Sequence[Row]) -> None:
        """Adds a batch."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))
        self.rows += rows

    def finish(self, result: dict[str, Any]) -> None:
        """Writes X.json and takes X.partial.json away."""
        _write(self.output, result)
        self.partial.unlink(missing_ok=True)


def read_rows(path: Path) -> list[Row]:
    """Returns the lines of an X.jsonl, up to the first that was not written to its end."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def differences(before: Header, now: Header) -> list[str]:
    """Returns what differs of what a result stands on, as `name: before -> now`."""
    old, new = _settings(before), _settings(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}" for name in names]


def _settings(header: Header) -> dict[str, Any]:
    """What has to be the same for two halves of a run to be one: by the names that its user knows."""
    what, how = header["what"], header["how"]
    models = {"models": ", ".join(what["models"])}
    models |= {f"weights of {name}": facts["folder_hash"] for name, facts in what["models"].items()}
    models |= {
        f"n-gram of {name}": facts.get("decoding", {}).get("lm_hash")
        for name, facts in what["models"].items()
    }
    manifests = {f"manifest {path}": digest for path, digest in how["manifests"].items()}
    versions = {f"version of {name}": number for name, number in what["versions"].items()}
    options = {name: value for name, value in how.items() if name not in ("command", "manifests")}
    place = {"device": what["device"], "processor": what["machine"]["cpu"], "threads": what["threads"]}
    return models | manifests | options | versions | place


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a hash


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _write(path: Path, content: Any) -> None:
    files.write(path, json.dumps(content, indent=1) + "\n")
