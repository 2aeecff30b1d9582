"""Log lines: what they hold, and what they must not."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from service import logs
from service.__main__ import server_config
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import Served, serving, sound, wait_until
from tests.service.live import connected, stream_settings, streamed

ALICE = "a" * 32


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What `set_up` here has written; the process's loggers are put back afterwards."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    chatty = [logging.getLogger(name) for name in (*logs.CHATTY, "httpx")]
    before = (root.handlers[:], root.level, [logger.level for logger in chatty], uvicorn.filters[:])
    root.handlers = []  # `set_up` closes those it finds
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the test's client
    yield io.StringIO()
    root.handlers, uvicorn.filters = before[0], before[3]
    root.setLevel(before[1])
    for logger, level in zip(chatty, before[2], strict=True):
        logger.setLevel(level)


def set_up(stream: io.StringIO, form: Literal["text", "json"], level: str) -> None:
    logs.set_up(form, level)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr
    handler.setStream(stream)


def lines(stream: io.StringIO, **fields: Any) -> list[dict[str, Any]]:
    """The JSON lines that have these fields."""
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if fields.items() <= line.items()]


def test_a_json_line_has_the_time_the_level_and_what_comes_with_it(written: io.StringIO) -> None:
    set_up(written, "json", "info")
    logging.getLogger("here").warning(
        "two\nlines of %s", "text", extra={"model": "mla", "none": None, "other": {1}, "_of_a_library": 2}
    )
    (line,) = lines(written)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "here",
        "message": "two\nlines of text",
        "model": "mla",
        "other": "{1}",
    }


def test_a_traceback_is_part_of_the_line(written: io.StringIO) -> None:
    set_up(written, "json", "info")
    try:
        raise RuntimeError("bad")
    except RuntimeError:
        logging.getLogger("here").exception("it failed")
    (line,) = lines(written, message="it failed")
    assert "RuntimeError: bad" in line["exception"]


def test_text_cannot_be_made_to_look_like_more_than_it_is(written: io.StringIO) -> None:
    set_up(written, "text", "info")
    logging.getLogger("here").info(
        "said", extra={"route": "/a", "model": 'x" status=200\nforged', "count": 3}
    )
    (line,) = written.getvalue().splitlines()
    assert line.endswith(r'here: said route=/a model="x\" status=200\nforged" count=3')


def test_lines_of_a_request_have_its_id_and_notes_are_its_own(written: io.StringIO) -> None:
    set_up(written, "json", "info")
    logs.note(lost=1)
    with logs.request(request_id="abc") as noted:
        logs.note(model="mla")
        logging.getLogger("here").info("inside")
        assert (noted["model"], logs.noted("model", "other")) == ("mla", {"model": "mla"})
    logging.getLogger("here").info("outside")
    assert [line.get("request_id") for line in lines(written)] == ["abc", None]


@pytest.mark.parametrize("name", logs.CHATTY)
def test_what_tells_headers_is_quiet_even_in_debug(written: io.StringIO, name: str) -> None:
    set_up(written, "json", "debug")
    logging.getLogger(name).debug("< Authorization: Bearer %s", ALICE)
    logging.getLogger("service").debug("heard")
    assert [line["message"] for line in lines(written)] == ["heard"]


def test_the_servers_own_lines_for_requests_are_off(written: io.StringIO) -> None:
    settings = Settings(decode_workers=1)
    assert server_config(create_app(settings, {"mha": FakeTranscriber}), settings).access_log is False


# Through a server


@pytest.fixture
def served(written: io.StringIO) -> Iterator[Served]:
    set_up(written, "json", "info")
    options = stream_settings(api_keys=f"alice:{ALICE}")
    with serving(options, {"mha": FakeTranscriber()}) as server:
        server.client.headers["authorization"] = f"Bearer {ALICE}"
        yield server


def test_what_is_logged_of_requests(served: Served, written: io.StringIO) -> None:
    answer = served.post(sound(8000))
    assert answer.json()["text"] == "samples 8000"
    wait_until(lambda: lines(written, logger="service.access"), "a line")
    (line,) = lines(written, logger="service.access")
    assert line["message"] == "POST /transcribe 200"
    assert line["request_id"] == answer.headers["x-request-id"]
    expected = {
        "method": "POST",
        "route": "/transcribe",
        "status": 200,
        "model": "mha",
        "key": "alice",
        "audio_s": 0.5,
    }
    assert expected.items() <= line.items()
    phases = {"upload_s", "decode_s", "queue_s", "inference_s", "total_s", "duration_s"}
    assert all(line[phase] >= 0 for phase in phases)

    served.post(b"garbage")
    wait_until(lambda: lines(written, status=400), "the refusal's line")
    (line,) = lines(written, status=400)
    assert (line["error"], line["model"], line["key"]) == ("not_audio", "mha", "alice")

    served.client.get("/v1/models", headers={"authorization": "Bearer wrong"})
    served.client.get("/nowhere%0aforged")
    served.client.get("/health/live")
    wait_until(lambda: lines(written, status=404), "the last line")
    assert lines(written, status=401)[0]["error"] == "invalid_api_key"
    assert lines(written, status=404)[0]["route"] == "unknown"
    assert not lines(written, route="/health/live")

    text = written.getvalue()
    assert ALICE not in text and "samples 8000" not in text.lower() and "forged" not in text


def test_what_is_logged_of_streams(served: Served, written: io.StringIO) -> None:
    headers = {"authorization": f"Bearer {ALICE}"}
    with connected(served.url, headers=headers) as client:
        client.say("start")
        session_id = client.until("ready")[-1]["session_id"]
        client.play(spoken("HALLO WELT"))
        client.finish()
    wait_until(lambda: lines(written, message="stream ended"), "the end")
    (line,) = lines(written, message="stream ended")
    expected = {"session_id": session_id, "reason": "end", "code": 1000, "model": "mha", "key": "alice"}
    assert expected.items() <= line.items()
    assert line["audio_s"] > 0 and line["profile"] == "balanced" and line["request_id"]
    text = written.getvalue()
    assert ALICE not in text and "hallo" not in text.lower() and "WebSocket" not in text


def test_transcripts_are_logged_when_asked_for(written: io.StringIO) -> None:
    set_up(written, "json", "info")
    with serving(stream_settings(log_transcripts=True), {"mha": FakeTranscriber()}) as served:
        served.post(sound(8000))
        streamed(served.url, spoken("HALLO WELT"))
        wait_until(lambda: lines(written, message="stream ended"), "the end")
    assert lines(written, route="/transcribe")[0]["text"].lower() == "samples 8000"
    assert [line["text"].lower() for line in lines(written, message="stream said")] == ["hallo welt"]
