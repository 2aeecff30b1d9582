"""Positions: relative (Transformer-XL) scores and rotary turns.

B clips, H heads, N query frames, S key frames, D model width. The N queries are the last N of the S keys.
"""

import math

import torch
from torch import Tensor


def relative_table(queries: int, keys: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoids [N + S, D] of the offsets i - j from S - 1 (key far to the left) down to -N.

    sin in even columns, cos in odd ones, wavelengths from 2 pi to 10,000 * 2 pi (Dai et al. 2019, arXiv 1901.02860).
    The last offset is never asked for; it makes `relative_shift` a plain view.
    """
    offsets = torch.arange(keys - 1, -queries - 1, -1, device=device, dtype=torch.float32)
    rates = torch.exp(
        torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / width)
    )
    angles = offsets[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(dtype)


def relative_shift(scores: Tensor, keys: int) -> Tensor:
    """[..., N, N + S] by offset -> [..., N, S] by key.

    Key j of query i has the offset (S - N + i) - j, which `relative_table` holds in row N - 1 - i + j: each row of the
    result starts one column earlier than the row above, so dropping one column from the row pitch lines them up.
    """
    queries, columns = scores.shape[-2:]
    flat = scores.flatten(-2)[..., queries - 1 : queries - 1 + queries * (columns - 1)]
    return flat.unflatten(-1, (queries, columns - 1))[..., :keys]


def rotary_table(
    frames: int, head_size: int, base: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """cos and sin [2, T, dh] of the rotary angles t * base^(-2i/dh), each angle twice (Su et al., arXiv 2104.09864)."""
    rates = base ** (-torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates
    angles = torch.cat((angles, angles), dim=-1)
    return torch.stack((angles.cos(), angles.sin())).to(dtype)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn [B, T, D] head by head. This model turns the *input* of Q and K, where language models turn Q and K."""
    heads = x.unflatten(-1, (-1, table.shape[-1]))
    first, second = heads.chunk(2, dim=-1)
    cos, sin = table[:, :, None]
    return (heads * cos + torch.cat((-second, first), dim=-1) * sin).flatten(-2)
