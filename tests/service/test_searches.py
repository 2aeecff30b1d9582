"""Beam searches beside the engine: over HTTP and in streams, in company and alone, and when a process dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asr
from asr import ngram
from asr.beam import BeamDecoder
from asr.search import Beam, search_of
from service.errors import ApiError, Overloaded
from service.searches import FASTEST, Searches
from service.segments import Segments
from service.settings import Settings
from tests.fakes import LETTERS, FakeTranscriber, spoken
from tests.service.conftest import WAIT_S, Served, error_of, serving, sound, wait_until
from tests.service.live import connected, live, streamed
from tests.service.test_segments import HOP_S, RULES, frames, hear, spans

NAMES = ("hippopotamuses", "zoo")
HEARD = "A HIPPOPOTAMUSEZ"


@pytest.fixture(scope="module")
def expected(folders: dict[str, str]) -> Callable[[bytes, Beam | None], asr.Transcript]:
    """What the model itself makes of a file."""
    model = asr.load(folders["mla"], device="cpu")
    return lambda file, beam: model.transcribe([asr.audio.read(file)], decoding=beam)[0]


def test_clips_in_company_are_searched_as_if_alone(server: Served, expected: Callable) -> None:
    ways: list[tuple[dict[str, str], Beam | None]] = [
        ({}, None),
        ({"decoding": "beam"}, Beam(lm=ngram.BUNDLED)),
        (
            {"decoding": "beam", "hot_words": "Tea, a quiet sea,"},
            Beam(hot_words=("Tea", "a quiet sea"), lm=ngram.BUNDLED),
        ),
        (
            {"decoding": "beam", "hot_words": "tea", "hot_words_boost": "5"},
            Beam(hot_words=("tea",), boost=5.0, lm=ngram.BUNDLED),
        ),
    ]
    clips = [sound(8_000 + 4_000 * number, seed=number) for number in range(12)]
    asked = [(clip, *ways[number % 4]) for number, clip in enumerate(clips)]
    words = {"timestamp_granularities[]": "word"}
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: server.post(one[0], "mla", **one[1], **words), asked))
    for response, (clip, options, beam) in zip(answers, asked, strict=True):
        assert response.status_code == 200, response.text
        wanted = expected(clip, beam)
        assert response.json()["text"] == wanted.text.lower()
        assert [w["start"] for w in response.json()["words"]] == [w.start for w in wanted.words]
        assert ("search;dur" in response.headers["server-timing"]) == ("decoding" in options)
    assert any(expected(clip, None).text != expected(clip, beam).text for clip, _, beam in asked)


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"decoding": "best"}, "decoding", "'greedy' or 'beam'"),
        ({"hot_words": "tea"}, "hot_words", "decoding=beam"),
        (
            {"decoding": "beam", "hot_words": ",".join(["tea"] * 101)},
            "hot_words",
            "101 phrases; the limit is 100",
        ),
        ({"decoding": "beam", "hot_words": "t" * 51}, "hot_words", "51 characters; the limit is 50"),
        ({"decoding": "beam", "hot_words": "R2D2"}, "hot_words", "'2'"),
        ({"hot_words_boost": "11"}, "hot_words_boost", "less than or equal to 10"),
        ({"hot_words_boost": "nan"}, "hot_words_boost", "finite"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(
    server: Served, options: dict[str, str], param: str, said: str
) -> None:
    response = server.post(sound(8_000), **options)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param and said in str(error["message"])


def test_hot_words_in_the_query_go_with_a_search_in_the_form(server: Served) -> None:
    def said(**form: str) -> int:
        url = "/transcribe?model=mla&hot_words=tea"
        return int(server.client.post(url, files={"file": sound(8_000)}, data=form).status_code)

    assert said(decoding="beam") == 200 and said() == 400


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"decoding": "beam", "hot_words": ["tea"] * 101}, "the limit is 100"),
        ({"decoding": "beam", "hot_words": ["t" * 51]}, "the limit is 50"),
        ({"decoding": "beam", "hot_words": ["R2D2"]}, "'2'"),
        ({"hot_words": ["tea"]}, "decoding=beam"),
        ({"hot_words_boost": -1}, "greater than or equal to 0"),
        ({"decoding": "best"}, "'greedy' or 'beam'"),
    ],
)
def test_what_a_stream_cannot_search_for_is_refused(
    fake_server: Served, start: dict[str, Any], said: str
) -> None:
    with connected(fake_server.url) as client:
        client.say("start", **start)
        client.error()
        assert said in client.heard[-1]["message"]


def test_a_stream_prefers_hot_words(fake_server: Served) -> None:
    wave = spoken(HEARD, frames_per_letter=2)
    assert streamed(fake_server.url, wave).text == HEARD.lower()
    hot: dict[str, Any] = {
        "decoding": "beam",
        "hot_words": [*NAMES, *(f"word number {'x' * n}" for n in range(30))],
    }
    client = streamed(fake_server.url, wave, words=True, hot_words_boost=2, **hot)
    assert client.text == "a hippopotamuses"  # not the one that is known
    assert [word["word"] for final in client.finals for word in final["words"]] == ["a", "hippopotamuses"]
    assert streamed(fake_server.url, wave, decoding="beam").text == "a hippopotamus"
    team = spoken("A TEA", frames_per_letter=2)
    for boost, said in ((0, "a team"), (9, "a teb")):
        hot = {"decoding": "beam", "hot_words": ["teb"], "hot_words_boost": boost}
        assert streamed(fake_server.url, team, **hot).text == said


def test_a_searching_streams_flush_leaves_it_as_it_was(fake_server: Served) -> None:
    wave = spoken("HELLO WORLD", frames_per_letter=4)
    with live(fake_server.url, decoding="beam") as client:
        for at in range(0, len(wave), 5_000):
            client.play(wave[at : at + 5_000])
            client.say("flush", id=at)
            client.until("flushed")
        client.finish()
    assert client.text == streamed(fake_server.url, wave, decoding="beam").text == "hello world"


def test_a_stream_goes_on_where_its_search_process_dies(fake_server: Served) -> None:
    wave = spoken("HELLO WORLD")
    with live(fake_server.url, decoding="beam") as client:
        client.play(wave[: len(wave) // 2])
        client.say("flush")
        client.until("flushed")  # by now there is a process
        kill(fake_server.service.searches)
        client.play(wave[len(wave) // 2 :])
        client.finish()
    assert client.text == "hello world"


@pytest.mark.parametrize("lm", [None, ngram.BUNDLED])
def test_a_search_is_cut_at_pauses_and_where_speech_goes_on_for_too_long(lm: Path | None) -> None:
    """Its segments are those of the likeliest path, but for where it is sure of a word only later."""
    path = "__SEA_SON__" + "_" * 12 + "THE TEA " * 9 + "_" * 50 + "_A QUIET SE"
    search = BeamDecoder(search_of(Beam(lm=lm), tuple(LETTERS)), HOP_S)
    scores = 3.0 * frames(path)  # so clear that words are finished at once
    for size in (1, 7):
        stream, said = Segments(search.copy(), HOP_S, RULES), []
        for at in range(0, len(path), size):
            said += stream.push(scores[at : at + size])
        ours, theirs = spans(said + stream.end()), spans(hear(path, size))
        assert len(ours) == len(theirs) == 4
        assert (ours[0], ours[-1]) == (theirs[0], theirs[-1])
        assert " ".join(text for _, text, _, _ in ours) == " ".join(text for _, text, _, _ in theirs)
        assert all(end - start <= RULES.longest_s for _, _, start, end in ours)


def kill(searches: Searches, by: signal.Signals = signal.SIGKILL) -> None:
    assert searches._pool
    for process in list(searches._pool._processes):
        os.kill(process, by)


def test_searches_that_would_wait_too_long_are_refused_and_nothing_else(folders: dict[str, str]) -> None:
    clip, beam = sound(16_000), {"decoding": "beam"}
    settings = Settings(models=folders, decode_workers=1, stream_memory="0", max_queue_s=0.05)
    with serving(settings) as served, ThreadPoolExecutor(1) as client:
        searches, spool = served.service.searches, served.service.spool
        assert served.post(clip, **beam).status_code == 200  # by now there is a process
        kill(searches, signal.SIGSTOP)
        try:
            waiting = client.submit(served.post, sound(6 * 16_000), "mla", **beam)
            wait_until(lambda: searches._turns._free == 0, "a search")
            assert served.metric("asr_search_audio_seconds") == 6.0 > FASTEST * settings.max_queue_s
            assert spool and not list(spool.iterdir())
            assert "wave.npy" not in Path("/proc/self/maps").read_text()
            form = {"model": "mla", **beam}
            for refused in (
                served.post(clip, **beam, timeout_s=30),
                served.client.post("/v1/audio/transcriptions", files={"file": clip}, data=form, timeout=30),
            ):
                assert refused.status_code == 429, refused.text
                error = error_of(refused)
                assert error["code"] == "overloaded" and "max_queue_s" in str(error["message"])
                assert int(refused.headers["retry-after"]) >= 1
            assert served.post(clip).status_code == 200
        finally:
            kill(searches, signal.SIGCONT)
        assert waiting.result(WAIT_S).status_code == 200
        assert served.metric("asr_search_audio_seconds") == 0
        assert served.post(clip, **beam).status_code == 200


def test_many_searches_at_once_are_refused_before_the_device_hears_them(folders: dict[str, str]) -> None:
    """None waits for a search yet when they come."""
    settings = Settings(models=folders, decode_workers=2, stream_memory="0", max_queue_s=0.5)
    with serving(settings) as served, ThreadPoolExecutor(24) as clients:
        calls = [clients.submit(served.post, sound(4 * 16_000), "mla", decoding="beam") for _ in range(24)]
        answers = [call.result(WAIT_S) for call in calls]
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        heard_s = served.metric("asr_audio_seconds_total", model="mla")
        assert heard_s == 4.0 * statuses.count(200)
        assert served.service.searches.waiting_audio_s() == 0


def test_what_waits_for_a_search_is_bounded_and_a_long_clip_holds_up_none() -> None:
    searches = Searches(max_queue_s=10.0)
    most_s = 10.0 * searches.audio_s_per_s
    with ExitStack() as clips:
        clips.enter_context(searches.admitted(3600.0))
        searches.check_open()
        clips.enter_context(searches.admitted(most_s - 60.0))
        assert searches.waiting_audio_s() == 3540.0 + most_s
        with pytest.raises(Overloaded) as refused:
            searches.check_open()
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
    searches.check_open()


async def test_how_fast_searches_are_is_learnt_from_those_that_ran() -> None:
    async with searching() as (searches, decoder):
        before = searches.audio_s_per_s
        with searches.admitted(5.0) as waiting:
            for _ in range(20):
                await searches.hear(decoder, random_scores(10), live=False, waiting=waiting)
            assert waiting.audio_s == pytest.approx(1.0)
        assert 0 < searches.audio_s_per_s != before
        silence = np.full((250, 28), -20.0, np.float32)
        silence[:, 0] = 0.0
        for _ in range(60):
            await searches.hear(decoder, silence, live=False)
        assert searches.audio_s_per_s == pytest.approx(FASTEST, rel=0.1)


@asynccontextmanager
async def searching() -> AsyncIterator[tuple[Searches, BeamDecoder]]:
    searches = Searches()
    try:
        yield searches, searches.decoder(FakeTranscriber(), NAMES)
    finally:
        await asyncio.to_thread(searches.close)


def random_scores(frames: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(0, 4.0, (frames, 28))
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)), np.float32)


async def test_long_clips_go_piece_by_piece_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.searches.PIECE_FRAMES", 40)
    scores = random_scores(130)
    async with searching() as (searches, decoder):
        heard = await searches.hear(decoder, scores)
        assert decoder.frames == 0
    decoder.push(scores)
    assert heard.frames == len(scores)
    assert heard.words == decoder.words


async def test_streams_go_before_clips_and_clips_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.searches.PIECE_FRAMES", 40)
    over: list[str] = []

    async def finish(searches: Searches, decoder: BeamDecoder, name: str, pieces: int, live: bool) -> None:
        await searches.hear(decoder, random_scores(40 * pieces), live=live)
        over.append(name)

    async with searching() as (searches, decoder), asyncio.TaskGroup() as group:
        clips = [("long clip", 9), ("other clip", 3), ("third clip", 3)]
        for name, pieces in clips:
            group.create_task(finish(searches, decoder, name, pieces, False))
        group.create_task(finish(searches, decoder, "stream", 3, True))
    assert over == ["stream", "other clip", "third clip", "long clip"]


async def test_a_search_that_is_given_up_leaves_its_turn_to_the_next() -> None:
    scores = random_scores(20)
    async with searching() as (searches, decoder):
        tasks = [asyncio.create_task(searches.hear(decoder, scores, live=False)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # has the process
        tasks[2].cancel()  # waits for it
        heard = await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(WAIT_S):
            last = await searches.hear(decoder, scores)
    assert [isinstance(one, BeamDecoder) for one in heard] == [False, True, False, True]
    assert last.words


async def test_searches_outlive_a_process_that_dies() -> None:
    scores = random_scores(20)
    async with searching() as (searches, decoder):
        before = await searches.hear(decoder, scores)
        tasks = [asyncio.create_task(searches.hear(decoder, scores, live=False)) for _ in range(5)]
        await asyncio.sleep(0)
        kill(searches)
        assert all(one.words == before.words for one in await asyncio.gather(*tasks))


class Deadly(BeamDecoder):
    """A search that no process survives to unpack."""

    def copy(self) -> BeamDecoder:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


async def test_what_kills_its_process_fails_alone() -> None:
    scores = random_scores(20)
    async with searching() as (searches, decoder):
        with pytest.raises(ApiError, match="search"):
            await searches.hear(Deadly(decoder.search, decoder.seconds_per_frame), scores)
        async with asyncio.timeout(WAIT_S):
            assert (await searches.hear(decoder, scores)).words
