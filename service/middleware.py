"""Around every request: its id, errors in one shape, and the end of a connection that nobody reads any more."""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError, BadRequest, ClientGone, NotFound
from service.schemas import Error, ErrorAnswer

log = logging.getLogger(__name__)

SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """Gives each HTTP request an id (the client's X-Request-ID where it has one), and turns crashes into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started, unread = _request_id(scope), False, _has_body(scope)

        async def receive_to_end() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if unread and message["status"] >= 400:
                    headers["Connection"] = (
                        "close"  # else the rest of a refused upload would still be taken in
                    )
            await send(message)

        try:
            await self._app(scope, receive_to_end, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if not started:
                await error_response(ApiError("something went wrong on the server"))(
                    scope, receive, send_with_id
                )


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    body = Error(type=error.type, code=error.code, message=error.message, param=error.param)
    return JSONResponse(ErrorAnswer(error=body).model_dump(), error.status, headers=headers or error.headers)


def install(app: FastAPI) -> None:
    """Add the middleware and the handlers for every kind of exception that means an answer."""
    app.add_middleware(RequestContext)
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
