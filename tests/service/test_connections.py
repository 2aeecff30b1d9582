"""A request's head is bounded in bytes and in time, connections in number; refusals have the one shape of errors."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from service import connections
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until

MOST = 8
HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /transcribe?model=mha HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def model() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture(scope="module")
def served(model: FakeTranscriber) -> Iterator[Served]:
    with serving(
        Settings(decode_workers=1, stream_memory="0", max_connections=MOST), {"mha": model}
    ) as served:
        yield served
        model.gate.set()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "WRITE_S", 0.2)


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"X-Request-ID: " in head and b"Connection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"type", "code", "message", "param"}
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (HEAD + b"X: ", b"a"),
        (HEAD, b"X: a\r\n"),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X: a\r\n"),
    ],
    ids=["header", "headers", "address", "nothing", "chunk's extension", "trailers"],
)
def test_what_is_no_body_is_bounded(served: Served, start: bytes, more: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(start)
        sent_bytes = 0
        try:
            while sent_bytes < 10 * connections.HEAD_BYTES:
                sent_bytes += connection.send(more * 4000)
                time.sleep(0.001)  # for the server to take it as a piece of its own
        except OSError:
            return  # it hung up on what was sent
        assert refusal(rest(connection)) == (413, "head_too_large")


def test_a_head_that_is_refused_is_told_why(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(HEAD + b"X: " + b"a" * (connections.HEAD_BYTES + 1 - len(HEAD) - 3))
        assert refusal(rest(connection)) == (413, "head_too_large")


def test_long_heads_and_many_tiny_chunks_are_served(served: Served) -> None:
    clip = sound(2000)
    with connected(served) as connection:
        head = CHUNKED.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\nConnection: close\r\n\r\n")
        body = b"".join(b"1\r\n%c\r\n" % byte for byte in clip)
        for piece in (head, body, b"0\r\n\r\n"):
            connection.sendall(piece)
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("hurried")
def test_half_a_head_is_cut_off(served: Served) -> None:
    with connected(served) as silent, connected(served) as first, connected(served) as second:
        first.sendall(HEAD)
        second.sendall(HEAD + b"\r\n")
        assert second.recv(4096).startswith(b"HTTP/1.1 200 ")
        second.sendall(HEAD)
        assert rest(silent) == b""
        assert refusal(rest(first)) == refusal(rest(second)) == (408, "slow_head")


@pytest.mark.usefixtures("hurried")
def test_half_a_head_behind_work_does_not_end_the_work(served: Served, model: FakeTranscriber) -> None:
    clip = sound(2000)
    model.gate.clear()
    model.entered.clear()
    with connected(served) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(clip) + clip)
        assert model.entered.wait(WAIT_S)
        connection.sendall(b"GET /he")
        time.sleep(3 * connections.HEAD_S)
        model.gate.set()
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("hurried")
def test_a_body_that_goes_on_behind_its_answer_is_cut_off(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"a")
        assert rest(connection) == b""
    with connected(served) as connection:  # one that ends in time does no harm
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"ab" + HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("hurried")
def test_who_does_not_read_gives_the_connection_back(served: Served) -> None:
    ask = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as held:
        for _ in range(MOST):
            held.enter_context(connected(served)).sendall(
                ask * 20
            )  # more than the system takes off the server
        wait_until(
            lambda: served.client.get("/health/live").status_code == 503, "all connections to be taken"
        )
        wait_until(lambda: served.client.get("/health/live").status_code == 200, "room again")


@pytest.mark.usefixtures("hurried")
def test_who_reads_slowly_gets_all_of_it(served: Served) -> None:
    ask = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n"
    whole = len(served.client.get("/static-offline-docs/swagger-ui-bundle.js").content)
    with connected(served) as connection:
        connection.sendall((ask + b"\r\n") * 19 + ask + b"Connection: close\r\n\r\n")
        started, got = time.monotonic(), 0
        while piece := connection.recv(2**16):
            got += len(piece)
            if time.monotonic() - started < 10 * connections.WRITE_S:
                time.sleep(0.02)  # so that the system takes nothing off the server for longer than WRITE_S
    assert got > 20 * whole


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("most_bytes", [2**20, 2**40], ids=["by bytes", "by time"])
def test_a_socket_that_is_not_read_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(connections, "WAITING_BYTES", most_bytes)
    monkeypatch.setattr(connections, "PINGS", 10**9)
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    with upgraded(served) as connection, pytest.raises(ConnectionError):
        for _ in range(100_000):  # 13 MB
            connection.sendall(ping)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            connection.sendall(ping)
            time.sleep(0.05)


def test_who_pings_without_end_is_cut_off(served: Served) -> None:
    with upgraded(served) as connection:
        connection.sendall(b"\x89\x80" + bytes(4))
        assert connection.recv(2) == b"\x8a\x00"  # the pong
        connection.sendall((b"\x89\x80" + bytes(4)) * 10 * connections.PINGS)
        with suppress(ConnectionError):
            rest(connection)  # ends: else it would time out


@contextmanager
def upgraded(served: Served) -> Iterator[socket.socket]:
    """A WebSocket, shaken hands with."""
    handshake = b"GET /stream?model=mha HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with connected(served) as connection:
        connection.sendall(handshake + key)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        assert answer.startswith(b"HTTP/1.1 101")
        yield connection


def test_connections_are_bounded(served: Served) -> None:
    with ExitStack() as held:
        first, *_, last = [held.enter_context(connected(served)) for _ in range(MOST + 1)]
        assert refusal(rest(last)) == (503, "too_many_connections")
        first.sendall(HEAD + b"Connection: close\r\n\r\n")
        assert rest(first).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: served.client.get("/health/live").status_code == 200, "room again")


def test_what_is_not_http_is_told_so(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"HELO\r\n\r\n")
        assert refusal(rest(connection)) == (400, "bad_http")


def test_the_limit_goes_by_the_open_files() -> None:
    assert 1 <= connections.default_limit() <= connections.MOST_CONNECTIONS
