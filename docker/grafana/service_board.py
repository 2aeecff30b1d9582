"""Service: traffic, errors, saturation."""

from __future__ import annotations

from docker.grafana.panels import Dashboard, Panel
from docker.grafana.queries import CHOSEN, INSTANCE, LANE, MODEL, OURS, quantile, rate, total

BUDGET = 0.005  # share of requests that may fail; the alerts have it too
NAMED = f'{OURS}, model=~"$model|none"'  # with requests that name no model
LOST = f'{OURS}, outcome!~"ok|client_error|cancelled|not_serving"'


def errors(window: str) -> tuple[str, str]:
    return f'job:asr_request_errors:ratio_rate{window}{{job="asr"}}', window


GLANCE = [
    Panel(
        "Instances",
        "Processes of the service that answer Prometheus.",
        "short",
        [(f"sum(up{{{OURS}}})", "")],
        kind="stat",
        width=4,
        warn=(1, 1),
        good_above=True,
    ),
    Panel(
        "Models that serve",
        "Lowest number of an instance.",
        "short",
        [(f'min(sum by (instance) (asr_model_state{{{OURS}, state="ready"}}))', "")],
        kind="stat",
        width=4,
        warn=(1, 1),
        good_above=True,
    ),
    Panel(
        "Requests",
        "Clips a second, answered or refused.",
        "reqps",
        [(f"sum(rate(asr_requests_total{{{OURS}}}[$__rate_interval]))", "")],
        kind="stat",
        width=4,
    ),
    Panel(
        "Errors, 1 h",
        "Share of requests answered 429, 500, 503 or 504. The objective is 0.5 %.",
        "percentunit",
        [errors("1h")],
        kind="stat",
        width=4,
        warn=(BUDGET, 14.4 * BUDGET),
    ),
    Panel(
        "Request p95",
        "Of all models; refusals and failures do not count.",
        "s",
        [
            (
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(asr_request_duration_seconds_bucket{{{CHOSEN}}}[$__rate_interval])))",
                "",
            )
        ],
        kind="stat",
        width=4,
    ),
    Panel(
        "Live streams",
        "Now.",
        "short",
        [(f"sum(asr_streams_active{{{CHOSEN}}})", "")],
        kind="stat",
        width=4,
    ),
]
TRAFFIC = [
    Panel(
        "Requests by route",
        "Clips a second.",
        "reqps",
        [(rate("asr_requests_total", "route", NAMED), "{{route}}")],
        width=6,
        stack=True,
    ),
    Panel(
        "Requests by model",
        "`none`: the request named no model that there is.",
        "reqps",
        [(rate("asr_requests_total", where=NAMED), "{{model}}")],
        width=6,
        stack=True,
    ),
    Panel(
        "Audio",
        "Seconds of audio transcribed in a second.",
        "short",
        [(rate("asr_audio_seconds_total"), "{{model}}")],
        width=6,
        stack=True,
    ),
    Panel(
        "Streams that ended",
        "By reason: `end` is the client's own, `client_gone` without a word, the rest are codes of errors.",
        "cps",
        [(rate("asr_stream_closed_total", "reason, code", NAMED), "{{reason}} {{code}}")],
        width=6,
        stack=True,
    ),
]
ERRORS = [
    Panel(
        "Share of requests that fail",
        "Over three windows; dashed: the budget of 30 days is just spent, or 14.4 times as fast.",
        "percentunit",
        [errors("5m"), errors("1h"), errors("6h")],
        width=6,
        warn=(BUDGET, 14.4 * BUDGET),
    ),
    Panel(
        "Failures by outcome",
        "`overloaded` 429, `unavailable` 503, `timeout` 504, `error` 500. What an instance refuses "
        "while it loads or drains is none: nginx asks another.",
        "reqps",
        [(rate("asr_requests_total", "outcome", LOST), "{{outcome}}")],
        width=6,
        stack=True,
    ),
    Panel(
        "Refusals by reason",
        "Requests answered 429 or 503, most of them before any work was done, and those refused for their API key.",
        "reqps",
        [
            (rate("asr_requests_rejected_total", "reason", NAMED), "{{reason}}"),
            (rate("asr_key_refusals_total", "reason", OURS), "{{reason}}"),
        ],
        width=6,
        stack=True,
    ),
    Panel(
        "Out of memory",
        "Batches and steps that ran out of it in the last ten minutes.",
        "short",
        [(f"sum by (model) (increase(asr_out_of_memory_total{{{CHOSEN}}}[10m]))", "{{model}}")],
        width=6,
        warn=(1, 2),
    ),
]
SATURATION = [
    Panel(
        "Clips on the device and waiting",
        "Waiting ones that stay mean that the device is the limit.",
        "short",
        [
            (total("asr_requests_running"), "{{model}} running"),
            (total("asr_requests_waiting"), "{{model}} waiting"),
        ],
        width=6,
    ),
    Panel(
        "Audio waiting",
        "Of one instance and model; from the limit on, for all models together, requests are refused.",
        "s",
        [
            (f"max by (instance, model) (asr_queue_audio_seconds{{{CHOSEN}}})", "{{instance}} {{model}}"),
            (f"asr_queue_audio_limit_seconds{{{OURS}}}", "{{instance}} limit"),
        ],
        width=6,
    ),
    Panel(
        "Streams' slots taken",
        "At 100 % new streams are refused with close code 1013.",
        "percentunit",
        [('lane:asr_stream_slots_used:ratio{job="asr", model=~"$model"}', LANE)],
        width=6,
        warn=(0.7, 0.9),
        top=1,
    ),
    Panel(
        "Engine's last sign of life",
        "As old as the batch that runs is, as a share of what the engine allows it: 120 s and the batch's audio. At "
        "100 % the instance counts as dead.",
        "percentunit",
        [
            (
                f"asr_engine_heartbeat_age_seconds{{{OURS}}} / asr_engine_heartbeat_limit_seconds{{{OURS}}}",
                "{{instance}}",
            )
        ],
        width=6,
        warn=(0.5, 1),
    ),
    Panel(
        "Decoding p95",
        "An upload to samples, waiting for a decoder included.",
        "s",
        [(quantile(0.95, "asr_decode_audio_duration_seconds", "instance", OURS), "{{instance}}")],
        width=6,
    ),
    Panel(
        "Processor",
        "Cores in use; without the decoders, which are processes of their own.",
        "short",
        [(f"rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval])", "{{instance}}")],
        width=6,
    ),
    Panel(
        "Resident memory",
        "Without that of the decoders.",
        "bytes",
        [(f"process_resident_memory_bytes{{{OURS}}}", "{{instance}}")],
        width=6,
    ),
    Panel(
        "Open files",
        "Connections and uploads in work, as a share of what the process may have.",
        "percentunit",
        [(f"process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}}", "{{instance}}")],
        width=6,
        warn=(0.7, 0.9),
    ),
]
RUNNING = [
    Panel(
        "Build",
        "Version of each instance.",
        "short",
        [(f"asr_build_info{{{OURS}}}", "")],
        kind="table",
        width=10,
    ),
    Panel(
        "Models",
        "What each model is.",
        "short",
        [(f"asr_model_info{{{CHOSEN}}}", "")],
        kind="table",
        width=14,
    ),
]
SERVICE = Dashboard(
    "mla-asr-service",
    "mla-asr: Service",
    "Is it well: traffic, errors, saturation.",
    [
        ("At a glance", GLANCE),
        ("Traffic", TRAFFIC),
        ("Errors", ERRORS),
        ("Saturation", SATURATION),
        ("What runs", RUNNING),
    ],
    [MODEL, INSTANCE],
)
