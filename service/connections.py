"""What a client may do before its request is known: a head of so many bytes in so many seconds, on one of so many
connections. Uvicorn has no such limits, and its parser joins the pieces of a head anew with every piece that comes.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ApiError, BadRequest, SlowUpload, TooLarge, Unavailable
from service.middleware import error_body

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024  # of a request's head, or of anything else that is no body
HEAD_S = 30.0
MOST_CONNECTIONS = 8192


def default_limit() -> int:
    """Half of the files that this process may have open: the others are for uploads, which take two each."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(1, files // 2))


class Connection(HttpToolsProtocol):
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
        elif self._in_head and self._since_event_bytes and not self._head_timer:
            self._start_timer()

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

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._out_of_time)

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _out_of_time(self) -> None:
        if (
            self.cycle and not self.cycle.response_complete
        ):  # a next head can wait while the last one's answer is made
            self._start_timer()
        elif self._since_event_bytes:
            self._refuse(SlowUpload(f"no whole head after {HEAD_S:g} s", code="slow_head"))
        else:
            self.transport.close()

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
        self.transport.close()
