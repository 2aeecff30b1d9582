"""What a replica on Ray Serve is made of. The whole, with real Ray: tests/docker/test_ray.py."""

from typing import Any

import pytest
from ray import serve

from service import ray_app
from service.app import create_app
from service.metrics import Metrics
from service.settings import Settings
from tests.service.conftest import Served


class Shown:
    """In place of Ray's gauges, which cannot be read where there is no cluster."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.labels = name, labels

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.labels)
        self.values[self.name, tuple(sorted(tags.items()))] = value


def test_ray_is_told_every_metric_as_it_is(fake_server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shown, "values", {}, raising=False)
    monkeypatch.setattr(ray_app, "Gauge", Shown)
    metrics: Metrics = fake_server.service.metrics
    mirror = ray_app.Mirror()
    mirror.report(metrics.registry)
    metrics.streams_closed.labels("mha", "end", "1000").inc()
    mirror.report(metrics.registry)
    assert (
        Shown.values["asr_stream_closed_total", (("code", "1000"), ("model", "mha"), ("reason", "end"))] >= 1
    )
    assert ("asr_requests_waiting", (("model", "mha"),)) in Shown.values
    exposed = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in metrics.registry.collect()
        for sample in family.samples
    ]
    missing = {key for key in exposed if key not in Shown.values}
    assert {name for name, _ in missing if not name.endswith("_created")} == set()


async def test_a_replica_is_ready_when_its_models_are(fake_server: Served) -> None:
    await ray_app.ready(fake_server.service)


async def test_a_replica_without_a_model_is_none() -> None:
    def load() -> Any:
        raise OSError("no such weights")

    app = create_app(Settings(decode_workers=1), {"mha": load})
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match=r"mha.*failed"):
            await ray_app.ready(app.state.service)


def test_nobody_is_to_go_where_there_is_no_replica() -> None:
    assert ray_app._is_to_go() is False


def test_what_serve_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """More at once than the engine admits, clips and streams, so that the engine refuses; and time to end well."""
    monkeypatch.setenv("MLA_ASR_MAX_REQUESTS", "7")
    monkeypatch.setenv("MLA_ASR_DRAIN_TIMEOUT_S", "90")
    application = ray_app.app({})
    assert isinstance(application, serve.Application)
    asked = application._bound_deployment
    assert asked.max_ongoing_requests > 7 + 80 * 2**30 // 2**17  # 128 KiB are little for a stream
    assert asked._deployment_config.graceful_shutdown_timeout_s > 90
