"""Multi-head latent attention: a frame leaves one small latent in memory, from which K and V are made.

K and V are both linear in the layer's input x, so one latent c = A x can stand for both: K = W_UK c, V = W_UV c (a
`joint` latent of r values), or one latent for each (`separate`, r_k + r_v values).

There are no K and V biases: b_K adds the same to all scores of a query and so drops out of the softmax, and b_V passes
through it (the weights sum to 1) into the output bias. The position scores never touch K, so latents are position-free.
Rotary positions turn the input of K but not of V; then no single latent serves both, and `joint` is refused.

`mha.py` has the same methods in the same order: the difference between the files is what MLA is.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.attention import SelfAttention
from asr.config import ModelConfig


class MultiHeadLatentAttention(SelfAttention):
    """softmax((q + u) k' + position) v, with K = W_UK c and V = W_UV c."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config)
        width, attention = config.hidden_size, config.attention
        self.joint = attention.latent == "joint"
        self.rank_k = attention.rank[layer] if self.joint else attention.rank_k[layer]
        self.rank_v = attention.rank[layer] if self.joint else attention.rank_v[layer]
        if self.joint:
            self.linear_latent = nn.Linear(width, self.rank_k, bias=False)
        else:
            self.linear_latent_k = nn.Linear(width, self.rank_k, bias=False)
            self.linear_latent_v = nn.Linear(width, self.rank_v, bias=False)
        self.linear_up_k = nn.Linear(self.rank_k, width, bias=False)
        self.linear_up_v = nn.Linear(self.rank_v, width, bias=False)

    def memory(self, turned: Tensor, x: Tensor) -> Tensor:
        if self.joint:
            return self.linear_latent(turned)
        return torch.cat((self.linear_latent_k(turned), self.linear_latent_v(x)), dim=-1)

    def attend(self, query: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        latent_k, latent_v = (
            (memory, memory) if self.joint else memory.split((self.rank_k, self.rank_v), dim=-1)
        )
        if self.absorbs(query.shape[2], memory.shape[1]):
            return self.attend_absorbed(query, latent_k, latent_v, bias)
        key, value = self.linear_up_k(latent_k), self.linear_up_v(latent_v)
        return self.weigh(query, self.split(key), self.split(value), bias)

    def attend_absorbed(
        self, query: Tensor, latent_k: Tensor, latent_v: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The same numbers without making K and V: each head's W_UK moves to its query, W_UV to its output.

        All heads read the same latents, so they are rows of one product with them: half the time, on a CPU in bfloat16,
        of fused attention with a copy of the latents for each head. The softmax is in float32, as in the fused kernels.
        """
        heads, frames = query.shape[1:3]
        up_k = self.linear_up_k.weight.unflatten(0, (self.heads, self.head_size))  # [H, dh, r_k]
        up_v = self.linear_up_v.weight.unflatten(0, (self.heads, self.head_size))  # [H, dh, r_v]
        scores = ((query @ up_k).flatten(1, 2) @ latent_k.transpose(-1, -2)).unflatten(1, (heads, frames))
        scores = scores.float() if bias is None else scores.float() + bias
        weights = F.dropout(scores.softmax(-1).to(latent_v.dtype), self.dropout, self.training)
        attended = (weights.flatten(1, 2) @ latent_v).unflatten(1, (heads, frames))
        return attended @ up_v.transpose(-1, -2)

    def absorbs(self, queries: int, keys: int) -> bool:
        """Whether the absorbed path costs fewer multiplications for so many queries and keys.

        absorbed: N D (r_k + r_v) + N S H (r_k + r_v); expanded: S D (r_k + r_v) + 2 N S D.
        """
        width, ranks = self.heads * self.head_size, self.rank_k + self.rank_v
        absorbed = queries * ranks * (width + keys * self.heads)
        return absorbed < keys * width * (ranks + 2 * queries)
