"""What a client may do on one of so many connections beside sending a request and reading its answer in time.

A head has so many bytes and seconds, and so has a body that goes on behind its answer; what is sent has to be taken.
Uvicorn has no such limits, and its parser joins the pieces of a head anew with every piece that comes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import resource
import sys
import termios
import uuid
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.errors import ApiError, BadRequest, SlowUpload, TooLarge, Unavailable
from service.middleware import error_body

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024  # of a request's head, or of anything else that is no body
HEAD_S = 30.0
WRITE_S = 30.0  # in which a client has to take some of what it is sent
MOST_CONNECTIONS = 8192
PINGS = 100  # of a WebSocket in a second: uvicorn answers each at once, before anything else has its turn
WAITING_BYTES = 2**20  # for a WebSocket that does not read: uvicorn answers its pings all the same


def default_limit() -> int:
    """Half of the files that this process may have open: the others are for uploads, which take two each."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(1, files // 2))


class _Taken(asyncio.Protocol):
    """Ends a connection whose client takes nothing, for so long, of what waits for it."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _write_timer: asyncio.TimerHandle | None = None
    _waiting_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_write_timer()

    def _start_write_timer(self) -> None:
        """Also for a connection that is closing: it stays open until all is sent."""
        if not self._write_timer:
            self._waiting_bytes = self._waiting()
            self._write_timer = self.loop.call_later(WRITE_S, self._look)

    def _look(self) -> None:
        """While its client is slow, or it is closing, nothing more is written: what waits only gets less."""
        self._write_timer = None
        if self._waiting() >= self._waiting_bytes:
            self.transport.abort()
        else:
            self._start_write_timer()

    def _waiting(self) -> int:
        """Bytes here and with the system, which asks for more only when a good part of its megabytes has gone."""
        unacknowledged = bytes(4)
        with suppress(OSError):  # not every system tells
            unacknowledged = fcntl.ioctl(
                self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unacknowledged
            )
        return self.transport.get_write_buffer_size() + int.from_bytes(unacknowledged, sys.byteorder)

    def _stop_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None


class Connection(_Taken, HttpToolsProtocol):
    """One client's connection, of at most `most` at once; refusals are in the API's shape."""

    def __init__(self, *args: Any, most: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most = most
        self._in_head = True  # or before one
        self._since_event_bytes = 0  # received since the parser last told of something
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(
                Unavailable(
                    f"the server has {self._most} connections, the limit (max_connections)",
                    code="too_many_connections",
                )
            )
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._since_event_bytes += len(data)
        super().data_received(data)
        if self._since_event_bytes > HEAD_BYTES:
            self._refuse(TooLarge(f"a head of more than {HEAD_BYTES} bytes", code="head_too_large"))
        elif not self._head_timer and (self._since_event_bytes if self._in_head else self._answered):
            self._start_timer()  # bytes have ended the wait that uvicorn bounds

    def on_headers_complete(self) -> None:
        self._in_head, self._since_event_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._since_event_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._since_event_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest(msg, code="bad_http"))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_write_timer()

    @property
    def _answered(self) -> bool:
        return bool(self.cycle and self.cycle.response_complete)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._out_of_time)

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _out_of_time(self) -> None:
        if self.cycle and not self._answered:  # a next head can wait while the last one's answer is made
            self._start_timer()
        elif self._in_head and self._since_event_bytes:
            self._refuse(SlowUpload(f"no whole head after {HEAD_S:g} s", code="slow_head"))
        else:
            self._hang_up()

    def _refuse(self, error: ApiError) -> None:
        """Answer and hang up, unless that is done already."""
        if self.transport.is_closing():
            return
        self._stop_timer()
        log.info("a connection was refused: %s", error.code)
        body = error_body(error).model_dump_json()
        lines = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body.encode())}",
            f"X-Request-ID: {uuid.uuid4().hex}",
            *(f"{name}: {value}" for name, value in ({"Connection": "close"} | error.headers).items()),
        ]
        self.transport.write("\r\n".join([*lines, "", body]).encode())
        self._hang_up()

    def _hang_up(self) -> None:
        self.transport.close()
        self._start_write_timer()


class LiveConnection(_Taken, WebSocketsSansIOProtocol):
    """What a `Connection` becomes with a WebSocket's handshake."""

    _pings, _pings_since_s = 0, -math.inf

    def handle_ping(self) -> None:
        if self.loop.time() - self._pings_since_s > 1:
            self._pings, self._pings_since_s = 0, self.loop.time()
        self._pings += 1
        if self._pings > PINGS:
            self.transport.abort()
        else:
            super().handle_ping()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > WAITING_BYTES:
            self.transport.abort()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.disconnected:
            self._start_write_timer()
