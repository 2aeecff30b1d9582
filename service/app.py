"""Builds the app: the only place that loads models, makes the parts and wires them."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import asr
from asr import checkpoint, ngram
from asr.encoder import ConformerCTC
from service import device, keys, memory, middleware, openai_routes, slots, spool, stream_routes
from service.batcher import Batcher, Limits
from service.clips import Model
from service.decoding import DecodePool
from service.engine import Engine
from service.guard import Guard, describe
from service.keys import Keys
from service.metrics import Metrics
from service.routes import router
from service.scheduler import Lane, Scheduler, StepLimits
from service.schemas import ModelCard
from service.searches import Searches
from service.segments import Rules
from service.settings import Settings
from service.streams import Streams
from service.transcription import Transcription

log = logging.getLogger(__name__)

ENGINE_STOP_S = 10.0
DESCRIPTION = """Recordings: `POST /transcribe`, or as OpenAI's clients ask.

Live: `WS /stream?model=mla`, which a page like this cannot show: a `start` message, sound in binary ones, `end`; texts
come while it is spoken. The page at `/` speaks it."""
Loaders = Mapping[str, Callable[[], Model]]


def create_app(settings: Settings, loaders: Loaders | None = None) -> FastAPI:
    """Return the app; models load when it starts.

    Args:
        settings: see `service.settings`.
        loaders: what loads each model, by name; by default `asr.load` of `settings.models`. For tests.
    """
    app = FastAPIOffline(  # /docs as FastAPI has it, but nothing of it comes from elsewhere
        redoc_url=None,
        title="mla-asr",
        version=_version(),
        lifespan=_lifespan,
        summary="Speech recognition, mha and mla",
        description=DESCRIPTION,
    )
    app.state.cards = {}
    app.state.service = _wire(settings, loaders or _loaders(settings, app))
    app.include_router(router)
    app.include_router(openai_routes.router)
    app.include_router(stream_routes.router)
    known = _keys(settings)
    if known.on:
        plain = app.openapi
        app.openapi = lambda: describe(plain())  # type: ignore[method-assign]
    app.add_middleware(
        Guard,
        keys=known,
        metrics=app.state.service.metrics,
        open_metrics=settings.open_metrics,
        origins=settings.cors_origins,
    )
    middleware.install(app, settings.cors_origins)
    return app


def _keys(settings: Settings) -> Keys:
    fixed = keys.parse(settings.api_keys.get_secret_value()) if settings.api_keys else []
    found = Keys(fixed, settings.api_keys_file, most_at_once=settings.max_requests_per_key)
    if found.on:
        log.info("API keys of %s", ", ".join(found.names))
    else:
        log.warning("no API keys: whoever reaches the port is served")
    return found


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the engine and the decoders; at the end let the engine finish what it has."""
    service: Transcription = app.state.service
    with spool.opened(service.settings.spool_dir) as folder:
        service.spool = folder
        service.decoder.start()
        service.engine.start()
        try:
            yield
        finally:
            service.draining = True
            # By now nobody waits for an answer: the server lets requests finish before it gets here.
            if not await asyncio.to_thread(service.engine.stop, ENGINE_STOP_S):
                log.error("the engine is still busy after %g s: leaving it behind", ENGINE_STOP_S)
            await asyncio.to_thread(service.searches.close)
            await asyncio.to_thread(service.decoder.close)


def _wire(settings: Settings, loaders: Loaders) -> Transcription:
    metrics = Metrics(
        {"version": _version(), "python": platform.python_version(), "torch": torch.__version__}
    )
    scheduler = Scheduler(_batcher(settings, loaders), _step_limits(settings))
    engine = Engine(
        loaders,
        scheduler,
        metrics,
        heartbeat_limit_s=settings.heartbeat_limit_s,
        allocate=partial(_allocate, settings),
        loaded=partial(memory.forget_peak, _device(settings)),
    )
    decoder = DecodePool(
        settings.decode_workers,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
    )
    rules = Rules(settings.endpoint_silence_s, settings.endpoint_empty_s, settings.endpoint_longest_s)
    streams = Streams(
        settings.profiles, engine.slots, scheduler.steps, rules=rules, buffer_s=settings.stream_buffer_s
    )
    named = {"bundled": ngram.BUNDLED, "none": None}
    lm = settings.search_lm if isinstance(settings.search_lm, Path) else named[settings.search_lm]
    searches = Searches(settings.search_workers, lm, settings.max_queue_s)
    _watch(settings, loaders, metrics, engine, scheduler.batcher, searches)
    return Transcription(settings, scheduler.batcher, engine, decoder, metrics, streams, searches)


def _batcher(settings: Settings, models: Iterable[str]) -> Batcher:
    limits = Limits(
        settings.max_batch_frames,
        settings.max_batch_items,
        settings.max_queue_audio_s,
        settings.max_queue_s,
        window=settings.batch_window,
        max_live_batch_frames=settings.max_live_batch_frames,
        overhead_frames=settings.batch_overhead_frames,
    )
    return Batcher(models, limits)


