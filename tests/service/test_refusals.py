"""What cannot be served is refused with the right status, in the one shape of errors, saying what would be right."""

import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, error_of, serving, sound, wait_until
from tests.service.test_load import in_background, serving_held

SECOND = 16_000


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b"\x00", "not_audio"),
        (b"<!doctype html><html></html>", "not_audio"),
        (b"PK\x03\x04" + bytes(500), "not_audio"),
        (np.random.default_rng(0).bytes(10_000), "not_audio"),
        (sound(SECOND)[:30], "not_audio"),
        (sound(0), "empty"),
        (b"RIFF\xff\xff\xff\xffWAVE", "not_audio"),
        (b"\x00\x00\x00\x18ftypM4A " + bytes(100), "not_audio"),
    ],
    ids=["empty", "one byte", "html", "zip", "noise", "cut", "no samples", "riff", "m4a"],
)
def test_garbage_is_the_callers_fault(server: Served, body: bytes, code: str) -> None:
    response = server.post(body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, "file")


def test_unsupported_rate(server: Served) -> None:
    assert error_of(server.post(sound(1000, rate=4000)))["code"] == "unsupported"


@pytest.mark.parametrize(
    ("options", "status", "code", "param", "names"),
    [
        ({"model": "gpt"}, 404, "model_not_found", "model", "mha, mla"),
        ({"model": ""}, 400, "missing_option", "model", "mha, mla"),
        ({"response_format": "xml"}, 400, "invalid_option", "response_format", "verbose_json"),
        (
            {"timestamp_granularities[]": "letter"},
            400,
            "invalid_option",
            "timestamp_granularities[]",
            "segment",
        ),
        ({"case": "Title"}, 400, "invalid_option", "case", "lower"),
        ({"timeout_s": "soon"}, 400, "invalid_option", "timeout_s", "number"),
        ({"timeout_s": "0"}, 400, "invalid_option", "timeout_s", "greater than 0"),
        ({"timeout_s": "nan"}, 400, "invalid_option", "timeout_s", "number"),
        ({"timeout_s": "1e9"}, 400, "invalid_option", "timeout_s", "max_timeout_s"),
        ({"reponse_format": "json"}, 400, "unknown_option", "reponse_format", "response_format"),
    ],
)
@pytest.mark.parametrize("where", ["query", "form"])
def test_wrong_options_name_the_choices(
    server: Served, options: dict[str, str], status: int, code: str, param: str, names: str, where: str
) -> None:
    options = {"model": "mha"} | options
    files = {"file": ("a.wav", sound(SECOND))}
    sent = {"params": options} if where == "query" else {"data": options}
    response = server.client.post("/transcribe", files=files, **sent)  # type: ignore[arg-type]
    assert response.status_code == status
    error = error_of(response)
    assert (error["code"], error["param"]) == (code, param)
    assert names in str(error["message"])


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"content": b"model=mha", "headers": {"content-type": "text/plain"}}, "unsupported_content_type"),
        ({"data": {"case": "lower"}}, "unsupported_content_type"),
        ({"files": {"audio": ("a.wav", b"x")}}, "missing_file"),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, "bad_form"),
        ({"files": {"file": ("a", b"x")}, "data": {f"f{i}": "" for i in range(30)}}, "bad_form"),
        ({"files": {"file": ("a", b"x")}, "data": {"case": "x" * 70_000}}, "bad_form"),
        ({"files": {"file": ("a", b"x")}, "data": {"a": "x" * 40_000, "b": "x" * 40_000}}, "bad_form"),
        (
            {"content": b"no parts", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            "bad_form",
        ),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, "bad_form"),
    ],
    ids=[
        "text",
        "urlencoded",
        "other field",
        "two files",
        "30 fields",
        "long field",
        "long fields",
        "no parts",
        "no boundary",
    ],
)
def test_wrong_bodies(server: Served, request_: dict, code: str) -> None:
    response = server.client.post("/transcribe?model=mha", **request_)
    assert response.status_code == 400
    assert error_of(response)["code"] == code


