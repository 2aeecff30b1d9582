"""Keys and values of low rank: their weights' nuclear norm is held down while a model learns.

A latent of r values carries keys and values exactly where [W_K; W_V] has rank r. Training from random weights leaves it
of full rank, noise included, since nothing takes away what nobody uses. The proximal step of t times the nuclear norm
does: it lowers every singular value by t, down to 0 (Cai, Candes and Shen 2010, arXiv 0810.3286, theorem 2.1).
"""

import torch
from torch import Tensor

from asr.encoder import ConformerCTC
from asr.mha import MultiHeadAttention

EVERY = 5  # steps from one proximal step to the next, each as large as so many: they cost time


def lower_singular_values(matrix: Tensor, threshold: float) -> Tensor:
    """Returns U max(S - threshold, 0) V' of matrix [N, M] = U S V'."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return (u * (s - threshold).clamp(min=0)) @ vt


@torch.no_grad()
def lower_rank(model: ConformerCTC, threshold: float) -> None:
    """Takes the proximal step on [W_K; W_V] [2 * width, width] of every layer, in place."""
    for layer in model.encoder.layers:
        attention = layer.self_attn
        if isinstance(attention, MultiHeadAttention):
            keys, values = attention.linear_k.weight, attention.linear_v.weight
            lowered = lower_singular_values(torch.cat([keys, values]), threshold)
            keys.copy_(lowered[: len(keys)])
            values.copy_(lowered[len(keys) :])
