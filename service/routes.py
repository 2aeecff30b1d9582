"""The HTTP routes."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from service import answers
from service.metrics import CONTENT_TYPE
from service.middleware import KEY_CHECK
from service.schemas import (
    ErrorAnswer,
    Health,
    ModelCard,
    ModelHealth,
    ModelList,
    ProfileCard,
    TranscribeOptions,
    parse_options,
)
from service.schemas import (
    Transcription as TranscriptionAnswer,
)
from service.transcription import Transcription

PAGE = Path(__file__).parent / "static" / "index.html"
router = APIRouter()


def form_docs(options_kind: type[TranscribeOptions]) -> dict[str, Any]:
    """OpenAPI of a route that reads its own body, so that it can count and refuse it while it arrives."""
    schema = options_kind.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    options = schema["properties"]
    form = {"type": "object", "required": ["file"], "properties": {"file": binary, **options}}
    raw = {kind: {"schema": binary} for kind in ("audio/*", "application/octet-stream")}
    return {
        "parameters": [{"name": name, "in": "query", "schema": option} for name, option in options.items()],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}},
    }


def answer_docs(*further: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of what a route answers beside JSON: subtitles, text, `further` types, and errors."""
    kinds = ("text/plain", "application/x-subrip", "text/vtt", *further)
    texts = {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {200: {"content": texts}, "4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}


@router.post(
    "/transcribe",
    response_model=TranscriptionAnswer,
    responses=answer_docs(),
    openapi_extra=form_docs(TranscribeOptions),
)
async def transcribe(request: Request) -> Response:
    """Turn one audio file into words. Options are taken from the query or the form."""
    service = service_of(request)
    with service.metrics.request("/transcribe") as record:
        parse = partial(parse_options, kind=TranscribeOptions)
        options, answer, phases = await service.run(request, record, parse)
        # In a thread: an hour in words would hold up everyone else's request.
        language = card(request, options.model).language
        response = await asyncio.to_thread(answers.render, options, answer, language)
    response.headers["Server-Timing"] = phases.header
    return response


@router.get("/v1/models", response_model_exclude_none=True)
async def models(request: Request) -> ModelList:
    """The configured models, and the aliases of them."""
    service = service_of(request)
    names = [*service.engine.states, *service.settings.model_aliases]
    return ModelList(data=[_full_card(request, name) for name in names])


@router.get(
    "/v1/models/{name:path}", response_model_exclude_none=True, responses={404: {"model": ErrorAnswer}}
)
async def model(request: Request, name: str) -> ModelCard:
    """One of them."""
    service = service_of(request)
    if name not in service.engine.states and name not in service.settings.model_aliases:
        raise service.no_model(name)
    return _full_card(request, name)


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=None)
async def live(request: Request) -> Response:
    """200 while the engine shows signs of life; else this process should be restarted."""
    service = service_of(request)
    alive = service.engine.alive
    body = {
        "status": "ok" if alive else "failed",
        "heartbeat_age_s": round(service.engine.heartbeat_age_s(), 3),
    }
    return JSONResponse(body, 200 if alive else 503)


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", response_model=Health)
@router.get("/health/ready", response_model=Health)
async def ready(request: Request) -> Response:
    """200 while at least one model takes requests; the body says where each stands, and why."""
    service = service_of(request)
    health = _health(service)
    return JSONResponse(health.model_dump(exclude_none=True), 200 if health.status == "ok" else 503)


@router.get(KEY_CHECK, include_in_schema=False)
async def key() -> Response:
    """204 where the key is known, or none is needed: for a proxy that asks before it takes an upload in."""
    return Response(status_code=204)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.expose(), media_type=CONTENT_TYPE)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    return FileResponse(PAGE)


def service_of(request: Request) -> Transcription:
    service: Transcription = request.app.state.service
    return service


def card(request: Request, name: str) -> ModelCard:
    """What is known of the model of that name since it was loaded."""
    cards: dict[str, ModelCard] = request.app.state.cards
    return cards.get(name, ModelCard(id=name))


def _full_card(request: Request, name: str) -> ModelCard:
    """The card of a model, or of an alias: where it stands, and how live streams of it can be had."""
    service = service_of(request)
    model = service.settings.model_aliases.get(name, name)
    facts = {"status": service.engine.states[model].status, "profiles": _profiles(service).get(model)}
    alias = {} if name == model else {"id": name, "alias_of": model}
    return card(request, model).model_copy(update=facts | alias)


def _profiles(service: Transcription) -> dict[str, list[ProfileCard]]:
    """By model, how streams of it can be had."""
    cards: dict[str, list[ProfileCard]] = {}
    for (model, _), slots in service.engine.slots.items():
        card = ProfileCard(
            name=slots.profile.name,
            chunk_ms=slots.profile.chunk_ms,
            lookahead_ms=slots.profile.lookahead_ms,
            left_context_s=slots.profile.left_context_s,
            cache_bytes_per_stream=slots.bytes_per_stream,
            cache_bytes_shared=slots.shared_bytes,
            step_bytes_per_stream=slots.step_bytes,
            slots=slots.total,
        )
        cards.setdefault(model, []).append(card)
    return cards


def _health(service: Transcription) -> Health:
    states = service.engine.states
    models = {name: ModelHealth(status=state.status, reason=state.reason) for name, state in states.items()}
    if service.draining:
        return Health(status="draining", models=models)
    if service.ready:
        return Health(status="ok", models=models)
    loading = not (service.decoder.ready and service.engine.wait_loaded(0))
    return Health(status="starting" if loading else "failed", models=models)
