"""`WS /stream` over real sockets, on a model that hears what it is told: what is sent, and what is said."""

import numpy as np
import pytest
import soxr

from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import Served, serving
from tests.service.live import connected, live, s16, stream_settings, streamed


def test_a_stream_from_start_to_done(fake_server: Served) -> None:
    with connected(fake_server.url) as client:
        client.say("start", sample_rate=16_000, encoding="pcm_s16le", profile="balanced", words=True)
        ready = client.next()
        sizes = {"profile": "balanced", "latency_ms": 645, "chunk_ms": 480, "lookahead_ms": 160}
        assert ready == {"type": "ready", "session_id": ready["session_id"], **sizes}
        client.play(spoken("HELLO WORLD"))  # 44 frames: a chunk, of which 8 wait, and a part of one
        assert client.next() == {"type": "partial", "segment": 0, "text": "hell", "audio_s": 0.32}
        usage = client.finish()
        assert usage == {"audio_s": pytest.approx(0.885), "steps": 2, "late_steps": usage["late_steps"]}
    assert client.finals == [
        {
            "type": "final",
            "segment": 0,
            "text": "hello world",
            "words": [
                {"word": "hello", "start": 0.0, "end": 0.38, "confidence": pytest.approx(0.9048, abs=1e-3)},
                {"word": "world", "start": 0.48, "end": 0.86, "confidence": pytest.approx(0.9048, abs=1e-3)},
            ],
            "start": 0.0,
            "end": 0.86,
        }
    ]


def test_without_words_finals_have_none(fake_server: Served) -> None:
    client = streamed(fake_server.url, spoken("HI"))
    assert client.finals == [{"type": "final", "segment": 0, "text": "hi", "start": 0.0, "end": 0.14}]


@pytest.mark.parametrize(
    ("profile", "latency_ms", "first"),
    [("fast", 325, "a"), ("long", 645, "abcd"), (None, 645, "abcd")],
)
def test_a_profile_sets_how_much_is_heard_at_a_time(
    fake_server: Served, profile: str | None, latency_ms: int, first: str
) -> None:
    client = streamed(fake_server.url, spoken("ABCDEFGHIJKL"), profile=profile)
    assert client.heard[0]["profile"] == (profile or "balanced")
    assert client.heard[0]["latency_ms"] == latency_ms
    assert client.partials[0] == first and client.text == "abcdefghijkl"


def test_nothing_said_is_nothing_sent(fake_server: Served) -> None:
    client = streamed(fake_server.url, spoken("_" * 40))
    assert [message["type"] for message in client.heard] == ["ready", "done"]
    client = streamed(fake_server.url, np.zeros(0, np.float32))
    assert client.heard[1:] == [{"type": "done", "usage": {"audio_s": 0.0, "steps": 0, "late_steps": 0}}]


def test_partials_come_only_when_the_text_has_changed(fake_server: Served) -> None:
    client = streamed(fake_server.url, spoken("AB" + "_" * 12 + "CD" + "_" * 8))
    assert client.partials == ["ab", "abcd"]


def test_a_pause_makes_a_final_and_time_goes_on(fake_server: Served) -> None:
    """1.2 s are 15 letters; the model's grid and the stream's time do not start anew."""
    client = streamed(fake_server.url, spoken("AB " + "_" * 24 + "CD " + "_" * 40 + "E"), words=True)
    said = [(final["segment"], final["text"], final["start"], final["end"]) for final in client.finals]
    assert said == [(0, "ab", 0.0, 0.14), (1, "cd", 2.16, 2.30), (2, "e", 5.6, 5.66)]
    assert client.finals[1]["words"][0]["start"] == 2.16


def test_a_long_segment_ends_at_its_last_space(fake_server: Served) -> None:
    """20 s are 250 letters: the word that is being spoken then belongs to what follows."""
    client = streamed(fake_server.url, spoken("ABCD " * 60))
    assert [len(final["text"].split()) for final in client.finals] == [50, 10]
    assert set(client.text.split()) == {"abcd"}


