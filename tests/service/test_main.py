"""`python -m service`: its settings, and the real process from start to SIGTERM."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.__main__ import DrainingServer, main, server_config, spelled
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, error_of, sound, wait_until
from tests.service.live import denied, live, streamed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "models"),
    [
        ("mha=a", {"mha": "a"}),
        ("mha=a, mla=org/b@main", {"mha": "a", "mla": "org/b@main"}),
        ('{"mha": "a"}', {"mha": "a"}),
    ],
)
def test_models_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: str, models: dict[str, str]
) -> None:
    monkeypatch.setenv("MLA_ASR_MODELS", given)
    assert Settings().models == models


@pytest.mark.parametrize("given", ["mha", "=a", "mha=", "", "a=b,"])
def test_models_that_are_no_pairs_are_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="name=source"):
        Settings(models=given)  # type: ignore[arg-type]


def test_both_models_are_bundled_by_default() -> None:
    assert Settings().models == {"mha": "mha", "mla": "mla"}


def test_spelling() -> None:
    words = ["--max_audio_s=3", "--log_level", "info", "--models", "a=./b_c", "d=e", "--port", "1"]
    expected = [
        "--max-audio-s=3",
        "--log-level",
        "info",
        "--models",
        "a=./b_c",
        "--models",
        "d=e",
        "--port",
        "1",
    ]
    assert spelled(words) == expected


def test_profiles_may_follow_one_option() -> None:
    words = ["--stream_profiles", "a=640/10", "b=320/5", "--port", "1"]
    assert spelled(words) == ["--stream-profiles", "a=640/10", "--stream-profiles", "b=320/5", "--port", "1"]


def test_wrong_settings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "x", "--dtype", "int8", "--models", "mha"]) == 2
    said = capsys.readouterr().err
    for part in ("--port is 'x'", "--dtype is 'int8'", "'bfloat16'", "'mha' is not name=source"):
        assert part in said


def test_cuda_where_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda:0"]) == 2
    assert "--device is 'cuda:0': torch finds no CUDA device" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--host", "127.0.0.1", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "service", *options],
            capture_output=True,
            cwd=ROOT,
            text=True,
            timeout=WAIT_S,
        )
    assert done.returncode == 3
    assert "Address already in use" in done.stderr and "service.engine" not in done.stderr


KEY = "k" * 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--api-keys", f"alice:{KEY}, bob:{KEY}!"],
            "--api-keys: line 2: the key of bob is not 16 to 256 letters",
        ),
        (["--api-keys-file", "/nowhere/keys"], "/nowhere/keys cannot be read: No such file"),
        (["--cors-origins", "https://a.example,b.example"], "'b.example' is no origin"),
        (["--max-requests-per-key", "0"], "--max-requests-per-key is '0'"),
        (["--search-lm", "README.md"], "README.md is no ARPA file: it has no end; choices: bundled, none"),
        (["--search-lm", "nowhere.arpa"], "No such file or directory: 'nowhere.arpa'; choices: bundled"),
    ],
)
def test_a_wrong_door_is_named_and_no_key_is_shown(
    capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(options) == 2
    shown = capsys.readouterr().err
    assert said in shown and KEY not in shown


def test_keys_of_the_environment_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLA_ASR_API_KEYS", f"alice:{KEY},bob:{KEY}")
    settings = Settings()
    assert settings.api_keys and KEY not in settings.api_keys.get_secret_value()
    assert KEY not in repr(settings) and "sha256" not in repr(settings)


@pytest.mark.parametrize(
    "given", ["https://a.example,http://b:8080", '["https://a.example", "http://b:8080"]']
)
def test_origins_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MLA_ASR_CORS_ORIGINS", given)
    assert Settings().cors_origins == ["https://a.example", "http://b:8080"]


def test_flags_need_no_value() -> None:
    settings = CliApp.run(Settings, cli_args=["--open-metrics", "--no-log-transcripts"])
    assert (settings.open_metrics, settings.log_transcripts) == (True, False)


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "Example:" in said
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in said


class Process:
    """`python -m service` as a child, with its log collected."""

    def __init__(self, *options: str) -> None:
        small = ["--port", "0", "--decode-workers", "1", "--stream-memory", "16MB"]
        command = [sys.executable, "-m", "service", *small, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.child = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.child.stderr
        self.log.extend(iter(self.child.stderr.readline, ""))

    @property
    def url(self) -> str | None:
        found = re.search(r"running on (http://[\d.:]+)", "".join(self.log))
        return found and found[1]

    def ready(self) -> bool:
        assert self.child.poll() is None, "".join(self.log)
        return self.health() == 200

    def health(self) -> int | None:
        """The status of /health/ready; None where no answer came: whoever asks will ask again."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=WAIT_S).status_code if self.url else None
        except httpx.TransportError:
            return None


