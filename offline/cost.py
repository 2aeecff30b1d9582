"""What a model costs: parameters, arithmetic and cache a frame; and what its conversion will take."""

import time
from dataclasses import replace
from typing import Any

import torch

from asr.attention import SelfAttention
from asr.audio import SAMPLE_RATE
from asr.config import Attention, ModelConfig
from asr.encoder import ConformerCTC
from asr.mla import MultiHeadLatentAttention
from offline.flops import forward_flops

FRAMES = 500  # of the clip (10 s) that FLOPs are counted for: attention's part grows with the length
Figures = dict[str, int]


def on_meta(config: ModelConfig, attention: Attention) -> ConformerCTC:
    """A model without weights, of any size at no cost."""
    with torch.device("meta"):
        return ConformerCTC(replace(config, attention=attention))


def attentions(model: ConformerCTC) -> list[SelfAttention]:
    """Every layer's."""
    found = [layer.get_submodule("self_attn") for layer in model.encoder.layers]
    return [attention for attention in found if isinstance(attention, SelfAttention)]


def parameters(model: ConformerCTC) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def cache_bytes_per_frame(model: ConformerCTC, dtype: torch.dtype) -> int:
    """Bytes that one frame leaves in the caches of all layers: of what `memory` gives for a frame, not of a formula."""
    like = model.lm_head.weight
    frame = torch.zeros(1, 1, model.config.hidden_size, device=like.device, dtype=like.dtype)
    return sum(attention.memory(frame, frame).to(dtype).nbytes for attention in attentions(model))


def flops_per_frame(model: ConformerCTC, frames: int = FRAMES) -> int:
    """Of a whole clip of so many frames, a frame, as `flops` counts; MLA attends on the path its cost model picks."""
    config = model.config
    samples = frames * config.hop_samples + config.tail_samples
    absorbed = [
        isinstance(attention, MultiHeadLatentAttention) and attention.absorbs(frames, frames)
        for attention in attentions(model)
    ]
    return round(forward_flops(config, [samples], absorbed) / frames)


def both(count: Any, old: ConformerCTC, new: ConformerCTC) -> Figures:
    """{"mha": figure of the one, "mla": of the other}."""
    return {"mha": count(old), "mla": count(new)}


def expectation(
    config: ModelConfig, *, calibration_s: float, trials: int, greedy: bool, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds and bytes that a conversion will take about, from a second of measuring this machine.

    Args:
        config: of the MHA model.
        calibration_s: seconds of calibration speech; 0 for none.
        trials: factorisations of each layer.
        greedy: whether ranks are allocated, which runs the layers again.
        dtype: of the checkpoint to write.
    """
    model = on_meta(config, Attention())
    width, frames = config.hidden_size, round(calibration_s * SAMPLE_RATE / config.hop_samples)
    decomposition_s, flops_per_s = _pace(width)
    passes = 4.5 + (2 if greedy else 0) + (0.2 * trials if trials > 1 else 0)
    algebra_s = config.num_hidden_layers * (3 * trials + 4) * decomposition_s
    hearing_s = passes * frames * flops_per_frame(model) / flops_per_s if frames else 0.0
    weight_bytes = 4 * parameters(model)
    written_bytes = parameters(model) * dtype.itemsize
    work_bytes = 40 * 8 * width**2 + 4 * frames * width * 4 + 400 * 2**20
    return {
        "seconds": round(algebra_s + hearing_s + weight_bytes / 500e6, 1),
        "peak_bytes": round(1.1 * weight_bytes + written_bytes + work_bytes),
    }


def _pace(width: int) -> tuple[float, float]:
    """Seconds of one float64 eigendecomposition [D, D], and float32 operations a second of a matrix product."""
    matrix = torch.randn(width, width, dtype=torch.float64)
    started = time.perf_counter()
    torch.linalg.eigh(matrix + matrix.T)
    decomposed = time.perf_counter()
    one = torch.randn(FRAMES, width)
    for _ in range(10):
        one @ matrix.float()
    seconds = time.perf_counter() - decomposed
    return decomposed - started, 20 * FRAMES * width**2 / seconds
