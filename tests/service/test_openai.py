"""OpenAI's own client against a server on a socket: it works unchanged, and understands what goes wrong."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Model
from openai.types.audio import Transcription, TranscriptionVerbose

from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until
from tests.service.test_load import join, serving_held

SECOND = 16_000
CLIP = ("clip.wav", sound(3 * SECOND))


@pytest.fixture(scope="module")
def served(folders: dict[str, str]) -> Iterator[Served]:
    aliases = {"whisper-1": "mla"}
    limits: dict[str, Any] = {"decode_workers": 1, "max_audio_s": 150.0, "stream_memory": "16MiB"}
    with serving(Settings(models=folders, model_aliases=aliases, **limits)) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with of(served) as client:
        yield client


def of(served: Served, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", timeout=WAIT_S, **options)


def own(served: Served, **options: Any) -> Any:
    """What /transcribe says to the same."""
    return served.post(CLIP[1], "mla", **options)


def test_json(client: openai.OpenAI, served: Served) -> None:
    said = client.audio.transcriptions.create(file=CLIP, model="mla")
    assert said.text == own(served).json()["text"] != ""
    assert said.usage and said.usage.type == "duration" and said.usage.seconds == 3.0
    assert said._request_id
    Transcription.model_validate(said.model_dump())


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
def test_texts(client: openai.OpenAI, served: Served, kind: Any) -> None:
    said = client.audio.transcriptions.create(file=CLIP, model="mla", response_format=kind)
    assert str(said) == own(served, response_format=kind).text != ""


def test_verbose_json_has_segments_and_words_when_asked(client: openai.OpenAI, served: Served) -> None:
    expected = own(served, **{"timestamp_granularities[]": ["word", "segment"]}).json()
    said = client.audio.transcriptions.create(
        file=CLIP, model="mla", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (said.text, said.duration, said.language) == (expected["text"], 3.0, "english")
    assert said.words and said.segments and said.usage and said.usage.seconds == 3.0
    times = ("word", "start", "end")
    assert [[getattr(w, t) for t in times] for w in said.words] == [
        [w[t] for t in times] for w in expected["words"]
    ]
    assert [(s.id, s.start, s.end, s.text) for s in said.segments] == [
        (s["id"], s["start"], s["end"], s["text"]) for s in expected["segments"]
    ]
    assert all(s.avg_logprob < 0 < s.compression_ratio for s in said.segments)
    TranscriptionVerbose.model_validate(said.model_dump())


@pytest.mark.parametrize(
    ("asked", "given"), [(None, {"segments"}), (["word"], {"words"}), (["segment"], {"segments"})]
)
def test_verbose_json_has_what_was_asked_for(client: openai.OpenAI, asked: Any, given: set[str]) -> None:
    options = {"timestamp_granularities": asked} if asked else {}
    said = client.audio.transcriptions.create(
        file=CLIP, model="mla", response_format="verbose_json", **options
    )
    assert {name for name in ("words", "segments") if getattr(said, name)} == given


def test_what_changes_nothing_is_named(client: openai.OpenAI, served: Served) -> None:
    raw = client.audio.transcriptions.with_raw_response.create(
        file=CLIP,
        model="mla",
        language="en",
        prompt="MLA, latent",
        temperature=0,
        include=["logprobs"],
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
        keywords=["latent", "rank"],
    )
    ignored = "chunking_strategy, include, keywords, language, prompt, temperature"
    assert raw.headers["x-ignored-options"] == ignored
    assert "inference;dur=" in raw.headers["server-timing"]
    assert raw.parse().text == own(served).json()["text"]
    plain = client.audio.transcriptions.with_raw_response.create(file=CLIP, model="mla")
    assert "x-ignored-options" not in plain.headers


def test_what_changes_nothing_may_be_much(client: openai.OpenAI) -> None:
    raw = client.audio.transcriptions.with_raw_response.create(
        file=CLIP,
        model="mla",
        keywords=[f"word{n}" for n in range(100)],
        prompt="x" * 70_000,
        known_speaker_names=["a", "b"],
        known_speaker_references=["data:audio/wav;base64," + "A" * 430_000] * 2,  # 10 s each
    )
    assert raw.headers["x-ignored-options"].startswith(
        "keywords, known_speaker_names, known_speaker_references"
    )
    with pytest.raises(openai.BadRequestError, match="exceeded maximum size"):
        client.audio.transcriptions.create(
            file=CLIP, model="mla", known_speaker_references=["A" * 1_500_000] * 3
        )


def test_times_that_the_format_has_not_are_named(client: openai.OpenAI) -> None:
    for kind, ignored in (("json", "timestamp_granularities"), ("verbose_json", None)):
        raw = client.audio.transcriptions.with_raw_response.create(
            file=CLIP,
            model="mla",
            response_format=kind,  # type: ignore[arg-type]
            timestamp_granularities=["word"],
        )
        assert raw.headers.get("x-ignored-options") == ignored


def test_the_description_names_every_type_of_answer(served: Served) -> None:
    paths = served.client.get("/openapi.json").json()["paths"]
    texts = {"application/json", "text/plain", "application/x-subrip", "text/vtt"}
    ours, theirs = (
        paths[route]["post"]["responses"]["200"]["content"]
        for route in ("/transcribe", "/v1/audio/transcriptions")
    )
    assert set(ours) == texts and set(theirs) == texts | {"text/event-stream"}
    kinds = {kind["$ref"].rpartition("/")[2] for kind in theirs["application/json"]["schema"]["anyOf"]}
    assert kinds == {"OpenAITranscription", "OpenAIVerbose"}


@pytest.mark.parametrize("language", ["", "auto", "EN", "en-US", "english"])
def test_the_models_language_by_all_its_names(client: openai.OpenAI, language: str) -> None:
    client.audio.transcriptions.create(file=CLIP, model="mla", language=language)


def test_a_model_that_names_no_language_takes_any(tiny_folder: Callable[..., Path]) -> None:
    settings = Settings(models={"mha": str(tiny_folder("mha"))}, decode_workers=1, stream_memory="0")
    with serving(settings) as served, of(served) as client:
        said_of = {"de": "de", "de-AT": "de", "EN": "english", "auto": "unknown", "": "unknown"}
        for given, said in said_of.items():
            answer = client.audio.transcriptions.with_raw_response.create(
                file=CLIP, model="mha", language=given, response_format="verbose_json"
            )
            assert answer.headers["x-ignored-options"] == "language"
            assert TranscriptionVerbose.model_validate_json(answer.content).language == said
        card = served.client.get("/v1/models/mha").json()
        assert card["status"] == "ready" and "language" not in card
        assert "language" not in served.post(CLIP[1]).json()


def test_our_own_options_go_in_the_extra_body(client: openai.OpenAI, served: Served) -> None:
    said = client.audio.transcriptions.create(file=CLIP, model="mla", extra_body={"case": "upper"})
    assert said.text == own(served, case="upper").json()["text"]


def test_models_and_their_aliases(client: openai.OpenAI, served: Served) -> None:
    cards = client.models.list().data
    assert [card.id for card in cards] == ["mha", "mla", "whisper-1"]
    for card in cards:
        Model.model_validate(card.model_dump())
    assert cards[0].created > 0
    alias = client.models.retrieve("whisper-1")
    assert (alias.id, getattr(alias, "alias_of", None)) == ("whisper-1", "mla")
    assert getattr(alias, "parameters", 0) == getattr(client.models.retrieve("mla"), "parameters", 1)
    before = served.metric("asr_requests_total", model="mla", route="/v1/audio/transcriptions")
    said = client.audio.transcriptions.create(file=CLIP, model="whisper-1")
    assert said.text == own(served).json()["text"]
    assert served.post(CLIP[1], "whisper-1").json()["model"] == "mla"
    after = served.metric("asr_requests_total", model="mla", route="/v1/audio/transcriptions")
    assert after == before + 1


def test_async_clients_side_by_side(served: Served) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", timeout=WAIT_S) as client:
            calls = [client.audio.transcriptions.create(file=CLIP, model=m) for m in ("mha", "mla") * 3]
            return [said.text for said in await asyncio.gather(*calls)]

    texts = asyncio.run(ask())
    assert texts == [served.post(CLIP[1]).json()["text"], own(served).json()["text"]] * 3


@pytest.mark.parametrize(
    ("file", "options", "kind", "code", "param"),
    [
        (b"no sound", {}, openai.BadRequestError, "not_audio", "file"),
        (CLIP, {"response_format": "diarized_json"}, openai.BadRequestError, "invalid_option", None),
        (CLIP, {"language": "de"}, openai.BadRequestError, "unsupported_language", "language"),
        (CLIP, {"stream": True, "response_format": "srt"}, openai.BadRequestError, "invalid_option", None),
        (CLIP, {"extra_body": {"no_such": 1}}, openai.BadRequestError, "unknown_option", "no_such"),
        (CLIP, {"extra_body": {"case[x]": "lower"}}, openai.BadRequestError, "unknown_option", "case[x]"),
        (CLIP, {"model": "whisper-2"}, openai.NotFoundError, "model_not_found", "model"),
        (sound(151 * 8000, rate=8000), {}, openai.APIStatusError, "audio_too_long", "file"),
        (CLIP, {"extra_body": {"timeout_s": 1e-6}}, openai.InternalServerError, "deadline_exceeded", None),
    ],
)
def test_errors_are_the_clients_own(
    client: openai.OpenAI, served: Served, file: Any, options: Any, kind: type, code: str, param: str | None
) -> None:
    before = served.metric("asr_requests_total", route="/v1/audio/transcriptions")
    with pytest.raises(kind) as caught:
        client.audio.transcriptions.create(**({"file": file, "model": "mla"} | options))
    assert caught.value.code == code
    assert param in (None, caught.value.param)
    after = served.metric("asr_requests_total", route="/v1/audio/transcriptions")
    assert after == before + 1  # none of these is tried again


def test_unknown_models_and_routes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="mha, mla, whisper-1; --model-aliases"):
        client.models.retrieve("org/none")
    with pytest.raises(openai.NotFoundError, match="no route"):
        client.embeddings.create(input="no", model="mla")


def test_429_is_tried_again_until_there_is_room(held: FakeTranscriber) -> None:
    with serving_held(held, max_requests=1) as (served, threads), ThreadPoolExecutor(1) as pool:
        with of(served, max_retries=0) as client, pytest.raises(openai.RateLimitError) as caught:
            client.audio.transcriptions.create(file=CLIP, model="mha")
        assert caught.value.code == "too_many_requests"
        with of(served, max_retries=100) as client:
            refused = served.metric("asr_requests_rejected_total")
            said = pool.submit(client.audio.transcriptions.create, file=CLIP, model="mha")
            wait_until(lambda: served.metric("asr_requests_rejected_total") > refused, "a refusal")
            held.gate.set()
            join(threads)
            assert said.result(WAIT_S).text == f"samples {3 * SECOND}"


def test_a_model_that_does_not_serve(folders: dict[str, str], tmp_path: Any) -> None:
    settings = Settings(
        models={"mha": folders["mha"], "mla": str(tmp_path)}, decode_workers=1, stream_memory="0"
    )
    with serving(settings) as served:
        with of(served, max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.audio.transcriptions.create(file=CLIP, model="mla")
            assert caught.value.code == "model_not_ready"
            assert client.audio.transcriptions.create(file=CLIP, model="mha").text
        reason = served.client.get("/health/ready").json()["models"]["mla"]["reason"]
        assert str(tmp_path) in reason
