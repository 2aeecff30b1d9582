"""Log lines, as text or as JSON, and what is noted of a request while it runs.

Never audio, and no transcript unless `log_transcripts` is set; of a key its name alone.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Fields = dict[str, Any]
_noted: ContextVar[Fields | None] = ContextVar("noted", default=None)
# What every record has; all else in it was given by the caller as `extra`.
STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"}
# Below this they tell headers, and with them keys.
CHATTY = ("uvicorn.error", "websockets", "python_multipart", "asyncio")


@contextmanager
def request(**fields: Any) -> Iterator[Fields]:
    """What is noted of a request for as long as the block lasts; its `request_id` stands in all lines meanwhile."""
    token = _noted.set(fields)
    try:
        yield fields
    finally:
        _noted.reset(token)


def note(**fields: Any) -> None:
    """Note something of the request in work, for its line at the end."""
    noted = _noted.get()
    if noted is not None:
        noted.update(fields)


def noted(*names: str) -> Fields:
    """Those of these names that were noted of the request in work."""
    found = _noted.get() or {}
    return {name: found[name] for name in names if name in found}


def set_up(form: Literal["text", "json"], level: str) -> None:
    """Have every logger of the process write to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_with_request_id)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    logging.getLogger("uvicorn.error").addFilter(_not_of_sockets)


class TextFormatter(logging.Formatter):
    """The time, what is said, and name=value of what comes with it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = (f" {name}={_value(value)}" for name, value in _extra(record).items())
        return super().formatMessage(record) + "".join(fields)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, what comes with it, and an exception's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()} | _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _extra(record: logging.LogRecord) -> Fields:
    """What the caller gave; names with a leading _ are what libraries keep in records (Ray: `_ray_timestamp_ns`)."""
    given = record.__dict__.items()
    return {k: v for k, v in given if k not in STANDARD and k[0] != "_" and v is not None}


def _value(value: Any) -> str:
    """As it is where that cannot be taken for anything else; quoted otherwise, on one line."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _with_request_id(record: logging.LogRecord) -> bool:
    noted = _noted.get()
    if noted and not hasattr(record, "request_id"):
        record.request_id = noted.get("request_id")
    return True


def _not_of_sockets(record: logging.LogRecord) -> bool:
    """Without the server's own lines about WebSockets: a stream's end has a line of ours."""
    said = str(record.msg)
    return '"WebSocket ' not in said and not said.startswith("connection ")
