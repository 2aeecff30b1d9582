"""What the two attention variants share: queries, position scores, the softmax.

B clips, H heads, T frames (N of them queries, S keys), D model width, dh = D / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.cache import LayerState
from asr.config import ModelConfig
from asr.positions import relative_shift, rotate


class SelfAttention(nn.Module):
    """One layer's self-attention. A variant says what a frame leaves in memory, and how queries read it.

    Parameter names are those of `transformers`' `Wav2Vec2ConformerSelfAttention`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.head_size = config.head_size
        self.scale = self.head_size**-0.5
        self.relative = config.position_embeddings_type == "relative"
        self.dropout = config.attention_dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        if self.relative:
            self.linear_pos = nn.Linear(width, width, bias=False)
            self.pos_bias_u = nn.Parameter(torch.zeros(self.heads, self.head_size))
            self.pos_bias_v = nn.Parameter(torch.zeros(self.heads, self.head_size))

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        state: LayerState | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D].

        Without `state` x is the whole signal: `positions` is `relative_table`'s [2T, D] or `rotary_table`'s
        [2, T, dh], `mask` a bool [B, 1, T, T], True where a query may look. With it x is one block of C frames of each
        stream, after F frames in the state's ring: `mask` is a bool [B, 1, 1, F + C], and rotary `positions` are the
        blocks' own tables [2, B, C, dh]; relative ones are the state's.

        `rows` [B or 1, N, S] says which row of the relative table each pair of a query and a key takes, where frames do
        not follow one another: in a ring, and in `blocks`, whose copies then stand for the T frames.
        """
        turned = x if self.relative else rotate(x, positions)
        query = self.split(self.linear_q(turned)) * self.scale
        memory = self.memory(turned, x)
        if state is not None:
            memory = state.after_past(memory)
        table = None if state is None else state.table
        bias = self.bias(query, positions, memory.shape[1], mask, table, rows)
        if self.relative:
            query = query + self.pos_bias_u[:, None] * self.scale
        return self.linear_out(self.attend(query, memory, bias).transpose(1, 2).flatten(2))

    def memory(self, turned: Tensor, x: Tensor) -> Tensor:
        """[B, T, D] (rotated for K where positions are rotary) and [B, T, D] -> what a cache keeps, [B, T, values]."""
        raise NotImplementedError

    def attend(self, query: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        """Scaled queries [B, H, N, dh], memory [B, S, values], additive [B, H or 1, N, S] bias -> [B, H, N, dh]."""
        raise NotImplementedError

    def split(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, dh]."""
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)

    def bias(
        self,
        query: Tensor,
        positions: Tensor,
        keys: int,
        mask: Tensor | None,
        table: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor | None:
        """What is added to the content scores of scaled queries: (q + v) P(i - j), and -inf where the mask forbids.

        `table` is that of relative `positions`, where it was made beforehand; `rows` are those of `forward`.
        """
        if not self.relative:
            if mask is None:
                return None
            return torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(
                ~mask, -torch.inf
            )
        query = query + self.pos_bias_v[:, None] * self.scale
        bias = query @ (self.table(positions) if table is None else table).transpose(-1, -2)
        if rows is None:
            bias = relative_shift(bias, keys)
        else:
            bias = bias.gather(-1, rows[:, None].expand(len(query), self.heads, -1, -1))
        return bias if mask is None else bias.masked_fill(~mask, -torch.inf)

    def table(self, positions: Tensor) -> Tensor:
        """`relative_table`'s [offsets, D], projected: [1, H, offsets, dh]."""
        return self.split(self.linear_pos(positions)[None])

    def weigh(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(query key' + bias) value, all [B, H, N or S, ...]; the queries are scaled already.

        Trained step by step: the fused kernels' gradients with a bias that needs one have given NaN (PyTorch #119320).
        """
        if not torch.is_grad_enabled():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        scores = query @ key.transpose(-1, -2)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return F.dropout(weights, self.dropout, self.training) @ value
