"""What is compared: the arms (one model in one file of offline.evaluate), word by word, and the files beside them."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from offline import provenance

# What may differ between two runs of one model without its being another task: rounding, and nothing else.
NUMERICS = ("dtype", "batch_size", "batch_seconds", "device", "engine", "attn_implementation")
CHUNKS = ("chunk_frames", "left_context_frames", "lookahead_frames", "chunk_ms", "left_context_s", "profile")
SIGHT = (*CHUNKS, "decoding")  # what makes another task of it
# Of one utterance: words inserted before word 1, what was heard for word 1, inserted before word 2...
Slots = list[str]


class ResultError(ValueError):
    """A result file that cannot be read or compared: says which, and what is wrong."""


@dataclass
class Arm:
    """One model's transcripts of all utterances, and what its file says of it."""

    name: str
    file: Path
    model: str
    content: dict[str, Any]  # the file's
    lines: list[dict[str, Any]]  # of the utterances, in the order that all arms share

    @property
    def facts(self) -> dict[str, Any]:
        return self.content["what"]["models"][self.model]

    @property
    def result(self) -> dict[str, Any]:
        return self.content["results"][self.model]

    @property
    def kind(self) -> str:
        return self.facts.get("attention", {}).get("kind", "mha")

    @property
    def folder_hash(self) -> str | None:
        return self.facts.get("folder_hash")

    @property
    def settings(self) -> dict[str, Any]:
        """How it was run, as far as that may change a transcript."""
        how = {"device": self.content["what"].get("device"), **self.content["how"]}
        if self.facts.get("profile", "full") != "full":  # an arm of several profiles says itself how it heard
            how |= {name: self.facts[name] for name in CHUNKS if name in self.facts}
        chunked = any(how.get(name) for name in ("chunk_frames", "chunk_ms"))
        found = {name: how.get(name) for name in (*NUMERICS, *(CHUNKS if chunked else ()))}
        found["decoding"] = self.facts.get("decoding")  # None: greedy; how has those of all arms in one list
        return found

    @cached_property
    def references(self) -> list[list[str]]:
        """The words of each utterance."""
        return [line["reference"].upper().split() for line in self.lines]

    @cached_property
    def texts(self) -> list[str]:
        return [" ".join(line["models"][self.model]["text"].upper().split()) for line in self.lines]

    @cached_property
    def slots(self) -> list[Slots]:
        return align([" ".join(words) for words in self.references], self.texts)

    @cached_property
    def slot_errors(self) -> list[list[int]]:
        """Errors in each slot of each utterance."""
        pairs = zip(self.references, self.slots, strict=True)
        return [slot_errors(words, slots) for words, slots in pairs]

    @cached_property
    def errors(self) -> NDArray[np.float64]:
        """Word errors of each utterance, [N]."""
        return np.array([sum(errors) for errors in self.slot_errors], dtype=float)

    @cached_property
    def normalised(self) -> NDArray[np.float64] | None:
        """Words and word errors [2, N] under the leaderboard's normaliser; None in a file without them."""
        counts = [line["models"][self.model].get("normalised") for line in self.lines]
        if not all(counts):
            return None
        return np.array([(c["words"], _total(c)) for c in counts], dtype=float).T


def align(said: list[str], heard: list[str]) -> list[Slots]:
    """Returns the slots of each utterance."""
    found = []
    measured = jiwer.process_words(said, heard)
    for words, hypothesis, chunks in zip(
        measured.references, measured.hypotheses, measured.alignments, strict=True
    ):
        slots = [""] * (2 * len(words) + 1)
        for chunk in chunks:
            new = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "insert":
                slots[2 * chunk.ref_start_idx] = " ".join(new)
            elif chunk.type != "delete":
                slots[2 * chunk.ref_start_idx + 1 : 2 * chunk.ref_end_idx : 2] = new
        found.append(slots)
    return found


def slot_errors(words: list[str], slots: Slots) -> list[int]:
    """Returns the errors in each slot: inserted words, and 1 for a word that was missed or heard as another."""
    errors = [0] * len(slots)
    errors[::2] = [len(inserted.split()) for inserted in slots[::2]]
    errors[1::2] = [int(word != heard) for word, heard in zip(words, slots[1::2], strict=True)]
    return errors


def _total(counts: dict[str, int]) -> int:
    return counts["substitutions"] + counts["deletions"] + counts["insertions"]


