"""Linear algebra of the conversion: K and V weights -> low-rank factors. No files, no models.

D model width, r rank; everything is float64. An approximation W' of a weight W [D, D] is as bad as the energy (squared
norm) that it loses,

    E = tr(M (W - W') C (W - W')')

for inputs of second moments C [D, D] and a metric M [D, D] that says how much an error of each output value matters.
Written with roots, that is |M^(1/2) (W - W') C^(1/2)|^2, so the best W' of rank r is a truncated SVD between the roots
(Wang et al. 2024, SVD-LLM, arXiv 2403.07378). Its rows can be had without M^(1/2): with B the leading eigenvectors of
C^(1/2) W' M W C^(1/2), the latent is B' C^(-1/2), made orthonormal, and the up-projection its least-squares fit.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

DAMPING = 1e-4
SWEEPS = 3  # of alternating least squares; more changed nothing that could be measured


@dataclass(frozen=True)
class Side:
    """K or V as the factorisation sees it: `weight` W, second moments `inputs` C and `metric` M, each [D, D].

    `heads` [H, D, D]: the moments of each head's own inputs where they differ (`inputs` is then a mean of them). They
    do not choose the latent; the up-projection is fitted to them, head by head.
    """

    weight: Tensor
    inputs: Tensor
    metric: Tensor
    heads: Tensor | None = None

    def energy(self, weight: Tensor) -> float:
        """tr(M W C W') of any weight [D, D]: of `self.weight` the whole energy, of an error what it loses."""
        return float((self.metric @ weight @ self.inputs * weight).sum())

    @cached_property
    def gram(self) -> Tensor:
        return self.weight.T @ self.metric @ self.weight


@dataclass(frozen=True)
class Factors:
    """W ~ up @ latent, with `latent` [r, D] of orthonormal rows and `up` [D, r]."""

    latent: Tensor
    up: Tensor

    @property
    def product(self) -> Tensor:
        return self.up @ self.latent


def side(
    weight: Tensor, inputs: Tensor | None = None, metric: Tensor | None = None, heads: Tensor | None = None
) -> Side:
    """A side in float64; the inputs damped, identities for what is None."""
    identity = torch.eye(len(weight), dtype=torch.float64)
    moments = identity if inputs is None else damped(inputs)
    own = None if heads is None else torch.stack([damped(head) for head in heads])
    return Side(weight.detach().double(), moments, identity if metric is None else metric.double(), own)


def damped(moments: Tensor) -> Tensor:
    """C with a ten-thousandth of its mean diagonal added to the diagonal: nothing is never heard."""
    moments = moments.double()
    floor = DAMPING * moments.diagonal().mean()
    return moments + floor * torch.eye(len(moments), dtype=torch.float64)


def roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """C^(1/2) and its inverse, [D, D], of a positive definite C."""
    values, vectors = torch.linalg.eigh(moments)
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def separate(one: Side, rank: int) -> Factors:
    """The best factors of rank r for one side alone."""
    root, inverse = roots(one.inputs)
    basis = torch.linalg.eigh(root @ one.gram @ root)[1][:, -rank:]
    latent = torch.linalg.qr(inverse @ basis)[0].T
    return Factors(latent, fit(one, latent))


def spectrum(one: Side) -> Tensor:
    """[D], falling: the energy that each further rank of `separate` saves; they sum to all of it."""
    root = roots(one.inputs)[0]
    return torch.linalg.eigvalsh(root @ one.gram @ root).flip(0).clamp(min=0)


class Joint:
    """One latent for both sides: minimises a^2 E_K + E_V for a balance a, as often as asked.

    The SVD whitens both by V's inputs. Where K's inputs have moments of their own (centred within each clip), sweeps of
    alternating least squares follow, in which each side is measured by its own.
    """

    def __init__(self, k: Side, v: Side) -> None:
        self.k, self.v = k, v
        self.root, self.inverse = roots(v.inputs)
        self.alike = torch.equal(k.inputs, v.inputs)

    @cached_property
    def equal_energy(self) -> float:
        """The balance at which K and V have the same energy (TransMLA, arXiv 2502.07864, balances by norms)."""
        return float((self.v.energy(self.v.weight) / self.k.energy(self.k.weight)) ** 0.5)

    def spectrum(self, balance: float) -> Tensor:
        """[D], falling: what each further rank saves of a^2 E_K + E_V before any sweep."""
        return torch.linalg.eigvalsh(self._whitened(balance)).flip(0).clamp(min=0)

    def factors(self, rank: int, balance: float, sweeps: int = SWEEPS) -> tuple[Factors, Factors]:
        """Factors of K and of V with the same latent. At r = D their products are the weights, for any balance."""
        basis = torch.linalg.eigh(self._whitened(balance))[1][:, -rank:]
        latent = torch.linalg.qr(self.inverse @ basis)[0].T
        if not self.alike and rank < len(self.root):
            for _ in range(sweeps):
                latent = self._improved(latent, balance)
        return Factors(latent, fit(self.k, latent)), Factors(latent, fit(self.v, latent))

    def lost(self, k: Tensor, v: Tensor, balance: float) -> float:
        """a^2 E_K + E_V of approximations k and v, [D, D] each."""
        return balance**2 * self.k.energy(self.k.weight - k) + self.v.energy(self.v.weight - v)

    def _whitened(self, balance: float) -> Tensor:
        return self.root @ (balance**2 * self.k.gram + self.v.gram) @ self.root

    @cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        return _together(self.k.inputs, self.v.inputs)

    def _improved(self, latent: Tensor, balance: float) -> Tensor:
        """The best latent A for the up-projections that are best for the present one.

        Its normal equation is a^2 U_K'M_K U_K A C_K + U_V'M_V U_V A C_V = R. In the bases that diagonalise both pairs
        of matrices at once, every entry of A stands alone.
        """
        up_k = _least_squares(self.k.weight, self.k.inputs, latent)
        up_v = _least_squares(self.v.weight, self.v.inputs, latent)
        weighed_k, weighed_v = balance**2 * up_k.T @ self.k.metric, up_v.T @ self.v.metric
        wanted = weighed_k @ self.k.weight @ self.k.inputs + weighed_v @ self.v.weight @ self.v.inputs
        left, left_values = _together(weighed_k @ up_k, weighed_v @ up_v)
        right, right_values = self._inputs
        inner = torch.linalg.solve(right, torch.linalg.solve(left, wanted).T).T
        inner = inner / (left_values[:, None] * right_values + 1)
        latent = torch.linalg.solve(left.T, torch.linalg.solve(right.T, inner.T).T)
        return torch.linalg.qr(latent.T)[0].T


def fit(one: Side, latent: Tensor) -> Tensor:
    """The best up-projection [D, r] for a latent of orthonormal rows, head by head where heads hear differently."""
    if len(latent) == latent.shape[1]:
        return one.weight @ latent.T  # a turn: exact, where inverting C would round
    if one.heads is None:
        return _least_squares(one.weight, one.inputs, latent)
    rows = one.weight.chunk(len(one.heads))
    return torch.cat([_least_squares(*pair, latent) for pair in zip(rows, one.heads, strict=True)])


def _least_squares(weight: Tensor, inputs: Tensor, latent: Tensor) -> Tensor:
    """W C A' (A C A')^-1: a metric would not change it."""
    seen = latent @ inputs
    return torch.linalg.solve(seen @ latent.T, seen @ weight.T).T


def _together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """X and s with first = X diag(s) X' and second = X X', both nudged to be positive definite."""
    nudge = 1e-10 * (first + second).diagonal().mean() * torch.eye(len(first), dtype=torch.float64)
    lower = torch.linalg.cholesky(second + nudge)
    inner = torch.linalg.solve_triangular(lower, first + nudge, upper=False)
    inner = torch.linalg.solve_triangular(lower, inner.T, upper=False)
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    return lower @ vectors, values.clamp(min=0)


def relative_error(weight: Tensor, approximation: Tensor, inputs: Tensor | None = None) -> float:
    """|(W - W') C^(1/2)| / |W C^(1/2)| (Frobenius norms; C the identity when None): its square is the energy lost."""
    plain = side(weight, inputs)
    return max(0.0, plain.energy(weight.double() - approximation) / plain.energy(plain.weight)) ** 0.5
