"""Reports name what a result stands on, and nothing of the folders of the machine that made it."""

import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from offline import provenance
from offline.provenance import ROOT, command, of_run, source_report, tidy


def test_paths_inside_the_repository_are_relative_to_it(tmp_path: Path) -> None:
    inside, outside = ROOT / "data" / "a.jsonl", tmp_path / "a.jsonl"
    assert tidy({inside: [str(inside), outside, "mha", 3, None]}) == {
        "data/a.jsonl": ["data/a.jsonl", str(outside), "mha", 3, None]
    }


def test_a_relative_path_counts_from_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "offline")
    assert tidy(Path("recipes/bundled.json")) == "offline/recipes/bundled.json"


def test_the_command_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--a", f"{ROOT}/x,{ROOT}/y z", f"--b={ROOT}/c", f"/mnt{ROOT}/d"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert command("offline.train") == f"python -m offline.train --a 'x,y z' --b=c /mnt{ROOT}/d"


def test_a_report_holds_its_source_and_only_the_options_that_count(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"options": {"model_config": str(ROOT / "tiny.json")}}))
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("{}")
    args = Namespace(init_from=str(tmp_path), model_config=ROOT / "tiny.json", seed=1)
    report = of_run("offline.train", args, [manifest], args.init_from)
    assert report["options"] == {"init_from": str(tmp_path), "seed": 1}
    assert report["source_report"] == {"options": {"model_config": "tiny.json"}}
    assert report["manifests_sha256"] == {str(manifest): hashlib.sha256(b"{}").hexdigest()}
    assert json.loads(json.dumps(report)) == report
    args.init_from = None
    assert of_run("offline.train", args, [], None)["options"]["model_config"] == "tiny.json"


def test_a_folder_without_a_report_has_none(tmp_path: Path) -> None:
    assert source_report(tmp_path) is None


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_commit() is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert provenance.git_commit() is not None
    installed = tmp_path / ".venv"
    installed.mkdir()
    monkeypatch.setattr(provenance, "ROOT", installed)
    assert provenance.git_commit() is None, "another project's"