def read_json(path: Path) -> Any:
    """Returns the parsed file. Raises ResultError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: not a JSON file: {error}") from None


def read_arms(files: dict[Path, dict[str, Any]]) -> list[Arm]:
    """Returns the arms of all files of offline.evaluate, checked: same utterances, counts as the texts have them.

    Raises ResultError. Arms are named by their model, with the file in front where models share a name.
    """
    arms: list[Arm] = []
    for path, content in files.items():
        lines = _read_lines(path, content)
        arms += [Arm(model, path, model, content, lines) for model in content["results"]]
    for arm in arms:
        arm.name = _name(arm, arms)
    for arm in arms:
        _check_same(arms[0], arm)
        _check_counts(arm)
    return arms


def _name(arm: Arm, arms: list[Arm]) -> str:
    namesakes = [other.file for other in arms if other.model == arm.model]
    if len(namesakes) == 1:
        return arm.model
    unique = len({file.stem for file in namesakes}) == len(namesakes)
    return f"{arm.file.stem if unique else provenance.relative(arm.file)}:{arm.model}"


def _read_lines(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The utterances beside one result file, in the order of their names."""
    if "utterances_file" not in content:
        maker = re.search(r"-m (\S+)", str((content.get("how") or {}).get("command")))
        if maker and maker[1] != "offline.evaluate":
            raise ResultError(
                f"{path}: a result of {maker[1]}; give results of offline.evaluate, beside them of offline.benchmark"
            )
        raise ResultError(
            f"{path}: names no utterances_file; written by an older offline.evaluate, run it again"
        )
    file = path.parent / content["utterances_file"]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if not file.is_file():
        raise ResultError(f"{file}: no such file; it belongs beside {path}")
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            key = (str(line.get("manifest", "")), str(line["id"]))
            missing = {name for name in content["results"] if "text" not in line["models"].get(name, {})}
            line["reference"].upper()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ResultError(
                f"{file}, line {number}: not an utterance of offline.evaluate: {text[:80]!r}"
            ) from None
        if missing:
            raise ResultError(f"{file}, line {number}: no transcript of {', '.join(sorted(missing))}")
        if key in found:
            raise ResultError(f"{file}, line {number}: {key[1]} is there twice")
        found[key] = line
    if not found:
        raise ResultError(f"{file}: no utterances in it")
    return [found[key] for key in sorted(found)]


def _keys(arm: Arm) -> dict[tuple[str, str], str]:
    return {
        (str(line.get("manifest", "")), str(line["id"])): " ".join(line["reference"].upper().split())
        for line in arm.lines
    }


def _check_same(first: Arm, arm: Arm) -> None:
    """Raises ResultError where two arms were not asked the same."""
    if arm.lines is first.lines:
        return
    ours, theirs = _keys(first), _keys(arm)
    alone = [(first.file, sorted(ours.keys() - theirs)), (arm.file, sorted(theirs.keys() - ours))]
    for file, keys in alone:
        if keys:
            example = " ".join(keys[0]).strip()
            raise ResultError(
                f"{first.file} and {arm.file} are not over the same utterances: "
                f"{len(keys)} of {max(len(ours), len(theirs))} are in {file} alone, {example!r} for one"
            )
    other = [key for key in ours if ours[key] != theirs[key]]
    if other:
        raise ResultError(
            f"{first.file} and {arm.file}: {len(other)} of {len(ours)} references differ, that of {other[0][1]!r} "
            f"for one: {ours[other[0]][:60]!r}, {theirs[other[0]][:60]!r}"
        )


def _check_counts(arm: Arm) -> None:
    """Raises ResultError where a file's figures are not those of its texts."""
    words = sum(map(len, arm.references))
    for line, errors in zip(arm.lines, arm.errors, strict=True):
        counts = line["models"][arm.model]
        if "substitutions" in counts and _total(counts) != errors:
            raise ResultError(
                f"{arm.file}, {line['id']}: {_total(counts)} errors of {arm.model} are counted there, "
                f"its text has {errors:.0f}"
            )
    if not words:
        raise ResultError(f"{arm.file}: no words in its references")
    if len(arm.lines) < 2:
        raise ResultError(f"{arm.file}: one recording; how much a difference varies takes two at least")
    stated, measured = arm.result["total"].get("wer"), 100 * arm.errors.sum() / words
    if stated is not None and abs(stated - measured) > 0.01:
        raise ResultError(
            f"{arm.file} says WER {stated} of {arm.model}, its utterances {measured:.3f}: not of the same run"
        )


def hashes(files: list[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file and of the utterances beside it."""
    beside = [file.with_suffix(".jsonl") for file in files]
    return provenance.hashes(file for file in [*files, *beside] if file.is_file())
