"""Multi-head attention: a frame leaves its keys and values in memory, 2 D values.

`mla.py` has the same methods in the same order: the difference between the files is what MLA is.
"""

import torch
from torch import Tensor, nn

from asr.attention import SelfAttention
from asr.config import ModelConfig


class MultiHeadAttention(SelfAttention):
    """softmax((q + u) k' + position) v, with K = W_K x + b_K and V = W_V x + b_V."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)

    def memory(self, turned: Tensor, x: Tensor) -> Tensor:
        return torch.cat((self.linear_k(turned), self.linear_v(x)), dim=-1)

    def attend(self, query: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        key, value = memory.chunk(2, dim=-1)
        return self.weigh(query, self.split(key), self.split(value), bias)
