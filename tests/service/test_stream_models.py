"""Live streams of the bundled models: what is said is what `transcribe` says of the whole, chunk by chunk."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asr
from asr import Transcriber
from asr.audio import read
from service.settings import Settings
from tests.service.conftest import Served, serving
from tests.service.live import Live, live, s16

SPEECH = Path(__file__).parents[1] / "speech"
MODELS = ("mha", "mla")
CHUNKS = {"balanced": 24, "fast": 10, "long": 24}
CONTEXTS = {"balanced": 500, "fast": 250, "long": 1500}
AHEAD = {"balanced": 8, "fast": 6, "long": 8}


@pytest.fixture(scope="module")
def models() -> dict[str, Transcriber]:
    return {name: asr.load(name, device="cpu") for name in MODELS}


@pytest.fixture(scope="module")
def bundled(models: dict[str, Transcriber]) -> Iterator[Served]:
    """A server of the bundled models; one segment, so that its text can be compared with the whole."""
    options: dict[str, Any] = {"endpoint_silence_s": 1e3, "endpoint_longest_s": 1e3, "stream_idle_s": 120.0}
    with serving(Settings(decode_workers=1, stream_memory="450MiB", **options), models) as served:
        yield served


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """A few recordings of the test split, of 2 to 4 s."""
    lines = (SPEECH / "test-seen-voices.jsonl").read_text().splitlines()
    return [read(SPEECH / json.loads(line)["audio_filepath"]) for line in lines[:8]]


def whole(model: Transcriber, wave: np.ndarray, profile: str = "balanced") -> asr.Transcript:
    sight = {"left_context_frames": CONTEXTS[profile], "lookahead_frames": AHEAD[profile]}
    (transcript,) = model.transcribe([wave], chunk_frames=CHUNKS[profile], **sight)
    return transcript.in_case("lower")


def play(served: Served, data: bytes, pieces: list[int], model: str, **start: Any) -> Live:
    """Stream bytes in messages of these sizes, the last one over and over."""
    with live(served.url, model, **start) as client:
        at = 0
        while at < len(data):
            size = pieces.pop(0) if len(pieces) > 1 else max(1, pieces[0])
            client.socket.send(data[at : at + size])
            at += size
        client.finish()
    return client


@pytest.mark.parametrize("profile", ["balanced", "fast", "long"])
@pytest.mark.parametrize("name", MODELS)
def test_a_stream_says_what_the_whole_says(
    name: str, profile: str, bundled: Served, models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    expected = whole(models[name], clips[0], profile)
    client = play(bundled, s16(clips[0]), [3_200], name, profile=profile, words=True)
    assert len(expected.words) > 3
    assert client.text == expected.text
    times = [(word["word"], word["start"], word["end"]) for word in client.finals[0]["words"]]
    assert times == [(word.word, word.start, word.end) for word in expected.words]
    confidences = [word["confidence"] for word in client.finals[0]["words"]]
    assert confidences == pytest.approx([word.confidence for word in expected.words], abs=1e-3)
    assert client.partials and all(expected.text.startswith(text) for text in client.partials)


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    clip=st.integers(0, 7),
    name=st.sampled_from(MODELS),
    encoding=st.sampled_from(["pcm_s16le", "pcm_f32le"]),
    pieces=st.lists(st.integers(0, 50_000), min_size=1, max_size=10),
    last=st.integers(600, 100_000),
)
def test_however_the_bytes_are_cut_the_text_is_the_same(
    clip: int,
    name: str,
    encoding: str,
    pieces: list[int],
    last: int,
    bundled: Served,
    models: dict[str, Transcriber],
    clips: list[np.ndarray],
) -> None:
    wave = clips[clip]
    data = s16(wave) if encoding == "pcm_s16le" else wave.astype("<f4").tobytes()
    client = play(bundled, data, [*pieces, last], name, encoding=encoding)
    assert client.text == whole(models[name], wave).text


def test_eight_streams_of_each_model_at_once_are_each_as_alone(
    bundled: Served, models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    jobs = [(name, clip) for clip in clips for name in MODELS]
    with ThreadPoolExecutor(16) as clients:
        said = clients.map(lambda job: play(bundled, s16(job[1]), [5_000], job[0]).text, jobs)
        texts = list(said)
    assert texts == [whole(models[name], clip).text for name, clip in jobs]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_say_what_the_resampled_whole_says(
    rate: int, bundled: Served, models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    data = s16(soxr.resample(clips[1], 16_000, rate))
    sent = np.frombuffer(data, "<i2").astype(np.float32) / 32_768
    wave = soxr.ResampleStream(rate, 16_000, 1, dtype="float32").resample_chunk(sent, last=True)
    client = play(bundled, data, [7_001], "mla", sample_rate=rate)
    assert client.heard[-1]["usage"]["audio_s"] == round(len(wave) / 16_000, 3)
    assert client.text == whole(models["mla"], wave).text


def test_a_flush_in_the_middle_says_what_the_part_says_and_changes_nothing(
    bundled: Served, models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    wave, model = clips[2], models["mla"]
    cuts = [len(wave) * part // 5 for part in range(6)]
    with live(bundled.url, "mla") as client:
        for number, (first, last) in enumerate(pairwise(cuts)):
            client.play(wave[first:last])
            client.say("flush", id=number)
            client.until("flushed")
            assert (client.partials or [""])[-1] == whole(model, wave[:last]).text
        client.finish()
    assert client.text == whole(model, wave).text


def test_finals_between_pauses_add_up_to_the_whole(
    models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    """The endpoint rules as they are; the model's context lives on across the finals."""
    pause = np.zeros(32_000, np.float32)
    wave = np.concatenate([part for clip in clips[:3] for part in (clip, pause)])
    expected = whole(models["mha"], wave)
    with serving(Settings(decode_workers=1, stream_memory="80MiB"), {"mha": models["mha"]}) as served:
        client = play(served, s16(wave), [9_999], "mha", words=True)
    assert len(client.finals) >= 3
    words = [word for final in client.finals for word in final["words"]]
    # A pause ends a word, where the whole may go on with it: letters and times are the same.
    assert "".join(word["word"] for word in words) == expected.text.replace(" ", "")
    assert {word.start for word in expected.words} <= {word["start"] for word in words}
    assert [final["segment"] for final in client.finals] == list(range(len(client.finals)))


def test_int8_caches_serve(models: dict[str, Transcriber], clips: list[np.ndarray]) -> None:
    options = Settings(
        decode_workers=1, stream_memory="16MiB", cache_dtype="int8", stream_profiles="fast=320/5"
    )  # type: ignore[arg-type]
    with serving(options, {"mla": models["mla"]}) as served:
        cache = served.service.engine.slots["mla", "fast"].cache
        text = play(served, s16(clips[0]), [9_999], "mla").text
        (card,) = served.client.get("/v1/models").json()["data"]
        full = models["mla"].new_cache(1, chunk_frames=16, left_context_frames=250)
    assert cache.rings[0].scales is not None
    assert card["profiles"][0]["cache_bytes_per_stream"] < full.bytes_per_slot / 2
    assert len(text.split()) > 2


def test_words_are_what_the_schema_of_the_offline_answer_has(
    bundled: Served, models: dict[str, Transcriber], clips: list[np.ndarray]
) -> None:
    client = play(bundled, s16(clips[3]), [9_999], "mha", words=True)
    assert set(client.finals[0]["words"][0]) == set(asdict(whole(models["mha"], clips[3]).words[0]))
