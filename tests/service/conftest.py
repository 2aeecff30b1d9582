"""A real server in a thread, over tiny real models or over a fake one."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from asr import checkpoint
from asr.ctc import Vocabulary
from service.__main__ import server_config
from service.app import create_app
from service.settings import Settings
from service.transcription import Transcription
from tests.conftest import tiny_model
from tests.fakes import FakeTranscriber

WAIT_S = 120.0  # for a machine that is busy with much else; nothing is expected to take this long


def sound(samples: int, *, rate: int = 16_000, channels: int = 1, kind: str = "WAV", seed: int = 0) -> bytes:
    """The bytes of a sound file of seeded noise."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (samples, channels)).clip(-1, 1).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format=kind)
    return file.getvalue()


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def error_of(response: httpx.Response) -> dict[str, str | None]:
    """The error in the answer, which must have the one shape all errors have."""
    assert set(response.json()) == {"error"}, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    assert "Traceback" not in response.text and "/tmp" not in response.text
    assert response.headers["x-request-id"]
    return error


class Served:
    """A running server: its client, its parts, and what its /metrics say."""

    def __init__(self, app: FastAPI, url: str) -> None:
        self.app = app
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=WAIT_S)
        self.service: Transcription = app.state.service

    def call(self, function: Callable[[], Any]) -> None:
        """Run `function` on the server's event loop."""
        self.service.decoder._loop.call_soon_threadsafe(function)

    def post(self, body: bytes = b"", model: str = "mha", **options: Any) -> httpx.Response:
        """Send raw bytes with an audio content type."""
        headers = {"content-type": "audio/wav"}
        return self.client.post(
            "/transcribe", params={"model": model, **options}, content=body, headers=headers
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum over the samples called `name` that have these labels; 0 for those not counted yet."""
        families = list(text_string_to_metric_families(self.client.get("/metrics").text))
        assert any(name.startswith(family.name) for family in families), f"no metric {name}"
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


@contextmanager
def serving(settings: Settings, models: dict[str, Any] | None = None) -> Iterator[Served]:
    """Run a server on a free port until the block ends; `models` stand in for loaded ones."""
    loaders = {name: (lambda model=model: model) for name, model in models.items()} if models else None
    app = create_app(settings, loaders)
    quick = settings.model_copy(update={"port": 0, "drain_timeout_s": 5})
    server = uvicorn.Server(server_config(app, quick))
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        wait_until(lambda: server.started, "the server to listen")
        served = Served(app, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        assert served.service.engine.wait_loaded(WAIT_S)
        wait_until(lambda: served.service.decoder.ready, "a decoder")
        with served.client:
            yield served
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and the servers' threads and processes need the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> dict[str, str]:
    """Checkpoint folders of tiny real models `mha` and `mla`; one head, so that minutes of sound run quickly."""
    made, changes = {}, {"num_attention_heads": 1, "extra": {"language": "en"}}
    for kind in ("mha", "mla"):
        made[kind] = str(tmp_path_factory.mktemp(kind))
        checkpoint.save(tiny_model(kind, **changes), vocabulary, made[kind], dtype=torch.float32)
    return made


@pytest.fixture(scope="session")
def server(folders: dict[str, str]) -> Iterator[Served]:
    """A server of both tiny models with small limits, for tests that leave it as it was."""
    limits: dict[str, Any] = {"max_upload_bytes": 5_000_000, "max_audio_s": 150.0, "stream_memory": "16MiB"}
    with serving(Settings(models=folders, decode_workers=1, **limits)) as served:
        yield served


@pytest.fixture(scope="module")
def fake_server() -> Iterator[Served]:
    """A server of two fakes, with room for four streams of each in every profile: a fake's takes 1000 bytes."""
    options: dict[str, Any] = {"decode_workers": 1, "stream_memory": "24KB"}
    with serving(Settings(**options), {"mha": FakeTranscriber(), "mla": FakeTranscriber()}) as served:
        yield served


@pytest.fixture
def fake() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture
def held() -> Iterator[FakeTranscriber]:
    """A fake that holds its batches until its gate is set; opened at the end at the latest."""
    model = FakeTranscriber()
    yield model
    model.gate.set()
