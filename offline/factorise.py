"""Linear algebra of the conversion: K and V weights -> one shared low-rank factor. No files, no models.

D model width, r rank. Everything is float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-4


@dataclass(frozen=True)
class Factors:
    """K ~ up_k @ latent @ x and V ~ up_v @ latent @ x, with `latent` [r, D] and `up_k`, `up_v` [D, r]."""

    latent: Tensor
    up_k: Tensor
    up_v: Tensor


def joint(weight_k: Tensor, weight_v: Tensor, rank: int, covariance: Tensor | None = None) -> Factors:
    """The best shared factors of rank r for K and V, each [D, D].

    Minimises E |a (K - K')|^2 + E |V - V'|^2 over inputs x of the given covariance [D, D] (identity when None): the
    truncated SVD of [a W_K; W_V] C^(1/2), un-whitened on the right (Wang et al. 2024, SVD-LLM, arXiv 2403.07378, for
    the whitening; Meng et al. 2025, TransMLA, arXiv 2502.07864, for balancing K against V). `a` gives K and V the same
    energy. At r = D the product is exact for any covariance.
    """
    root, inverse = roots(covariance if covariance is not None else torch.eye(weight_k.shape[1]))
    seen_k, seen_v = weight_k.double() @ root, weight_v.double() @ root
    balance = seen_v.norm() / seen_k.norm()
    left, values, right = torch.linalg.svd(torch.cat((balance * seen_k, seen_v)), full_matrices=False)
    up = left[:, :rank] * values[:rank].sqrt()
    latent = values[:rank].sqrt()[:, None] * right[:rank] @ inverse
    width = weight_k.shape[0]
    return Factors(latent, up[:width] / balance, up[width:])


def roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """C^(1/2) and its inverse, [D, D]; the diagonal is damped by a ten-thousandth of its mean."""
    covariance = covariance.double()
    damping = DAMPING * covariance.diagonal().mean()
    values, vectors = torch.linalg.eigh(covariance + damping * torch.eye(len(covariance)).double())
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def relative_error(weight: Tensor, approximation: Tensor, covariance: Tensor | None = None) -> float:
    """|| (W - W') C^(1/2) || / || W C^(1/2) ||: the relative error of the outputs (Frobenius norm)."""
    root = roots(covariance if covariance is not None else torch.eye(weight.shape[1]))[0]
    return float(((weight.double() - approximation) @ root).norm() / (weight.double() @ root).norm())
