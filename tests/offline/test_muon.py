"""Muon: orthogonal steps, AdamW where it is AdamW, the right parameters in the right group."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from offline.muon import Muon, groups_of, orthogonalise
from tests.conftest import tiny_model


def test_orthogonalised_has_singular_values_near_one_and_the_same_directions() -> None:
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12), (16, 16)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = left.T @ orthogonalise(matrix).float() @ right.T
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


def _steps(rank: int, folder: Path, processes: int) -> None:
    """Three steps on gradients that every process draws alike; saves weights and momenta."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{processes}", rank=rank, world_size=processes
    )
    draws = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draws).requires_grad_() for shape in ((12, 7), (5, 9), (8, 4, 3))]
    optimiser = Muon([{"params": weights, "muon": True, "weight_decay": 0.1}], 0.1, (0.9, 0.98))
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimiser.step()
    momenta = [optimiser.state[weight]["momentum"] for weight in weights]
    tensors = {str(index): tensor.detach() for index, tensor in enumerate([*weights, *momenta])}
    save_file(tensors, folder / f"{processes}-{rank}.safetensors")
    distributed.barrier()
    os._exit(0)  # gloo's threads, taken down in order, have once aborted a process whose work was done


def test_processes_that_share_the_work_step_as_one_does(tmp_path: Path) -> None:
    for processes in (1, 2):
        spawn(_steps, (tmp_path, processes), processes)
    alone = load_file(tmp_path / "1-0.safetensors")
    for rank in (0, 1):
        shared = load_file(tmp_path / f"2-{rank}.safetensors")
        assert all(alone[name].equal(shared[name]) for name in alone)


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
