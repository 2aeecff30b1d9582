"""A client of /stream for tests: says what it is told, keeps what it hears."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.settings import Settings
from tests.service.conftest import WAIT_S, Served

Message = dict[str, Any]


def s16(wave: np.ndarray) -> bytes:
    return (wave * 32_768).round().clip(-32_768, 32_767).astype("<i2").tobytes()


class Live:
    """One connection; `heard` is every message so far."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[Message] = []

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def play(self, wave: np.ndarray) -> None:
        """Send samples as the default start says: s16."""
        self.socket.send(s16(wave))

    def next(self) -> Message:
        message: Message = json.loads(self.socket.recv(WAIT_S))
        self.heard.append(message)
        return message

    def until(self, kind: str) -> list[Message]:
        """The messages up to one of that type; an error is one of any type."""
        messages = [self.next()]
        while messages[-1]["type"] not in (kind, "error"):
            messages.append(self.next())
        assert messages[-1]["type"] == kind, messages[-1]
        return messages

    def finish(self) -> Message:
        """End the stream; what it has taken."""
        self.say("end")
        usage: Message = self.until("done")[-1]["usage"]
        assert self.close_code() == 1000
        return usage

    def error(self) -> tuple[str, int]:
        """The code of the error that comes, whatever comes before, and that of the close after it."""
        found = self.until("error")[-1]
        assert set(found) == {"type", "code", "message", "retryable"}
        return found["code"], self.close_code()

    def close_code(self) -> int:
        try:
            message = self.socket.recv(WAIT_S)
        except ConnectionClosed as closed:
            assert closed.rcvd
            return closed.rcvd.code
        raise AssertionError(f"a message instead of the close: {message!r}")

    @property
    def finals(self) -> list[Message]:
        return [message for message in self.heard if message["type"] == "final"]

    @property
    def partials(self) -> list[str]:
        return [message["text"] for message in self.heard if message["type"] == "partial"]

    @property
    def text(self) -> str:
        """All that was said for good."""
        return " ".join(final["text"] for final in self.finals if final["text"])


@contextmanager
def connected(
    url: str, model: str = "mha", query: str | None = None, headers: dict[str, str] | None = None
) -> Iterator[Live]:
    """A connection to the server at `url`, not started; `query` in place of one for `model`."""
    address = f"{url.replace('http', 'ws', 1)}/stream{f'?model={model}' if query is None else query}"
    with connect(
        address,
        additional_headers=headers,
        open_timeout=WAIT_S,
        compression=None,
        ping_interval=None,
        close_timeout=5,
    ) as socket:
        yield Live(socket)


@contextmanager
def live(url: str, model: str = "mha", **start: Any) -> Iterator[Live]:
    """A started stream, ready for audio."""
    with connected(url, model) as client:
        client.say("start", **start)
        client.until("ready")
        yield client


def denied(url: str, model: str = "mha") -> tuple[int, str]:
    """The status of a handshake that is refused, and the code of its error, which may be tried again."""
    with pytest.raises(InvalidStatus) as refused, connected(url, model):
        pass
    answer = refused.value.response
    assert int(answer.headers["Retry-After"]) >= 1 and answer.headers["X-Request-ID"]
    return answer.status_code, json.loads(answer.body or b"")["error"]["code"]


def streamed(url: str, wave: np.ndarray, model: str = "mha", **start: Any) -> Live:
    """A whole clip through a stream, as fast as it is taken."""
    with live(url, model, **start) as client:
        client.play(wave)
        client.finish()
    return client


def stream_settings(**options: Any) -> Settings:
    """Room for four streams of a fake in each profile when there are two models, for eight when there is one."""
    return Settings(**({"decode_workers": 1, "stream_memory": "24KB"} | options))


def at_rest(served: Served) -> bool:
    """Whether every slot is free and every client gone."""
    free = [slots.active == 0 for slots in served.service.engine.slots.values()]
    return all(free) and served.service.streams.connected == 0


def closed(served: Served, **labels: str) -> float:
    """How many streams with these labels have ended."""
    return served.metric("asr_stream_closed_total", **labels)
