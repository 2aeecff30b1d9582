"""`stream=true` with OpenAI's own client: text while a long clip is heard, the same text as without."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

import asr
from asr.ctc import StreamDecoder
from asr.windows import Window
from service.openai_answers import Deltas
from service.settings import Settings
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until
from tests.service.test_load import at_rest
from tests.service.test_openai import of

SECOND = 16_000
GATE_S = 30.0
SHORT = ("short.wav", sound(2 * SECOND))
LONG = ("long.flac", sound(125 * SECOND, kind="FLAC"))  # three windows


class Gated:
    """Makes a model wait after the first window of each long clip until `gate` is set, or fail there."""

    def __init__(self, model: asr.Transcriber) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self._windows, self._log_probs = model.windows, model.log_probs
        model.windows, model.log_probs = self.windows, self.log_probs  # type: ignore[method-assign]

    def windows(self, wave: np.ndarray) -> Iterator[Window]:
        self._first = True
        return self._windows(wave)

    def log_probs(self, waves: list[np.ndarray], **how: Any) -> list[np.ndarray]:
        if how.get("normalised"):
            assert self._first or self.gate.wait(GATE_S)
            if self.fails:
                raise RuntimeError("/secret/path")
            self._first = False
        return self._log_probs(waves, **how)


@pytest.fixture(scope="module")
def mha(folders: dict[str, str]) -> asr.Transcriber:
    model = asr.load(folders["mha"], device="cpu")
    with torch.no_grad():
        model.model.lm_head.bias[model.vocabulary.delimiter] += 2.0  # else it says one endless word
    return model


@pytest.fixture(scope="module")
def gated(mha: asr.Transcriber) -> Gated:
    return Gated(mha)


@pytest.fixture(autouse=True)
def opened(gated: Gated) -> Iterator[None]:
    yield
    gated.gate.set()


@pytest.fixture(scope="module")
def served(mha: asr.Transcriber, gated: Gated) -> Iterator[Served]:
    with serving(Settings(decode_workers=1, stream_memory="0"), {"mha": mha}) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with of(served) as client:
        yield client


@pytest.fixture(scope="module")
def long_text(client: openai.OpenAI) -> str:
    """What is said of the long clip when it is not streamed."""
    return client.audio.transcriptions.create(file=LONG, model="mha").text


def said(events: Sequence[Any], text: str) -> list[str]:
    """The deltas of a whole stream of these events, which must say `text`."""
    *deltas, done = events
    for delta in deltas:
        TranscriptionTextDeltaEvent.model_validate(delta.model_dump())
    TranscriptionTextDoneEvent.model_validate(done.model_dump())
    assert "".join(delta.delta for delta in deltas) == done.text == text
    return [delta.delta for delta in deltas]


def test_a_short_clip_is_one_delta(client: openai.OpenAI) -> None:
    text = client.audio.transcriptions.create(file=SHORT, model="mha").text
    with client.audio.transcriptions.create(file=SHORT, model="mha", stream=True) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert said(list(stream), text) == [text]


def test_a_search_has_its_text_at_the_end_and_does_not_stream(client: openai.OpenAI) -> None:
    searched = {"decoding": "beam"}
    assert client.audio.transcriptions.create(file=SHORT, model="mha", extra_body=searched).text
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=SHORT, model="mha", stream=True, extra_body=searched)
    assert (refused.value.code, refused.value.param) == ("invalid_option", "decoding")
    assert "without stream" in refused.value.message


def test_text_comes_while_the_rest_is_still_heard(
    client: openai.OpenAI, gated: Gated, long_text: str, served: Served
) -> None:
    gated.gate.clear()
    options: Any = {"prompt": "no", "response_format": "text"}
    with client.audio.transcriptions.create(file=LONG, model="mha", stream=True, **options) as stream:
        first = next(stream)
        wait_until(lambda: served.metric("asr_requests_running") == 1, "the next window's turn")
        gated.gate.set()
        deltas = said([first, *stream], long_text)
        assert stream.response.headers["x-ignored-options"] == "prompt"
    assert len(deltas) >= 3


def test_async_and_upper_case(served: Served, long_text: str, gated: Gated) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", timeout=WAIT_S) as client:
            upper = {"case": "upper"}
            stream = await client.audio.transcriptions.create(
                file=LONG, model="mha", stream=True, extra_body=upper
            )
            return [event async for event in stream]

    assert len(said(asyncio.run(ask()), long_text.upper())) >= 3


def test_silence_is_done_at_once_and_empty(client: openai.OpenAI) -> None:
    with client.audio.transcriptions.create(file=sound(300), model="mha", stream=True) as stream:
        assert said(list(stream), "") == []


def test_a_refusal_has_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(file=b"no sound", model="mha", stream=True)


def test_a_failure_on_the_way_is_the_last_event(
    client: openai.OpenAI, gated: Gated, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.gate.clear()
    with client.audio.transcriptions.create(file=LONG, model="mha", stream=True) as stream:
        assert next(stream).type == "transcript.text.delta"
        monkeypatch.setattr(gated, "fails", True)
        gated.gate.set()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "inference_failed" and "secret" not in caught.value.message
    wait_until(lambda: at_rest(served), "rest")


def test_a_client_that_leaves_on_the_way_is_cleared_away(
    client: openai.OpenAI, gated: Gated, served: Served
) -> None:
    gated.gate.clear()
    with client.audio.transcriptions.create(file=LONG, model="mha", stream=True) as stream:
        next(stream)
    wait_until(lambda: served.metric("asr_requests_total", outcome="cancelled") == 1, "the client's leave")
    gated.gate.set()
    wait_until(lambda: at_rest(served), "rest")


def test_the_wire(served: Served) -> None:
    form = {"model": "mha", "stream": "true"}
    response = httpx.post(
        f"{served.url}/v1/audio/transcriptions", data=form, files={"file": SHORT}, timeout=WAIT_S
    )
    assert response.headers["cache-control"] == "no-cache"
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    assert [json.loads(event[6:])["type"] for event in events] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]


@given(st.lists(st.integers(0, 60), max_size=5), st.integers(0, 2**32 - 1))
def test_deltas_are_the_text_wherever_the_windows_end(
    mha: asr.Transcriber, ends: list[int], seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(0, 4, (60, len(mha.vocabulary))).astype(np.float32)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    scores[:, mha.vocabulary.delimiter] += 3.0
    text = asr.ctc.greedy(scores, mha.vocabulary, 0.02)[0].lower()
    deltas = Deltas(StreamDecoder(mha.vocabulary, 0.02), "lower")
    cuts = sorted({0, *ends, 60})
    joined = "".join(deltas.heard(scores[first:last]) for first, last in pairwise(cuts))
    assert joined + deltas.rest(text) == text
