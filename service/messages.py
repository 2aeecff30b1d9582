"""The text messages of /stream: the client's read and checked, the server's written."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from asr.audio import SAMPLE_RATE
from service.errors import ApiError, BadRequest
from service.schemas import BOOST, Boost, Decoding, check_hot_words
from service.segments import Final, Partial
from service.sessions import Event, Usage
from service.slots import Slots


class ClientMessage(BaseModel):
    """What a client of /stream sends as text; audio comes in binary messages."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Start(ClientMessage):
    """The first message: what the audio is, and what is wanted."""

    type: Literal["start"]
    sample_rate: int = Field(16_000, ge=8_000, le=48_000, description="Hz")
    encoding: Literal["pcm_s16le", "pcm_f32le"] = Field("pcm_s16le", description="mono samples")
    profile: str | None = Field(None, description="latency and context; /v1/models lists them")
    words: bool = Field(False, description="whether finals come with their words' times")
    decoding: Decoding = Field("greedy", description="beam searches for the likeliest text")
    hot_words: list[str] = Field([], description="words and phrases to prefer; with decoding beam")
    hot_words_boost: Boost = Field(1.0, description=BOOST)

    @field_validator("hot_words")
    @classmethod
    def _few_and_short(cls, value: list[str], info: ValidationInfo) -> list[str]:
        check_hot_words(value, info.data.get("decoding"))
        return value


class Flush(ClientMessage):
    """Asks for all that was said so far, now; answered by `flushed` with the same id."""

    type: Literal["flush"]
    id: Annotated[str, Field(max_length=128)] | Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None


class Keepalive(ClientMessage):
    """Keeps a silent stream open."""

    type: Literal["keepalive"]


class End(ClientMessage):
    """No more audio: the rest is said, then `done`."""

    type: Literal["end"]


CLIENT_MESSAGES: dict[str, type[ClientMessage]] = {
    "start": Start,
    "flush": Flush,
    "keepalive": Keepalive,
    "end": End,
}


def read(text: str) -> ClientMessage:
    """A client's message. Raises BadRequest, which names what is wrong and the choices."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadRequest("a text message must be a JSON object with a 'type'", code="bad_message")
    kind = given.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_MESSAGES:
        raise _bad(f"type is {_shown(kind)}; choices: {', '.join(CLIENT_MESSAGES)}", "type")
    try:
        return CLIENT_MESSAGES[kind].model_validate(given)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def read_start(text: str | None) -> Start:
    """The first message. Raises BadRequest when it is another, or audio (None)."""
    message = read(text) if text is not None else None
    if not isinstance(message, Start):
        raise BadRequest("the first message must be of type 'start'", code="not_started")
    return message


def ready(session_id: str, slots: Slots) -> dict[str, Any]:
    """`latency_ms` is the longest that a sound waits for others before it is said: its chunk, the look-ahead behind it,
    and what the last frame reaches beyond that.
    """
    profile = slots.profile
    tail_ms = math.ceil(slots.tail_samples / SAMPLE_RATE * 1000)
    return {
        "type": "ready",
        "session_id": session_id,
        "profile": profile.name,
        "latency_ms": profile.chunk_ms + profile.lookahead_ms + tail_ms,
        "chunk_ms": profile.chunk_ms,
        "lookahead_ms": profile.lookahead_ms,
    }


def said(event: Event, *, words: bool) -> dict[str, Any]:
    """What is sent for an event; text in lower case, times in seconds of the stream."""
    if isinstance(event, Partial):
        return {
            "type": "partial",
            "segment": event.segment,
            "text": event.text.lower(),
            "audio_s": event.audio_s,
        }
    if isinstance(event, Final):
        body: dict[str, Any] = {"type": "final", "segment": event.segment, "text": event.text.lower()}
        if words:
            body["words"] = [asdict(word) | {"word": word.word.lower()} for word in event.words]
        return body | {"start": round(event.start, 3), "end": round(event.end, 3)}
    return {"type": "flushed", "id": event.id}


def done(usage: Usage) -> dict[str, Any]:
    return {"type": "done", "usage": asdict(usage) | {"audio_s": round(usage.audio_s, 3)}}


def error(failure: ApiError) -> dict[str, Any]:
    return {
        "type": "error",
        "code": failure.code,
        "message": failure.message,
        "retryable": failure.retryable,
    }


def _refusal(kind: str, error: ValidationError) -> BadRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    # Of a name that is no Unicode pydantic tells nothing.
    name = str(first["loc"][0])[:100] if first["loc"] else "?"
    if first["type"] == "extra_forbidden":
        choices = ", ".join(CLIENT_MESSAGES[kind].model_fields)
        return _bad(f"no field {name!r} in '{kind}'; choices: {choices}", name)
    return _bad(f"{name} is {_shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}", name)


def _bad(message: str, name: str) -> BadRequest:
    return BadRequest(message, code="bad_message", param=name)


def _shown(value: Any) -> str:
    return repr(value)[:100]
