"""Records of a run that was stopped anywhere: whole batches are kept, and only those of the same run."""

import copy
import json
from pathlib import Path

import pytest

from offline.evaluation.records import Record, RecordError, differences, read_rows

HEADER = {
    "what": {
        "git_commit": "1", "device": "cpu", "machine": {"cpu": "x86"}, "threads": 1, "versions": {"torch": "2"},
        "models": {"mha": {"folder_hash": "a" * 64}},
    },
    "how": {"command": "python", "manifests": {"m.jsonl": "b" * 64}, "batch_size": 2, "chunk_frames": None},
}  # fmt: skip
BATCHES = [["0", "1"], ["2", "3"], ["4"]]


def changed(*path: str, value: object) -> dict:
    header = copy.deepcopy(HEADER)
    place: dict = header
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return header


def fill(output: Path, rows: int) -> Record:
    record = Record(output, HEADER, overwrite=False)
    assert record.keep(BATCHES) == 0
    record.append([{"id": str(number)} for number in range(rows)])
    return record


@pytest.mark.parametrize(
    ("rows", "torn", "kept"), [(0, "", 0), (3, '{"id": "3', 2), (4, "", 4), (4, '{"id": "4"}', 4), (5, "", 5)]
)
def test_whole_batches_are_kept(rows: int, torn: str, kept: int, tmp_path: Path) -> None:
    fill(tmp_path / "x.json", rows)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write(torn)
    again = Record(tmp_path / "x.json", HEADER, overwrite=False)
    assert again.keep(BATCHES) == {0: 0, 2: 1, 4: 2, 5: 3}[kept]
    assert [row["id"] for row in again.rows] == [str(number) for number in range(kept)]
    assert read_rows(tmp_path / "x.jsonl") == again.rows
    assert (tmp_path / "x.partial.json").is_file() and not (tmp_path / "x.json").exists()


def test_a_finished_one_is_told_apart(tmp_path: Path) -> None:
    fill(tmp_path / "x.json", 5).finish({**HEADER, "results": {}})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.json", "x.jsonl"]
    again = Record(tmp_path / "x.json", HEADER, overwrite=False)
    assert again.finished == {**HEADER, "results": {}} and len(again.rows) == 5
    anew = Record(tmp_path / "x.json", changed("how", "batch_size", value=3), overwrite=True)
    assert anew.finished is None and anew.rows == []
    assert [file.name for file in tmp_path.iterdir()] == ["x.partial.json"]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (changed("how", "batch_size", value=3), "batch_size: 2 -> 3"),
        (changed("how", "chunk_frames", value=8), "chunk_frames: none -> 8"),
        (changed("how", "manifests", value={"m.jsonl": "c" * 64}), "manifest m.jsonl: bbbbbbbbbbbb -> cccccccccccc"),
        (changed("how", "manifests", value={}), "manifest m.jsonl: bbbbbbbbbbbb -> none"),
        (changed("what", "models", "mha", "folder_hash", value="d" * 64), "weights of mha: aaaaaaaaaaaa -> dddd"),
        (changed("what", "models", "mla", value={"folder_hash": None}), ""),
        (changed("what", "models", "mha", "decoding", value={"lm_hash": "e" * 64}), "n-gram of mha: none -> eeee"),
        (changed("what", "threads", value=2), "threads: 1 -> 2"),
        (changed("what", "versions", "torch", value="3"), "version of torch: 2 -> 3"),
    ],
)  # fmt: skip
def test_another_run_is_refused_by_what_differs(header: dict, named: str, tmp_path: Path) -> None:
    fill(tmp_path / "x.json", 2)
    if not named:
        named = "models: mha -> mha, mla"
    with pytest.raises(RecordError) as caught:
        Record(tmp_path / "x.json", header, overwrite=False)
    assert named in str(caught.value) and "--overwrite" in str(caught.value)
    assert len(read_rows(tmp_path / "x.jsonl")) == 2


def test_what_says_nothing_of_the_figures_may_differ() -> None:
    assert differences(HEADER, changed("how", "command", value="python -m")) == []
    assert differences(HEADER, changed("what", "git_commit", value="2")) == []


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    fill(output, 4)
    with pytest.raises(RecordError, match=r"x.jsonl: holds other utterances"):
        Record(output, HEADER, overwrite=False).keep([["7", "1"], ["2", "3"]])
    (tmp_path / "x.partial.json").unlink()
    with pytest.raises(RecordError, match=r"x.jsonl is there already, without x.json"):
        Record(output, HEADER, overwrite=False)
    (tmp_path / "x.jsonl").unlink()
    output.write_text(json.dumps(HEADER))
    with pytest.raises(RecordError, match=r"x.json is there already, without x.jsonl"):
        Record(output, HEADER, overwrite=False)
    with pytest.raises(RecordError, match=r"call it \.json"):
        Record(tmp_path / "y.jsonl", HEADER, overwrite=False)
