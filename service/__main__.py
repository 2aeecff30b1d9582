"""`python -m service`: serve until told to stop, then finish what was accepted."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from functools import partial
from types import FrameType

import torch
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import connections, logs
from service.app import create_app
from service.settings import Settings
from service.transcription import Transcription

log = logging.getLogger("service")

LAST_WORDS_S = 0.5  # of a drain that runs out: what is left is told so before it is cut off


class DrainingServer(uvicorn.Server):
    """On SIGTERM answers 503 to new requests for a while, so that whoever routes to it notices; then stops.

    A second signal, or Ctrl-C, skips the while; accepted requests still finish. Live streams are told at once to say
    what they have heard; only when they have, or after `drain_timeout_s`, is the port closed, as that cuts them off.
    """

    def __init__(self, config: uvicorn.Config, service: Transcription) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = math.inf
        self._cut_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        now, settings = time.monotonic(), self._service.settings
        if self.should_exit:
            self.force_exit = True
        elif self._stop_at <= now:
            self.should_exit = True  # streams or not
        else:
            wait_s = settings.drain_delay_s if sig == signal.SIGTERM and not self._service.draining else 0.0
            self._stop_at, self._cut_at = now + wait_s, now + wait_s + settings.drain_timeout_s
            self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining:
            self._service.streams.drain()
        now = time.monotonic()
        if now >= self._cut_at or (now >= self._stop_at and not self._service.streams.connected):
            self.config.timeout_graceful_shutdown = max(1, round(self._cut_at - now))
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        wait_s = (self.config.timeout_graceful_shutdown or 0) - LAST_WORDS_S
        cut = asyncio.get_running_loop().call_later(wait_s, self._service.cut)
        await super().shutdown(sockets)
        cut.cancel()


def main(argv: list[str]) -> int:
    """Run the server; the exit status."""
    try:
        settings = CliApp.run(Settings, cli_args=spelled(argv))
    except ValidationError as error:
        print("python -m service: error:", *_reasons(error), sep="\n  ", file=sys.stderr)
        return 2
    if (settings.device or "").startswith("cuda") and not torch.cuda.is_available():
        print(
            f"python -m service: error:\n  --device is {settings.device!r}: torch finds no CUDA device; without"
            " --device the models run on the CPU",
            file=sys.stderr,
        )
        return 2
    logs.set_up(settings.log_format, settings.log_level)
    os.environ.pop("MLA_ASR_API_KEYS", None)  # the processes that decode uploads need not have them
    for name in sorted(os.environ):
        if name.startswith("MLA_ASR_") and name.removeprefix("MLA_ASR_").lower() not in Settings.model_fields:
            log.warning("%s is no setting; --help lists them", name)
    if settings.spool_dir:
        tempfile.tempdir = str(settings.spool_dir)  # the form parser's files too
    app = create_app(settings)
    config = server_config(app, settings)
    server = DrainingServer(config, app.state.service)
    server.run([config.bind_socket()])  # before the models are loaded: a port that is taken is told at once
    return 0 if server.started else 3


def server_config(app: object, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to serve the app; its own WebSocket settings are for browsers that chat."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        http=partial(  # type: ignore[arg-type]
            connections.Connection, most=settings.max_connections or connections.default_limit()
        ),
        ws=connections.LiveConnection,
        log_config=None,
        access_log=False,  # `middleware` has a line for each request
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        # Above the limit, so that a message that is not much too large is told so.
        ws_max_size=4 * settings.max_message_bytes,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        # Of a client that sends faster than it is read, the answer to a ping lies behind its audio: stream_idle_s tells
        # who has gone.
        ws_ping_interval=None,
    )


def _reasons(error: ValidationError) -> list[str]:
    def reason(option: str, given: object, message: str) -> str:
        shown = "" if option == "api_keys" else f" is {given!r}"
        return f"--{option.replace('_', '-')}{shown}: {message.removeprefix('Value error, ')}"

    return [reason(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors(include_url=False)]


def spelled(argv: list[str]) -> list[str]:
    """Accept --max_audio_s for --max-audio-s, and `--models a=b c=d` for `--models a=b --models c=d`; profiles too."""
    words: list[str] = []
    option = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            option = name.replace("_", "-")
            word = option + equals + value
        elif option in ("--models", "--stream-profiles") and words[-1] != option:
            words.append(option)
        words.append(word)
    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
