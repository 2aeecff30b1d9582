"""Many clients, full queues, deadlines, clients that leave: every request is answered, counted, and cleared away."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.metrics import FAILURES, REASONS, Metrics
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until

GAUGES = ("asr_requests_waiting", "asr_requests_running", "asr_queue_audio_seconds")


def at_rest(served: Served) -> bool:
    return all(served.metric(name) == 0 for name in GAUGES) and served.service.in_work == 0


def in_background(*calls: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


@contextmanager
def serving_held(held: FakeTranscriber, **limits: Any) -> Iterator[tuple[Served, list[threading.Thread]]]:
    """A server whose engine is busy with one first request, until the gate is set; its thread is in the list."""
    held.gate.set()
    with serving(Settings(decode_workers=1, **limits), {"mha": held}) as served:
        held.gate.clear()
        held.entered.clear()
        threads = in_background(lambda: served.post(sound(4000)))
        assert held.entered.wait(WAIT_S)
        try:
            yield served, threads
        finally:
            held.gate.set()
            join(threads)


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT_S)


def test_fifty_at_once_each_get_their_own_text(server: Served) -> None:
    clips = [sound(4000 + 1280 * n, seed=n) for n in range(10)]
    alone = [server.post(clip, "mla").json()["text"] for clip in clips]
    audio_s = server.metric("asr_audio_seconds_total", model="mla")
    ok = server.metric("asr_requests_total", model="mla", outcome="ok")
    with ThreadPoolExecutor(50) as clients:
        responses = list(clients.map(lambda clip: server.post(clip, "mla"), clips * 5))
    assert {response.status_code for response in responses} == {200}
    assert [response.json()["text"] for response in responses] == alone * 5
    assert len(set(alone)) > 5
    assert server.metric("asr_requests_total", model="mla", outcome="ok") == ok + 50
    wanted_s = sum(response.json()["duration"] for response in responses)
    assert server.metric("asr_audio_seconds_total", model="mla") - audio_s == pytest.approx(wanted_s)
    wait_until(lambda: at_rest(server), "rest")


def test_fifty_good_and_bad_at_once_and_the_counters_agree(server: Served) -> None:
    def send(n: int) -> int:
        good, model = sound(4000 + n), ("mha", "mla")[n % 2]
        wrong = [
            lambda: server.post(b"", model),
            lambda: server.post(bytes(range(256)) * 40, model),
            lambda: server.post(good, "nobody"),
            lambda: server.post(good, model, case="no"),
            lambda: server.post(good[: 40 + n], model),
        ]
        return (wrong[n // 2 % 5] if n % 3 else lambda: server.post(good, model))().status_code

    before = {o: server.metric("asr_requests_total", outcome=o) for o in ("ok", "client_error")}
    none_before = server.metric("asr_requests_total", model="none")
    with ThreadPoolExecutor(50) as clients:
        statuses = Counter(clients.map(send, range(50)))
    assert set(statuses) <= {200, 400, 404}
    assert server.metric("asr_requests_total", outcome="ok") - before["ok"] == statuses[200]
    failed = server.metric("asr_requests_total", outcome="client_error") - before["client_error"]
    assert failed == statuses[400] + statuses[404]
    assert server.metric("asr_requests_total", model="none") - none_before >= statuses[404]
    assert 'model="nobody"' not in server.client.get("/metrics").text
    wait_until(lambda: at_rest(server), "rest")


def test_metrics_have_the_promised_names(server: Served) -> None:
    server.post(sound(16_000))
    for name in ("request", "queue", "inference"):
        assert server.metric(f"asr_{name}_duration_seconds_count", model="mha") >= 1
    assert server.metric("asr_decode_audio_duration_seconds_count") >= 1
    for name in ("size", "audio_seconds", "padding_ratio"):
        assert server.metric(f"asr_batch_{name}_count", model="mha") >= 1
    assert server.metric("asr_frames_total", model="mha") > 0
    assert server.metric("asr_model_weight_bytes", model="mla") > 0
    assert server.metric("asr_model_info", model="mla", attention="mla") == 1
    assert server.metric("asr_build_info") == 1
    assert server.metric("asr_engine_heartbeat_age_seconds") < WAIT_S
    assert server.metric("process_resident_memory_bytes") > 0


@pytest.mark.parametrize("model", ["mha", "none"])
def test_refusals_and_failures_of_streams_are_counted_from_0_on(model: str) -> None:
    metrics = Metrics({})
    metrics.watch(["mha"], {})
    value = metrics.registry.get_sample_value
    for reason in REASONS:
        assert value("asr_requests_rejected_total", {"model": model, "reason": reason}) == 0
    for reason in FAILURES:
        assert value("asr_stream_closed_total", {"model": model, "reason": reason, "code": "1011"}) == 0


def test_requests_that_come_together_run_together(held: FakeTranscriber) -> None:
    with serving_held(held) as (served, threads):
        with ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(served.post, sound(16_000)) for _ in range(8)]
            wait_until(lambda: served.metric("asr_requests_waiting", model="mha") == 8, "eight in the queue")
            assert served.metric("asr_requests_running", model="mha") == 1
            assert served.metric("asr_queue_audio_seconds", model="mha") == 8.0
            held.gate.set()
            assert {answer.result(WAIT_S).json()["timing"]["batch_size"] for answer in answers} == {8}
        join(threads)
        wait_until(lambda: at_rest(served), "rest")


def test_beyond_the_bound_is_429_with_retry_after(held: FakeTranscriber) -> None:
    with serving_held(held, max_queue_audio_s=3.0) as (served, threads):
        threads += in_background(lambda: served.post(sound(3 * 16_000)))
        wait_until(lambda: served.metric("asr_requests_waiting") == 1, "a full queue")
        refused = served.post(sound(16_000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert served.metric("asr_requests_rejected_total", model="mha", reason="overloaded") == 1
        assert served.metric("asr_request_duration_seconds_count") == 0  # a refusal is no latency
        held.gate.set()
        join(threads)
        assert served.post(sound(16_000)).status_code == 200


def test_too_many_requests_in_work_is_429(held: FakeTranscriber) -> None:
    with serving_held(held, max_requests=1) as (served, threads):
        refused = served.post(sound(16_000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert "max_requests" in refused.json()["error"]["message"]
        held.gate.set()
        join(threads)


def test_a_request_past_its_deadline_is_504_and_never_runs(held: FakeTranscriber) -> None:
    with serving_held(held) as (served, threads):
        late = served.post(sound(5000), timeout_s=0.5)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert late.headers["x-should-retry"] == "false"
        held.gate.set()
        join(threads)
        assert served.post(sound(6000)).status_code == 200
        assert [5000] not in held.batches
        assert served.metric("asr_requests_total", outcome="timeout") == 1
        wait_until(lambda: at_rest(served), "rest")


def test_a_client_that_leaves_frees_its_place(held: FakeTranscriber) -> None:
    with serving_held(held) as (served, threads):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{served.url}/transcribe?model=mha",
                content=sound(5000),
                headers={"content-type": "audio/wav"},
                timeout=httpx.Timeout(WAIT_S, read=1.0),
            )
        wait_until(
            lambda: served.metric("asr_requests_total", outcome="cancelled") == 1, "the client's leave"
        )
        assert served.metric("asr_requests_waiting") == 0
        held.gate.set()
        join(threads)
        assert [5000] not in held.batches
        wait_until(lambda: at_rest(served), "rest")


def test_a_client_that_leaves_during_its_upload_is_cleared_away(fake: FakeTranscriber) -> None:
    with serving(Settings(decode_workers=1), {"mha": fake}) as served:

        def cut() -> Any:
            yield bytes(100_000)
            raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            served.client.post("/transcribe?model=mha", content=cut(), headers={"content-type": "audio/wav"})
        wait_until(
            lambda: served.metric("asr_requests_total", outcome="cancelled") == 1, "the client's leave"
        )
        wait_until(lambda: at_rest(served), "rest")
        assert served.service.spool and not list(served.service.spool.iterdir())


def test_a_failing_model_is_500_without_its_reason(fake: FakeTranscriber) -> None:
    with serving(Settings(decode_workers=1), {"mha": fake}) as served:
        fake.transcribe = _fail  # type: ignore[method-assign]
        response = served.post(sound(16_000))
        assert (response.status_code, response.json()["error"]["code"]) == (500, "inference_failed")
        assert "secret" not in response.text
        assert served.metric("asr_requests_total", outcome="error") == 1
        wait_until(lambda: at_rest(served), "rest")


def test_draining_refuses_new_and_finishes_the_accepted(held: FakeTranscriber) -> None:
    with serving_held(held) as (served, threads):
        served.service.draining = True
        refused = served.post(sound(16_000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        ready = served.client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert served.client.get("/health/live").status_code == 200
        held.gate.set()
        join(threads)
        assert served.metric("asr_requests_total", outcome="ok") == 1


def _fail(waves: Any) -> Any:
    raise RuntimeError("/secret/path")
