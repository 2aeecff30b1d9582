"""The HTTP contract, over real sockets and tiny real models."""

import io
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr import subtitles
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, error_of, serving, sound, wait_until
from tests.service.test_load import join, serving_held

SECOND = 16_000


@pytest.fixture(scope="module")
def expected(folders: dict[str, str]) -> Callable[[str, bytes], asr.Transcript]:
    """What the model itself makes of a file."""

    def transcribe(kind: str, file: bytes) -> asr.Transcript:
        return asr.load(folders[kind], device="cpu").transcribe([asr.audio.read(file)])[0]

    return transcribe


@pytest.mark.parametrize("model", ["mha", "mla"])
def test_json_is_what_the_model_says(server: Served, expected: Callable, model: str) -> None:
    clip = sound(3 * SECOND)
    response = server.post(clip, model)
    assert response.status_code == 200
    body = response.json()
    assert body["text"] == expected(model, clip).text.lower() != ""
    assert set(body) == {"text", "model", "language", "duration", "timing"}
    assert (body["model"], body["language"], body["duration"]) == (model, "en", 3.0)
    assert body["timing"]["batch_size"] == 1
    assert body["timing"]["inference_s"] > 0 <= body["timing"]["queue_s"]


def test_headers(server: Served) -> None:
    response = server.post(sound(SECOND))
    phases = [part.partition(";dur=")[0] for part in response.headers["server-timing"].split(", ")]
    assert phases == ["upload", "decode", "queue", "inference", "total"]
    headers = {"x-request-id": "mine-1"}
    assert server.client.get("/health/live", headers=headers).headers["x-request-id"] == "mine-1"
    headers = {"x-request-id": "not <fine>"}
    assert server.client.get("/health/live", headers=headers).headers["x-request-id"] != "not <fine>"


def test_multipart_with_options_in_the_form(server: Served, expected: Callable) -> None:
    clip = sound(2 * SECOND, kind="FLAC")
    form = {"model": "mla", "case": "upper", "timestamp_granularities[]": ["word", "segment"]}
    body = server.client.post("/transcribe", data=form, files={"file": ("a.flac", clip)}).json()
    transcript = expected("mla", clip)
    assert body["text"] == transcript.text
    assert [word["word"] for word in body["words"]] == [word.word for word in transcript.words]
    assert [word["start"] for word in body["words"]] == [word.start for word in transcript.words]
    assert all(0 <= word["confidence"] <= 1 for word in body["words"])
    assert " ".join(segment["text"] for segment in body["segments"]) == transcript.text


def test_formats(server: Served, expected: Callable) -> None:
    clip = sound(2 * SECOND)
    transcript = expected("mha", clip)
    verbose = server.post(clip, response_format="verbose_json").json()
    assert verbose["task"] == "transcribe" and "segments" in verbose and "words" not in verbose
    text = server.post(clip, response_format="text")
    assert text.text == transcript.text.lower() + "\n"
    assert text.headers["content-type"].startswith("text/plain")
    upper = {"case": "upper"}
    assert (
        server.post(clip, response_format="srt", **upper).text == subtitles.srt(transcript.words, 2.0) != ""
    )
    vtt = server.post(clip, response_format="vtt", **upper)
    assert vtt.text == subtitles.vtt(transcript.words, 2.0)
    assert vtt.headers["content-type"].startswith("text/vtt")


@pytest.mark.parametrize(
    ("clip", "duration_s"),
    [
        (sound(320), 0.02),
        (sound(3200), 0.2),
        (sound(8000, rate=8000, channels=2), 1.0),
        (sound(44_100, rate=44_100, kind="OGG"), 1.0),
        (sound(22_050, rate=22_050, kind="MP3"), None),
    ],
    ids=["0.02 s", "0.2 s", "8 kHz stereo", "ogg 44.1 kHz", "mp3"],
)
def test_clips_of_all_kinds(server: Served, clip: bytes, duration_s: float | None) -> None:
    body = server.post(clip).json()
    assert "text" in body, body
    assert duration_s is None or body["duration"] == pytest.approx(duration_s)


def test_a_clip_shorter_than_a_frame_is_empty_text(server: Served) -> None:
    response = server.post(sound(399), timestamp_granularities="word")
    assert response.status_code == 200
    assert (response.json()["text"], response.json()["words"]) == ("", [])


def test_silence_and_two_minutes(server: Served) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(SECOND), SECOND, format="WAV")
    assert server.post(file.getvalue()).status_code == 200
    assert server.post(sound(120 * SECOND)).json()["duration"] == 120.0


def test_segments_have_the_times_of_subtitles(server: Served, expected: Callable) -> None:
    clip = sound(20 * SECOND)
    body = server.post(clip, response_format="verbose_json", case="upper").json()
    cues = subtitles.cues(expected("mha", clip).words, 20.0)
    assert body["segments"] == [
        {"id": i, "start": cue.start, "end": cue.end, "text": cue.text} for i, cue in enumerate(cues)
    ]
    plain = server.post(clip, **{"timestamp_granularities[]": "segment"}, case="upper").json()
    assert plain["segments"] == body["segments"] and "words" not in plain
    assert max(cue.end for cue in cues) <= 20.0


