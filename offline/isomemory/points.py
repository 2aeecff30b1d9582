"""Points of accuracy, bytes and time: the error rates of one model, the bytes and seconds of another's shape.

An arm of an evaluation, `mla@640ms/10s/int8`, meets the arm of a benchmark that keeps the same share of K and V, with
the same chunk, context and type of cache. Shares are read from the values that a frame leaves in the cache.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.comparison.rates import factors
from offline.speed.placed import sizes_of

Json = dict[str, Any]
ARM = re.compile(
    r"(?P<name>.+)@(?P<chunk>\d+(?:\+\d+)?)ms/(?P<left_context_s>\d+(?:\.\d+)?)s(?P<int8>/int8)?(?P<search>\+.+)?"
)
NEAR = 0.02  # ranks are rounded to what the width allows, so that shares differ a little between shapes
LOSSLESS = 0.5
WORDS = "words"


class InputError(ValueError):
    """A file that cannot be used: says which, and what is missing."""


@dataclass
class Point:
    """One way to keep a stream's past: what it costs, and how well it hears.

    `chunk` is its milliseconds, with those of the look-ahead where there are any: 480+160.
    `attention_bytes` is a part of `bytes_per_stream`. `step_s` is that of one stream in a batch of `streams`: the
    median step over their number. `errors`, `words` and `factors` (what they are clustered by) are those of each
    utterance, where the transcripts are there.
    """

    arm: str
    family: str
    kept: float
    cache_dtype: str
    chunk: str
    left_context_s: float
    wer: float
    bytes_per_stream: int
    attention_bytes: int
    step_s: float
    streams: int
    errors: NDArray[np.float64] | None = field(default=None, repr=False)
    words: NDArray[np.float64] | None = field(default=None, repr=False)
    factors: list[list[str]] = field(default_factory=list, repr=False)

    @property
    def label(self) -> str:
        return f"{self.family}{', int8' if self.cache_dtype == 'int8' else ''}, {self.left_context_s:g} s"

    @property
    def compressed(self) -> bool:
        """Whether it keeps less than a lossless latent does."""
        return self.kept < LOSSLESS - NEAR

    def to_json(self) -> Json:
        found = asdict(self)
        del found["errors"], found["words"], found["factors"]
        return found | {"label": self.label}


def family(kept: float) -> str:
    """What a share of the K/V cache is called.

    >>> family(1.0), family(0.5), family(0.25), family(0.125)
    ('K/V', 'lossless latent', 'MLA 75 %', 'MLA 87.5 %')
    """
    if abs(kept - 1) < NEAR:
        return "K/V"
    return "lossless latent" if abs(kept - LOSSLESS) < NEAR else f"MLA {100 * (1 - kept):.3g} %"


def read(file: Path, *keys: str) -> Json:
    """Reads a JSON object that has these keys. Raises InputError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{file} has no {', '.join(missing)}: is it the right file?")
    return content


def shares(models: Mapping[str, Json], files: Sequence[Path]) -> dict[str, float]:
    """What each model keeps of K and V, from the values that a frame leaves in its cache; without those that keep none.

    Raises InputError where no model of these files caches K and V, which all shares refer to.
    """
    full = [
        facts["cached_values_per_frame"] for facts in models.values() if facts["attention"]["kind"] == "mha"
    ]
    if not any(full):
        raise InputError(
            f"{', '.join(map(str, files))}: no mha arm, which every share of the cache refers to"
        )
    values = {name: facts["cached_values_per_frame"] for name, facts in models.items()}
    return {name: value / max(filter(None, full)) for name, value in values.items() if value}


