"""The container's health check: well, not yet, and beyond hope."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from docker import healthcheck, stack


@contextmanager
def answering(statuses: dict[str, int]) -> Iterator[str]:
    """A server with these statuses by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

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
    ("ready", "live", "status", "ended"), [(200, 200, 0, False), (503, 200, 1, False), (503, 503, 1, True)]
)
def test_ends_the_service_only_when_it_lives_no_more(
    process: subprocess.Popen[bytes], ready: int, live: int, status: int, ended: bool
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
