"""What live streams leave behind between two chunks: fixed slots, allocated once, stepped in any company.

S slots, B of them in one step, C frames a chunk, F frames of left context, R of look-ahead, w values that a frame
leaves in a layer's attention (K and V: 2 D; a latent: its width), D model width.

A step computes a block of R + C frames: those that waited, and the chunk. Its first C are final, and go into the cache;
the last R wait.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.config import ModelConfig

INT8_LIMIT = 127


class Ring:
    """One layer's last F frames of every slot, [S, F, w]; frame t lies at t mod F.

    With `int8`, each of a frame's parts (K and V, or a latent) is whole numbers times one float32 scale, its largest
    value over 127.
    """

    def __init__(self, slots: int, frames: int, parts: Sequence[int], int8: bool, like: Tensor) -> None:
        self.parts = list(parts)
        self.dtype = like.dtype
        shape = (slots, frames, sum(parts))
        self.values = torch.zeros(shape, dtype=torch.int8 if int8 else like.dtype, device=like.device)
        self.scales = torch.zeros(slots, frames, len(parts), device=like.device) if int8 else None

    def read(self, slots: Tensor) -> Tensor:
        """[B] -> [B, F, w] in the model's dtype, in the ring's order."""
        values = self.values.index_select(0, slots)
        if self.scales is None:
            return values
        scales = self.scales.index_select(0, slots).split(1, -1)
        pieces = zip(values.split(self.parts, -1), scales, strict=True)
        # rounded before they are joined: a quarter of the bytes moved again
        return torch.cat([(piece * scale).to(self.dtype) for piece, scale in pieces], -1)

    def write(self, slots: Tensor, at: Tensor, values: Tensor) -> None:
        """Puts values [B, n, w] at the ring's places `at` [B, n]."""
        place = (slots[:, None], at)
        if self.scales is None:
            self.values[place] = values
            return
        pieces = values.float().split(self.parts, -1)
        scales = torch.stack([piece.abs().amax(-1) for piece in pieces], -1).clamp(min=1e-12) / INT8_LIMIT
        whole = [(piece / scales[..., [i]]).round() for i, piece in enumerate(pieces)]
        self.values[place] = torch.cat(whole, -1).to(torch.int8)
        self.scales[place] = scales

    def tensors(self) -> list[Tensor]:
        return [self.values] if self.scales is None else [self.values, self.scales]


class Turn(NamedTuple):
    """Who steps, and what the layers need to know about it; the same for every layer.

    All int64: `slots` and `starts` are [B]; `rows` are those whose slots keep what the step leaves.
    """

    slots: Tensor
    starts: Tensor  # the frame that each block begins with, below 0 at a stream's beginning
    rows: Tensor


class LayerState:
    """One layer's share of the cache during one step: gives the past, and keeps the new."""

    def __init__(
        self, ring: Ring, convolution: Tensor, table: Tensor | None, turn: Turn, chunk_frames: int
    ) -> None:
        self.ring, self.convolution, self.table, self.turn = ring, convolution, table, turn
        self.chunk_frames = chunk_frames

    def after_past(self, memory: Tensor) -> Tensor:
        """The block's [B, C + R, w] after the ring's frames, [B, F + C + R, w]; then the ring takes the first C in.

        Those before the stream's beginning go in, too: the mask hides them, until others take their places.
        """
        past = self.ring.read(self.turn.slots)
        frames, capacity = self.chunk_frames, past.shape[1]
        if capacity:
            skipped, rows = max(frames - capacity, 0), self.turn.rows
            steps = torch.arange(skipped, frames, device=memory.device)
            at = (self.turn.starts[rows, None] + steps) % capacity
            self.ring.write(self.turn.slots[rows], at, memory[rows, skipped:frames])
        return torch.cat((past, memory), dim=1)

    def after_reach(self, x: Tensor) -> Tensor:
        """The convolution's input [B, D, C + R] after the 15 frames before it, [B, D, 15 + C + R]; keeps the last 15 of
        those that are final.
        """
        past = self.convolution.index_select(0, self.turn.slots)
        whole = torch.cat((past, x), dim=-1)
        last = whole[..., self.chunk_frames : self.chunk_frames + past.shape[-1]]
        self.convolution[self.turn.slots[self.turn.rows]] = last[self.turn.rows]
        return whole


