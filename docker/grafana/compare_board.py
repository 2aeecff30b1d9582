"""Compare: mha beside mla."""

from __future__ import annotations

from docker.grafana.panels import Dashboard, Panel
from docker.grafana.queries import CHOSEN, INSTANCE, LANE, MODEL, OURS, mean, quantile, rate, total


def latency(share: float) -> Panel:
    return Panel(
        f"Request p{share * 100:g}",
        "From the first byte of a clip to its transcript; long clips count like short ones, refusals and failures not.",
        "s",
        [(quantile(share, "asr_request_duration_seconds"), "{{model}}")],
    )


def device_time() -> str:
    """Device seconds for a second of audio; a model that had no clip yet, or no stream, has only the other to add."""
    clips = rate("asr_inference_duration_seconds_sum")
    steps = rate("asr_stream_step_duration_seconds_sum")
    return f"(({clips} or {steps} * 0) + ({steps} or {clips} * 0)) / ({rate('asr_audio_seconds_total')} > 0)"


PADDING = rate("asr_padding_frames_total")
COMPARE = Dashboard(
    "mla-asr-compare",
    "mla-asr: Compare",
    "The models side by side under the same traffic. Memory of two models in one process cannot be told apart: "
    "serve one model per process to compare that.",
    [
        ("Latency of clips", [latency(0.5), latency(0.95), latency(0.99)]),
        (
            "Throughput, and where the time goes",
            [
                Panel(
                    "RTFx",
                    "Seconds of audio transcribed in a second, clips and live streams.",
                    "short",
                    [(rate("asr_audio_seconds_total"), "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Device time for a second of audio",
                    "Time on the device, batches and steps, by what they transcribed. Both models share one device.",
                    "s",
                    [(device_time(), "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Inference p95",
                    "One batch of clips on the device.",
                    "s",
                    [(quantile(0.95, "asr_inference_duration_seconds"), "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Queue p95",
                    "Waiting for the device.",
                    "s",
                    [(quantile(0.95, "asr_queue_duration_seconds"), "{{model}}")],
                    width=6,
                ),
            ],
        ),
        (
            "Queue and batches",
            [
                Panel(
                    "Requests waiting",
                    "Decoded clips that wait for the device.",
                    "short",
                    [(total("asr_requests_waiting"), "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Audio waiting",
                    "Of one instance; from the limit on, for all models together, requests are refused.",
                    "s",
                    [
                        (f"max by (model) (asr_queue_audio_seconds{{{CHOSEN}}})", "{{model}}"),
                        (f"min(asr_queue_audio_limit_seconds{{{OURS}}})", "limit"),
                    ],
                    width=6,
                ),
                Panel(
                    "Clips in a batch, mean",
                    "1 means that no two clips waited together.",
                    "short",
                    [(mean("asr_batch_size"), "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Padding",
                    "Share of the frames on the device that were padding.",
                    "percentunit",
                    [(f"{PADDING} / ({PADDING} + {rate('asr_frames_total')} > 0)", "{{model}}")],
                    width=6,
                    top=1,
                ),
            ],
        ),
        (
            "Live streams",
            [
                Panel(
                    "Streams",
                    "Live streams, and how many there is room for: the same memory has more places for mla.",
                    "short",
                    [
                        (total("asr_streams_active", "model, profile"), LANE),
                        (total("asr_stream_slots", "model, profile"), f"{LANE} slots"),
                    ],
                ),
                Panel(
                    "Partial p95",
                    "From the end of a chunk's audio to its partial text.",
                    "s",
                    [(quantile(0.95, "asr_stream_partial_latency_seconds", "model, profile"), LANE)],
                ),
                Panel(
                    "Final p95",
                    "From the audio that ended a segment, or the stream, to its final text.",
                    "s",
                    [(quantile(0.95, "asr_stream_final_latency_seconds", "model, profile"), LANE)],
                ),
                Panel(
                    "Step p50 and p95",
                    "One step of all streams of a model and profile that had a chunk ready.",
                    "s",
                    [
                        (quantile(0.5, "asr_stream_step_duration_seconds", "model, profile"), f"{LANE} p50"),
                        (quantile(0.95, "asr_stream_step_duration_seconds", "model, profile"), f"{LANE} p95"),
                    ],
                ),
                Panel(
                    "Late chunks",
                    "Chunks that were heard later than they last; any that stay mean too many streams for this device.",
                    "short",
                    [(rate("asr_stream_late_steps_total", "model, profile"), LANE)],
                ),
                Panel(
                    "Cache of a stream",
                    "What one live stream keeps on the device: keys and values with mha, latents with mla.",
                    "bytes",
                    [
                        (
                            f"{total('asr_stream_cache_bytes', 'model, profile')} / "
                            f"({total('asr_stream_slots', 'model, profile')} > 0)",
                            LANE,
                        )
                    ],
                ),
            ],
        ),
        (
            "Memory",
            [
                Panel(
                    "Weights",
                    "Size of the weights of one instance.",
                    "bytes",
                    [(f"max by (model) (asr_model_weight_bytes{{{CHOSEN}}})", "{{model}}")],
                    width=6,
                ),
                Panel(
                    "Caches of all slots",
                    "Taken at the start, in equal shares for every model and profile.",
                    "bytes",
                    [(total("asr_stream_cache_bytes", "model, profile"), LANE)],
                    width=6,
                    stack=True,
                ),
                Panel(
                    "Process",
                    "Resident memory of a whole process, all its models; without that of the decoders.",
                    "bytes",
                    [(f"process_resident_memory_bytes{{{OURS}}}", "{{instance}}")],
                    width=6,
                ),
                Panel(
                    "Device memory of the process",
                    "As torch counts it, all models of a process; nothing without a GPU.",
                    "bytes",
                    [
                        (f"asr_gpu_memory_allocated_bytes{{{OURS}}}", "{{instance}}"),
                        (f"asr_gpu_memory_peak_bytes{{{OURS}}}", "{{instance}} peak"),
                    ],
                    width=6,
                ),
            ],
        ),
    ],
    [MODEL, INSTANCE],
)
