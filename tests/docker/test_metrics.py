"""Every metric that is promised reaches Prometheus, and every panel's query finds it."""

import subprocess

import pytest

from docker import stack
from tests.docker.conftest import Watched, needs
from tests.service.conftest import wait_until

# Everything that the service promises, with the labels of its samples.
GAUGES = {
    "asr_requests_running": {"model"},
    "asr_requests_waiting": {"model"},
    "asr_queue_audio_seconds": {"model"},
    "asr_streams_active": {"model", "profile"},
    "asr_stream_slots": {"model", "profile"},
    "asr_stream_cache_bytes": {"model", "profile"},
    "asr_engine_heartbeat_age_seconds": set(),
    "asr_engine_heartbeat_limit_seconds": set(),
    "asr_queue_audio_limit_seconds": set(),
    "asr_search_audio_seconds": set(),
    "asr_model_weight_bytes": {"model"},
    "asr_model_state": {"model", "state"},
}
COUNTERS = {
    "asr_requests_total": {"model", "route", "outcome"},
    "asr_audio_seconds_total": {"model"},
    "asr_requests_rejected_total": {"model", "reason"},
    "asr_key_refusals_total": {"reason"},
    "asr_out_of_memory_total": {"model"},
    "asr_frames_total": {"model"},
    "asr_padding_frames_total": {"model"},
    "asr_stream_closed_total": {"model", "reason", "code"},
    "asr_stream_late_steps_total": {"model", "profile"},
}
HISTOGRAMS = {
    "asr_request_duration_seconds": {"model", "route"},
    "asr_queue_duration_seconds": {"model"},
    "asr_decode_audio_duration_seconds": set(),
    "asr_inference_duration_seconds": {"model"},
    "asr_stream_partial_latency_seconds": {"model", "profile"},
    "asr_stream_final_latency_seconds": {"model", "profile"},
    "asr_stream_step_duration_seconds": {"model", "profile"},
    "asr_batch_size": {"model"},
    "asr_batch_audio_seconds": {"model"},
    "asr_batch_padding_ratio": {"model"},
}
INFOS = {
    "asr_build_info": {"version", "python", "torch"},
    "asr_model_info": {"model", "attention", "parameters", "dtype", "device", "sha256"},
}
PROCESS = {
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
    "process_open_fds": set(),
}
SAMPLES = (
    GAUGES | COUNTERS | INFOS | PROCESS | {f"{name}_bucket": {*of, "le"} for name, of in HISTOGRAMS.items()}
)
# The tests' machines have none: service.metrics.GAUGES and service.app feed them where there is one.
ONLY_ON_A_GPU = {
    "asr_gpu_memory_allocated_bytes",
    "asr_gpu_memory_reserved_bytes",
    "asr_gpu_memory_peak_bytes",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_arrives_with_its_labels(watched: Watched, name: str) -> None:
    series = stack.ask(watched.prometheus, "query", query=name)["result"]
    assert series, f"{name} has not arrived"
    assert {frozenset(one["metric"]) - {"__name__", "job", "instance"} for one in series} == {
        frozenset(SAMPLES[name])
    }


def test_nothing_else_arrives(watched: Watched) -> None:
    """So that a metric that is added stands in the list above, and in a dashboard or a runbook."""
    arrived = stack.ask(watched.prometheus, "label/__name__/values")
    base = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in arrived}
    ours = {name for name in base if name.startswith("asr_") and not name.endswith("_created")}
    assert ours - set(SAMPLES) - set(HISTOGRAMS) - ONLY_ON_A_GPU == set()


COUNTED = [
    'asr_requests_total{outcome="ok", model="mla"}',
    'asr_requests_total{outcome="client_error", model="none"}',
    'asr_requests_total{outcome="overloaded", model="mha"}',
    'asr_requests_total{outcome="timeout", model="mha"}',
    'asr_requests_total{outcome="error", model="mha"}',
    'asr_requests_rejected_total{model="mha", reason="too_many_requests"}',
    'asr_out_of_memory_total{model="mha"}',
    'asr_stream_closed_total{model="mla", reason="end", code="1000"}',
    "asr_audio_seconds_total",
    "asr_frames_total",
    'asr_stream_step_duration_seconds_count{model="mla"}',
    'asr_stream_final_latency_seconds_count{model="mla"}',
    'asr_model_state{state="ready"}',
    "asr_stream_cache_bytes",
    "asr_model_weight_bytes",
]


@pytest.mark.parametrize("series", COUNTED)
def test_the_traffic_is_counted(watched: Watched, series: str) -> None:
    assert stack.has_data(watched.prometheus, f"{series} > 0")


def test_every_panel_has_data(watched: Watched) -> None:
    asked = {(board, panel) for board, panel, _ in stack.expressions()}
    assert {board for board, _ in asked} == {"compare", "service", "gpu"}
    assert asked > stack.GPU_PANELS
    assert stack.without_data(watched.prometheus) == []


def test_panels_that_need_a_gpu_are_valid_queries(watched: Watched) -> None:
    """And without data here, else they need not be excepted."""
    needing = {(board, panel) for board, panel, _ in stack.expressions() if stack.needs_gpu(board, panel)}
    missing = {(board, panel) for board, panel, _ in stack.without_data(watched.prometheus, gpu=True)}
    assert missing == needing


def test_the_rules_are_evaluated(watched: Watched) -> None:
    groups = stack.ask(watched.prometheus, "rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize(
    "record",
    ["job:asr_request_errors:ratio_rate5m", "lane:asr_stream_slots_used:ratio", "job:asr_instances:count"],
)
def test_the_rules_record(watched: Watched, record: str) -> None:
    assert stack.has_data(watched.prometheus, record)


@pytest.mark.parametrize("alert", ["OutOfMemory", "ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"])
def test_the_services_own_labels_raise_alerts(watched: Watched, alert: str) -> None:
    """When each fires, and when not, is a matter of time: alerts.yml has it, and none here."""
    raised = f'ALERTS{{alertname="{alert}"}}'
    wait_until(lambda: stack.has_data(watched.prometheus, raised), alert)


def test_promtool_finds_nothing_to_say_about_the_metrics(watched: Watched) -> None:
    needs("promtool")
    text = watched.served.client.get("/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