class StreamCache:
    """The state of S streams. Made by `stream.new_cache`, moved on by `stream.step`.

    `frames` counts what each slot has heard; `ended` marks those whose last chunk was short, or whose last step failed:
    they need a reset.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        chunk_frames: int,
        left_context_frames: int,
        lookahead_frames: int,
        tables: list[Tensor],
        int8: bool,
        like: Tensor,
    ) -> None:
        """`like` gives device and dtype; `tables` are the layers' projected positions, if any.

        They are [1, H, F + 2 (C + R), dh].
        """
        self.slots, self.chunk_frames, self.left_context_frames = slots, chunk_frames, left_context_frames
        self.lookahead_frames = lookahead_frames
        self.chunk_samples = chunk_frames * config.hop_samples
        self.tables = tables
        layers = range(config.num_hidden_layers)
        self.rings = [
            Ring(slots, left_context_frames, config.cached_parts(layer), int8, like) for layer in layers
        ]
        reach = config.conv_depthwise_kernel_size // 2
        size = (len(layers), slots, config.hidden_size, reach)
        self.convolution = torch.zeros(size, dtype=like.dtype, device=like.device)
        waiting = (slots, lookahead_frames, config.hidden_size)
        self.waiting = torch.zeros(waiting, dtype=like.dtype, device=like.device)
        self.pcm_tail = torch.zeros(slots, config.tail_samples, device=like.device)
        self.sums = torch.zeros(slots, 2, dtype=torch.float64, device=like.device)
        self.frames = np.zeros(slots, np.int64)
        self.ended = np.zeros(slots, bool)

    def layers(self, turn: Turn) -> list[LayerState]:
        """The layers' shares for one step."""
        tables: Sequence[Tensor | None] = self.tables or [None] * len(self.rings)
        together = zip(self.rings, self.convolution, tables, strict=True)
        return [LayerState(ring, conv, table, turn, self.chunk_frames) for ring, conv, table in together]

    def advance(self, slots: Sequence[int], full: np.ndarray) -> None:
        """Counts a chunk for the slots whose chunk was full [B]; for the others the stream is over."""
        self.frames[slots] += np.where(full, self.chunk_frames, 0)
        self.ended[slots] = ~full

    def reset(self, slots: Sequence[int]) -> None:
        """Makes slots as new. Raises ValueError for one that is not there."""
        index = torch.tensor(self.checked(slots), dtype=torch.int64, device=self.pcm_tail.device)
        for tensor in (t for ring in self.rings for t in ring.tensors()):
            tensor[index] = 0  # masked already, but a NaN would come through a weight of zero
        self.convolution[:, index] = 0
        self.waiting[index] = 0
        self.pcm_tail[index] = 0
        self.sums[index] = 0
        self.frames[list(slots)], self.ended[list(slots)] = 0, False

    def checked(self, slots: Sequence[int]) -> list[int]:
        """The slots as given. Raises ValueError where one is named twice or is not there."""
        missing = [slot for slot in slots if not 0 <= slot < self.slots]
        if missing or len(set(slots)) < len(slots):
            raise ValueError(f"slots are {list(slots)}; give each at most once, from 0 to {self.slots - 1}")
        return list(slots)

    @property
    def bytes_by_part(self) -> dict[str, int]:
        """What is allocated for all slots, read from the tensors: attention, convolution, and the rest."""
        attention = sum(tensor.nbytes for ring in self.rings for tensor in ring.tensors())
        rest = (
            self.waiting.nbytes
            + self.pcm_tail.nbytes
            + self.sums.nbytes
            + self.frames.nbytes
            + self.ended.nbytes
        )
        return {"attention": attention, "convolution": self.convolution.nbytes, "rest": rest}

    @property
    def nbytes(self) -> int:
        """All of it; the position tables, which the slots share, are `table_bytes`."""
        return sum(self.bytes_by_part.values())

    @property
    def bytes_per_slot(self) -> int:
        return self.nbytes // self.slots

    @property
    def table_bytes(self) -> int:
        return sum(table.nbytes for table in self.tables)
