"""nginx with the committed configuration, in front of a real service."""

import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from docker import stack
from docker.client import Client
from tests.docker.conftest import MODELS, Watched, needs, noise
from tests.fakes import FakeTranscriber
from tests.service.conftest import Served, serving, sound
from tests.service.live import closed, denied, live, stream_settings, streamed

LIMIT_BYTES = 200_000
ALICE = "a" * 32
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def front(watched: Watched) -> Iterator[str]:
    """nginx before an instance that serves and one that is not there."""
    needs("nginx")
    (nobody,) = stack.free_ports(1)
    port = int(watched.served.url.rpartition(":")[2])
    limits = {"MLA_ASR_MAX_UPLOAD_BYTES": LIMIT_BYTES}
    with (
        tempfile.TemporaryDirectory() as folder,
        stack.nginx(Path(folder), [nobody, port], limits=limits) as url,
    ):
        yield url


def post(url: str, body: bytes, **options: str) -> httpx.Response:
    return httpx.post(
        f"{url}/transcribe",
        params={"model": "mha", **options},
        content=body,
        headers={"content-type": "audio/wav"},
        timeout=60,
    )


@pytest.mark.parametrize("model", MODELS)
def test_clips_pass_and_the_dead_instance_costs_none(front: str, model: str) -> None:
    answers = [post(front, sound(16_000), model=model) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert answers[0].json()["model"] == model


def test_streams_pass(front: str) -> None:
    client = streamed(front, noise(2.0), "mla")
    assert client.heard[-1]["type"] == "done"


def test_events_pass(front: str) -> None:
    files = {"file": ("clip.wav", sound(16_000))}
    data = {"model": "mha", "stream": "true"}
    answer = httpx.post(f"{front}/v1/audio/transcriptions", data=data, files=files, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "transcript.text.done" in answer.text


def test_the_services_errors_pass(front: str) -> None:
    answer = post(front, b"", model="nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.headers["x-request-id"]


def test_the_services_refusal_of_a_large_upload_passes(locked: tuple[Served, str]) -> None:
    heads = {"authorization": f"Bearer {ALICE}"}
    for _ in range(10):
        answer = httpx.post(f"{locked[1]}/transcribe?model=nobody", content=bytes(2**24), headers=heads)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_too_large_an_upload_is_refused_as_the_service_would(front: str) -> None:
    answer = post(front, bytes(LIMIT_BYTES + 1))
    assert answer.status_code == 413
    assert set(answer.json()["error"]) == {"type", "code", "message", "param"}
    assert answer.json()["error"]["code"] == "upload_too_large"
    assert str(LIMIT_BYTES) in answer.json()["error"]["message"]
    Client(front, "").refuses_too_much()


def test_an_upload_at_the_limit_is_not_nginxs_matter(front: str) -> None:
    assert post(front, bytes(LIMIT_BYTES)).json()["error"]["code"] != "upload_too_large"


def test_metrics_stay_inside(front: str) -> None:
    Client(front, "").hides_its_metrics()
    assert httpx.get(f"{front}/metrics").json()["error"]["code"] == "route_not_found"


def test_without_any_instance_clients_are_told_to_come_again() -> None:
    needs("nginx")
    with tempfile.TemporaryDirectory() as folder, stack.nginx(Path(folder), stack.free_ports(2)) as url:
        answer = post(url, b"")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "service_unavailable")
    assert answer.headers["retry-after"] == "5"


@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[Served, str]]:
    """nginx before an instance that asks for keys."""
    needs("nginx")
    keys = stream_settings(
        api_keys=f"alice:{ALICE}", max_requests_per_key=1, cors_origins=[PAGE], open_metrics=True
    )
    with (
        serving(keys, {"mha": FakeTranscriber()}) as served,
        tempfile.TemporaryDirectory() as folder,
        stack.nginx(Path(folder), ports(served)) as url,
    ):
        yield served, url


UPLOADS = ["/transcribe?model=mha", "/v1/audio/transcriptions"]


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("given", [None, "Basic x", ALICE, "Bearer", f"Bearer {ALICE}b"])
def test_an_upload_without_a_key_is_refused_before_it_is_sent(
    locked: tuple[Served, str], path: str, given: str | None
) -> None:
    served, url = locked
    heads = {"origin": PAGE} | ({"authorization": given} if given else {})
    expected = httpx.post(f"{served.url}{path}", headers=heads)
    counted = {"reason": expected.json()["error"]["code"]}
    before = served.metric("asr_key_refusals_total", **counted)
    status, headers, body = asked(f"{url}{path}", 100_000, heads)
    assert (status, json.loads(body)) == (401, expected.json())
    assert headers.get_all("www-authenticate") == [expected.headers["www-authenticate"]]
    assert served.metric("asr_key_refusals_total", **counted) == before + 1
    assert headers["x-request-id"]
    for name in ("access-control-allow-origin", "access-control-expose-headers", "vary"):
        assert headers[name] == expected.headers[name]


@pytest.mark.parametrize("form", ["with its length", "in chunks"])
def test_a_refusal_reaches_those_who_send_on(locked: tuple[Served, str], form: str) -> None:
    blocks = [bytes(2**16)] * 48
    for _ in range(10):
        content = b"".join(blocks) if form == "with its length" else iter(blocks)
        answer = httpx.post(f"{locked[1]}/transcribe?model=mha", content=content, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


def test_an_upload_with_a_key_passes(locked: tuple[Served, str]) -> None:
    """As often as it is sent: the question for the key takes no place of the one that this key has."""
    heads = {"authorization": f"Bearer {ALICE}", "content-type": "audio/wav"}
    for content in [sound(4000)] * 3 + [
        iter([sound(4000)]) for _ in range(3)
    ]:  # with its length, and in chunks
        answer = httpx.post(f"{locked[1]}/transcribe?model=mha", content=content, headers=heads)
        assert answer.json()["text"] == "samples 4000"


@pytest.mark.parametrize("path", UPLOADS)
def test_a_browsers_question_before_an_upload_needs_no_key(locked: tuple[Served, str], path: str) -> None:
    heads = {"origin": PAGE, "access-control-request-method": "POST"}
    answer = httpx.options(f"{locked[1]}{path}", headers=heads)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "www-authenticate" not in answer.headers


class Forgetful(BaseHTTPRequestHandler):
    """An instance that knows every key, and dies with every upload."""

    def do_GET(self) -> None:
        self.send_response(204)
        for name in ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary"):
            self.send_header(name, f"its {name}")
        self.end_headers()

    def do_POST(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_page_may_read_that_its_upload_was_lost() -> None:
    needs("nginx")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as instance,
        tempfile.TemporaryDirectory() as folder,
        stack.nginx(Path(folder), [instance.server_address[1]]) as url,
    ):
        threading.Thread(target=instance.serve_forever).start()
        answer = post(url, sound(4000))
        instance.shutdown()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    for name in ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary"):
        assert answer.headers[name] == f"its {name}"


def test_the_question_for_a_key_is_nobody_elses(locked: tuple[Served, str]) -> None:
    answer = httpx.get(f"{locked[1]}/key", headers={"authorization": f"Bearer {ALICE}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")


def test_what_takes_no_uploads_is_sent_none(locked: tuple[Served, str]) -> None:
    status, _, body = asked(f"{locked[1]}/nowhere", 2_000_000, {})
    assert (status, json.loads(body)["error"]["code"]) == (413, "upload_too_large")
    assert "/transcribe and /v1/audio/transcriptions do" in json.loads(body)["error"]["message"]


def test_an_instance_that_hangs_holds_no_question_for_long() -> None:
    """The other is asked then; an hour, as long as an answer may take, would be in vain."""
    needs("nginx")
    with (
        socket.create_server(("127.0.0.1", 0)) as hangs,
        tempfile.TemporaryDirectory() as folder,
        stack.nginx(Path(folder), [hangs.getsockname()[1]]) as url,
    ):
        assert asked(f"{url}/transcribe?model=mha", 100, {})[0] == 503


def asked(url: str, length: int, headers: dict[str, str]) -> tuple[int, HTTPMessage, bytes]:
    """What is answered to the head of an upload of so many bytes, of which none comes."""
    address = urlsplit(url)
    connection = HTTPConnection(address.netloc, timeout=20)
    connection.putrequest("POST", url.partition(address.netloc)[2])
    for name, value in (headers | {"content-type": "audio/wav", "content-length": str(length)}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    with closing(connection):
        return answer.status, answer.headers, answer.read()


@dataclass
class Pair:
    """nginx before an instance that takes nothing new, and one that serves."""

    url: str
    closed: Served
    open: Served


@pytest.fixture(scope="module")
def pair(watched: Watched) -> Iterator[Pair]:
    needs("nginx")
    with (
        serving(stream_settings(), {"mha": FakeTranscriber()}) as other,
        tempfile.TemporaryDirectory() as folder,
        stack.nginx(Path(folder), ports(other, watched.served)) as url,
    ):
        yield Pair(url, other, watched.served)


@pytest.fixture(params=["drains", "loads"])
def refusing(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Pair]:
    """One that drains, or loads its models, answers 503; nobody behind nginx gets to see it."""
    drains, service = request.param == "drains", pair.closed.service
    service.draining = drains
    service.engine.states["mha"].status = "ready" if drains else "loading"
    yield pair
    service.draining = False
    service.engine.states["mha"].status = "ready"


def test_a_request_that_one_instance_refuses_goes_to_another(refusing: Pair) -> None:
    before = refusing.closed.metric("asr_requests_total", outcome="not_serving")
    answers = [post(refusing.url, sound(16_000)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert refusing.closed.metric("asr_requests_total", outcome="not_serving") > before


def test_a_stream_that_one_instance_refuses_goes_to_another(refusing: Pair) -> None:
    """With streams on the other: then `least_conn` prefers the one that refuses."""
    before = closed(refusing.closed, code="503")
    with live(refusing.url, "mha") as first, live(refusing.url, "mha") as second:
        assert streamed(refusing.url, noise(1.0), "mha").heard[-1]["type"] == "done"
        first.finish()
        second.finish()
    assert closed(refusing.closed, code="503") >= before + 2


def test_a_stream_that_no_instance_takes_is_told_so(refusing: Pair) -> None:
    with tempfile.TemporaryDirectory() as folder, stack.nginx(Path(folder), ports(refusing.closed)) as url:
        assert denied(url)[0] == 503


def ports(*served: Served) -> list[int]:
    return [int(one.url.rpartition(":")[2]) for one in served]
