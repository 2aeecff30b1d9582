"""What Ray Serve's proxy lacks: a request whose replica dies goes to another, and a stream is told to connect again.

Serve hands a request to one replica. Should that die, the proxy answers with a bare 500, and drops a WebSocket without
a word. `middleware` stands before it, where Ray was started with

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=service.ray_proxy.middleware

An upload passes through as it comes, and is kept until its answer begins: then it can be sent again. Transcribing twice
does no harm. What has begun to arrive, such as events, is cut off instead.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import uuid

from ray.util.metrics import Counter
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from service.errors import Unavailable
from service.guard import deny
from service.middleware import error_body, error_response

log = logging.getLogger("ray.serve")  # the only one that Serve's proxies write down

ATTEMPTS = 3  # no more: it may be the clip that ends its replica
HELD_BYTES = 2**20  # of an upload in memory; more lies on the disk
RESTARTED = 1012  # what a server's own shutdown says too


def middleware() -> list[Middleware]:
    """What Serve asks for when a proxy starts."""
    return [Middleware(Persistent)]


class Persistent:
    """Around a proxy's app, which returns without an answer when it has lost the replica."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lost = Counter("asr_replica_lost", "Requests and streams whose replica died", ("kind",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = MutableHeaders(scope=scope).setdefault("x-request-id", uuid.uuid4().hex)
        with tempfile.SpooledTemporaryFile(HELD_BYTES) as file:
            call = Call(receive, send, file)
            for _ in range(ATTEMPTS):
                # A copy, as the proxy writes into it.
                await self._app({**scope, "headers": [*scope["headers"]]}, call.from_the_start(), call.send)
                if call.over:
                    return
                self._lost.inc(tags={"kind": scope["type"]})
                log.warning("request %s has lost its replica", request_id)
                if call.accepted:
                    await call.part()
                    return
        error = _lost()
        if scope["type"] == "http":
            answer = error_response(error, error.headers | {"X-Request-ID": request_id})
            await answer(scope, receive, send)
            return
        socket = WebSocket(scope, receive, send)
        if not await deny(socket, error):
            await socket.close(RESTARTED, error.code)


class Call:
    """A request or a stream between its client and the replicas that it is tried on."""

    def __init__(self, receive: Receive, send: Send, file: tempfile.SpooledTemporaryFile[bytes]) -> None:
        self._receive, self._send = receive, send
        self._file, self._kept = file, list[Message]()
        self.accepted = False  # as a stream
        self.over = False  # answered, if only in part, or nobody waits for it

    def from_the_start(self) -> Receive:
        """What gives all that the client has sent so far, then what it sends."""
        earlier = iter(self._kept)
        self._file.seek(0)

        async def receive() -> Message:
            if message := next(earlier, None):
                length = message.get("body", 0)
                return {**message, "body": self._file.read(length)} if length else message
            return await self._next()

        return receive

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"].endswith(".disconnect"):
            self.over = True
        elif not (self.over or self.accepted):
            self._keep(message)
        return message

    def _keep(self, message: Message) -> None:
        """Note a message, of its body the length alone: that lies in the file."""
        if body := message.get("body"):
            self._file.seek(0, os.SEEK_END)
            self._file.write(body)
            message = {**message, "body": len(body)}
        self._kept.append(message)

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith("response.start"):
            headers = MutableHeaders(scope=message)
            if said := headers.get("x-request-id"):
                headers["x-request-id"] = said  # once: the proxy has added its own to the replica's
        self.accepted |= kind == "websocket.accept"
        self.over |= kind == "websocket.close" or kind.endswith("response.start")
        await self._send(message)

    async def part(self) -> None:
        """Tell a stream's client, in the API's words, to connect again."""
        error = error_body(_lost()).error
        said = {"type": "error", "code": error.code, "message": error.message, "retryable": True}
        await self._send({"type": "websocket.send", "text": json.dumps(said)})
        await self._send({"type": "websocket.close", "code": RESTARTED, "reason": error.code})


def _lost() -> Unavailable:
    return Unavailable("the server that worked on it is gone; try again", code="replica_lost")
