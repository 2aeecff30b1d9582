"""`WS /stream`: live audio in, text out while it is spoken.

The client sends `start`, then binary messages of audio, `flush`, `keepalive`, and `end`. The server answers

- `ready` once there is a slot;
- `partial` when the text of a segment has changed, its end included: it may change again;
- `final` when a segment is over; the finals, one after another, are the text;
- `flushed` when all before a flush has been said: what waited for its look-ahead, and the part of a chunk that was
  there, come as a `partial` first. Flushes that wait are answered together;
- `done` after the last `final`, then it closes with 1000;
- `error`, then it closes: with 1007 when it cannot read what the client sends, 1008 when a name is unknown or a limit
  in time is reached, 1009 for too large a message, 1011 for a failure of its own, 1012 when the server shuts down, 1013
  when it is full. Where the server ends a stream that could go on, its `final` comes before the error.

A server that shuts down, or whose model is not ready, does not take the WebSocket at all: it answers the handshake with
503, so that a proxy asks the next instance.

A client may send faster than it was spoken: when its buffer is full, the server stops reading until there is room.
Idle is a client that sends nothing while the server owes it nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
import uuid
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from asr.beam import BeamDecoder
from service import guard, logs, messages
from service.errors import ApiError, BadRequest, ClientGone, NotServing, StreamOver, TooLarge
from service.messages import Flush, Keepalive, Start
from service.metrics import NO_MODEL
from service.pcm import PcmReader
from service.segments import Final
from service.sessions import Flushed, Mark, Session
from service.transcription import Transcription

log = logging.getLogger(__name__)
router = APIRouter()

CLOSE_CODES = {400: 1007, 404: 1008, 408: 1008, 413: 1009, 429: 1013, 500: 1011, 503: 1013}
MAX_TEXT = 8192  # a start with all the hot words that there may be
PIECE_BYTES = 32 * 1024  # no more than this is converted at a time, so that others get their turn
GOODBYE_S = 5.0  # for the last words to a client that may not be listening


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    await Connection(socket, socket.app.state.service).run()


class Connection:
    """One WebSocket, from its first message to its close."""

    def __init__(self, socket: WebSocket, service: Transcription) -> None:
        self.id = uuid.uuid4().hex
        self._socket, self._service, self._settings = socket, service, service.settings
        self._model = NO_MODEL
        self._code = 1006  # of the close, or the status of a refused handshake; 1006: gone without either
        self._timer: asyncio.Timeout | None = None
        self._stopped: ApiError | None = None
        self._began, self._ends_at = time.monotonic(), math.inf

    async def run(self) -> None:
        """Serve the stream, and close it in every case with a reason that is told and counted."""
        reason = "internal_error"
        try:
            with self._service.streams.attend(self._stop):
                reason = await self._run()
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        finally:
            self._service.metrics.stream_closed(self._model, reason, self._code)
            self._log_end(reason)

    def _log_end(self, reason: str) -> None:
        """The stream's line: the session's id, the model, why it ended, how long it lasted and what it has taken."""
        lasted_s = round(time.monotonic() - self._began, 3)
        fields = {"session_id": self.id, "model": self._model, "reason": reason, "code": self._code}
        fields |= {"duration_s": lasted_s} | logs.noted("key", "profile", "audio_s")
        log.info("stream ended", extra=fields)

    async def _run(self) -> str:
        try:
            self._model = self._checked_model()
            await self._accept()
            await self._serve()
            await self._close(1000)
            return "end"
        except (WebSocketDisconnect, ClientGone):
            return "client_gone"
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("stream %s failed", self.id)
                error = ApiError("something went wrong on the server")
            await self._refuse(error)
            return error.code

    async def _accept(self) -> None:
        await self._socket.accept(subprotocol=guard.subprotocol(self._socket))

    async def _serve(self) -> None:
        start = await self._start()
        reader = PcmReader(start.encoding, start.sample_rate)
        self._ends_at = asyncio.get_running_loop().time() + self._settings.max_stream_s
        search = self._search(start)
        with self._service.streams.open(self._model, start.profile) as session:
            if search:
                session.search_with(self._service.searches.hear, search)
            await self._send(**messages.ready(self.id, session.slots))
            logs.note(profile=session.slots.profile.name)
            try:
                over = await self._converse(session, reader, start.words)
            finally:
                logs.note(audio_s=round(session.usage.audio_s, 3))
        if over:
            raise over
        await self._send(**messages.done(session.usage))

    def _search(self, start: Start) -> BeamDecoder | None:
        if start.decoding == "greedy":
            return None
        model = self._service.engine.models[self._model]
        return self._service.searches.decoder(model, tuple(start.hot_words), start.hot_words_boost)

    def _checked_model(self) -> str:
        """The model that the query names. Raises what stands in the way of serving it."""
        for name in self._socket.query_params:
            if name != "model":
                raise BadRequest(f"no option {name[:100]!r}; choices: model", code="unknown_option")
        if self._service.draining:
            raise NotServing("the server is shutting down", code="draining")
        model = self._socket.query_params.get("model", "")
        model = self._service.settings.model_aliases.get(model, model)
        if not model:
            names = ", ".join(self._service.engine.states)
            raise BadRequest(
                f"no model in the address, as in /stream?model=NAME; choices: {names}", code="missing_option"
            )
        self._service.check_model(model)
        if not self._service.engine.ready:
            raise NotServing("the models are not ready; /health/ready says why")
        return model

    async def _start(self) -> Start:
        try:
            async with asyncio.timeout(None) as self._timer:
                self._expect(self._settings.stream_idle_s)
                message = await self._receive()
        except TimeoutError:
            raise self._overdue() from None
        return messages.read_start(message if isinstance(message, str) else None)

    async def _converse(self, session: Session, reader: PcmReader, words: bool) -> ApiError | None:
        """Listen and speak until both are done; the reason where the stream had to end before the client wanted."""
        listening = asyncio.ensure_future(self._listen(session, reader))
        speaking = asyncio.ensure_future(self._speak(session, words))
        try:
            done, _ = await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            return listening.result()
        finally:
            listening.cancel()
            speaking.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)

    # What comes in

    async def _listen(self, session: Session, reader: PcmReader) -> ApiError | None:
        """Take in what the client sends until it ends the stream, or until that is overdue: then the reason."""
        over = None
        session.when_quiet = self._await_client
        try:
            async with asyncio.timeout(None) as self._timer:
                await self._take_in(session, reader)
        except TimeoutError:
            over = self._overdue()
        session.push(reader.rest())
        session.mark(Mark("end"))
        return over

    async def _take_in(self, session: Session, reader: PcmReader) -> None:
        while True:
            # While it waits for an answer, or for room, the client is not to blame.
            self._expect(math.inf if session.owes else self._settings.stream_idle_s)
            message = await self._receive()
            await asyncio.sleep(0)  # thousands may wait, of a sample each, and others want their turn
            if isinstance(message, bytes):
                for at in range(0, len(message), PIECE_BYTES):
                    self._expect(math.inf)
                    await session.room()
                    session.push(reader.read(message[at : at + PIECE_BYTES]))
                continue
            command = messages.read(message)
            if isinstance(command, Flush):
                self._expect(math.inf)
                await session.room()
                session.mark(Mark("flush", command.id, reader.rest()))
            elif isinstance(command, Start):
                raise BadRequest("the stream has started already", code="bad_message")
            elif not isinstance(command, Keepalive):
                return

    def _await_client(self) -> None:
        """Count idle time from now on: all that could be said has been."""
        with contextlib.suppress(RuntimeError):  # the listening has just ended by itself
            self._expect(self._settings.stream_idle_s)

    def _expect(self, within_s: float) -> None:
        """Let the listening end after that time, at the stream's limit, or now if it was stopped."""
        assert self._timer
        by = min(asyncio.get_running_loop().time() + within_s, self._ends_at)
        self._timer.reschedule(0.0 if self._stopped else by)

    def _stop(self, reason: ApiError) -> None:
        """End the stream as soon as it has said what it has heard."""
        self._stopped = reason
        if self._timer:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._timer.reschedule(0.0)

    def _overdue(self) -> ApiError:
        if self._stopped:
            return self._stopped
        if asyncio.get_running_loop().time() >= self._ends_at:
            limit_s = self._settings.max_stream_s
            return StreamOver(f"the stream has lasted {limit_s:g} s (max_stream_s)", code="session_limit")
        idle_s = self._settings.stream_idle_s
        return StreamOver(f"nothing came for {idle_s:g} s (stream_idle_s); keepalive keeps a stream open")

    async def _receive(self) -> str | bytes:
        """The next message. Raises ClientGone when there is none, TooLarge for one over the limit."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGone("the client left")
        data: str | bytes | None = message.get("bytes")
        limit = self._settings.max_message_bytes
        if data is None:
            data, limit = message.get("text") or "", MAX_TEXT
        if len(data) > limit:
            named = "" if isinstance(data, str) else " (max_message_bytes)"
            raise TooLarge(f"a message is over the limit of {limit} bytes{named}", code="message_too_large")
        return data

    # What goes out

    async def _speak(self, session: Session, words: bool) -> None:
        lane, metrics = session.slots.lane, self._service.metrics
        async for event, since in session.events():
            await self._send(**messages.said(event, words=words))
            if self._settings.log_transcripts and isinstance(event, Final):
                log.info("stream said", extra={"session_id": self.id, "text": event.text})
            if not isinstance(event, Flushed):
                latency_s = max(0.0, time.monotonic() - since)
                metrics.stream_said(lane, final=isinstance(event, Final), latency_s=latency_s)

    async def _send(self, **message: Any) -> None:
        """Send, but do not wait for ever: raises ClientGone when the client does not read."""
        try:
            async with asyncio.timeout(self._settings.stream_idle_s):
                await self._socket.send_text(json.dumps(message))
        except TimeoutError:
            raise ClientGone("the client does not read") from None

    async def _refuse(self, error: ApiError) -> None:
        """Say why, and close; what would be 503 over HTTP is just that, where nothing was accepted yet."""
        code = 1012 if error.code == "draining" else CLOSE_CODES.get(error.status, 1011)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                if self._socket.application_state is WebSocketState.CONNECTING:
                    if error.status == 503 and await guard.deny(self._socket, error):
                        self._code = error.status
                        return
                    await self._accept()
                await self._socket.send_text(json.dumps(messages.error(error)))
                await self._close(code, error.code)

    async def _close(self, code: int, reason: str = "") -> None:
        self._code = code
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._socket.close(code, reason)
