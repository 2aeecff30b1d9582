"""The service on Ray Serve: the app and engine of `python -m service`, with replicas on many machines.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=service.ray_proxy.middleware ray start --head --disable-usage-stats
    serve deploy docker/ray/serve.yaml

Settings come from the same environment variables. Every replica has an engine, which batches: Serve only hands out
requests. It counts each of them, and each live stream, for as long as it lasts; by these counts it scales.

Limits hold for each replica. What has none here: connections and their heads (`service.connections`), as they are those
of Serve's proxy, so put nginx before it where strangers come in; and what a stream's client sends: the proxy reads all
of it, however fast, and keeps in memory what the replica has not heard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic_settings import CliApp
from ray import serve
from ray._private import worker
from ray.serve.config import BackpressureConfig
from ray.serve.metrics import Gauge

from service import logs
from service.app import ENGINE_STOP_S, create_app
from service.settings import Settings
from service.transcription import Transcription

log = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks at whether this replica is to go
HEALTH_S = 2.0  # after which it is known at the latest that a replica has died
METRICS_S = 5.0  # between two reports; Ray hands them on every ten seconds
CLOSE_S = 5.0  # for what ends after the engine
UNBOUNDED = (
    1_000_000  # requests and streams of a replica: the engine refuses what is too much, in its own words
)


def build() -> FastAPI:
    """The app, in the process of its replica."""
    settings = CliApp.run(Settings, cli_args=[])
    logs.set_up(settings.log_format, settings.log_level)
    os.environ.pop("MLA_ASR_API_KEYS", None)  # the processes that decode uploads need not have them
    if settings.spool_dir:
        tempfile.tempdir = str(settings.spool_dir)
    return create_app(settings)


class Replica:
    """One engine: on one GPU, where `ray_actor_options` asks for one."""

    app: FastAPI  # Serve sets it to what `build` gives

    def __init__(self) -> None:
        self._chores = [asyncio.create_task(self._part()), asyncio.create_task(self._report())]
        for chore in self._chores:
            chore.add_done_callback(_told)

    async def check_health(self) -> None:
        """Serve asks before the first request, and every few seconds from then on."""
        await ready(self.app.state.service)

    async def _part(self) -> None:
        """Have live streams say what they have heard, and end, when this replica is to go."""
        while not _is_to_go():
            await asyncio.sleep(LOOK_S)
        self.app.state.service.streams.drain()

    async def _report(self) -> None:
        mirror = Mirror()
        while True:
            await asyncio.sleep(METRICS_S)
            try:
                await asyncio.to_thread(mirror.report, self.app.state.service.metrics.registry)
            except Exception:
                log.exception("metrics were not reported")


deployment = serve.deployment(serve.ingress(build)(Replica), name="asr")


async def ready(service: Transcription) -> None:
    """Wait until models are loaded and decoders run. Raises RuntimeError where this replica should make way."""
    await asyncio.to_thread(service.engine.wait_loaded)
    while not service.decoder.ready:
        await asyncio.sleep(LOOK_S)
    if not service.engine.ready:
        raise RuntimeError(f"the engine does not serve: {service.engine.states}")


class Mirror:
    """The service's metrics in Ray's exporter: `asr_requests_total` is `ray_asr_requests_total`, with its replica.

    Ray has no way to take over a counter or a histogram, so that all are gauges to it: of the same values, which rate()
    and histogram_quantile() take as well.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}

    def report(self, registry: CollectorRegistry) -> None:
        for family in registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    gauge = self._gauge(sample.name, family.documentation, tuple(sample.labels))
                    gauge.set(sample.value, dict(sample.labels))

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, labels)
        return self._gauges[name]


def _told(chore: asyncio.Task[None]) -> None:
    if not chore.cancelled() and (error := chore.exception()):
        log.error("a chore of the replica has ended", exc_info=error)


def _is_to_go() -> bool:
    """Whether Serve is ending this replica.

    It lets requests finish first, and has no word for those that do not end by themselves, so this looks into its
    actor. Should that look different one day, streams go on until `graceful_shutdown_timeout_s`, and the proxy parts.
    """
    actors: dict[Any, Any] = worker.global_worker.actors
    return any(
        getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False) for actor in actors.values()
    )


def app(_: dict[str, Any]) -> serve.Application:
    """What `serve deploy` asks for; serve.yaml says how many replicas there are, and what each of them gets."""
    settings = CliApp.run(Settings, cli_args=[])
    return deployment.options(
        max_ongoing_requests=UNBOUNDED,
        max_queued_requests=settings.max_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=HEALTH_S,
        graceful_shutdown_wait_loop_s=LOOK_S,
        graceful_shutdown_timeout_s=settings.drain_timeout_s + ENGINE_STOP_S + CLOSE_S,
    ).bind()
