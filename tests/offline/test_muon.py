"""Muon: orthogonal steps, AdamW where it is AdamW, the right parameters in the right group."""

import torch
from torch import nn

from offline.muon import Muon, groups_of, orthogonalise
from tests.conftest import tiny_model


def test_orthogonalised_has_singular_values_near_one_and_the_same_directions() -> None:
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12), (16, 16)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = left.T @ orthogonalise(matrix) @ right.T
        assert (found.diagonal() > 0.5).all() and (found.diagonal() < 1.5).all()
        assert (found - found.diagonal().diag()).abs().max() < 0.2


def test_the_other_groups_step_as_adamw_does() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": list(ours.parameters()), "muon": False, "weight_decay": 0.1}]
    pair = (
        (ours, Muon(groups, 1e-2, (0.9, 0.98))),
        (theirs, torch.optim.AdamW(theirs.parameters(), 1e-2, (0.9, 0.98), weight_decay=0.1)),
    )
    for step in range(5):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        for model, optimiser in pair:
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_matrix_of_rank_one_is_fitted() -> None:
    torch.manual_seed(0)
    wanted, model = torch.randn(20, 1) @ torch.randn(1, 10), nn.Linear(10, 20, bias=False)
    optimiser = Muon([{"params": [model.weight], "muon": True, "weight_decay": 0.0}], 0.2, (0.9, 0.98))
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.2 * (1 - step / 400)
        optimiser.zero_grad()
        (model.weight - wanted).square().sum().backward()
        optimiser.step()
    assert (model.weight - wanted).norm() < 0.02 * wanted.norm()


def test_every_parameter_is_in_one_group_and_only_inner_matrices_in_the_first() -> None:
    model = tiny_model()
    decaying = {name for name, value in model.named_parameters() if value.ndim > 1 and "pos_bias" not in name}
    groups = groups_of(model, decaying, 0.01)
    names = {id(value): name for name, value in model.named_parameters()}
    found = [[names[id(value)] for value in group["params"]] for group in groups]
    assert sorted(name for group in found for name in group) == sorted(names.values())
    assert "encoder.layers.0.self_attn.linear_q.weight" in found[0]
    assert "encoder.layers.0.conv_module.pointwise_conv1.weight" in found[0]
    assert {"lm_head.weight", "feature_extractor.conv_layers.0.conv.weight"} <= set(found[1])
    assert "encoder.layers.0.self_attn.pos_bias_u" in found[2]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.01, 0.0]
