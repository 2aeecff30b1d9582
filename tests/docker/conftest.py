"""A service under mixed traffic that a real Prometheus watches."""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docker import stack
from service.settings import Settings
from tests.service.conftest import Served, folders, one_thread, serving, sound, wait_until
from tests.service.live import streamed

__all__ = ["folders", "one_thread"]  # fixtures

ROOT = Path(__file__).parents[2]
MODELS = ("mha", "mla")


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}: make tools installs it")


@dataclass
class Watched:
    """A service, and the Prometheus that scrapes it."""

    served: Served
    prometheus: str


class OutOfMemoryOnce:
    """A model whose first batch does not fit."""

    def __init__(self, model: Any) -> None:
        self._model, self._fits = model, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def transcribe(self, waves: Any, **options: Any) -> Any:
        if not self._fits:
            self._fits = True
            raise MemoryError("no room")
        return self._model.transcribe(waves, **options)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def traffic(served: Served) -> None:
    """One round of what clients do: clips and streams of both models, some of them wrong."""
    for model in MODELS:
        assert served.post(sound(16_000), model).status_code == 200
        streamed(served.url, noise(2.0), model)
    assert served.post(sound(4000), "nobody").status_code == 404
    assert served.post(sound(4000), timeout_s=1e-6).status_code == 504


def refused_and_out_of_memory(served: Served) -> None:
    with ThreadPoolExecutor(12) as clients:
        statuses = {
            answer.status_code for answer in clients.map(lambda _: served.post(sound(80_000)), range(36))
        }
    assert 429 in statuses
    models = served.service.engine.models
    models["mha"] = OutOfMemoryOnce(models["mha"])
    assert served.post(sound(4000)).status_code == 500


@pytest.fixture(scope="package")
def watched(folders: dict[str, str]) -> Iterator[Watched]:
    needs("prometheus")
    settings = Settings(models=folders, decode_workers=1, stream_memory="16MiB", max_requests=2)
    with tempfile.TemporaryDirectory() as folder, serving(settings) as served:
        traffic(served)
        port = int(served.url.rpartition(":")[2])
        with stack.prometheus(Path(folder), [port]) as prometheus:
            scraped = "count_over_time(asr_requests_total[1m]) > 1"
            wait_until(lambda: stack.has_data(prometheus, scraped), "two scrapes")
            traffic(served)
            refused_and_out_of_memory(served)
            for seen in (
                'ALERTS{alertname="OutOfMemory"}',
                "job:asr_request_errors:ratio_rate3d",  # the last of its group
            ):
                wait_until(lambda seen=seen: stack.has_data(prometheus, seen), seen)
            yield Watched(served, prometheus)
