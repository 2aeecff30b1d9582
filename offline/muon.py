"""Muon for weight matrices, AdamW for the rest, as one optimiser.

Muon (Jordan et al. 2024) steps along the orthogonalised momentum of a matrix; scaled to the size of AdamW's steps (Liu
et al. 2025, arXiv 2502.16982) both take the same learning rate and weight decay.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

QUINTIC = (3.4445, -4.775, 2.0315)  # pushes singular values between 0 and 1 to about 1 in five rounds
MOMENTUM = 0.95
ADAM_RMS = 0.2  # what AdamW's steps usually come to, root mean square, in units of the learning rate


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Returns about U V' of matrix [N, M] = U S V', by Newton-Schulz iterations, in bfloat16."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Muon for the first group, AdamW for the others; the groups of `groups_of` are meant.

    Of several processes with the same gradients each orthogonalises its share of the matrices.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            changes = self._muon(learning) if group["muon"] else (self._adam(p, group) for p in learning)
            for parameter, change in zip(learning, changes, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])

    def _muon(self, parameters: list[Tensor]) -> Iterator[Tensor]:
        """The directions of all matrices, those that other processes found included."""
        several = distributed.is_available() and distributed.is_initialized()
        rank, processes = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        found = []
        for index, parameter in enumerate(parameters):
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            if index % processes == rank:
                ahead = parameter.grad.lerp(momentum, MOMENTUM)  # type: ignore[union-attr]
                found.append(orthogonalise(ahead.flatten(1)).flatten())
            else:
                found.append(torch.zeros(parameter.numel(), dtype=torch.bfloat16, device=parameter.device))
        flat = torch.cat(found) if found else torch.zeros(0)
        if processes > 1:
            distributed.all_reduce(flat)  # of zeros, but for one process: nothing is rounded
        for parameter, direction in zip(parameters, flat.split([len(d) for d in found]), strict=True):
            size = ADAM_RMS * max(len(parameter), parameter[0].numel()) ** 0.5
            yield direction.float().view_as(parameter) * size

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state |= {
                "step": 0,
                "mean": torch.zeros_like(parameter),
                "square": torch.zeros_like(parameter),
            }
        state["step"] += 1
        mean = state["mean"].lerp_(parameter.grad, 1 - beta1)
        square = state["square"].lerp_(parameter.grad.square(), 1 - beta2)  # type: ignore[union-attr]
        root = (square / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        return mean / (1 - beta1 ** state["step"]) / root


def groups_of(model: nn.Module, decaying: set[str], weight_decay: float) -> list[dict[str, Any]]:
    """Returns the parameters that learn in three groups: matrices of the encoder, other decaying ones, the rest.

    What is no matrix between hidden states stays with AdamW, as is usual: the convolutions on the waveform, the
    depthwise ones, and the output layer.
    """
    learning = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    outer = ("feature_extractor", "lm_head", "depthwise_conv")
    muon = {name for name, _ in learning if name in decaying and not any(part in name for part in outer)}
    return [
        {"params": [v for n, v in learning if n in muon], "muon": True, "weight_decay": weight_decay},
        {
            "params": [v for n, v in learning if n in decaying - muon],
            "muon": False,
            "weight_decay": weight_decay,
        },
        {"params": [v for n, v in learning if n not in decaying], "muon": False, "weight_decay": 0.0},
    ]
