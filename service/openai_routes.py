"""`POST /v1/audio/transcriptions`: OpenAI's API for audio, so that its clients work here unchanged.

What we do not have is accepted, ignored, and named in `X-Ignored-Options`; see `schemas.OpenAIOptions`. With
`stream=true` the text comes in events, of a clip of more than a minute while it is still heard: its windows are decoded
as they are done. Until there is a first event errors have their HTTP status; later they are an event, the last one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from asr.ctc import StreamDecoder
from service import logs, openai_answers
from service.engine import Answer
from service.errors import ApiError, BadRequest
from service.hearing import Told
from service.middleware import error_body
from service.openai_answers import LANGUAGE_NAMES, Deltas, event
from service.routes import answer_docs, card, form_docs, service_of
from service.schemas import (
    Items,
    OpenAIOptions,
    OpenAITranscription,
    OpenAIVerbose,
    TextDelta,
    TextDone,
    parse_options,
)
from service.timing import Phases
from service.uploads import FormLimits

log = logging.getLogger(__name__)

ROUTE = "/v1/audio/transcriptions"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# What is ignored may still be large: references of how speakers sound, in base64.
FORM = FormLimits(200, 4 * 2**20)
STRUCTURED = {"chunking_strategy", "include", "keywords", "known_speaker_names", "known_speaker_references"}
STRUCTURED |= {"languages", "timestamp_granularities"}
router = APIRouter()

Window = Any  # scores [frames, vocabulary]


@router.post(
    ROUTE,
    response_model=OpenAIVerbose | OpenAITranscription,
    responses=answer_docs("text/event-stream"),
    openapi_extra=form_docs(OpenAIOptions),
)
async def transcriptions(request: Request) -> Response:
    """Turn one audio file into words, as OpenAI's API does."""
    call = _Call(request)
    try:
        window = await call.windows.get()
    except asyncio.CancelledError:
        call.task.cancel()
        raise
    if window is None:
        call.task.result()  # raises the error of a call that failed
    assert call.options
    if call.options.stream:
        response: Response = StreamingResponse(
            call.events(window), headers=STREAM_HEADERS, media_type="text/event-stream"
        )
    else:
        options, answer, phases = await call.task
        # In a thread: an hour in words would hold up everyone else's request.
        response = await asyncio.to_thread(openai_answers.render, options, answer, call.language)
        response.headers["Server-Timing"] = phases.header
    if call.options.ignored:
        response.headers["X-Ignored-Options"] = ", ".join(call.options.ignored)
    return response


class _Call:
    """A request that is worked on in a task of its own, so that its answer can begin before the work ends.

    `windows` gets what is heard of a long clip that is to be streamed, and None when the task is done.
    """

    def __init__(self, request: Request) -> None:
        self.options: OpenAIOptions | None = None
        self.language: str | None = None  # the model's, or what was given where that is not known
        self.windows: asyncio.Queue[Window | None] = asyncio.Queue()
        self._request, self._service = request, service_of(request)
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._done)

    async def _run(self) -> tuple[OpenAIOptions, Answer, Phases]:
        with self._service.metrics.request(ROUTE) as record:
            return await self._service.run(self._request, record, _parse, self._accept, FORM)

    def _accept(self, options: OpenAIOptions) -> Told | None:
        models, given = card(self._request, options.model).language, _given(options)
        _check(options, models, given)
        self.options, self.language = options, models or given
        return self.windows.put_nowait if options.stream else None

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.windows.put_nowait(None)
        if not task.cancelled():
            task.exception()  # looked at, as it may be that nobody waits any more

    async def events(self, window: Window | None) -> AsyncIterator[str]:
        """What is heard, from `window` on, as server-sent events."""
        assert self.options
        model: Any = self._service.engine.models[self.options.model]
        deltas = Deltas(StreamDecoder(model.vocabulary, model.seconds_per_frame), self.options.case)
        try:
            while window is not None:
                if delta := await asyncio.to_thread(deltas.heard, window):
                    yield event(TextDelta(delta=delta))
                window = await self.windows.get()
            options, answer, _ = await self.task
            text = answer.transcript.in_case(options.case).text
            if delta := deltas.rest(text):
                yield event(TextDelta(delta=delta))
            yield event(TextDone(text=text))
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("a stream of events failed")
                error = ApiError("something went wrong on the server")
            logs.note(error=error.code)
            yield event(error_body(error))
        finally:
            self.task.cancel()


def _parse(items: Items) -> OpenAIOptions:
    """Clients write lists and objects as `include[]` and `chunking_strategy[type]`."""
    return parse_options([(_unbracketed(name), value) for name, value in items], OpenAIOptions)


def _unbracketed(name: str) -> str:
    plain = name.partition("[")[0]
    return plain if plain in STRUCTURED else name


def _given(options: OpenAIOptions) -> str | None:
    """The language that was asked for, without its region."""
    given = options.language.strip().lower().replace("_", "-").partition("-")[0]
    return given[:100] if given not in ("", "auto") else None


def _check(options: OpenAIOptions, language: str | None, given: str | None) -> None:
    """Raise where the options are fine, but not for this model and its language, or not together."""
    if language and given not in (None, language, LANGUAGE_NAMES.get(language)):
        raise BadRequest(
            f"language is {options.language[:100]!r}, but model {options.model!r} knows {language!r} only",
            code="unsupported_language",
            param="language",
        )
    if options.stream and options.response_format not in ("json", "text"):
        raise BadRequest(
            f"stream goes with the response_format json or text, not {options.response_format}",
            code="invalid_option",
            param="stream",
        )