def test_endpoints_are_settings() -> None:
    options = stream_settings(endpoint_silence_s=0.4, endpoint_longest_s=0.8)
    with serving(options, {"mha": FakeTranscriber()}) as served:
        assert len(streamed(served.url, spoken("A _____B" + "_" * 20)).finals) == 2
        assert len(streamed(served.url, spoken("A B C D E F G H I J K L")).finals) == 3


# Flush


def test_flush_says_what_is_there_and_leaves_the_stream_as_it_was(fake_server: Served) -> None:
    wave = spoken("HELLO WORLD AND ALL")
    with live(fake_server.url) as client:
        client.play(wave[: 14 * 320 + 80])
        client.say("flush", id="first")
        said = client.until("flushed")
        assert [m["text"] for m in said[:-1]] == ["hell"] and said[-1] == {"type": "flushed", "id": "first"}
        client.play(wave[14 * 320 + 80 :])
        client.say("flush", id=2)
        said = client.until("flushed")
        assert said[-2]["text"] == "hello world and all" and said[-1]["id"] == 2
        usage = client.finish()
        assert usage["steps"] == 4  # what was tried is no step of the stream
    assert client.text == "hello world and all"


def test_a_flush_says_what_waits_for_its_look_ahead(fake_server: Served) -> None:
    """After exactly a chunk of 24 frames, of which 8 wait."""
    with live(fake_server.url) as client:
        client.play(spoken("HELLO WORLD")[: 24 * 320 + 80])
        assert client.next()["text"] == "hell"
        client.say("flush", id=1)
        assert [m.get("text") for m in client.until("flushed")] == ["hello", None]
        client.finish()
    assert client.text == "hello"


def test_a_flush_with_nothing_new_is_answered_all_the_same(fake_server: Served) -> None:
    model = fake_server.service.engine.models["mha"]
    assert isinstance(model, FakeTranscriber)
    with live(fake_server.url) as client:
        client.say("flush")
        assert client.next() == {"type": "flushed", "id": None}
        client.play(spoken("HI"))
        client.say("flush", id=1)
        assert [m["type"] for m in client.until("flushed")] == ["partial", "flushed"]
        steps = len(model.steps)
        for number in range(5):
            client.say("flush", id=number)
            assert client.next() == {"type": "flushed", "id": number}
        assert len(model.steps) == steps  # the device is not asked again
        client.finish()


def test_many_flushes_at_once_keep_their_order(fake_server: Served) -> None:
    with live(fake_server.url) as client:
        for number in range(100):
            client.say("flush", id=number)
        assert [client.until("flushed")[-1]["id"] for _ in range(100)] == list(range(100))
        client.finish()


def test_a_flush_at_another_rate_hears_what_the_resampler_holds_back(fake_server: Served) -> None:
    """At 8 kHz that is a tenth of a second."""
    wave = soxr.resample(
        np.append(np.zeros(160, np.float32), spoken("ABCDE", frames_per_letter=2)), 16_000, 8_000
    )
    with live(fake_server.url, sample_rate=8_000) as client:
        client.play(wave)
        client.say("flush")
        flushed = client.until("flushed")[0]["text"]
        client.finish()
    assert flushed == client.text and flushed.endswith("e")


# Bytes


def test_samples_may_be_cut_anywhere(fake_server: Served) -> None:
    data = s16(spoken("CUT ANYWHERE"))
    with live(fake_server.url) as client:
        for at in range(0, len(data), 777):
            client.socket.send(data[at : at + 777])
        client.socket.send(b"\x00")  # half a sample, whose other half never comes
        client.finish()
    assert client.text == "cut anywhere"


def test_float_samples(fake_server: Served) -> None:
    data = spoken("FLOAT").astype("<f4").tobytes()
    with live(fake_server.url, encoding="pcm_f32le") as client:
        client.socket.send(data[:1001])
        client.socket.send(data[1001:])
        client.finish()
    assert client.text == "float"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_floats_that_are_no_sound_are_refused(fake_server: Served, value: float) -> None:
    with live(fake_server.url, encoding="pcm_f32le") as client:
        client.socket.send(np.array([0.0, value], "<f4").tobytes())
        assert client.error() == ("bad_audio", 1007)
