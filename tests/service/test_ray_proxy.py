"""Before Ray Serve's proxy: real connections to an app that returns without an answer, as the proxy's does."""

import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from service.ray_proxy import ATTEMPTS, HELD_BYTES, Persistent, middleware
from tests.service.conftest import WAIT_S, error_of, wait_until

UPLOAD = bytes(range(251)) * (3 * HELD_BYTES // 251)


class Replicas:
    """Tells what it was sent. The first few calls end without a word, after so many messages."""

    def __init__(self) -> None:
        self.deaths, self.after, self.calls, self.ended = 0, 0, 0, 0
        self.begins = False  # before it dies
        self.ids: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        self.ids.append(dict(scope["headers"])[b"x-request-id"])
        scope["headers"].append((b"seen", b"yes"))
        try:
            await (self._stream if scope["type"] == "websocket" else self._answer)(scope, receive, send)
        finally:
            self.ended += 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard, count, message = hashlib.sha256(), 0, {"more_body": True}
        dies = self.calls <= self.deaths
        while message.get("more_body") and not (dies and count == self.after):
            message, count = await receive(), count + 1
            heard.update(message.get("body", b""))
        said = [(b"x-request-id", b"ours"), (b"x-request-id", b"another")]
        if not dies or self.begins:
            await send({"type": "http.response.start", "status": 200, "headers": said})
            await send({"type": "http.response.body", "body": heard.hexdigest().encode(), "more_body": dies})

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if self.calls <= self.deaths:
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive" and message["text"] != "die":
            if message["text"] == "close":
                await send({"type": "websocket.close", "code": 1008, "reason": "asked"})
                return
            await send({"type": "websocket.send", "text": message["text"]})


@contextmanager
def running(app: Persistent) -> Iterator[str]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server to listen")
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Replicas, str]]:
    replicas = Replicas()
    (made,) = middleware()
    with running(made.cls(replicas)) as address:
        yield replicas, address


@pytest.fixture
def replicas(started: tuple[Replicas, str]) -> Replicas:
    started[0].__init__()  # type: ignore[misc]
    return started[0]


@pytest.fixture
def address(started: tuple[Replicas, str]) -> str:
    return started[1]


@pytest.mark.parametrize("after", [0, 3, 10**9])
def test_an_upload_goes_whole_to_the_next_replica(replicas: Replicas, address: str, after: int) -> None:
    """However much of it the one that died had heard."""
    replicas.deaths, replicas.after = 2, after
    answer = httpx.post(f"http://{address}/transcribe", content=UPLOAD, timeout=WAIT_S)
    assert (answer.status_code, answer.text) == (200, hashlib.sha256(UPLOAD).hexdigest())
    assert replicas.calls == 3 and len(set(replicas.ids)) == 1
    assert answer.headers.get_list("x-request-id") == ["ours"]


def test_no_more_replicas_die_of_a_request(replicas: Replicas, address: str) -> None:
    replicas.deaths = 10
    answer = httpx.post(f"http://{address}/transcribe", headers={"x-request-id": "mine"}, timeout=WAIT_S)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "replica_lost")
    assert answer.headers["retry-after"] == "1"
    assert replicas.ids == [b"mine"] * ATTEMPTS


def test_an_answer_that_has_begun_is_cut_off(replicas: Replicas, address: str) -> None:
    replicas.deaths, replicas.begins = 1, True
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{address}/", timeout=WAIT_S)
    assert replicas.calls == 1


def test_nobody_waits_for_the_request_of_a_client_that_left(replicas: Replicas, address: str) -> None:
    replicas.deaths, replicas.after = 1, 2
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        wait_until(lambda: replicas.calls, "the request to come")
    wait_until(lambda: replicas.ended, "it to end")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    assert replicas.calls == 2


def test_a_stream_is_told_to_connect_again(replicas: Replicas, address: str) -> None:
    with connect(f"ws://{address}/stream", compression=None) as client:
        client.send("hello")
        assert client.recv(WAIT_S) == "hello"
        client.send("die")
        error = json.loads(client.recv(WAIT_S))
        assert (error["type"], error["code"], error["retryable"]) == ("error", "replica_lost", True)
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
    assert (client.close_code, client.close_reason) == (1012, "replica_lost")
    assert replicas.calls == 1


def test_a_stream_that_has_not_begun_goes_to_the_next_replica(replicas: Replicas, address: str) -> None:
    replicas.deaths = 1
    with connect(f"ws://{address}/stream", compression=None) as client:
        client.send("close")
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
    assert (client.close_code, client.close_reason, replicas.calls) == (1008, "asked", 2)


def test_a_stream_that_no_replica_survives_is_refused(replicas: Replicas, address: str) -> None:
    replicas.deaths = 10
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{address}/stream", compression=None):
        pass
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "replica_lost"
    assert replicas.calls == ATTEMPTS


def test_a_stream_that_its_client_ends_is_over(replicas: Replicas, address: str) -> None:
    with connect(f"ws://{address}/stream", compression=None) as client:
        client.close(1000)
    wait_until(lambda: replicas.ended, "it to end")
    assert (client.close_code, replicas.calls) == (1000, 1)
