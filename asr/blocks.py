"""Chunks with look-ahead, laid out of a whole signal.

Block k holds what a stream computes when it has heard chunk k: the R frames that waited, and the chunk's C. The first C
of these C + R are then final; the last R wait, and are computed once more in the next block, where they see further. So
a frame has two copies that differ from the first layer on, and a mask alone cannot say what a stream does: the copies
are laid out side by side, and each sees its own block and the final copies of the F frames before it.

The last block is that of the chunk which is not full, if only by having no frame: all in it is final.

B clips, T frames, K = T // C + 1 blocks, N = K (C + R) copies, D model width.
"""

import torch
from torch import Tensor


class Blocks:
    """Which frames the copies stand for, and which copy of a frame is final.

    `frames` int64 [N] may lie before the clip; `valid` bool [B, N] says whether there is such a frame; `mask` is bool
    [B, 1, N, N], True where a copy (row) sees another.
    """

    def __init__(
        self, lengths: Tensor, total: int, chunk_frames: int, left_context_frames: int, lookahead_frames: int
    ) -> None:
        """`lengths` [B] of clips padded to `total` frames (T)."""
        self.size, self.count = chunk_frames + lookahead_frames, total // chunk_frames + 1
        block = torch.arange(self.count, device=lengths.device).repeat_interleave(self.size)
        place = torch.arange(self.size, device=lengths.device).repeat(self.count)
        self._start = block * chunk_frames - lookahead_frames
        self.frames = self._start + place
        last = lengths[:, None] // chunk_frames
        self.valid = (self.frames >= 0) & (self.frames < lengths[:, None]) & (block <= last)
        final = self.valid & ((place < chunk_frames) | (block == last))
        before = (block < block[:, None]) & (self.frames >= self._start[:, None] - left_context_frames)
        seen = self.valid[:, None] & ((block == block[:, None]) | before & final[:, None])
        seen = seen | ~self.valid[..., None]  # a row without a frame sees all: nobody reads it
        self.mask = seen[:, None]
        frame = torch.arange(total, device=lengths.device)
        home = ((frame + lookahead_frames) // chunk_frames).minimum(last)
        self._final = (home * lookahead_frames + frame + lookahead_frames).clamp(max=len(block) - 1)  # [B, T]

    def spread(self, x: Tensor) -> Tensor:
        """[B, T, D] -> copies [B, N, D]."""
        return x[:, self.frames.clamp(0, x.shape[1] - 1)]

    def final(self, x: Tensor) -> Tensor:
        """Copies [B, N, D] -> the final ones [B, T, D]."""
        return x.gather(1, self._final[..., None].expand(-1, -1, x.shape[-1]))

    def cut(self, x: Tensor, reach: int) -> Tensor:
        """Copies [B, D, N] -> [B K, D, reach + C + R]: each block after the final copies of the frames before it."""
        final = torch.nn.functional.pad(self.final(x.transpose(1, 2)).transpose(1, 2), (reach, 0))
        first = self._start[:: self.size]
        window = torch.arange(reach, device=x.device)
        past = final[..., (first[:, None] + window).clamp(0, final.shape[-1] - 1)]  # [B, D, K, reach]
        whole = torch.cat((past, x.unflatten(-1, (self.count, self.size))), -1)
        return whole.transpose(1, 2).flatten(0, 1)
