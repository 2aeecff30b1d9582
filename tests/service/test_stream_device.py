"""Streams on the device: in what company, beside what, and what happens when it fails."""

from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from service.engine import ModelState
from service.scheduler import GROW_STEPS
from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until
from tests.service.live import at_rest, closed, connected, denied, live, stream_settings, streamed

CHUNK = 10_240

# Failures


def test_a_failing_step_is_told_without_its_reason_and_the_next_stream_is_well() -> None:
    model = FakeTranscriber()
    with serving(stream_settings(), {"mha": model}) as served:
        with live(served.url, encoding="pcm_f32le") as client:
            client.socket.send(np.full(CHUNK + 80, model.POISON, "<f4").tobytes())
            assert client.error() == ("inference_failed", 1011)
        assert "secret" not in client.heard[-1]["message"] and client.heard[-1]["retryable"]
        assert streamed(served.url, spoken("WELL")).text == "well"
        wait_until(lambda: at_rest(served), "rest")


def test_out_of_memory_makes_steps_smaller() -> None:
    """Those of its profile, until some have gone well; the streams of the step that failed are told."""

    class Small(FakeTranscriber):
        room = 2

        def step(self, cache: Any, slots: Any, chunks: Any, *, keep: bool = True) -> Any:
            if len(slots) > self.room and any(chunk.any() for chunk in chunks):
                torch.empty(2**60)
            return super().step(cache, slots, chunks, keep=keep)

    model = Small()
    # A chunk waits until all have one, or as many as a step takes.
    options = stream_settings(stream_wait_ms=1000 * WAIT_S, stream_buffer_s=30.0)
    with serving(options, {"mha": model}) as served:
        with ExitStack() as stack:
            clients = [stack.enter_context(live(served.url)) for _ in range(4)]
            for client in clients:
                client.play(spoken("ABCDEFGH"))
            assert [client.error() for client in clients] == [("inference_failed", 1011)] * 4
        assert served.metric("asr_out_of_memory_total", model="mha") == 1
        wait_until(lambda: at_rest(served), "rest")
        model.room = 4
        model.steps.clear()
        with ExitStack() as stack:
            clients = [stack.enter_context(live(served.url)) for _ in range(4)]
            for client in clients:
                client.play(spoken("_" * 8 * 24))
            wait_until(lambda: 4 in [len(step) for step in model.steps], "larger steps")
        sizes = [len(step) for step in model.steps]
        assert sizes[: 2 * GROW_STEPS] == [2] * GROW_STEPS + [3] * GROW_STEPS
        assert served.service.engine.ready


def test_when_the_device_breaks_every_stream_is_told() -> None:
    class Breaking(FakeTranscriber):
        broken = False

        def step(self, cache: Any, slots: Any, chunks: Any, *, keep: bool = True) -> Any:
            self.broken = any(chunk.any() for chunk in chunks)
            return super().step(cache, slots, chunks, keep=keep) if not self.broken else 1 / 0

        def transcribe(self, waves: Any) -> Any:
            return super().transcribe(waves) if not self.broken else 1 / 0

    with serving(stream_settings(), {"mha": Breaking()}) as served:
        with live(served.url) as first, live(served.url) as second:
            first.play(spoken("ABCDEFGHIJKLM"))
            assert first.error() == ("inference_failed", 1011)
            wait_until(lambda: not served.service.engine.alive, "the engine's end")
            second.play(spoken("ABCDEFGHIJKLM"))
            assert second.error()[0] == "engine_stopped"
        assert denied(served.url) == (503, "model_not_ready")


def test_without_memory_for_streams_clips_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(FakeTranscriber, "new_cache", none)
    with serving(stream_settings(), {"mha": FakeTranscriber()}) as served:
        assert served.service.engine.slots == {}
        assert served.post(sound(16_000)).status_code == 200
        with connected(served.url) as client:
            client.say("start")
            assert client.error() == ("no_streams", 1008)


def test_draining_ends_streams_with_what_they_have_heard() -> None:
    with serving(stream_settings(), {"mha": FakeTranscriber()}) as served:
        with live(served.url) as client, connected(served.url) as waiting:
            client.play(spoken("LAST WORDS"))
            client.until("partial")
            served.service.draining = True
            served.call(served.service.streams.drain)
            assert client.error() == ("draining", 1012)
            assert waiting.error() == ("draining", 1012)
            assert client.text == "last words" and client.heard[-1]["retryable"]
        assert denied(served.url) == (503, "draining")
        wait_until(lambda: at_rest(served), "rest")
        assert closed(served, model="none", reason="draining", code="503") == 1


def test_a_server_that_loads_does_not_take_the_handshake() -> None:
    """One whose model is there but whose other still loads, and then one whose model loads itself."""
    with serving(stream_settings(), {"mha": FakeTranscriber(), "mla": FakeTranscriber()}) as served:
        engine = served.service.engine
        engine._loaded.clear()
        assert denied(served.url) == (503, "not_ready")
        engine._loaded.set()
        engine.states["mla"] = ModelState()
        assert denied(served.url, "mla") == (503, "model_not_ready")
        assert streamed(served.url, spoken("SERVED")).text == "served"


# Steps and batches


def test_streams_that_are_ready_together_go_together() -> None:
    model = FakeTranscriber()
    with (
        serving(stream_settings(), {"mha": model, "mla": FakeTranscriber()}) as served,
        live(served.url) as a,
        live(served.url) as b,
        live(served.url) as c,
        live(served.url, "mla") as d,
    ):
        model.step_gate.clear()
        model.stepped.clear()
        model.steps.clear()
        a.play(spoken("ABCDEFGH"))
        assert model.stepped.wait(WAIT_S)
        for client in (b, c, d):
            client.play(spoken("ABCDEFGH"))
        steps = served.service.engine._scheduler.steps
        wait_until(lambda: len(steps._ready.get((("mha", "balanced"), True), ())) == 2, "two chunks")
        model.step_gate.set()
        for client in (a, b, c, d):
            client.finish()
        assert [client.text for client in (a, b, c, d)] == ["abcdefgh"] * 4
        assert [len(step) for step in model.steps[:2]] == [1, 2]
        assert model.threads == {"engine"}


def test_clips_and_streams_share_the_engine() -> None:
    model = FakeTranscriber()
    with serving(stream_settings(), {"mha": model}) as served:
        with live(served.url) as client:
            client.play(spoken("BEFORE"))
            assert served.post(sound(16_000)).json()["text"] == "samples 16000"
            client.play(spoken(" AFTER"))
            client.finish()
        assert client.text == "before after"
        assert model.threads == {"engine"}


def test_metrics_of_streams(fake_server: Served) -> None:
    names = {"model": "mla", "profile": "long"}
    before = fake_server.metric("asr_audio_seconds_total", model="mla")
    ends = closed(fake_server, model="mla", reason="end")
    streamed(fake_server.url, spoken("ABCDEFGHIJKLMNOP"), "mla", profile="long")
    wait_until(lambda: closed(fake_server, model="mla", reason="end") == ends + 1, "its count")
    for name in ("partial_latency", "final_latency", "step_duration"):
        assert fake_server.metric(f"asr_stream_{name}_seconds_count", **names) >= 1
    assert fake_server.metric("asr_stream_late_steps_total", **names) >= 0
    assert fake_server.metric("asr_stream_slots", **names) == 4
    assert fake_server.metric("asr_stream_cache_bytes", **names) == 4000
    assert fake_server.metric("asr_audio_seconds_total", model="mla") - before == pytest.approx(1.285)
