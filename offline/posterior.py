"""How the posteriors feel an error of K or V: second moments of gradients, one pass back through the model.

Near the model as it is, KL(original || converted) of a frame's posteriors is 1/2 d' F d for an error d, with F the
Fisher information E[g g'], g the gradient of the log-probability of tokens drawn from the model's own posteriors
(Amari 1998). Taken of what the K and V projections put out, and with errors and gradients as if independent (Martens &
Grosse 2015, arXiv 1503.05671), an error W - W' costs tr(F (W - W') C (W - W')') / 2 nats a frame for inputs of moments
C. So F is a metric for factors of K and V, in a unit that K, V and all layers share: nothing is left to balance.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from asr.encoder import ConformerCTC, ConformerLayer
from offline.calibration import Calibration

Felt = tuple[Tensor, Tensor]  # F of K and of V, [D, D] each, float64
SEED = 0


@torch.enable_grad()
def felt(model: ConformerCTC, calibration: Calibration) -> list[Felt]:
    """F of K and V of every layer, over the calibration's clips; they have to be before the first layer."""
    layers = [layer for layer in model.encoder.layers if isinstance(layer, ConformerLayer)]
    width = model.config.hidden_size
    moments = [torch.zeros(width, width, dtype=torch.float64) for _ in range(2 * len(layers))]
    draws = torch.Generator().manual_seed(SEED)
    for hidden in tqdm(calibration.original, "gradients", unit="clip"):
        with _outputs(layers) as outputs:
            x = hidden.clone().requires_grad_()
            for layer in layers:
                x = calibration.run(layer, x)
            log_probs = model.lm_head(model.encoder.layer_norm(x)).float().log_softmax(-1)
        tokens = torch.multinomial(log_probs.detach().exp().cpu(), 1, generator=draws).to(log_probs.device)
        gradients = torch.autograd.grad(log_probs.gather(-1, tokens).sum(), outputs)
        for moment, gradient in zip(moments, gradients, strict=True):
            found = gradient[0].double().cpu()
            moment += found.T @ found
    each = [moment / calibration.frames for moment in moments]
    return list(zip(each[::2], each[1::2], strict=True))


@contextmanager
def _outputs(layers: Sequence[ConformerLayer]) -> Iterator[list[Tensor]]:
    """Collects what the projections of K and V put out while it is open: K's and V's of each layer in turn."""
    outputs: list[Tensor] = []
    hooks = [
        layer.get_submodule(f"self_attn.linear_{side}").register_forward_hook(
            lambda _, __, output: outputs.append(output)
        )
        for layer in layers
        for side in "kv"
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
