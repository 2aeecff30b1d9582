"""Keys at the door: every route is declared open or closed, and is what it is declared."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, error_of, serving, sound, wait_until
from tests.service.live import Live, at_rest, stream_settings

ALICE, BOB = "a" * 32, "b" * 32
ORIGIN = "https://page.example"
OPEN = {"/", "/health", "/health/live", "/health/ready"}
OPEN |= {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
DOCS = "/static-offline-docs"  # a folder: what the page of /docs needs of it is open, all else closed
DOCS_FILES = {f"{DOCS}/{file}" for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
CLOSED = {
    "/transcribe",
    "/v1/audio/transcriptions",
    "/v1/models",
    "/v1/models/{name:path}",
    "/metrics",
    "/key",
    "/stream",
}


def settings(**options: Any) -> Settings:
    names = {"api_keys": f"alice:{ALICE},bob:{BOB}", "max_requests_per_key": 2}
    return stream_settings(**(names | {"cors_origins": [ORIGIN]} | options))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    models = {"mha": FakeTranscriber(), "mla": FakeTranscriber()}
    with serving(settings(open_metrics=True), models) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def declared_routes(app: Any) -> set[str]:
    paths = {getattr(route, "path", None) for route in app.routes}
    return {path for path in paths if path} | {found.path for found in iter_route_contexts(app.routes)}


def test_every_route_is_declared_open_or_closed() -> None:
    assert declared_routes(create_app(settings())) == OPEN | CLOSED | {DOCS}


@pytest.mark.parametrize("path", sorted(OPEN | DOCS_FILES))
def test_open_routes_need_no_key(guarded: Served, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


def test_the_description_says_which_routes_need_a_key(guarded: Served) -> None:
    described = guarded.client.get("/openapi.json").json()
    assert described["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    locked = {
        path
        for path, operations in described["paths"].items()
        if all(operation.get("security") == [{"key": []}] for operation in operations.values())
    }
    assert locked == {path.replace(":path", "") for path in CLOSED} & set(described["paths"])
    assert {"/transcribe", "/v1/audio/transcriptions"} <= locked < set(described["paths"])


@pytest.mark.parametrize("path", sorted(CLOSED - {"/stream", "/metrics"}))
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_closed_routes_need_a_key_whatever_the_method(guarded: Served, path: str, method: str) -> None:
    answer = guarded.client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "path",
    [
        *("//", "/health/", "//health", "/Health", "/docs/x", "/nowhere"),
        *(DOCS, f"{DOCS}/", f"{DOCS}/redoc.standalone.js", f"{DOCS}/../v1/models"),
    ],
)
def test_a_path_that_is_not_declared_is_closed(guarded: Served, path: str) -> None:
    raw = httpx.Request("GET", httpx.URL(guarded.url, raw_path=path.encode()))
    assert guarded.client.send(raw).status_code == 401


def test_a_refusal_has_the_shape_of_all_errors_and_is_counted(guarded: Served) -> None:
    before = guarded.metric("asr_key_refusals_total", reason="invalid_api_key")
    error = error_of(guarded.client.get("/v1/models", headers=bearer("wrong")))
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert error_of(guarded.client.get("/v1/models"))["code"] == "missing_api_key"
    assert guarded.metric("asr_key_refusals_total", reason="invalid_api_key") == before + 1


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_key_opens_every_closed_route(guarded: Served, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {ALICE}", "content-type": "audio/wav"}
    assert guarded.client.get("/v1/models", headers=headers).status_code == 200
    answer = guarded.client.post("/transcribe?model=mha", content=sound(4000), headers=headers)
    assert answer.json()["text"] == "samples 4000"


@pytest.mark.parametrize("given", [f"Basic {ALICE}", ALICE, "Bearer", f"Bearer {ALICE} {ALICE}"])
def test_what_is_no_bearer_key_is_refused(guarded: Served, given: str) -> None:
    assert guarded.client.get("/v1/models", headers={"authorization": given}).status_code == 401


def test_metrics_are_closed_unless_opened() -> None:
    with serving(settings(), {"mha": FakeTranscriber()}) as served:
        assert served.client.get("/metrics").status_code == 401
        assert served.client.get("/metrics", headers=bearer(BOB)).status_code == 200


# Live streams


def address(served: Served) -> str:
    return f"{served.url.replace('http', 'ws', 1)}/stream?model=mha"


@pytest.mark.parametrize(
    "offered", [None, ["mla-asr"], ["mla-asr", "bearer.wrong"], ["mla-asr", f"basic.{ALICE}"]]
)
def test_a_stream_without_a_key_is_refused_before_it_is_accepted(guarded: Served, offered: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(address(guarded), subprotocols=offered)
    answer = refused.value.response
    assert answer.status_code == 401
    assert b"api_key" in (answer.body or b"") and ALICE.encode() not in (answer.body or b"")
    assert answer.headers["WWW-Authenticate"] and answer.headers["X-Request-ID"]


def test_a_stream_with_its_key_as_a_subprotocol_is_answered_without_it(guarded: Served) -> None:
    with connect(address(guarded), subprotocols=["mla-asr", f"bearer.{ALICE}"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "mla-asr"
        client = Live(socket)
        client.say("start")
        client.until("ready")
        client.finish()


def test_a_stream_with_its_key_in_a_header(guarded: Served) -> None:
    with connect(address(guarded), additional_headers=bearer(BOB)) as socket:
        client = Live(socket)
        client.say("start")
        client.until("ready")
        client.finish()
        assert socket.subprotocol is None


def test_a_page_that_has_a_key_may_use_a_server_without_keys(fake_server: Served) -> None:
    with connect(address(fake_server), subprotocols=["mla-asr", f"bearer.{ALICE}"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "mla-asr"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[::1", 403),
        ("http://127.0.0.1:3000", 101),
        (ORIGIN, 101),
    ],
)
def test_pages_of_other_sites_open_no_streams(guarded: Served, origin: str, status: int) -> None:
    headers = {"Origin": origin} | bearer(BOB)
    try:
        with connect(address(guarded), additional_headers=headers):
            assert status == 101
    except InvalidStatus as refused:
        assert refused.response.status_code == status
        assert b"origin_not_allowed" in (refused.response.body or b"")


# How much at a time


def test_a_key_has_so_many_requests_at_once_streams_included(guarded: Served) -> None:
    wait_until(lambda: at_rest(guarded), "rest")
    with (
        connect(address(guarded), additional_headers=bearer(ALICE)),
        connect(address(guarded), additional_headers=bearer(ALICE)),
    ):
        refused = guarded.client.get("/v1/models", headers=bearer(ALICE))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "key_busy")
        assert int(refused.headers["retry-after"]) >= 1
        # A proxy's question takes no place: the upload after it does.
        assert guarded.client.get("/key", headers=bearer(ALICE)).status_code == 204
        with pytest.raises(InvalidStatus, match="429"):
            connect(address(guarded), additional_headers=bearer(ALICE))
        assert guarded.client.get("/v1/models", headers=bearer(BOB)).status_code == 200
    wait_until(
        lambda: guarded.client.get("/v1/models", headers=bearer(ALICE)).status_code == 200, "the streams' end"
    )


def test_a_client_that_leaves_gives_its_place_back(held: FakeTranscriber) -> None:
    with serving(settings(max_requests_per_key=1), {"mha": held}) as served:
        held.entered.clear()
        held.gate.clear()
        thread = threading.Thread(target=_give_up, args=(served,))
        thread.start()
        assert held.entered.wait(WAIT_S)
        assert served.client.get("/v1/models", headers=bearer(ALICE)).status_code == 429
        thread.join(WAIT_S)
        wait_until(
            lambda: served.client.get("/v1/models", headers=bearer(ALICE)).status_code == 200, "the place"
        )
        held.gate.set()


def _give_up(served: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{served.url}/transcribe?model=mha",
            content=sound(5000),
            headers=bearer(ALICE) | {"content-type": "audio/wav"},
            timeout=httpx.Timeout(WAIT_S, read=1.0),
        )


# Pages of elsewhere


def test_no_page_of_elsewhere_may_read_answers_by_default(fake_server: Served) -> None:
    answer = fake_server.client.get("/v1/models", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    assert fake_server.client.options("/transcribe", headers=preflight).status_code == 405


def test_a_listed_page_may_and_is_asked_for_its_key(guarded: Served) -> None:
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    preflight["access-control-request-headers"] = "authorization"
    allowed = guarded.client.options("/transcribe", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed.headers
    refused = guarded.client.get("/v1/models", headers={"origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in refused.headers["access-control-expose-headers"]


def test_a_page_that_is_not_listed_may_not(guarded: Served) -> None:
    answer = guarded.client.get("/v1/models", headers=bearer(BOB) | {"origin": "https://other.example"})
    assert "access-control-allow-origin" not in answer.headers
