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


def ring_ages(starts: Tensor, left_context_frames: int) -> Tensor:
    """Frames [B] before each block -> int64 [B, F]: how many frames ago (1 to F) the ring's place m was written.

    Frame t lies at t mod F. A place of age a holds something once a frames have been heard.
    """
    places = torch.arange(left_context_frames, device=starts.device)
    return (starts[:, None] - 1 - places) % max(left_context_frames, 1) + 1


def relative_rows(ages: Tensor, size: int) -> Tensor:
    """[B, F] `ring_ages` -> int64 [B, N, F + N]: the row of `relative_table(N, F + N)` that holds query i's offset to
    each key, first the ring's in its own order, then those of the block of N frames itself.
    """
    left = ages.shape[1]
    query = torch.arange(size, device=ages.device)[:, None]
    to_ring = query + ages[:, None]
    to_block = (query - query.T).expand(len(ages), -1, -1)
    return left + size - 1 - torch.cat((to_ring, to_block), -1)


def rotary_table(frames: Tensor, head_size: int, base: float, dtype: torch.dtype) -> Tensor:
    """cos and sin [2, ..., dh] of the rotary angles t * base^(-2i/dh) of frames t [...], each angle twice.

    Su et al. 2021, arXiv 2104.09864.
    """
    rates = base ** (-torch.arange(0, head_size, 2, device=frames.device, dtype=torch.float32) / head_size)
    angles = frames.to(torch.float32)[..., None] * rates
    angles = torch.cat((angles, angles), dim=-1)
    return torch.stack((angles.cos(), angles.sin())).to(dtype)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn [B, T, D] head by head, by a table [2, T, dh] or [2, B, T, dh].

    This model turns the *input* of Q and K, where language models turn Q and K.
    """
    heads = x.unflatten(-1, (-1, table.shape[-1]))
    first, second = heads.chunk(2, dim=-1)
    cos, sin = table.unsqueeze(-2)
    return (heads * cos + torch.cat((-second, first), dim=-1) * sin).flatten(-2)