def _step_limits(settings: Settings) -> StepLimits:
    return StepLimits(
        settings.max_step_streams, wait_s=settings.stream_wait_ms / 1000, clip_share=settings.clip_share
    )


def _allocate(settings: Settings, models: Mapping[str, Model]) -> Mapping[Lane, slots.Slots]:
    """The caches of live streams (on the engine's thread, when the models are loaded)."""
    budget_bytes = settings.stream_budget_bytes(partial(memory.free_bytes, _device(settings)))
    if not budget_bytes:
        return {}
    return slots.allocate(
        models,
        settings.profiles,
        budget_bytes,
        settings.cache_dtype,
        max_streams=settings.max_step_streams,
        measure=memory.measure(_device(settings)),
    )


def _watch(
    settings: Settings,
    models: Collection[str],
    metrics: Metrics,
    engine: Engine,
    batcher: Batcher,
    searches: Searches,
) -> None:
    """Gauges that read the parts when they are asked for."""
    metrics.watch(
        models,
        {
            "requests_waiting": batcher.waiting,
            "requests_running": batcher.running,
            "queue_audio_seconds": batcher.queued_audio_s,
        },
    )

    metrics.watch_states(models, lambda model: engine.states[model].status)

    def of_slots(name: str) -> Callable[[Lane], float]:
        return lambda lane: getattr(engine.slots[lane], name) if lane in engine.slots else 0

    lanes = [(model, profile.name) for model in models for profile in settings.profiles]
    gauges = {"streams_active": "active", "stream_slots": "total", "stream_cache_bytes": "cache_bytes"}
    metrics.watch_streams(lanes, {gauge: of_slots(name) for gauge, name in gauges.items()})
    # They are read in this order: a beat in between makes the engine look younger, never older.
    heartbeat = {
        "engine_heartbeat_limit_seconds": engine.heartbeat_limit_s,
        "engine_heartbeat_age_seconds": engine.heartbeat_age_s,
    }
    queues = {
        "queue_audio_limit_seconds": batcher.most_audio_s,
        "search_audio_seconds": searches.waiting_audio_s,
    }
    metrics.watch_process(heartbeat | queues | _gpu_gauges(settings))


def _loaders(settings: Settings, app: FastAPI) -> Loaders:
    return {name: partial(_load, name, source, settings, app) for name, source in settings.models.items()}


def _load(name: str, source: str, settings: Settings, app: FastAPI) -> Model:
    """Load one model (on the engine's thread) and note what it is."""
    choice = device.choose(
        _parameters(source), device=settings.device, dtype=settings.dtype, threads=settings.threads
    )
    transcriber = asr.load(source, device=choice.device, dtype=choice.dtype)
    card = _card(name, transcriber)
    app.state.cards[name] = card
    _set_threads(choice, app.state.cards)
    log.info("model %r runs on %s", name, choice.why)
    facts = {"attention": transcriber.config.attention.kind, "parameters": str(transcriber.parameters)}
    facts |= {"dtype": card.dtype or "", "device": card.device or "", "sha256": card.sha256 or ""}
    app.state.service.metrics.model_loaded(name, transcriber.weight_bytes, facts)
    return transcriber


def _parameters(source: str) -> int:
    """How large a model is, by its configuration alone: no weights are read for it."""
    with torch.device("meta"):
        model = ConformerCTC(checkpoint.read_config(checkpoint.resolve(source)))
    return sum(parameter.numel() for parameter in model.parameters())


def _set_threads(choice: device.Choice, cards: dict[str, ModelCard]) -> None:
    """Threads are the process's, not a model's: the model that wants the most decides."""
    if choice.threads:
        threads = max([choice.threads, *(card.threads or 0 for card in cards.values())])
        torch.set_num_threads(threads)
        for card in cards.values():
            card.threads = threads


def _card(name: str, transcriber: asr.Transcriber) -> ModelCard:
    language = transcriber.config.extra.get("language")
    return ModelCard(
        id=name,
        created=int(time.time()),
        language=str(language) if language else None,
        attention=transcriber.config.attention.to_dict(),
        parameters=transcriber.parameters,
        weight_bytes=transcriber.weight_bytes,
        cache_bytes_per_second=transcriber.cache_bytes_per_second,
        device=str(transcriber.device),
        dtype=str(transcriber.dtype).removeprefix("torch."),
        sha256=transcriber.folder_hash,
    )


def _device(settings: Settings) -> str:
    return settings.device or device.default_device()


def _gpu_gauges(settings: Settings) -> dict[str, Callable[[], float]]:
    gpu = _device(settings)
    if not gpu.startswith("cuda"):
        return {}
    return {
        "gpu_memory_allocated_bytes": partial(torch.cuda.memory_allocated, gpu),
        "gpu_memory_reserved_bytes": partial(torch.cuda.memory_reserved, gpu),
        "gpu_memory_peak_bytes": partial(torch.cuda.max_memory_allocated, gpu),
    }


def _version() -> str:
    try:
        return version("mla-asr")
    except PackageNotFoundError:
        return "unknown"
