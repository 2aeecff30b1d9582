"""The container's health check: well, not yet, and beyond hope."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from docker import healthcheck, stack

OK = '{"status": "ok"}'
FULL = (
    '{"error": {"type": "service_unavailable", "code": "too_many_connections", "message": "", "param": null}}'
)


@contextmanager
def answering(statuses: dict[str, str]) -> Iterator[str]:
    """A server that says this of itself, by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = statuses[self.path].encode()
            self.send_response(200 if b'"ok"' in body else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that may be ended."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as sleeper:
        yield sleeper
        sleeper.kill()


@pytest.mark.parametrize(
    ("ready", "live", "status", "ended"),
    [
        (OK, OK, 0, False),
        ('{"status": "starting"}', OK, 1, False),
        ('{"status": "failed"}', '{"status": "failed"}', 1, True),
        (FULL, FULL, 1, False),  # every connection is taken: it is the check that gets none
        ("", "no JSON", 1, False),
    ],
)
def test_ends_the_service_only_when_it_lives_no_more(
    process: subprocess.Popen[bytes], ready: str, live: str, status: int, ended: bool
) -> None:
    with answering({"/health/ready": ready, "/health/live": live}) as url:
        assert healthcheck.main(url, process.pid) == status
    if ended:
        assert process.wait(10) != 0
    else:
        assert process.poll() is None


def test_nobody_there(process: subprocess.Popen[bytes]) -> None:
    (port,) = stack.free_ports(1)
    assert healthcheck.main(f"http://127.0.0.1:{port}", process.pid) == 1
    assert process.poll() is None
