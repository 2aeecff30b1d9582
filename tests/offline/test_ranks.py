"""Requests become ranks, and a greedy allocation keeps the budget and spends it best."""

import itertools

import pytest
import torch

from offline.ranks import Ranks, allocated, greedy, rank_of, uniform
from tests.conftest import tiny_config

RANKS = [
    (160, (None, 0.75), 80),
    (160, (None, 0.8), 64),  # exactly a fifth, although 320 * (1 - 0.8) is a little less
    (160, (None, 0.9), 32),
    (1024, (None, 0.5), 1024),
    (1024, (None, 0.75), 512),
    (1024, (None, 0.875), 256),
    (1024, (None, 0.8), 400),
    (1024, (None, 0.9), 192),
    (1024, (200, 0.5), 192),
]


@pytest.mark.parametrize(("width", "options", "rank"), RANKS)
def test_joint_ranks(width: int, options: tuple, rank: int) -> None:
    assert rank_of(width, *options) == rank


@pytest.mark.parametrize(("options", "rank"), [((None, 0.5), 512), ((None, 0.75), 256), ((512, 0.9), 512)])
def test_simple_ranks_are_of_each_latent(options: tuple, rank: int) -> None:
    assert rank_of(1024, *options, joint=False) == rank


@pytest.mark.parametrize(
    ("options", "joint", "said"),
    [((33, 0.5), True, "latent_dim 33.*2 to 32"), ((None, 0.3), True, "saves 0.5 to"),
     ((None, 0.99), False, "cache_reduction 0.99"), ((None, 1.0), True, "0 values")],
)  # fmt: skip
def test_what_does_not_fit_is_named(options: tuple, joint: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rank_of(32, *options, joint=joint)


def spectra(seed: int, count: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(count, width, generator=generator) ** 3 * 10.0 ** torch.arange(count)[:, None]
    return list(sizes.sort(dim=1, descending=True).values)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_keeps_the_budget_and_no_other_allocation_keeps_more(seed: int) -> None:
    gains = spectra(seed, 3, 8)
    found = greedy(gains, rank=4, step=2)
    assert sum(found) == 12 and all(2 <= rank <= 8 and rank % 2 == 0 for rank in found)

    def kept(ranks: tuple[int, ...]) -> float:
        return sum(float(gain[:rank].sum()) for gain, rank in zip(gains, ranks, strict=True))

    all_ranks = [ranks for ranks in itertools.product((2, 4, 6, 8), repeat=3) if sum(ranks) == 12]
    assert kept(tuple(found)) == pytest.approx(max(map(kept, all_ranks)))


def test_greedy_beats_uniform_where_one_layer_needs_more() -> None:
    flat, steep = torch.ones(8), torch.tensor([100.0, *[0.0] * 7])
    assert greedy([flat, steep], rank=4, step=2) == [6, 2]
    assert greedy([flat, flat], rank=8, step=2) == [8, 8]  # nothing beyond the width
    assert greedy([flat], rank=2, step=2) == [2]


def test_allocated_ranks_go_to_layers_or_to_layers_and_sides() -> None:
    flat, steep = torch.ones(32), torch.tensor([100.0, *[0.0] * 31])
    joint = allocated([flat, steep, steep], uniform(8, 3), tiny_config())
    assert joint == Ranks(True, (20, 2, 2), (20, 2, 2))
    assert joint.attention("mha", "weight").rank == (20, 2, 2) and joint.row(0) == {"rank": 20}
    apart = allocated([steep] * 3 + [flat, steep, steep], uniform(8, 3, joint=False), tiny_config())
    assert sum(apart.k) + sum(apart.v) == 6 * 8 and not apart.joint
    assert apart.v[0] == 32 and max(apart.k) < 16
    assert apart.row(0) == {"rank_k": apart.k[0], "rank_v": 32}
