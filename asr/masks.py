"""Which frame may see which: padding, and the chunks of the streaming operator.

B clips, T frames. True means "may be seen".
"""

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """[B] lengths -> bool [B, T]: True up to each clip's own length."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def chunk_mask(frames: int, chunk_frames: int, left_context_frames: int, device: torch.device) -> Tensor:
    """bool [T, T]: a frame (row) sees its whole chunk and the `left_context_frames` frames (F) before that chunk.

    With 6 frames, chunks of 2 and F = 1:

        1 1 . . . .
        1 1 . . . .
        . 1 1 1 . .
        . 1 1 1 . .
        . . . 1 1 1
        . . . 1 1 1
    """
    index = torch.arange(frames, device=device)
    start = (index // chunk_frames * chunk_frames)[:, None]
    return (index >= start - left_context_frames) & (index < start + chunk_frames)


def attention_mask(valid: Tensor, chunks: Tensor | None) -> Tensor | None:
    """bool [B, T] and optional bool [T, T] -> bool [B, 1, T, T] of the pairs that count; None when all do.

    A padded frame sees everything, so that no row is empty (a softmax over nothing is NaN); what it computes is never
    read.
    """
    if chunks is None and bool(valid.all()):
        return None
    seen = valid[:, None, :] if chunks is None else chunks & valid[:, None, :]
    return (seen | ~valid[:, :, None])[:, None]
