"""The output projection of a converted attention, fitted anew to what the attention put out before.

The factors are the best that K and V allow each by itself; what both lose together is in part a linear function of
what the heads still give. With z [T, D] the heads' outputs of the converted attention and y [T, D] what the original
one put out of the same inputs, the step of W_O and b_O minimises

    sum_t |W_O z_t + b_O - y_t|^2 + eps |step of W_O|^2

which is a ridge regression about the weights that are there: no parameter is added, and nothing is trained.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.attention import SelfAttention
from asr.encoder import ConformerLayer
from offline.calibration import Calibration, attention_input

RIDGE = 0.01  # of the mean square of a value of z; a tenth or ten times of it changed nothing that could be measured


@torch.no_grad()
def refit_output(
    old: ConformerLayer, new: ConformerLayer, calibration: Calibration, chain: Sequence[Tensor]
) -> None:
    """Set W_O and b_O of the new layer's attention; the old layer keeps its own.

    Args:
        old: the MHA layer.
        new: the same layer with its latents settled.
        calibration: runs them.
        chain: [T, D] each, what reaches the layer in each clip.
    """
    attention = new.get_submodule("self_attn")
    assert isinstance(attention, SelfAttention)
    out = attention.linear_out
    width = out.weight.shape[1]
    moments = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    wanted = torch.zeros(width + 1, len(out.weight), dtype=torch.float64)
    for hidden in chain:
        x = attention_input(old, hidden)
        heads, found = _attend(new, calibration, hidden, x)
        given = torch.cat((heads, torch.ones(len(x), 1)), -1).double()
        moments += given.T @ given
        wanted += given.T @ (calibration.attend(old, hidden, x) - found).double()
    ridge = torch.full((width + 1,), RIDGE * float(moments.diagonal()[:-1].mean()), dtype=torch.float64)
    ridge[-1] = 0  # the bias is free
    step = torch.linalg.solve(moments + ridge.diag(), wanted)
    out.weight = nn.Parameter((out.weight.double() + step[:-1].T).to(out.weight.dtype))
    out.bias.copy_(out.bias.double() + step[-1])


def _attend(
    layer: ConformerLayer, calibration: Calibration, hidden: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """What the heads give to the output projection, and what that makes of it, [T, D] each."""
    attention = layer.get_submodule("self_attn")
    assert isinstance(attention, SelfAttention)
    caught: list[Tensor] = []
    hook = attention.linear_out.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        found = calibration.attend(layer, hidden, x)
    finally:
        hook.remove()
    return caught[0][0], found
