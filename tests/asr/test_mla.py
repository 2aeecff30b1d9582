"""The two ways through latent attention agree, the cheaper one is chosen, and what cannot be exact is refused."""

import pytest
import torch

from asr.config import Attention
from tests.conftest import tiny_config, tiny_model

WIDTH, KEYS = 32, 40


@pytest.mark.parametrize("kind", ["mla", "mla-separate"])
@pytest.mark.parametrize("queries", [1, 7, KEYS])
@pytest.mark.parametrize("grad", [False, True])
def test_absorbed_equals_expanded(
    kind: str, queries: int, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = tiny_model(kind).encoder.layers[1].self_attn
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, KEYS, WIDTH, generator=generator)
    query = torch.randn(2, 4, queries, WIDTH // 4, generator=generator)
    bias = torch.randn(2, 4, queries, KEYS, generator=generator).masked_fill(
        torch.arange(KEYS) > 30, -torch.inf
    )
    found = []
    for absorb in (True, False):
        monkeypatch.setattr(attention, "absorbs", lambda n, s, absorb=absorb: absorb)
        with torch.set_grad_enabled(grad):
            found.append(attention.attend(query, attention.memory(x, x), bias))
    assert found[0].shape == (2, 4, queries, WIDTH // 4)
    assert (found[0] - found[1]).abs().max() < 1e-5


def test_the_cost_model_is_the_published_crossover() -> None:
    """n* = S r d / (d r + S (H r - d)) of a joint latent: absorb below, expand above."""
    attention = tiny_model("mla").encoder.layers[1].self_attn
    rank, heads, keys = attention.rank_k, 4, 500
    crossover = keys * rank * WIDTH / (WIDTH * rank + keys * (heads * rank - WIDTH))
    assert 1 < crossover < keys
    assert attention.absorbs(int(crossover), keys)
    assert not attention.absorbs(int(crossover) + 1, keys)


def test_memory_is_what_the_config_counts() -> None:
    for kind in ("mha", "mla", "mla-separate"):
        model = tiny_model(kind)
        x = torch.zeros(1, 5, WIDTH)
        widths = [layer.self_attn.memory(x, x).shape[-1] for layer in model.encoder.layers]
        assert widths == [sum(model.config.attention.cached_parts(i, WIDTH)) for i in range(3)]
        assert sum(widths) == model.config.cached_values_per_frame()


def test_a_joint_latent_refuses_rotary_positions() -> None:
    with pytest.raises(ValueError, match="separate"):
        tiny_config("mla", "rotary")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "gqa"}, "'mha', 'mla'"),
        ({"kind": "mla"}, "'joint', 'separate'"),
        ({"kind": "mla", "latent": "joint", "rank": [4]}, "3 ranks"),
        ({"kind": "mla", "latent": "joint", "rank": [4, 4, 33]}, "1 to 32"),
        ({"kind": "mla", "latents": "joint"}, "latents"),
    ],
)
def test_wrong_attention_is_named(values: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tiny_config(attention=Attention.from_dict(values))
