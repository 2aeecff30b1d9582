"""The life of one request: admitted, received, decoded, queued, answered; within its deadline."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from asr import Transcript
from asr.audio import SAMPLE_RATE
from service import logs, spool, uploads
from service.batcher import Batcher
from service.decoding import DecodePool
from service.engine import Answer, Engine
from service.errors import (
    ApiError,
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    NotFound,
    NotServing,
    Overloaded,
    SlowUpload,
    Unavailable,
)
from service.hearing import Clip, Told, hear
from service.metrics import Metrics, RequestRecord
from service.schemas import Items, TranscribeOptions, phrases
from service.searches import Searches
from service.settings import Settings
from service.streams import Streams
from service.timing import Limit, Phases
from service.uploads import FormLimits

log = logging.getLogger(__name__)

T = TypeVar("T")
Options = TypeVar("Options", bound=TranscribeOptions)
Accept = Callable[[Options], Told | None]


@dataclass
class Transcription:
    """The rooms that a request passes through, wired by `app`; live streams have `streams` for theirs."""

    settings: Settings
    batcher: Batcher
    engine: Engine
    decoder: DecodePool
    metrics: Metrics
    streams: Streams
    searches: Searches = field(default_factory=Searches)
    spool: Path | None = None
    draining: bool = False
    _in_work: set[asyncio.Task[Any]] = field(default_factory=set)
    _is_cut: bool = False

    @property
    def ready(self) -> bool:
        """Whether a request can be served now by at least one model."""
        return self.engine.ready and self.decoder.ready and not self.draining

    @property
    def in_work(self) -> int:
        return len(self._in_work)

    def cut(self) -> None:
        """Refuse what is still in work, as the time to shut down is over."""
        self._is_cut = True
        log.warning("%d requests are cut off: they did not end in time (drain_timeout_s)", self.in_work)
        for task in self._in_work:
            task.cancel()

    async def run(
        self,
        request: Request,
        record: RequestRecord,
        parse: Callable[[Items], Options],
        accept: Accept[Options] | None = None,
        form: FormLimits = uploads.FEW,
    ) -> tuple[Options, Answer, Phases]:
        """Transcribe the audio of `request`; raises an ApiError for whatever stands in the way.

        Args:
            request: with the audio, and options in its query or its form.
            record: told which model it is.
            parse: makes the options of the names and values that came.
            accept: shown them when they are complete; returns whom to tell of a long clip's windows, if anyone.
            form: how much may be in the form beside the audio.
        """
        self._name_model(request.query_params.get("model", ""), record)
        with self._admitted():
            async with self._folder() as folder:
                return await self._run(request, record, folder, parse, accept, form)

    @asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        folder = spool.request_folder(self.spool)
        try:
            yield folder
        finally:
            # A write that was cut short may still be under way when the folder goes: it is the last to know.
            await asyncio.shield(_remove(folder))

    def _name_model(self, name: str, record: RequestRecord) -> str:
        """The name of the model that is called `name`, noted if there is one."""
        name = self.settings.model_aliases.get(name, name)
        if name in self.engine.states:
            record.model = name
            logs.note(model=name)
        return name

    async def _run(
        self,
        request: Request,
        record: RequestRecord,
        folder: Path,
        parse: Callable[[Items], Options],
        accept: Accept[Options] | None,
        form: FormLimits,
    ) -> tuple[Options, Answer, Phases]:
        phases, limit = Phases(), Limit()
        query = request.query_params.multi_items()
        in_form = uploads.content_type(request) == uploads.MULTIPART
        # Of the query alone: an option that goes by another may have that in the form.
        early = [item for item in query if not in_form or item[0] != "hot_words"]
        options = self._options(parse(early), record, in_form=in_form)
        try:
            async with limit.timer:
                limit.set(self._hurry_s(options), self.settings.upload_timeout_s, "upload_timeout_s")
                with phases.time("upload"):
                    fields = await self._receive(request, folder / "upload", form)
                options = self._options(parse(query + fields), record)
                told = accept(options) if accept else None
                if told and options.decoding == "beam":
                    raise BadRequest(
                        "decoding=beam has its text at the end, and goes without stream",
                        code="invalid_option",
                        param="decoding",
                    )
                limit.set(options.timeout_s, self.settings.max_timeout_s, "max_timeout_s")
                work = self._work(folder, options, told, limit, phases)
                answer = await _while_connected(request, work)
                phases.seconds["total"] = limit.passed_s()
                return options, answer, phases
        except TimeoutError:
            raise _late(limit) from None
        finally:
            logs.note(**{f"{name}_s": round(seconds, 4) for name, seconds in phases.seconds.items()})

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Refuse early what could not be served anyway, before its body is read."""
        if self.draining:
            raise NotServing("the server is shutting down", code="draining")
        if not self.ready:
            raise NotServing("the models are not ready; /health/ready says why", retry_after_s=5)
        if self.in_work >= self.settings.max_requests:
            raise Overloaded(
                f"{self.in_work} requests are in work, the limit (max_requests)", code="too_many_requests"
            )
        self.batcher.check_open()
        task = asyncio.current_task()
        assert task
        self._in_work.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            task.uncancel()
            raise Unavailable("the server shuts down before the work is done", code="draining") from None
        finally:
            self._in_work.discard(task)

    async def _receive(self, request: Request, target: Path, form: FormLimits) -> Items:
        limits = self.settings
        return await uploads.receive(
            request, target, max_bytes=limits.max_upload_bytes, idle_s=limits.upload_idle_s, form=form
        )

    def _options(self, options: Options, record: RequestRecord, *, in_form: bool = False) -> Options:
        """Check the options; `in_form` means that more, such as the model's name, may come in the form."""
        if options.timeout_s and options.timeout_s > self.settings.max_timeout_s:
            raise BadRequest(
                f"timeout_s is {options.timeout_s:g}, the limit is {self.settings.max_timeout_s:g} (max_timeout_s)",
                code="invalid_option",
                param="timeout_s",
            )
        options.model = self._name_model(options.model, record)
        if options.model or not in_form:
            self.check_model(options.model)
        if options.decoding == "beam":
            self.searches.check_open()
        return options

    def check_model(self, name: str) -> None:
        """Raise what stands in the way of a request for the model of this name, which comes from outside."""
        names = ", ".join(self.engine.states)
        if not name:
            raise BadRequest(
                f"the option 'model' is missing; choices: {names}", code="missing_option", param="model"
            )
        if name not in self.engine.states:
            raise self.no_model(name)
        if self.engine.states[name].status != "ready":
            raise NotServing(f"model {name!r} does not serve; /health/ready says why", code="model_not_ready")

    def no_model(self, name: str) -> NotFound:
        names = ", ".join([*self.engine.states, *self.settings.model_aliases])
        return NotFound(
            f"no model {name[:100]!r}; choices: {names}; --model-aliases sets further names for them",
            code="model_not_found",
            param="model",
        )

    async def _work(
        self, folder: Path, options: TranscribeOptions, told: Told | None, limit: Limit, phases: Phases
    ) -> Answer:
        model: Any = self.engine.models[options.model]
        search = None
        if options.decoding == "beam":
            search = self.searches.decoder(model, phrases(options.hot_words), options.hot_words_boost)
        with phases.time("decode"):
            wave = await self.decoder.decode(
                folder / "upload",
                folder / "wave.npy",
                max_audio_s=self.settings.max_audio_s,
                admit=partial(self._check_queues, options),
            )
        self.metrics.decode_duration.observe(phases.seconds["decode"])
        audio_s = len(wave) / SAMPLE_RATE
        logs.note(audio_s=round(audio_s, 3))
        limit.set(options.timeout_s, *self._due(limit.passed_s(), audio_s))
        clip = Clip(options.model, model, wave, limit.at, as_scores=search is not None)
        with self.searches.admitted(audio_s) if search else nullcontext() as waiting:
            answer = await hear(self.batcher, clip, told)
            phases.seconds |= {"queue": answer.queue_s, "inference": answer.inference_s}
            if search:
                del wave, clip  # the search may have to wait, and needs the scores alone
                await _remove(folder)
                with phases.time("search"):
                    search = await self.searches.hear(search, answer.transcript, live=False, waiting=waiting)
                answer = replace(answer, transcript=Transcript(search.text, search.words, audio_s))
        if self.settings.log_transcripts:
            logs.note(text=answer.transcript.text)
        return answer

    def _check_queues(self, options: TranscribeOptions) -> None:
        """Raise Overloaded where too much waits for what these options need."""
        self.batcher.check_open()
        if options.decoding == "beam":
            self.searches.check_open()

    def _hurry_s(self, options: TranscribeOptions) -> float | None:
        """The client's time, where the upload has not even its own."""
        wanted_s = options.timeout_s
        return wanted_s if wanted_s and wanted_s < self.settings.upload_timeout_s else None

    def _due(self, passed_s: float, audio_s: float) -> tuple[float, str]:
        """When a request whose client sets no time is due, its clip just decoded; and which settings say so."""
        limits = self.settings
        due_s = passed_s + limits.base_timeout_s + limits.timeout_per_audio_s * audio_s
        if due_s > limits.max_timeout_s:
            return limits.max_timeout_s, "max_timeout_s"
        return due_s, "base_timeout_s, timeout_per_audio_s"


async def _remove(folder: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _late(limit: Limit) -> ApiError:
    """Whose fault it is depends on which time ran out."""
    if "upload_timeout_s" in limit.text:
        return SlowUpload(f"the upload was not done within {limit.text}")
    return DeadlineExceeded(f"not done within {limit.text}", param="timeout_s")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it when the client hangs up. The request's body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client left before the answer")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
