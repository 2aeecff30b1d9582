"""Every metric there is. A registry per app, so that two apps in one process (tests) do not share counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
REFUSALS = ("overloaded", "unavailable", "not_serving")
OUTCOMES = ("ok", "client_error", *REFUSALS, "timeout", "cancelled", "error")
# Codes of the requests refused, and of the streams that the service closes with 1011 as it has failed.
REASONS = (
    *("overloaded", "too_many_requests", "decoder_lost", "no_disk_space", "engine_stopped"),
    *("draining", "not_ready", "model_not_ready"),
)
FAILURES = ("inference_failed", "internal_error")
KEY_REFUSALS = ("missing_api_key", "invalid_api_key", "key_busy")
ROUTES = ("/transcribe", "/v1/audio/transcriptions")
STATES = ("loading", "ready", "failed")
GAUGES = {
    "requests_waiting": "Requests waiting for the device",
    "requests_running": "Requests on the device",
    "queue_audio_seconds": "Audio waiting for the device",
    "queue_audio_limit_seconds": "Audio of all models from which on requests are refused",
    "search_audio_seconds": "Audio that waits for a beam search, will when the device has heard it, or is in one",
    "streams_active": "Live streams",
    "stream_slots": "Live streams that there is room for",
    "stream_cache_bytes": "Memory for the caches of all these",
    "engine_heartbeat_age_seconds": "Since the engine's last sign of life",
    "engine_heartbeat_limit_seconds": "Age at which it counts as stuck: more with its audio, +Inf while models load",
    "gpu_memory_allocated_bytes": "Device memory of live tensors, of the whole process",
    "gpu_memory_reserved_bytes": "Device memory held by the allocator, of the whole process",
    "gpu_memory_peak_bytes": "Highest allocated device memory since the models were ready, of the whole process",
}
NO_MODEL = "none"  # the label of requests that name no configured model: clients cannot add label values
SECONDS = (
    *(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
SIZES = (1, 2, 4, 8, 16, 32, 64)
AUDIO_SECONDS = (1, 2, 5, 10, 20, 60, 120, 240, 600, 1800, 3600)
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


@dataclass
class RequestRecord:
    """What a request turned out to be; filled in while it runs, counted at its end."""

    model: str = NO_MODEL
    outcome: str = "error"


class Metrics:
    """The metrics of one app; `expose` gives the text that Prometheus reads."""

    def __init__(self, build: Mapping[str, str]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("asr_build", "What is running", registry=registry).info(dict(build))
        self.weight_bytes = Gauge(
            "asr_model_weight_bytes", "Size of the weights", ["model"], registry=registry
        )
        self.model_info = Info("asr_model", "What a model is", ["model"], registry=registry)
        self._counters(registry)
        self._durations(registry)
        self._batches(registry)
        self._streams(registry)

    def _counters(self, registry: CollectorRegistry) -> None:
        request = ["model", "route", "outcome"]
        self.requests = Counter("asr_requests", "Requests answered or given up", request, registry=registry)
        self.rejected = Counter(
            "asr_requests_rejected", "Requests refused", ["model", "reason"], registry=registry
        )
        self.key_refusals = Counter(
            "asr_key_refusals", "Requests refused for their API key", ["reason"], registry=registry
        )
        for reason in KEY_REFUSALS:
            self.key_refusals.labels(reason)
        self.audio_seconds = Counter("asr_audio_seconds", "Audio transcribed", ["model"], registry=registry)
        self.frames = Counter(
            "asr_frames", "Frames on the device, without padding", ["model"], registry=registry
        )
        self.padding_frames = Counter("asr_padding_frames", "Frames of padding", ["model"], registry=registry)
        self.out_of_memory = Counter(
            "asr_out_of_memory", "Batches and steps that ran out of memory", ["model"], registry=registry
        )

    def _durations(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"asr_{name}_duration_seconds", text, labels, registry=registry, buckets=SECONDS)

        self.request_duration = histogram("request", "From first byte to transcript", "model", "route")
        self.decode_duration = histogram("decode_audio", "Upload to samples, waiting included")
        self.queue_duration = histogram("queue", "Waiting for the device", "model")
        self.inference_duration = histogram("inference", "One batch on the device", "model")

    def _batches(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"asr_batch_{name}", text, ["model"], registry=registry, buckets=tuple(buckets))

        self.batch_size = histogram("size", "Clips in a batch", SIZES)
        self.batch_audio = histogram("audio_seconds", "Audio in a batch", AUDIO_SECONDS)
        self.batch_padding = histogram("padding_ratio", "Padding's share of a batch's frames", RATIOS)

    def _streams(self, registry: CollectorRegistry) -> None:
        lane = ["model", "profile"]

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"asr_stream_{name}_seconds", text, lane, registry=registry, buckets=SECONDS)

        self.streams_closed = Counter(
            "asr_stream_closed", "Streams that ended, and why", ["model", "reason", "code"], registry=registry
        )
        self.late_steps = Counter(
            "asr_stream_late_steps", "Chunks heard later than they last", lane, registry=registry
        )
        # Audio that came faster than it was spoken counts as come when it would have been.
        self.partial_latency = histogram("partial_latency", "From a chunk's audio to its partial")
        self.final_latency = histogram("final_latency", "From a chunk's audio, or the end, to its final")
        self.step_duration = histogram("step_duration", "One step on the device")

    def watch(self, models: Iterable[str], gauges: Mapping[str, Callable[[str], float]]) -> None:
        """Make the models' gauges, which read the live state when asked, and start their counters at 0.

        `gauges` has, by a name of GAUGES, what reads the value of a model.
        """
        for counter in (self.audio_seconds, self.frames, self.padding_frames, self.out_of_memory):
            for model in models:
                counter.labels(model)
        # Else the first failure of a kind would be no rise, and no alert would see it.
        named = (*models, NO_MODEL)
        for labels in product(named, ROUTES, OUTCOMES):
            self.requests.labels(*labels)
        for model, reason in product(named, REASONS):
            self.rejected.labels(model, reason)
        for model, reason in product(named, FAILURES):
            self.streams_closed.labels(model, reason, "1011")
        for name, read in gauges.items():
            gauge = Gauge(f"asr_{name}", GAUGES[name], ["model"], registry=self.registry)
            for model in models:
                gauge.labels(model).set_function(partial(read, model))

    def watch_states(self, models: Iterable[str], read: Callable[[str], str]) -> None:
        """Make a gauge of each model and each of STATES: 1 for the one that `read` says, else 0."""
        text = "1 for where the model stands"
        gauge = Gauge("asr_model_state", text, ["model", "state"], registry=self.registry)
        for model, state in product(models, STATES):
            gauge.labels(model, state).set_function(partial(_is, read, model, state))

    def watch_streams(
        self, lanes: Iterable[tuple[str, str]], gauges: Mapping[str, Callable[[tuple[str, str]], float]]
    ) -> None:
        """The same for gauges of a model and a profile."""
        for lane in lanes:
            self.late_steps.labels(*lane)
        for name, read in gauges.items():
            gauge = Gauge(f"asr_{name}", GAUGES[name], ["model", "profile"], registry=self.registry)
            for lane in lanes:
                gauge.labels(*lane).set_function(partial(read, lane))

    def watch_process(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """The same for gauges of the whole process."""
        for name, read in gauges.items():
            Gauge(f"asr_{name}", GAUGES[name], registry=self.registry).set_function(read)

    def model_loaded(self, model: str, weight_bytes: int, facts: dict[str, str]) -> None:
        self.weight_bytes.labels(model).set(weight_bytes)
        self.model_info.labels(model).info(facts)

    def batch_done(
        self, model: str, *, size: int, audio_s: float, frames: int, padded_frames: int, inference_s: float
    ) -> None:
        """Count a batch that gave its transcripts."""
        padding = padded_frames - frames
        self.inference_duration.labels(model).observe(inference_s)
        self.audio_seconds.labels(model).inc(audio_s)
        self.frames.labels(model).inc(frames)
        self.padding_frames.labels(model).inc(padding)
        self.batch_size.labels(model).observe(size)
        self.batch_audio.labels(model).observe(audio_s)
        self.batch_padding.labels(model).observe(padding / max(1, padded_frames))

    def step_done(self, lane: tuple[str, str], *, audio_s: float, late: int, duration_s: float) -> None:
        """Count a step that gave its streams their scores."""
        self.step_duration.labels(*lane).observe(duration_s)
        self.audio_seconds.labels(lane[0]).inc(audio_s)
        self.late_steps.labels(*lane).inc(late)

    def stream_said(self, lane: tuple[str, str], *, final: bool, latency_s: float) -> None:
        """Count a final, or a partial, that was sent."""
        (self.final_latency if final else self.partial_latency).labels(*lane).observe(latency_s)

    def stream_closed(self, model: str, reason: str, code: int) -> None:
        """Count a stream that ended; `code` is that of its WebSocket's close."""
        self.streams_closed.labels(model, reason, str(code)).inc()

    @contextmanager
    def request(self, route: str) -> Iterator[RequestRecord]:
        """Count one request, however it ends, and time it if it is ok: refusals would make latencies look short.

        The body sets the record's model once that is known.
        """
        record, started = RequestRecord(), time.monotonic()
        try:
            yield record
            record.outcome = "ok"
            self.request_duration.labels(record.model, route).observe(time.monotonic() - started)
        except BaseException as error:
            record.outcome = _outcome(error)
            if record.outcome in REFUSALS:
                self.rejected.labels(record.model, getattr(error, "code", "")).inc()
            raise
        finally:
            self.requests.labels(record.model, route, record.outcome).inc()

    def expose(self) -> bytes:
        return generate_latest(self.registry)


def _is(read: Callable[[str], str], model: str, state: str) -> bool:
    return read(model) == state


def _outcome(error: BaseException) -> str:
    """The label that the error carries; a bare cancellation is the server's own, at the end of its grace period."""
    return str(
        getattr(error, "outcome", "cancelled" if isinstance(error, asyncio.CancelledError) else "error")
    )
