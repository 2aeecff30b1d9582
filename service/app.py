"""Builds the app: the only place that loads models, makes the parts and wires them."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from fastapi import FastAPI

import asr
from service import middleware, spool
from service.batcher import Batcher, Limits
from service.decoding import DecodePool
from service.engine import Engine, Model
from service.metrics import Metrics
from service.routes import router
from service.schemas import ModelCard
from service.settings import Settings
from service.transcription import Transcription

log = logging.getLogger(__name__)

ENGINE_STOP_S = 10.0
Loaders = Mapping[str, Callable[[], Model]]


def create_app(settings: Settings, loaders: Loaders | None = None) -> FastAPI:
    """Return the app; models load when it starts.

    Args:
        settings: see `service.settings`.
        loaders: what loads each model, by name; by default `asr.load` of `settings.models`. For tests.
    """
    app = FastAPI(
        title="mla-asr", version=_version(), lifespan=_lifespan, summary="Speech recognition, mha and mla"
    )
    app.state.cards = {}
    app.state.service = _wire(settings, loaders or _loaders(settings, app))
    app.include_router(router)
    middleware.install(app)
    return app


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
            await asyncio.to_thread(service.decoder.close)


def _wire(settings: Settings, loaders: Loaders) -> Transcription:
    limits = Limits(settings.max_batch_frames, settings.max_batch_items, settings.max_queue_audio_s)
    batcher = Batcher(loaders, limits)
    metrics = Metrics(
        {"version": _version(), "python": platform.python_version(), "torch": torch.__version__}
    )
    engine = Engine(loaders, batcher, metrics, heartbeat_limit_s=settings.heartbeat_limit_s)
    metrics.watch(
        loaders,
        {
            "requests_waiting": batcher.waiting,
            "requests_running": batcher.running,
            "queue_audio_seconds": batcher.queued_audio_s,
        },
    )
    metrics.watch_process({"engine_heartbeat_age_seconds": engine.heartbeat_age_s, **_gpu_gauges(settings)})
    decoder = DecodePool(
        settings.decode_workers,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
    )
    return Transcription(settings, batcher, engine, decoder, metrics)


def _loaders(settings: Settings, app: FastAPI) -> Loaders:
    return {name: partial(_load, name, source, settings, app) for name, source in settings.models.items()}


def _load(name: str, source: str, settings: Settings, app: FastAPI) -> Model:
    """Load one model (on the engine's thread) and note what it is."""
    transcriber = asr.load(source, device=settings.device, dtype=settings.dtype)
    card = _card(name, transcriber)
    app.state.cards[name] = card
    facts = {"attention": transcriber.config.attention.kind, "parameters": str(transcriber.parameters)}
    facts |= {"dtype": card.dtype or "", "device": card.device or "", "sha256": card.sha256 or ""}
    app.state.service.metrics.model_loaded(name, transcriber.weight_bytes, facts)
    return transcriber


def _card(name: str, transcriber: asr.Transcriber) -> ModelCard:
    return ModelCard(
        id=name,
        language=str(transcriber.config.extra.get("language", "en")),
        attention=transcriber.config.attention.to_dict(),
        parameters=transcriber.parameters,
        weight_bytes=transcriber.weight_bytes,
        cache_bytes_per_second=transcriber.cache_bytes_per_second,
        device=str(transcriber.device),
        dtype=str(transcriber.dtype).removeprefix("torch."),
        sha256=transcriber.folder_hash,
    )


def _gpu_gauges(settings: Settings) -> dict[str, Callable[[], float]]:
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not device.startswith("cuda"):
        return {}
    return {
        "gpu_memory_allocated_bytes": partial(torch.cuda.memory_allocated, device),
        "gpu_memory_reserved_bytes": partial(torch.cuda.memory_reserved, device),
        "gpu_memory_peak_bytes": partial(torch.cuda.max_memory_allocated, device),
    }


def _version() -> str:
    try:
        return version("mla-asr")
    except PackageNotFoundError:
        return "unknown"
