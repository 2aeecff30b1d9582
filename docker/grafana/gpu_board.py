"""GPU: what NVIDIA's DCGM exporter says, beside what torch counts. No panel of this board has data without a GPU."""

from __future__ import annotations

from docker.grafana.panels import Dashboard, Panel
from docker.grafana.queries import INSTANCE, OURS

GPU_NAME = "GPU {{gpu}}"
ALL = 'job="dcgm"'


def gauge(title: str, description: str, unit: str, metric: str, top: float | None = None) -> Panel:
    """A panel of one metric of the exporter, a line a GPU."""
    return Panel(title, description, unit, [(f"{metric}{{{ALL}}}", GPU_NAME)], top=top)


WORK = [
    gauge(
        "SMs active",
        "Share of the time in which a multiprocessor had work.",
        "percentunit",
        "DCGM_FI_PROF_SM_ACTIVE",
        1,
    ),
    gauge("Tensor cores active", "Share of the cycles.", "percentunit", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1),
    gauge("Memory bandwidth in use", "Share of the cycles.", "percentunit", "DCGM_FI_PROF_DRAM_ACTIVE", 1),
    gauge(
        "Utilisation",
        "Share of the time in which any kernel ran; full does not mean busy.",
        "percent",
        "DCGM_FI_DEV_GPU_UTIL",
        100,
    ),
    Panel(
        "Clock of the SMs",
        "Falls when it is hot, or draws too much.",
        "hertz",
        [(f"DCGM_FI_DEV_SM_CLOCK{{{ALL}}} * 1e6", GPU_NAME)],
    ),
    Panel(
        "PCIe",
        "Bytes a second, to the GPU and from it.",
        "Bps",
        [
            (f"DCGM_FI_PROF_PCIE_RX_BYTES{{{ALL}}}", f"{GPU_NAME} in"),
            (f"DCGM_FI_PROF_PCIE_TX_BYTES{{{ALL}}}", f"{GPU_NAME} out"),
        ],
    ),
]
MEMORY = [
    Panel(
        "Memory of the device",
        "All processes on it.",
        "mbytes",
        [
            (f"DCGM_FI_DEV_FB_USED{{{ALL}}}", f"{GPU_NAME} used"),
            (f"DCGM_FI_DEV_FB_USED{{{ALL}}} + DCGM_FI_DEV_FB_FREE{{{ALL}}}", f"{GPU_NAME} there is"),
        ],
    ),
    Panel(
        "Memory of the service",
        "As torch counts it: live tensors, and what its allocator holds.",
        "bytes",
        [
            (f"asr_gpu_memory_allocated_bytes{{{OURS}}}", "{{instance}} allocated"),
            (f"asr_gpu_memory_reserved_bytes{{{OURS}}}", "{{instance}} reserved"),
        ],
    ),
    Panel(
        "Highest so far",
        "Allocated since the models were ready: what a batch takes for a moment is in it, loading is not.",
        "bytes",
        [(f"asr_gpu_memory_peak_bytes{{{OURS}}}", "{{instance}}")],
    ),
]
HEALTH = [
    gauge("Power", "Drawn by the board.", "watt", "DCGM_FI_DEV_POWER_USAGE"),
    Panel(
        "Energy for a second of audio",
        "All GPUs by all audio: joules a second of audio.",
        "joule",
        [
            (
                f"sum(rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{ALL}}}[$__rate_interval])) / 1000 / "
                f"(sum(rate(asr_audio_seconds_total{{{OURS}}}[$__rate_interval])) > 0)",
                "all",
            )
        ],
    ),
    gauge("Temperature", "Of the chip.", "celsius", "DCGM_FI_DEV_GPU_TEMP"),
    Panel(
        "Last XID error",
        "0 is none; NVIDIA's list of XIDs says what a number means.",
        "none",
        [(f"DCGM_FI_DEV_XID_ERRORS{{{ALL}}}", GPU_NAME)],
        kind="stat",
        width=24,
        warn=(1, 1),
    ),
]
GPU = Dashboard(
    "mla-asr-gpu",
    "mla-asr: GPU",
    "What the device does. Data come from the DCGM exporter, on hosts with an NVIDIA GPU.",
    [("Work", WORK), ("Memory", MEMORY), ("Power and health", HEALTH)],
    [INSTANCE],
)
