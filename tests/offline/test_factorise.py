"""The factors are the best there are, by every measure that they promise to be the best for."""

import pytest
import torch
from torch import Tensor

from offline.factorise import Joint, Side, damped, relative_error, roots, separate, side, spectrum

WIDTH = 8
RANKS = (2, 5)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(seed: int) -> Tensor:
    """Of inputs whose directions differ in size by far."""
    x = (
        draw(seed, 4 * WIDTH, WIDTH)
        @ torch.diag(2.0 ** -torch.arange(WIDTH)).double()
        @ draw(seed + 1, WIDTH, WIDTH)
    )
    return x.T @ x / len(x)


@pytest.fixture
def sides() -> tuple[Side, Side]:
    """K and V with inputs and metrics of their own."""
    k, v = (side(draw(seed, WIDTH, WIDTH), moments(10 * seed), moments(10 * seed + 5)) for seed in (1, 2))
    return k, v


def descended(k: Side, v: Side, balance: float, start: list[Tensor]) -> float:
    """The least a^2 E_K + E_V that gradient descent finds from these factors (latent, up_k, up_v)."""
    factors = [part.clone().requires_grad_() for part in start]
    optimiser = torch.optim.LBFGS(
        factors, max_iter=100, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        latent, up_k, up_v = factors
        total = torch.zeros((), dtype=torch.float64)
        for one, up, scale in ((k, up_k, balance**2), (v, up_v, 1.0)):
            error = one.weight - up @ latent
            total = total + scale * (one.metric @ error @ one.inputs * error).sum()
        total.backward()
        return total

    optimiser.step(loss)
    return loss().item()


@pytest.mark.parametrize("rank", RANKS)
def test_no_descent_beats_separate_factors(rank: int, sides: tuple[Side, Side]) -> None:
    one = sides[0]
    mine = one.energy(one.weight - separate(one, rank).product)
    still = side(torch.zeros(WIDTH, WIDTH))
    for seed in range(2):
        start = [draw(seed, rank, WIDTH), draw(seed + 7, WIDTH, rank), torch.zeros(WIDTH, rank).double()]
        assert mine <= descended(one, still, 1.0, start) * (1 + 1e-9)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("balance", [0.3, 3.0])
def test_no_descent_beats_joint_factors_of_like_inputs(
    rank: int, balance: float, sides: tuple[Side, Side]
) -> None:
    k, v = sides[0], Side(sides[1].weight, sides[0].inputs, sides[1].metric)
    problem = Joint(k, v)
    mine = problem.lost(*(f.product for f in problem.factors(rank, balance)), balance)
    for seed in range(2):
        start = [draw(seed, rank, WIDTH), draw(seed + 7, WIDTH, rank), draw(seed + 8, WIDTH, rank)]
        assert mine <= descended(k, v, balance, start) * (1 + 1e-9)


@pytest.mark.parametrize("rank", RANKS)
def test_sweeps_lower_the_error_to_where_no_descent_comes(rank: int, sides: tuple[Side, Side]) -> None:
    problem = Joint(*sides)
    balance = problem.equal_energy

    def lost(sweeps: int) -> float:
        return problem.lost(*(f.product for f in problem.factors(rank, balance, sweeps)), balance)

    errors = [lost(sweeps) for sweeps in (0, 1, 3, 10, 300)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.9 * errors[0]
    start = [draw(0, rank, WIDTH), draw(7, WIDTH, rank), draw(8, WIDTH, rank)]
    assert errors[-1] <= descended(*sides, balance, start)


def test_heads_that_hear_differently_are_fitted_each_to_its_own(sides: tuple[Side, Side]) -> None:
    one, own = sides[0], torch.stack([moments(30), moments(40)])
    headed = side(one.weight, own.mean(0), one.metric, own)
    factors = separate(headed, 3)
    rows = factors.product.chunk(2)
    assert torch.equal(factors.latent, separate(side(one.weight, own.mean(0), one.metric), 3).latent)
    for head in range(2):
        x = torch.linalg.cholesky(damped(own[head])).T  # inputs of these moments
        wanted = one.weight.chunk(2)[head]
        best = torch.linalg.lstsq(x @ factors.latent.T, x @ wanted.T).solution.T @ factors.latent
        assert torch.allclose(rows[head], best, atol=1e-8)


def test_of_a_diagonal_weight_the_largest_entries_stay() -> None:
    sizes = torch.tensor([1.0, 5.0, 3.0, 0.5, 4.0, 2.0]).double()
    kept = separate(side(torch.diag(sizes)), 3).product
    assert torch.allclose(kept, torch.diag(sizes * (sizes >= 3)), atol=1e-9)
    # inputs and metric decide with the weight: 1 * 0.5 * 9 is more than 2 * 1 * 1
    inputs, metric = torch.ones(6).double(), torch.ones(6).double()
    inputs[0], metric[3] = 81.0, 0.0
    best = separate(side(torch.diag(sizes), torch.diag(inputs), torch.diag(metric)), 2).product
    assert torch.allclose(best.diagonal(), sizes * torch.tensor([1, 1, 0, 0, 0, 0]), atol=1e-3)


def test_a_joint_latent_keeps_the_larger_sum_of_squares() -> None:
    k, v = torch.diag(torch.tensor([3.0, 0, 1, 0])), torch.diag(torch.tensor([0.0, 2, 3, 0]))
    kept_k, kept_v = (f.product for f in Joint(side(k), side(v)).factors(1, 1.0))
    only = torch.diag(torch.tensor([0.0, 0, 1, 0])).double()
    assert torch.allclose(kept_k, only, atol=1e-9) and torch.allclose(kept_v, 3 * only, atol=1e-9)
    kept_k, kept_v = (f.product for f in Joint(side(k), side(v)).factors(1, 10.0))
    assert float(kept_k[0, 0]) == pytest.approx(3) and float(kept_v.norm()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("balance", [1e-2, 1.0, 1e2])
def test_at_full_rank_nothing_is_lost_whatever_the_balance(balance: float, sides: tuple[Side, Side]) -> None:
    for factors, one in zip(Joint(*sides).factors(WIDTH, balance), sides, strict=True):
        assert (factors.product - one.weight).abs().max() < 1e-12
        assert (factors.latent @ factors.latent.T - torch.eye(WIDTH)).abs().max() < 1e-12


def test_error_falls_as_rank_grows_and_the_spectrum_says_how_far(sides: tuple[Side, Side]) -> None:
    one = sides[0]
    lost = [one.energy(one.weight - separate(one, rank).product) for rank in range(1, WIDTH + 1)]
    assert lost == sorted(lost, reverse=True)
    gains = spectrum(one)
    assert float(gains.sum()) == pytest.approx(one.energy(one.weight))
    for rank in RANKS:
        assert lost[rank - 1] == pytest.approx(float(gains[rank:].sum()), rel=1e-6)
    problem = Joint(one, Side(sides[1].weight, one.inputs, sides[1].metric))
    for rank in RANKS:
        lost_jointly = problem.lost(*(f.product for f in problem.factors(rank, 2.0)), 2.0)
        assert lost_jointly == pytest.approx(float(problem.spectrum(2.0)[rank:].sum()), rel=1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_weighed_factors_are_no_worse_than_plain_ones_by_their_own_measure(
    rank: int, sides: tuple[Side, Side]
) -> None:
    weighed = Joint(*sides)
    plain = Joint(side(sides[0].weight), side(sides[1].weight))
    balance = weighed.equal_energy
    own = weighed.lost(*(f.product for f in weighed.factors(rank, balance)), balance)
    for multiple in (0.25, 1.0, 4.0):
        other = plain.factors(rank, multiple * plain.equal_energy)
        assert own <= weighed.lost(*(f.product for f in other), balance)


def test_roots_and_damping() -> None:
    spread = damped(moments(3))
    root, inverse = roots(spread)
    assert torch.allclose(root @ root, spread, atol=1e-9 * float(spread.abs().max()))
    assert torch.allclose(root @ inverse, torch.eye(WIDTH).double(), atol=1e-8)
    assert (
        torch.linalg.eigvalsh(damped(torch.diag(torch.tensor([1.0, 0, 0])))).min() > 0
    )  # one direction never heard


def test_relative_error_is_that_of_outputs() -> None:
    weight, approximation, x = draw(1, 5, 5), draw(2, 5, 5), draw(3, 40, 5)
    plain = float((weight - approximation).norm() / weight.norm())
    assert relative_error(weight, approximation) == pytest.approx(plain)
    heard = float((x @ (weight - approximation).T).norm() / (x @ weight.T).norm())
    assert relative_error(weight, approximation, x.T @ x / 40) == pytest.approx(heard, rel=1e-3)
    assert relative_error(weight, weight) == 0
