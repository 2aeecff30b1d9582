"""Around every request: its id, errors in one shape, and the end of a connection that nobody reads any more."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import ApiError, BadRequest, ClientGone, NotFound
from service.schemas import Error, ErrorAnswer

log = logging.getLogger(__name__)
access = logging.getLogger("service.access")

STARTS = ("http.response.start", "websocket.http.response.start")
KEY_CHECK = "/key"  # what a proxy asks before it takes an upload in
# Asked every few seconds, or before every upload.
PROBES = ("/health", "/health/live", "/health/ready", "/metrics", KEY_CHECK)
EXPOSED = ("X-Request-ID", "X-Ignored-Options", "Server-Timing", "Retry-After")
DRAIN_S = 2.0  # for the rest of an upload that is refused
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """Gives each request an id (its X-Request-ID where it has one) and a line in the log; a crash gives a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with logs.request(request_id=_request_id(scope)) as noted:
            started = time.monotonic()
            try:
                await self._serve(scope, receive, send, noted)
            finally:
                if scope["type"] == "http":  # the end of a stream is logged where it ends
                    noted["duration_s"] = round(time.monotonic() - started, 4)
                    _log_end(scope, noted)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, noted: logs.Fields) -> None:
        unread = scope["type"] == "http" and _has_body(scope)

        async def receive_to_end() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] in STARTS:
                noted["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = noted["request_id"]
                if unread and message["status"] >= 400:
                    headers["Connection"] = (
                        "close"  # else the rest of a refused upload would still be taken in
                    )
            elif unread and noted.get("status", 0) >= 400 and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _drain(scope, receive_to_end)
                message = {"type": message["type"], "body": b""}
            await send(message)

        try:
            await self._app(scope, receive_to_end, send_with_id)
        except Exception:
            if scope["type"] == "websocket":
                raise  # the server closes it
            log.exception("request %s failed", noted["request_id"])
            if "status" not in noted:
                crash = error_response(ApiError("something went wrong on the server"))
                await crash(scope, receive, send_with_id)


def _log_end(scope: Scope, noted: logs.Fields) -> None:
    """One line for an answer; without a status the client was gone before there was one."""
    route = getattr(scope.get("route"), "path", "unknown")
    fields = {"method": scope["method"], "route": route, **noted}
    level = logging.WARNING if noted.get("status", 0) >= 500 else logging.INFO
    if route in PROBES and level == logging.INFO:
        level = logging.DEBUG
    access.log(level, "%s %s %s", scope["method"], route, noted.get("status", "-"), extra=fields)


async def _drain(scope: Scope, receive: Receive) -> None:
    """Take in what still comes, behind the answer: closed on while it sends, a client may see a reset and no answer."""
    more = "expect" not in Headers(scope=scope)  # one that waits to be asked for its upload has sent none
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while more:
                more = (await receive()).get("more_body", False)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    logs.note(error=error.code)
    return JSONResponse(error_body(error).model_dump(), error.status, headers=headers or error.headers)


def error_body(error: ApiError) -> ErrorAnswer:
    named = Error(type=error.type, code=error.code, message=error.message, param=error.param)
    return ErrorAnswer(error=named)


def install(app: FastAPI, cors_origins: Sequence[str] = ()) -> None:
    """Add the middleware and the handlers for every kind of exception that means an answer.

    Pages of `cors_origins` may read the answers in a browser. No cookies: who may ask is a matter of keys.
    """
    app.add_middleware(RequestContext)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    handlers: dict[Any, Any] = {
        ApiError: _api_error,
        HTTPException: _http_error,
        RequestValidationError: _invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _api_error(request: Request, error: ApiError) -> JSONResponse:
    if isinstance(error, ClientGone):
        log.info("%s: %s", request.url.path, error.message)
    return error_response(error)


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    """The framework's own: unknown routes, wrong methods."""
    if error.status_code == 404:
        named: ApiError = NotFound(
            f"no route {request.url.path[:200]!r}; /docs lists them", code="route_not_found"
        )
    else:
        named = BadRequest(f"{request.method} {request.url.path[:200]!r}: {error.detail}", code="bad_request")
        named.status = error.status_code
        if error.status_code == 405:
            named.code = "method_not_allowed"
    return error_response(named, dict(error.headers or {}))


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return error_response(BadRequest(str(first["msg"]), code="invalid_option", param=str(first["loc"][-1])))
