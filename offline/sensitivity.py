"""What each further rank of each latent is worth, in one unit for all: the basis of greedy allocation.

With calibration speech the unit is the KL divergence of the CTC posteriors: each layer in turn is cut to the uniform
rank, the rest of the model runs as it was, and the divergence over the energy lost is that layer's slope; the metric of
`posterior` is in that unit already. Without calibration speech, it is the share of the layer's own energy.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from asr.encoder import ConformerCTC, ConformerLayer
from asr.mha import MultiHeadAttention
from offline.calibration import Calibration, kl
from offline.conversion import Settings, lost_mean, means, sides
from offline.factorise import Joint, Side, separate, spectrum
from offline.posterior import Felt
from offline.ranks import Ranks

PROBE_S = 30.0  # of the calibration speech


@torch.no_grad()
def gains(
    model: ConformerCTC,
    ranks: Ranks,
    calibration: Calibration | None,
    settings: Settings,
    metrics: Sequence[Felt] | None = None,
) -> list[Tensor]:
    """[D] each, falling: of every layer's latent where joint, else of every layer's for K, then of every one's for V.

    `ranks` are the uniform ones, at which slopes are measured; `metrics` those of each layer for `posterior`. The
    calibration is left as it was.
    """
    if settings.method == "weight":
        calibration = None
    layers = [layer for layer in model.encoder.layers if isinstance(layer, ConformerLayer)]
    chain = calibration.original if calibration else []
    wanted = _posteriors(layers, calibration) if calibration and not metrics else []
    found = []
    for index, layer in enumerate(tqdm(layers, "sensitivity", unit="layer")):
        metric = metrics[index] if metrics else None
        found.append(_of_layer(layers[index:], ranks, index, calibration, wanted, settings, metric))
        if calibration:
            calibration.original = [calibration.run(layer, hidden) for hidden in calibration.original]
    if calibration:
        calibration.original = chain
    return [gain for kind in zip(*found, strict=True) for gain in kind]


def _of_layer(
    layers: list[ConformerLayer],
    ranks: Ranks,
    index: int,
    calibration: Calibration | None,
    wanted: list[Tensor],
    settings: Settings,
    metric: Felt | None,
) -> list[Tensor]:
    """Of the first of these layers, those after it being all that follows: one gain where joint, else K's and V's."""
    attention = layers[0].get_submodule("self_attn")
    assert isinstance(attention, MultiHeadAttention)
    heard = None
    if calibration:
        heard = calibration.statistics(layers[0], sequential=False, attended=settings.hears_averages)
    k, v = sides(attention, heard, settings, metric)
    if metric is not None:
        return [Joint(k, v).spectrum(1.0)] if ranks.joint else [spectrum(k), spectrum(v)]
    cuts = _joint(k, v, ranks.k[index]) if ranks.joint else _separate(k, v, ranks, index)
    mean = means(attention, heard)
    if calibration is None or mean is None:
        return [values / values.sum() for values, _, _, _ in cuts]
    found = []
    for values, weight_k, weight_v, lost in cuts:
        first = _cut(layers[0], weight_k, weight_v, mean)
        posteriors = _posteriors([first, *layers[1:]], calibration)
        divergence = sum(kl(teacher, student) for teacher, student in zip(wanted, posteriors, strict=True))
        found.append(values * divergence / max(lost, 1e-300))
    return found


# Spectrum, K's weight and V's when cut, the energy that this loses.
Cut = tuple[Tensor, Tensor, Tensor, float]


def _joint(k: Side, v: Side, rank: int) -> list[Cut]:
    problem = Joint(k, v)
    balance = problem.equal_energy
    cut_k, cut_v = (factors.product for factors in problem.factors(rank, balance))
    return [(problem.spectrum(balance), cut_k, cut_v, problem.lost(cut_k, cut_v, balance))]


def _separate(k: Side, v: Side, ranks: Ranks, index: int) -> list[Cut]:
    cut_k, cut_v = separate(k, ranks.k[index]).product, separate(v, ranks.v[index]).product
    return [
        (spectrum(k), cut_k, v.weight, k.energy(k.weight - cut_k)),
        (spectrum(v), k.weight, cut_v, v.energy(v.weight - cut_v)),
    ]


def _cut(layer: ConformerLayer, weight_k: Tensor, weight_v: Tensor, mean: Tensor) -> ConformerLayer:
    """A copy of the layer with these weights for K and V, and V's mean kept."""
    copied = copy.deepcopy(layer)
    attention = copied.get_submodule("self_attn")
    assert isinstance(attention, MultiHeadAttention)
    lost = lost_mean(attention, weight_v, mean)
    attention.linear_out.bias.add_(attention.linear_out.weight.double() @ lost)
    attention.linear_k.weight.copy_(weight_k)
    attention.linear_v.weight.copy_(weight_v)
    return copied


def _posteriors(layers: list[ConformerLayer], calibration: Calibration) -> list[Tensor]:
    """Log-probabilities [T, V] of some of the clips, from before the first of these layers, the model's last ones."""
    found = []
    for index in calibration.some(PROBE_S):
        hidden = calibration.original[index]
        for layer in layers:
            hidden = calibration.run(layer, hidden)
        found.append(calibration.log_probs(hidden))
    return found
