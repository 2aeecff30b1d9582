"""Locust as it is started from a shell, with and without its page: it changes the whole process, so it has its own."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import Served, wait_until

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
    assert kinds - {"final"} == {
        "clip",
        "long file",
        "openai",
        "last",
    }  # one for each text, so that their total is
    assert {row["name"].rpartition(" ")[2] for row in stats} == {"mha", "mla"}
    assert all(row["num_failures"] == 0 and row["num_requests"] > 0 for row in stats)
    texts = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    spoken = [text for text in texts if text["name"].startswith("stream ")]
    assert spoken and all(text["text"].upper() == text["reference"] for text in spoken)
    (last,) = {row["num_requests"] for row in stats if row["name"] == "last mla"} or {0}
    assert sum(text["name"] == "stream mla" for text in texts) == last
    assert "partials mha: " in made.stdout or "partials mla: " in made.stdout
    assert "WER stream mha: 0.0%" in made.stdout or "WER stream mla: 0.0%" in made.stdout
    counted = fakes.metric("asr_requests_total", outcome="ok")
    sent = [text for text in texts if not text["name"].startswith("stream ")]
    assert 0 < len(sent) <= counted


def test_refusals_are_in_no_percentile(manifest: Path, tmp_path: Path) -> None:
    """A server that refuses at once must not look fast."""
    with HTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = locust(
            *(
                "--host",
                f"http://127.0.0.1:{server.server_address[1]}",
                "-u",
                "1",
                "-t",
                "2s",
                "--model",
                "mla",
            ),
            *("--manifest", str(manifest), "--json-file", str(tmp_path / "load"), "ClipUser"),
        )
        server.shutdown()
    (row,) = json.loads((tmp_path / "load.json").read_text())
    assert row["num_requests"] == row["num_failures"] == row["num_none_requests"] > 0, made.stderr
    assert row["response_times"] == {}


class Full(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page(log: Path, *options: str) -> Iterator[httpx.Client]:
    """Locust's page on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--web-host", "127.0.0.1"]
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*command, "--web-port", str(port), *options], cwd=ROOT, stdout=sink, stderr=sink
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            wait_until(lambda: answers(client), "Locust's page")
            yield client
    finally:
        child.terminate()
        child.wait(30)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except httpx.TransportError:
        return False


def test_the_page_starts_and_stops_users_and_sets_no_paths(
    fakes: Served, manifest: Path, tmp_path: Path
) -> None:
    given = ["--host", fakes.url, "--manifest", str(manifest), "--model", "mla", "ClipUser"]
    with page(tmp_path / "log", *given) as locust:
        shown = locust.get("/").text
        assert "stream_profile" in shown and '"texts"' not in shown and '"manifest"' not in shown
        evil = {"texts": str(tmp_path / "evil"), "manifest": "/nowhere.jsonl", "model": "mha"}
        begun = locust.post("/swarm", data={"user_count": "2", "spawn_rate": "2", "host": fakes.url, **evil})
        assert begun.json()["success"], begun.text

        def stats() -> dict[str, Any]:
            found: dict[str, Any] = locust.get("/stats/requests").json()
            return found

        wait_until(lambda: stats()["stats"][-1]["num_requests"] > 1, "statistics")
        assert stats()["state"] == "running" and stats()["fail_ratio"] == 0
        assert {row["name"] for row in stats()["stats"]} == {"clip mha", "Aggregated"}
        assert locust.get("/speech").json()["wer"]["clip mha"]["words"] > 0
        assert locust.post("/stop").json()["success"]
        wait_until(lambda: stats()["state"] in ("stopped", "ready"), "the users to stop")
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value"), [("--manifest", "/nowhere.jsonl"), ("--host", "localhost:8000")]
)
def test_options_that_cannot_be_used(option: str, value: str) -> None:
    made = locust("-u", "1", "-t", "3s", option, value)
    assert made.returncode == 2 and value in made.stderr
