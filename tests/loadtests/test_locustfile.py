"""Locust as it is started from a shell, without its page: it changes the whole process, so it has one of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.conftest import Served

ROOT = Path(__file__).parents[2]


def locust(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_all_kinds_of_users(fakes: Served, manifest: Path, tmp_path: Path) -> None:
    made = locust(
        *("--host", fakes.url, "-u", "8", "-r", "8", "-t", "4s", "--stop-timeout", "30", "--model", "both"),
        *("--manifest", str(manifest), "--stream-s", "1", "--long-s", "4", "--seed", "2"),
        *("--json-file", str(tmp_path / "load"), "--texts", str(tmp_path / "texts.jsonl")),
    )
    assert made.returncode == 0, made.stderr
    (file,) = tmp_path.glob("load*")
    stats = json.loads(file.read_text())
    kinds = {row["name"].rpartition(" ")[0] for row in stats}
    assert kinds - {"final"} == {"clip", "long file", "openai", "partial", "last", "stream"}
    assert {row["name"].rpartition(" ")[2] for row in stats} == {"mha", "mla"}
    assert all(row["num_failures"] == 0 and row["num_requests"] > 0 for row in stats)
    texts = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    spoken = [text for text in texts if text["name"].startswith("stream ")]
    assert spoken and all(text["text"].upper() == text["reference"] for text in spoken)
    assert "WER stream mha: 0.0%" in made.stdout or "WER stream mla: 0.0%" in made.stdout
    counted = fakes.metric("asr_requests_total", outcome="ok")
    sent = [text for text in texts if not text["name"].startswith("stream ")]
    assert 0 < len(sent) <= counted


@pytest.mark.slow
def test_recordings_that_are_not_there() -> None:
    made = locust("-u", "1", "-t", "3s", "--manifest", "/nowhere.jsonl")
    assert made.returncode == 2 and "/nowhere.jsonl" in made.stderr
