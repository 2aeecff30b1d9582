"""Costs are those of the real thing: parameters and cache of live tensors, operations as torch counts them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from asr.config import Attention
from offline import cost
from tests.conftest import tiny_config, tiny_model

FRAMES = 40


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        ("mha", "relative"),
        ("mla", "relative"),
        ("mla-separate", "relative"),
        ("mha", "rotary"),
        ("mla-separate", "rotary"),
    ],
)
def test_flops_are_those_that_torch_counts(kind: str, positions: str) -> None:
    model = tiny_model(kind, positions)
    samples = FRAMES * 320 + 80
    with FlopCounterMode(display=False) as counter:  # gradients on: attention in plain matrix products
        model(torch.randn(1, samples), torch.tensor([samples]))
    assert cost.flops_per_frame(model, FRAMES) == pytest.approx(counter.get_total_flops() / FRAMES, rel=0.02)


@pytest.mark.parametrize("kind", ["mha", "mla", "mla-separate"])
def test_cache_bytes_are_those_of_what_attention_remembers(kind: str) -> None:
    model = tiny_model(kind)
    x = torch.randn(1, 7, 32)
    remembered = [layer.self_attn.memory(x, x).half().nbytes / 7 for layer in model.encoder.layers]
    assert cost.cache_bytes_per_frame(model, torch.float16) == sum(remembered)
    assert cost.cache_bytes_per_frame(model, torch.float32) == 2 * sum(remembered)
    like = cost.on_meta(tiny_config(), model.config.attention)
    assert cost.cache_bytes_per_frame(like, torch.float16) == sum(remembered)
    assert cost.parameters(like) == sum(p.numel() for p in model.parameters())


def test_a_joint_latent_of_half_the_width_has_a_quarter_of_the_cache_and_less_to_compute() -> None:
    reference = replace(tiny_config(), hidden_size=1024, num_attention_heads=16, num_hidden_layers=2)
    old = cost.on_meta(reference, Attention())
    new = cost.on_meta(reference, Attention(kind="mla", latent="joint", rank=(512, 512)))
    assert cost.cache_bytes_per_frame(new, torch.float16) * 4 == cost.cache_bytes_per_frame(
        old, torch.float16
    )
    # per layer: two D x D matrices and their biases against three of r x D
    assert cost.parameters(old) - cost.parameters(new) == 2 * (2 * 1024**2 + 2 * 1024 - 3 * 512 * 1024)
    assert cost.flops_per_frame(old) - cost.flops_per_frame(new) == 2 * 2 * (2 * 1024**2 - 3 * 512 * 1024)


def test_more_work_is_expected_to_take_longer_and_more_room() -> None:
    small = cost.expectation(tiny_config(), calibration_s=0, trials=1, greedy=False, dtype=torch.float16)
    heard = cost.expectation(tiny_config(), calibration_s=1e6, trials=10, greedy=True, dtype=torch.float32)
    assert 0 <= small["seconds"] < heard["seconds"] and 0 < small["peak_bytes"] < heard["peak_bytes"]