class Costs:
    """Bytes and seconds by share of the cache, type of cache and profile, from a file of `offline.benchmark stream`."""

    def __init__(self, file: Path, streams: int | None) -> None:
        """`streams`: of the steps whose time counts; None for the most that every arm was measured with."""
        self.content = read(file, "what", "how", "results", "limits")
        models = {name.split(": ")[-1]: facts for name, facts in self.content["what"]["models"].items()}
        self._kept = shares(models, [file])
        rows = [
            row
            for row in self.content["results"]
            if not row["out_of_memory"] and row["path"] in (None, "auto")
        ]
        groups = {(row["arm"], row["cache_dtype"], str(sizes_of(row))) for row in rows}
        numbers = {row["streams"] for row in rows}
        common = [n for n in numbers if sum(row["streams"] == n for row in rows) == len(groups)]
        if streams is None and not common:
            raise InputError(
                f"{file} has no number of streams that every arm was measured with; give --streams"
            )
        self.streams = streams or max(common)
        self._rows = [row for row in rows if row["streams"] == self.streams]
        if not self._rows:
            known = ", ".join(map(str, sorted(numbers)))
            raise InputError(f"{file} has no steps of {self.streams} streams; choices: {known}")

    def of(self, kept: float, cache_dtype: str, chunk: str, left_context_s: float) -> Json | None:
        """The row that fits; None where there is none."""
        wanted = (cache_dtype, f"{chunk}x{left_context_s:g}")
        for row in self._rows:
            found = (row["cache_dtype"], str(sizes_of(row)))
            if found == wanted and abs(self._kept[row["arm"]] - kept) < NEAR:
                return row
        return None


def points(evaluations: Sequence[Path], costs: Costs) -> tuple[list[Point], list[str]]:
    """Returns the points, and the names of the streamed arms that the benchmark knows no cost of.

    Raises InputError where files are not over the same utterances, or nothing is left.
    """
    contents = {file: read(file, "what", "how", "results") for file in evaluations}
    if others := [str(file) for file, content in contents.items() if "manifests" not in content["how"]]:
        raise InputError(f"{', '.join(others)}: no result of offline.evaluate")
    if len({_heard(file, content) for file, content in contents.items()}) > 1:
        raise InputError(f"{', '.join(map(str, evaluations))} are not over the same utterances")
    models = {
        name: facts for content in contents.values() for name, facts in content["what"]["models"].items()
    }
    kept = shares(models, evaluations)
    found: list[Point] = []
    left_out: list[str] = []
    for file, content in contents.items():
        rows = sorted(_rows(file, content), key=lambda row: (row["manifest"], row["id"]))
        errors, clusters = utterance_errors(rows, content["results"]), list(factors(rows).values())
        for arm, figures in content["results"].items():
            if not (named := ARM.fullmatch(arm)):
                continue  # whole recordings: not a stream
            share = kept[arm] if arm in kept else kept[named["name"]]
            point = None if named["search"] else _point(arm, named, share, figures["total"]["wer"], costs)
            if point is None:
                left_out.append(arm)
            else:
                point.errors, point.words, point.factors = errors.get(arm), errors.get(WORDS), clusters
                found.append(point)
    if not found:
        raise InputError(f"no streamed arm of {evaluations[0]} has a chunk and context of the benchmark")
    return found, left_out


def _heard(file: Path, content: Json) -> str:
    """What tells one choice of utterances from another: their names, or without the lines what chose them."""
    rows = _rows(file, content)
    names = sorted([row["manifest"], row["id"]] for row in rows)
    how = {name: content["how"].get(name) for name in ("max_samples", "join_s")}
    return json.dumps([content["how"]["manifests"], names or how], sort_keys=True)


def _rows(file: Path, content: Json) -> list[Json]:
    """The lines beside a result; [] without them."""
    lines = file.parent / content.get("utterances_file", "")
    return (
        [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        if lines.is_file()
        else []
    )


def _point(arm: str, named: re.Match[str], kept: float, wer: float, costs: Costs) -> Point | None:
    sizes = named["chunk"], float(named["left_context_s"])
    dtype = "int8" if named["int8"] else "model"
    row = costs.of(kept, dtype, *sizes)
    if row is None:
        return None
    parts = row["bytes_per_stream"]
    step_s = row["step_s"]["p50"] / row["streams"]
    total_bytes = sum(parts.values())
    return Point(
        arm, family(kept), kept, dtype, *sizes, wer, total_bytes, parts["attention"], step_s, row["streams"]
    )


def utterance_errors(rows: Sequence[Json], arms: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Word errors [N] of each arm, and of all the same their words, from the lines beside a result; {} without them."""
    if not rows:
        return {}
    counts = ("substitutions", "deletions", "insertions")
    found = {
        arm: np.array([sum(row["models"][arm][count] for count in counts) for row in rows], dtype=float)
        for arm in arms
    }
    return found | {WORDS: np.array([row["words"] for row in rows], dtype=float)}
