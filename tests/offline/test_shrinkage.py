"""The nuclear norm's proximal step: what it minimises, and which weights it touches."""

import torch

from offline.shrinkage import lower_rank, lower_singular_values
from tests.conftest import tiny_model


def test_it_minimises_the_nuclear_norm_beside_the_distance() -> None:
    torch.manual_seed(0)
    matrix, threshold = torch.randn(12, 5, dtype=torch.float64), 0.8

    def cost(x: torch.Tensor) -> float:
        return float(threshold * torch.linalg.svdvals(x).sum() + (x - matrix).square().sum() / 2)

    lowered = lower_singular_values(matrix, threshold)
    for size in (1e-3, 1e-2, 0.1):
        assert all(cost(lowered) < cost(lowered + size * torch.randn_like(matrix)) for _ in range(50))
    torch.testing.assert_close(
        torch.linalg.svdvals(lowered), (torch.linalg.svdvals(matrix) - threshold).clamp(min=0)
    )


def test_keys_and_values_of_every_layer_lose_rank_and_nothing_else_changes() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [layer.self_attn for layer in model.encoder.layers]
    stacked = [torch.cat([layer.linear_k.weight, layer.linear_v.weight]) for layer in layers]
    threshold = max(torch.linalg.svdvals(weights).median().item() for weights in stacked)
    lower_rank(model, threshold)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("linear_k.weight", "linear_v.weight"))}
    for layer in layers:
        weights = torch.cat([layer.linear_k.weight, layer.linear_v.weight])
        assert torch.linalg.matrix_rank(weights, atol=1e-5) <= weights.shape[1] // 2
