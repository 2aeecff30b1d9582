"""How wide the latents are: a request -> ranks of every layer, the same everywhere or by greedy allocation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from asr.config import Attention, ModelConfig


@dataclass(frozen=True)
class Ranks:
    """Latent values a frame of every layer: `k` and `v` are the same latent's where `joint`."""

    joint: bool
    k: tuple[int, ...]
    v: tuple[int, ...]

    def attention(self, source: str, method: str) -> Attention:
        """What config.json says of a model with these."""
        if self.joint:
            return Attention(kind="mla", latent="joint", rank=self.k, source=source, method=method)
        return Attention(
            kind="mla", latent="separate", rank_k=self.k, rank_v=self.v, source=source, method=method
        )

    def row(self, layer: int) -> dict[str, int]:
        """What a report's line says of them."""
        return {"rank": self.k[layer]} if self.joint else {"rank_k": self.k[layer], "rank_v": self.v[layer]}


def uniform(rank: int, layers: int, joint: bool = True) -> Ranks:
    """The same rank everywhere."""
    return Ranks(joint, (rank,) * layers, (rank,) * layers)


def step_of(width: int) -> int:
    """Ranks are multiples of this: what matrix kernels like, or 2 in small models."""
    return 16 if width >= 512 else 2


def rank_of(width: int, latent_dim: int | None, cache_reduction: float, joint: bool = True) -> int:
    """Values of each latent: as given, or what leaves (1 - reduction) of the 2 D that K and V take.

    Rounded down to a multiple of `step_of`. Raises ValueError where that does not fit the width.
    """
    whole = 2 * width if joint else width
    wanted = round(whole * (1 - cache_reduction), 6)  # 320 * (1 - 0.8) is 63.99..., and 64 is meant
    rank = math.floor(wanted) if latent_dim is None else latent_dim
    step = step_of(width)
    if not step <= rank <= width:
        asked = f"--latent_dim {latent_dim}" if latent_dim else f"--cache_reduction {cache_reduction:g}"
        raise ValueError(
            f"{asked} makes a latent of {rank} values; a model of width {width} takes {step} to {width}, which saves "
            f"{1 - width / whole:g} to {1 - step / whole:g} of the cache"
        )
    return rank // step * step


def greedy(gains: Sequence[Tensor], rank: int, step: int) -> list[int]:
    """Ranks with a sum of len(gains) * rank, each a multiple of `step` (which has to divide `rank`), at least one step.

    `gains` [D] each, falling: what each further rank of a latent is worth, in a unit that all share. As they fall,
    taking the best next step each time is the best allocation.
    """
    ranks = [step] * len(gains)
    blocks = [
        gain.unflatten(0, (-1, step)).sum(1).tolist() for gain in (g[: len(g) // step * step] for g in gains)
    ]
    for _ in range(len(gains) * (rank // step - 1)):
        open_ones = [i for i, block in enumerate(blocks) if ranks[i] // step < len(block)]
        best = max(open_ones, key=lambda i: blocks[i][ranks[i] // step])
        ranks[best] += step
    return ranks


def allocated(gains: Sequence[Tensor], ranks: Ranks, config: ModelConfig) -> Ranks:
    """The same total, shared out greedily: `gains` of every layer where joint, else of K of every layer, then of V."""
    found = greedy(gains, ranks.k[0], step_of(config.hidden_size))
    layers = config.num_hidden_layers
    return Ranks(ranks.joint, tuple(found[:layers]), tuple(found[-layers:]))
