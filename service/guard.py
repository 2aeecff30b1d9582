"""Who gets in: every route needs a key, when there are keys, but for those listed here.

A new route is closed until it is opened. A key comes as `Authorization: Bearer <key>`; from a browser's WebSocket,
which cannot send that, as a subprotocol: `Sec-WebSocket-Protocol: mla-asr, bearer.<key>`, answered with `mla-asr`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from service import logs
from service.errors import ApiError, Forbidden
from service.keys import Keys
from service.metrics import Metrics
from service.middleware import KEY_CHECK, error_response

log = logging.getLogger(__name__)

# Probes, the page that asks for a key, and the documentation: nothing of these is work, or a secret.
OPEN = frozenset({"/", "/health", "/health/live", "/health/ready"})
OPEN |= {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
OPEN |= {f"/static-offline-docs/{file}" for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
SUBPROTOCOL = "mla-asr"
BEARER = "bearer."
DENIAL = "websocket.http.response"


class Guard:
    """The door. With `open_metrics` /metrics is open, too; pages of `origins` may open WebSockets, as ours may."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        metrics: Metrics,
        *,
        open_metrics: bool = False,
        origins: Collection[str] = (),
    ) -> None:
        self._app, self._keys, self._metrics, self._origins = app, keys, metrics, origins
        self._open = OPEN | ({"/metrics"} if open_metrics else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and from_elsewhere(scope, self._origins):
            origin = Headers(scope=scope)["origin"]
            error = Forbidden(f"a page of {origin[:100]!r} asks; cors_origins names other sites that may")
            await _refuse(error, scope, receive, send)
            return
        guarded = scope["type"] in ("http", "websocket") and scope["path"] not in self._open
        if not (guarded and self._keys.on):
            await self._app(scope, receive, send)
            return
        with ExitStack() as admitted:
            try:
                name = self._keys.check(given_key(scope))
                logs.note(key=name)
                if scope["path"] != KEY_CHECK:  # the upload comes after it, and counts
                    admitted.enter_context(self._keys.admit(name))
            except ApiError as error:
                self._metrics.key_refusals.labels(error.code).inc()
                await _refuse(error, scope, receive, send)
                return
            await self._app(scope, receive, send)


def describe(schema: dict[str, Any]) -> dict[str, Any]:
    """Says in an OpenAPI description which routes need a key, so that a page of it can send one."""
    schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        if path not in OPEN:
            for operation in operations.values():
                operation["security"] = [{"key": []}]
    return schema


def given_key(scope: Scope) -> str | None:
    """The key that comes with a request; None without one."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    offered = (name for name in scope.get("subprotocols", ()) if name.startswith(BEARER))
    return next((name.removeprefix(BEARER) for name in offered), None)


def from_elsewhere(scope: Scope, allowed: Collection[str]) -> bool:
    """Whether a page of another host, and of no allowed origin, opens this WebSocket: CORS does not cover those."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if not origin or "*" in allowed or origin in allowed:
        return False
    try:
        return urlsplit(origin).hostname != urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:  # no address, as "http://[::1"
        return True


def subprotocol(socket: WebSocket) -> str | None:
    """What to answer a WebSocket with: never the key."""
    return SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error_response(error)(scope, receive, send)
        return
    socket = WebSocket(scope, receive, send)
    if not await deny(socket, error):
        await socket.close(1008, error.code)


async def deny(socket: WebSocket, error: ApiError) -> bool:
    """Answer a WebSocket's handshake with the error, as HTTP; False where the server in front cannot do that."""
    log.info("a stream was refused: %s", error.code)
    able = DENIAL in socket.scope.get("extensions", {})
    if able:
        await socket.send_denial_response(error_response(error))
    return able
