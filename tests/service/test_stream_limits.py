"""Full, idle, too long, too fast, too slow, killed: a slot is free again whatever its stream comes to."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from service.errors import ClientGone
from service.sessions import Session
from service.stream_routes import Connection
from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import WAIT_S, Served, serving, wait_until
from tests.service.live import Live, at_rest, closed, connected, live, s16, stream_settings, streamed

# Slots and time


def test_a_full_server_refuses_with_1013_and_has_room_again(fake_server: Served) -> None:
    room = fake_server.service.engine.slots["mha", "fast"].total
    clients = [live(fake_server.url, profile="fast") for _ in range(room)]
    opened = [client.__enter__() for client in clients]
    with connected(fake_server.url) as one_more:
        one_more.say("start", profile="fast")
        assert one_more.error() == ("full", 1013)
    assert one_more.heard[-1]["retryable"] and "try again in" in one_more.heard[-1]["message"]
    assert streamed(fake_server.url, spoken("OTHER"), profile="long").text == "other"
    assert fake_server.metric("asr_streams_active", model="mha", profile="fast") == room
    opened[0].finish()
    assert streamed(fake_server.url, spoken("ROOM"), profile="fast").text == "room"
    for client in clients:
        client.__exit__(None, None, None)
    wait_until(lambda: at_rest(fake_server), "rest")
    assert fake_server.metric("asr_streams_active") == 0


def test_silence_is_ended_after_what_was_heard() -> None:
    with serving(stream_settings(stream_idle_s=0.3), {"mha": FakeTranscriber()}) as served:
        with live(served.url) as client:
            client.play(spoken("HEARD"))
            assert client.error() == ("idle_timeout", 1008)
            assert client.text == "heard" and client.heard[-1]["retryable"]
        with connected(served.url) as client:  # never started
            assert client.error() == ("idle_timeout", 1008)
        wait_until(lambda: at_rest(served), "rest")


def test_a_client_that_waits_for_an_answer_is_not_idle() -> None:
    model = FakeTranscriber()
    with serving(stream_settings(stream_idle_s=1.0), {"mha": model}) as served, live(served.url) as client:
        model.step_gate.clear()
        client.play(spoken("ASKED"))
        client.say("flush", id=1)
        time.sleep(1.5)
        model.step_gate.set()
        client.until("flushed")
        client.play(spoken(" AGAIN"))
        client.finish()
        assert client.text == "asked again"


def test_keepalive_keeps_a_silent_stream_open() -> None:
    with serving(stream_settings(stream_idle_s=1.0), {"mha": FakeTranscriber()}) as served:
        with live(served.url) as client:
            client.play(spoken("A"))
            for _ in range(12):
                time.sleep(0.2)
                client.say("keepalive")
            client.play(spoken("B"))
            client.finish()
        assert client.text == "ab"


def test_a_stream_has_an_end() -> None:
    with serving(stream_settings(max_stream_s=0.5), {"mha": FakeTranscriber()}) as served:
        with live(served.url) as client:
            client.play(spoken("UNTIL THEN"))
            assert client.error() == ("session_limit", 1008)
        assert client.text == "until then" and "max_stream_s" in client.heard[-1]["message"]


def test_a_server_without_room_for_streams_says_so() -> None:
    with serving(stream_settings(stream_memory="0"), {"mha": FakeTranscriber()}) as served:
        with connected(served.url) as client:
            client.say("start")
            assert client.error() == ("no_streams", 1008)
        assert served.client.get("/v1/models").json()["data"][0].get("profiles") is None
        assert served.metric("asr_stream_slots") == 0


def test_models_list_what_a_stream_takes(fake_server: Served) -> None:
    (profile, *_) = fake_server.client.get("/v1/models").json()["data"][0]["profiles"]
    assert profile == {
        "name": "balanced",
        "chunk_ms": 480,
        "lookahead_ms": 160,
        "left_context_s": 10.0,
        "cache_bytes_per_stream": 1000,
        "cache_bytes_shared": 0,
        "step_bytes_per_stream": 0,
        "slots": 4,
    }


# Backpressure


def test_a_client_faster_than_the_device_is_held_back_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Minutes in one go: what waits in the server stays under its bound, the rest waits in the sockets."""
    sessions = []

    class Recorded(Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            sessions.append(self)

    monkeypatch.setattr("service.streams.Session", Recorded)
    model = FakeTranscriber()
    with serving(stream_settings(stream_buffer_s=1.0), {"mha": model}) as served, live(served.url) as client:
        model.step_gate.clear()
        data = s16(spoken("WORD " * 1000))
        for at in range(0, 400_000, 40_000):
            client.socket.send(data[at : at + 40_000])
        wait_until(lambda: sessions[0]._inbox.samples >= 16_000, "a full buffer")
        assert sessions[0]._inbox.samples <= 16_000 + 16_384
        model.step_gate.set()
        for at in range(400_000, len(data), 40_000):
            client.socket.send(data[at : at + 40_000])
        client.finish()
        assert client.text == " ".join(["word"] * 1000)
        assert sessions[0]._inbox.samples == 8 * 320  # the part of a chunk that the end was heard with


def test_messages_that_wait_leave_others_their_turn() -> None:
    """A receive that has something does not suspend, so that thousands of messages would pass in one go."""
    said, turns = ['{"type": "keepalive"}'] * 100, 0

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.receive", "text": said.pop()} if said else {"type": "websocket.disconnect"}

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        beside = asyncio.ensure_future(other())
        socket, service = SimpleNamespace(receive=receive), SimpleNamespace(settings=stream_settings())
        with suppress(ClientGone):
            await Connection(socket, service)._listen(SimpleNamespace(owes=False), None)  # type: ignore[arg-type]
        beside.cancel()

    asyncio.run(run())
    assert not said and turns >= 100


def test_a_client_that_does_not_read_is_left() -> None:
    """It asks on and on and never reads an answer: at last nothing can be sent, and its slot is free again."""

    question = json.dumps({"type": "flush", "id": "é" * 128}, ensure_ascii=False)

    def ask(client: Live) -> None:
        with suppress(OSError, ConnectionClosed):
            while True:
                client.socket.send(question)

    options = stream_settings(stream_idle_s=1.0)
    with serving(options, {"mha": FakeTranscriber()}) as served, live(served.url) as client:
        asking = threading.Thread(target=ask, args=[client])
        asking.start()
        wait_until(lambda: closed(served, reason="client_gone"), "the server to leave")
        wait_until(lambda: at_rest(served), "rest")
        client.socket.socket.shutdown(socket.SHUT_RDWR)
        asking.join(WAIT_S)


def test_a_client_killed_in_the_middle_of_a_chunk_frees_its_slot_when_the_step_is_done() -> None:
    model = FakeTranscriber()
    with serving(stream_settings(), {"mha": model}) as served:
        slots = served.service.engine.slots["mha", "balanced"]
        with live(served.url) as client:
            model.step_gate.clear()
            model.stepped.clear()
            client.play(spoken("ABCDEFGHIJKLM"))
            assert model.stepped.wait(WAIT_S)
            client.socket.socket.close()
            wait_until(lambda: served.service.streams.connected == 0, "the client's leave")
            assert slots.active == 1  # the step still writes into it
        model.step_gate.set()
        wait_until(lambda: at_rest(served), "rest")
        assert closed(served, model="mha", reason="client_gone") == 1
        assert [streamed(served.url, spoken("NEXT")).text for _ in range(6)] == ["next"] * 6