@contextmanager
def started(*options: str) -> Iterator[Process]:
    process = Process(*options)
    try:
        wait_until(process.ready, "the process to be ready")
        yield process
    finally:
        process.child.kill()
        process.child.wait()
        process.reader.join(WAIT_S)
        assert process.child.stderr
        process.child.stderr.close()


@contextmanager
def admitted(url: str, body_bytes: int) -> Iterator[socket.socket]:
    """A connection whose request was let in and is asked for its body."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        "POST /transcribe?model=mla HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nConnection: close\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {body_bytes}\r\n\r\n".encode())
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        yield connection


def test_sigterm_loses_nothing_that_was_accepted(folders: dict[str, str], tmp_path: Path) -> None:
    """Clips are answered, streams say their last words; then the process ends, and nothing of it is left."""
    pairs = ",".join(f"{name}={folder}" for name, folder in folders.items())
    wave = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    options = ["--models", pairs, "--drain-delay-s", "600", "--spool-dir", str(tmp_path)]
    with started(*options) as process, ExitStack() as sockets:
        (tmp_path / "marker").touch()
        url = str(process.url)

        def send(clip: bytes) -> httpx.Response:
            headers = {"content-type": "audio/wav"}
            return httpx.post(f"{url}/transcribe?model=mla", content=clip, headers=headers, timeout=WAIT_S)

        expected = streamed(url, wave, "mla", profile="fast").text
        with live(url, "mla", profile="fast") as client, live(url, profile="fast") as other:
            client.play(wave)
            client.say("flush", id=1)
            client.until("flushed")
            clips = [sound(16_000 * n) for n in (20, 1, 2, 3, 4, 5)]
            accepted = [sockets.enter_context(admitted(url, len(clip))) for clip in clips]
            process.child.send_signal(signal.SIGTERM)
            assert (client.error(), other.error()) == (("draining", 1012), ("draining", 1012))
            assert client.text == expected
        assert process.health() == 503
        assert send(sound(1000)).json()["error"]["code"] == denied(url)[1] == "draining"
        for connection, clip in zip(accepted, clips, strict=True):
            connection.sendall(clip)
        process.child.send_signal(signal.SIGINT)  # a second signal skips the delay
        answers = [b"".join(iter(partial(connection.recv, 4096), b"")) for connection in accepted]
        assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * len(clips)
        assert process.child.wait(WAIT_S) == 0
        # The log's pipe ends only when every process that holds it has ended.
        process.reader.join(WAIT_S)
        assert not process.reader.is_alive()
    assert "Traceback" not in "".join(process.log)
    assert all(f"model '{name}' is ready" in "".join(process.log) for name in folders)
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


async def test_sigterm_waits_and_ctrl_c_does_not(fake: FakeTranscriber) -> None:
    settings = Settings(drain_delay_s=600)
    ends = []
    for first in (signal.SIGTERM, signal.SIGINT):
        app = create_app(settings, {"mha": lambda: fake})
        server = DrainingServer(server_config(app, settings), app.state.service)
        for sent in (first, signal.SIGTERM, signal.SIGTERM):
            server.handle_exit(sent, None)
            await server.on_tick(1)
            ends.append((server.should_exit, server.force_exit))
    waits, once_more, at_once = (False, False), (True, False), (True, True)
    assert ends == [waits, once_more, at_once, once_more, at_once, at_once]


@pytest.mark.parametrize("route", ["/transcribe", "/v1/audio/transcriptions"])
def test_a_drain_that_runs_out_tells_what_is_left(held: FakeTranscriber, route: str) -> None:
    settings = Settings(port=0, drain_delay_s=0, drain_timeout_s=1, decode_workers=1, stream_memory="0")
    app = create_app(settings, {"mla": lambda: held})
    server = DrainingServer(server_config(app, settings), app.state.service)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(server.run)
        wait_until(lambda: server.started and app.state.service.ready, "a server that is ready")
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        held.gate.clear()
        held.entered.clear()
        form = {"files": {"file": sound(4000)}, "data": {"model": "mla"}, "timeout": WAIT_S}
        on_device = threads.submit(httpx.post, f"{url}{route}", **form)  # type: ignore[arg-type]
        assert held.entered.wait(WAIT_S)
        with admitted(url, 10) as uploading:
            server.handle_exit(signal.SIGINT, None)
            answer = on_device.result(WAIT_S)
            late = b"".join(iter(partial(uploading.recv, 4096), b""))
        held.gate.set()
        running.result(WAIT_S)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "draining")
    assert int(answer.headers["retry-after"]) >= 1
    assert late.startswith(b"HTTP/1.1 503 ") and b'"draining"' in late and b"x-request-id" in late.lower()