@pytest.mark.parametrize("charset", ["punycode", "undefined", "no-such", "utf-8", "ISO-8859-1"])
def test_odd_character_sets_are_refused(server: Served, charset: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="case\xff"\r\n\r\nlower\r\n--x--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = server.client.post("/transcribe?model=mha", content=part, headers=headers)
    assert response.status_code == 400
    known = charset.lower() in ("utf-8", "iso-8859-1")
    assert error_of(response)["code"] == ("missing_file" if known else "bad_form")
    assert known or repr(charset) in str(error_of(response)["message"])


def test_upload_limit_by_header_and_while_it_arrives(server: Served) -> None:
    limit = server.service.settings.max_upload_bytes
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20 * limit:
            sent += 2**16
            yield bytes(2**16)

    for response in (server.post(bytes(limit + 1)), server.post(endless())):  # type: ignore[arg-type]
        assert response.status_code == 413
        error = error_of(response)
        assert error["code"] == "upload_too_large" and "max_upload_bytes" in str(error["message"])
    form = server.client.post("/transcribe?model=mha", files={"file": bytes(limit)})
    assert error_of(form)["code"] == "upload_too_large"


def test_refused_before_the_body_is_read(server: Served) -> None:
    """With Expect, a client sends the body only when asked for it: here the answer comes instead."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /transcribe?model=mha HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nExpect: 100-continue\r\n"
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(f"{head}Content-Length: 999999999999\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # to the end: the server hangs up
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()


@pytest.mark.parametrize("size", [2**19, 2**25])
def test_a_client_that_still_sends_sees_why_it_is_refused(server: Served, size: int) -> None:
    """At once, before it has sent all; and it can send all, as most clients do before they look."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /transcribe?model=nobody HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
    head += f"Content-Length: {size}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(head.encode() + bytes(size // 4))
        answer = b""
        while b"model_not_found" not in answer:
            piece = connection.recv(4096)
            assert piece
            answer += piece
        connection.sendall(bytes(size - size // 4))
        answer += b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404 ") and b"connection: close" in answer.lower()


def test_a_refusal_after_the_body_keeps_the_connection(server: Served) -> None:
    refused = server.post(b"garbage")
    assert refused.status_code == 400 and "connection" not in refused.headers


def test_too_long(server: Served) -> None:
    response = server.post(sound(151 * 8000, rate=8000))
    assert response.status_code == 413
    assert error_of(response)["code"] == "audio_too_long"
    assert "max_audio_s" in str(error_of(response)["message"])


def slowly(url: str, query: str, piece: bytes, every_s: float) -> bytes:
    """The answer to an upload that goes on for ever, piece by piece."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /transcribe?model=mha{query} HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(f"{head}Content-Length: 9999999\r\n\r\n".encode())
        while not select.select([connection], [], [], every_s)[0]:
            connection.sendall(piece)
        answer = bytearray()
        with suppress(ConnectionResetError):  # after the answer: what was sent behind it is not read
            while piece := connection.recv(4096):
                answer += piece
        return bytes(answer)


@pytest.mark.parametrize(
    ("query", "piece", "every_s", "status", "said"),
    [
        ("", b"abc", WAIT_S, 408, b"nothing arrived for 0.3 s (upload_idle_s)"),
        ("", b"abc", 0.02, 408, b"uploads must have 512 bytes a second"),
        ("", bytes(1000), 0.02, 408, b"not done within 1 s (upload_timeout_s)"),
        ("&timeout_s=3900", bytes(1000), 0.02, 408, b"not done within 1 s (upload_timeout_s)"),
        ("&timeout_s=0.2", bytes(1000), 0.02, 504, b"not done within 0.2 s (timeout_s)"),
    ],
    ids=["a pause", "few bytes", "long", "long with time", "the client's time"],
)
def test_slow_uploads(
    hurried: Served, query: str, piece: bytes, every_s: float, status: int, said: bytes
) -> None:
    answer = slowly(hurried.url, query, piece, every_s)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and said in answer
    assert b"x-should-retry: false" in answer


@pytest.fixture(scope="module")
def hurried() -> Iterator[Served]:
    settings = Settings(decode_workers=1, upload_idle_s=0.3, upload_timeout_s=1.0)
    with serving(settings, {"mha": FakeTranscriber()}) as served:
        yield served


def test_what_finds_no_room_after_its_upload_is_not_decoded(held: FakeTranscriber) -> None:
    with serving_held(held, max_queue_audio_s=3.0) as (served, threads), ThreadPoolExecutor(1) as pool:
        half = threading.Event()

        def in_halves() -> Iterator[bytes]:
            yield b"no so"
            assert half.wait(WAIT_S)
            yield b"und"

        admitted = pool.submit(served.post, in_halves())  # type: ignore[arg-type]
        wait_until(lambda: served.service.in_work == 2, "it to be let in")
        threads += in_background(lambda: served.post(sound(3 * SECOND)))
        wait_until(lambda: served.metric("asr_requests_waiting") == 1, "a full queue")
        half.set()
        assert error_of(admitted.result(WAIT_S))["code"] == "overloaded"
