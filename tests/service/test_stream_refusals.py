"""Messages that mean nothing to `WS /stream`: each is told why, with the choices, and leaves nothing behind."""

import json

import pytest
from websockets.exceptions import ConnectionClosed

from tests.fakes import spoken
from tests.service.conftest import Served, wait_until
from tests.service.live import at_rest, closed, connected, live

# Refusals


@pytest.mark.parametrize(
    ("query", "code", "close", "named"),
    [
        ("?model=nobody", "model_not_found", 1008, "choices: mha, mla"),
        ("?model=", "missing_option", 1007, "choices: mha, mla"),
        ("", "missing_option", 1007, "choices: mha, mla"),
        ("?modle=mha", "unknown_option", 1007, "choices: model"),
        ("?model=mha&profile=fast", "unknown_option", 1007, "'profile'"),
    ],
)
def test_queries_that_name_no_model(
    fake_server: Served, query: str, code: str, close: int, named: str
) -> None:
    with connected(fake_server.url, query=query) as client:
        assert client.error() == (code, close)
    assert named in client.heard[-1]["message"] and not client.heard[-1]["retryable"]
    assert 'model="nobody"' not in fake_server.client.get("/metrics").text


@pytest.mark.parametrize(
    ("message", "code", "named"),
    [
        ("{", "bad_message", "JSON"),
        ("[]", "bad_message", "JSON object"),
        ("[" * 4000, "bad_message", "JSON"),
        ("{}", "bad_message", "type is None; choices: start, flush, keepalive, end"),
        ('{"type": "begin"}', "bad_message", "'begin'; choices: start"),
        ('{"type": ["start"]}', "bad_message", "choices: start"),
        ('{"type": "end"}', "not_started", "'start'"),
        (b"audio", "not_started", "'start'"),
        (
            '{"type": "start", "rate": 8000}',
            "bad_message",
            "no field 'rate' in 'start'; choices: type, sample_rate",
        ),
        (
            '{"type": "start", "sample_rate": 7999}',
            "bad_message",
            "sample_rate is 7999: input should be greater",
        ),
        ('{"type": "start", "sample_rate": 48001}', "bad_message", "48000"),
        ('{"type": "start", "\\ud800": 1}', "bad_message", "?"),
        ('{"type": "start", "sample_rate": "16000"}', "bad_message", "sample_rate is '16000'"),
        ('{"type": "start", "encoding": "opus"}', "bad_message", "'pcm_s16le' or 'pcm_f32le'"),
        ('{"type": "start", "words": 1}', "bad_message", "words is 1"),
        (
            '{"type": "start", "profile": "slow"}',
            "profile_not_found",
            "'slow'; choices: balanced, fast, long",
        ),
        ("x" * 9000, "message_too_large", "8192"),
    ],
)
def test_first_messages_that_start_nothing(
    fake_server: Served, message: str | bytes, code: str, named: str
) -> None:
    with connected(fake_server.url) as client:
        client.socket.send(message)
        found, close = client.error()
    assert found == code and named in client.heard[-1]["message"]
    assert close == {"profile_not_found": 1008, "message_too_large": 1009}.get(code, 1007)
    wait_until(lambda: at_rest(fake_server), "rest")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ('{"type": "start"}', "started already"),
        ('{"type": "flush", "id": {}}', "id is {}"),
        ('{"type": "flush", "id": 1.5}', "id is 1.5"),
        (json.dumps({"type": "flush", "id": "x" * 129}), "128"),
        ('{"type": "flush", "at": 1}', "choices: type, id"),
        ('{"type": "end", "now": true}', "no field 'now' in 'end'"),
    ],
)
def test_later_messages_that_mean_nothing(fake_server: Served, message: str, named: str) -> None:
    before = closed(fake_server, model="mha", reason="bad_message")
    with live(fake_server.url) as client:
        client.play(spoken("HI"))
        client.socket.send(message)
        assert client.error() == ("bad_message", 1007)
    assert named in client.heard[-1]["message"]
    wait_until(lambda: at_rest(fake_server), "rest")
    assert closed(fake_server, model="mha", reason="bad_message") == before + 1


def test_a_message_over_a_mebibyte(fake_server: Served) -> None:
    with live(fake_server.url) as client:
        client.socket.send(bytes(2**20))
        client.socket.send(bytes(2**20 + 1))
        assert client.error() == ("message_too_large", 1009)
    assert "max_message_bytes" in client.heard[-1]["message"]
    # So large that it is not even taken in: the connection is cut.
    with live(fake_server.url) as client, pytest.raises(ConnectionClosed):
        client.socket.send(bytes(2**22 + 1))
        client.next()
    wait_until(lambda: at_rest(fake_server), "rest")
