"""Every way a request can fail: one class per cause, each with its HTTP status and its name for machines.

Pure Python, so that the batching core can raise them. Messages are for the caller: they name the value, the limit and
its setting, and never hold a path or a stack trace.
"""

from __future__ import annotations

import math


class ApiError(Exception):
    """A failure with a place in the API; `outcome` is its label in the metrics.

    `retryable` is told to live streams: whether the same may work another time.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    outcome = "error"
    retryable = True

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        return {}


class BadRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    code = "bad_request"
    outcome = "client_error"
    retryable = False


class Unauthorized(BadRequest):
    """No API key, or none that is known here."""

    status = 401
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        reason = ', error="invalid_token"' if self.code == "invalid_api_key" else ""
        return {"WWW-Authenticate": f'Bearer realm="mla-asr"{reason}'}


class Forbidden(BadRequest):
    """A page of another site."""

    status = 403
    code = "origin_not_allowed"


class NotFound(BadRequest):
    status = 404
    code = "not_found"


class SlowUpload(BadRequest):
    status = 408
    code = "slow_upload"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false", "Connection": "close"}


class TooLarge(BadRequest):
    status = 413
    code = "too_large"


class StreamOver(BadRequest):
    """A live stream that has to end, though nothing is wrong with it: it was silent, or lasted, too long."""

    status = 408
    code = "idle_timeout"
    retryable = True


class RetryLater(ApiError):
    """A refusal that will pass; clients get a Retry-After of whole seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class Overloaded(RetryLater):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    outcome = "overloaded"


class Unavailable(RetryLater):
    status = 503
    type = "service_unavailable"
    code = "not_ready"
    outcome = "unavailable"


class NotServing(Unavailable):
    """This process takes nothing yet, or no more: another one may, so that not every client sees it."""

    outcome = "not_serving"


class DeadlineExceeded(ApiError):
    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    outcome = "timeout"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"}


class ClientGone(ApiError):
    """The client hung up; its answer, with the customary 499, reaches nobody but the log."""

    status = 499
    type = "client_closed_request"
    code = "client_gone"
    outcome = "cancelled"