def test_an_hour_is_within_the_limits(fake_server: Served) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3600 * SECOND, np.int16), SECOND, format="FLAC")
    assert fake_server.post(file.getvalue()).json()["duration"] == 3600.0


def test_longer_audio_has_longer_unless_its_client_says(held: FakeTranscriber) -> None:
    limits = {"base_timeout_s": 0.3, "timeout_per_audio_s": 2000.0, "max_timeout_s": 900.0}
    with serving_held(held, **limits) as (served, threads), ThreadPoolExecutor(1) as pool:
        long = pool.submit(served.post, sound(SECOND // 2))
        wait_until(lambda: served.metric("asr_requests_waiting") == 1, "the long one in the queue")
        late = served.post(sound(1))
        assert late.status_code == 504
        assert "base_timeout_s, timeout_per_audio_s" in str(error_of(late)["message"])
        hurried = served.post(sound(SECOND), timeout_s=0.4)
        assert hurried.status_code == 504
        assert error_of(hurried)["message"] == "not done within 0.4 s (timeout_s)"
        held.gate.set()
        join(threads)
        assert long.result(WAIT_S).status_code == 200


@pytest.mark.parametrize(
    ("passed_s", "audio_s", "due_s"), [(0, 0, 120), (5, 60, 185), (0, 3600, 3720), (500, 3600, 3900)]
)
def test_when_a_request_is_due(server: Served, passed_s: float, audio_s: float, due_s: float) -> None:
    assert server.service._due(passed_s, audio_s)[0] == due_s


def test_unknown_routes_and_methods(server: Served) -> None:
    assert error_of(server.client.get("/no/such"))["code"] == "route_not_found"
    response = server.client.get("/transcribe")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert error_of(response)["code"] == "method_not_allowed"


def test_models(server: Served, folders: dict[str, str]) -> None:
    cards = {card["id"]: card for card in server.client.get("/v1/models").json()["data"]}
    assert list(cards) == ["mha", "mla"]
    for kind, card in cards.items():
        model = asr.load(folders[kind], device="cpu")
        assert card["status"] == "ready"
        assert card["attention"] == model.config.attention.to_dict()
        assert card["parameters"] == model.parameters
        assert card["cache_bytes_per_second"] == model.cache_bytes_per_second
        assert card["sha256"] == model.folder_hash
    assert cards["mla"]["cache_bytes_per_second"] < cards["mha"]["cache_bytes_per_second"]


def test_health_and_pages(server: Served) -> None:
    assert server.client.get("/health/live").json()["status"] == "ok"
    ready = {"status": "ok", "models": {"mha": {"status": "ready"}, "mla": {"status": "ready"}}}
    assert server.client.get("/health/ready").json() == server.client.get("/health").json() == ready
    for route in ("/health", "/health/live", "/health/ready"):
        asked = server.client.head(route)  # as load balancers do
        assert (asked.status_code, asked.content) == (200, b"")
    page = server.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from elsewhere
    assert all(part in page.text for part in ('id="live"', "AudioWorkletProcessor", "stream?model="))
    operation = server.client.get("/openapi.json").json()["paths"]["/transcribe"]["post"]
    assert "response_format" in {parameter["name"] for parameter in operation["parameters"]}


def test_the_description_of_the_api_needs_nothing_from_elsewhere(server: Served) -> None:
    page = server.client.get("/docs")
    assert page.status_code == 200
    named = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(named) == 3 and "//" not in page.text.replace("// ", "")
    assert [server.client.get(address).status_code for address in named] == [200] * 3


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "vocab.json"])
def test_a_broken_model_is_named_and_the_other_serves(
    folders: dict[str, str], tmp_path: Path, file: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders["mha"], broken)
    (broken / file).write_text("{ not what it should be")
    settings = Settings(models={"mha": str(broken), "mla": folders["mla"]}, stream_memory="0")
    with serving(settings) as served:
        health = served.client.get("/health/ready")
        assert health.status_code == 200
        assert health.json()["models"]["mla"] == {"status": "ready"}
        assert health.json()["models"]["mha"]["status"] == "failed"
        assert str(broken / file) in health.json()["models"]["mha"]["reason"]
        assert [card["status"] for card in served.client.get("/v1/models").json()["data"]] == [
            "failed",
            "ready",
        ]
        assert served.post(sound(SECOND), "mla").status_code == 200
        refused = served.post(sound(SECOND), "mha")
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "model_not_ready"


def test_no_model_at_all_is_not_ready_but_alive(tmp_path: Path) -> None:
    with serving(Settings(models={"mha": str(tmp_path)})) as served:
        health = served.client.get("/health/ready")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert served.client.get("/health/live").status_code == 200
        refused = served.post(sound(SECOND))
        assert (refused.status_code, error_of(refused)["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
