"""MHA -> MLA, layer by layer: weights, what was heard, and settings in; an MLA model and a report line a layer out.

The biases are handled exactly: b_K drops out of the softmax, b_V (and what V loses of the inputs' mean) folds into the
output bias, for the softmax weights sum to 1. Position scores never touch K and stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from asr.attention import SelfAttention
from asr.encoder import ConformerCTC, ConformerLayer
from asr.mha import MultiHeadAttention
from asr.mla import MultiHeadLatentAttention
from offline.calibration import Calibration, Statistics
from offline.factorise import Factors, Joint, Side, relative_error, separate, side
from offline.fold import shell
from offline.posterior import Felt, felt
from offline.ranks import Ranks, uniform
from offline.refit import refit_output

Method = Literal["weight", "activation", "attention", "posterior"]
Row = dict[str, Any]
SCAN = [2.0**power for power in range(-3, 4)]  # balances to try, as multiples of the equal-energy one
SCAN_S = 30.0  # of the calibration speech


@dataclass(frozen=True)
class Settings:
    """How errors are weighed, and what can be left out of it to see what it is worth."""

    method: Method = "weight"
    centring: bool = True
    query_weight: bool = True
    output_weight: bool = True
    attended_values: bool = True
    sequential: bool = True
    balance_scan: bool = True
    output_refit: bool = True

    @property
    def hears_averages(self) -> bool:
        """Whether V's inputs are those that attention averages: what an error of V is made of behind the softmax."""
        return self.method == "attention" and self.attended_values

    @property
    def refits(self) -> bool:
        """Whether the output projection is fitted anew."""
        return self.method in ("attention", "posterior") and self.output_refit


def convert(
    model: ConformerCTC,
    ranks: Ranks | int,
    source: str,
    calibration: Calibration | None = None,
    settings: Settings | None = None,
    name: str | None = None,
    metrics: Sequence[Felt] | None = None,
) -> tuple[ConformerCTC, list[Row]]:
    """An MLA model of the same outputs as far as the ranks allow, and a report line of each layer.

    The two models share all tensors but those of K, V and the output projections. The calibration's chains are behind
    the last layer afterwards.

    Args:
        model: an MHA model.
        ranks: of every layer; a number means a joint latent of so many values in all of them.
        source: what the model is called.
        calibration: the model's own, not advanced yet; without it only figures of the weights are found.
        settings: default: `attention` with a calibration, else `weight`.
        name: of the method, for config.json; default: the settings' method.
        metrics: of each layer's K and V for `posterior`, as `posterior.felt` finds them when None.

    Raises:
        ValueError: the model is not MHA, or a joint latent is asked of rotary positions, or there is no calibration
            for a method that needs one.
    """
    if model.config.attention.kind != "mha":
        raise ValueError(
            f"{source} already has {model.config.attention.kind} attention; an mha model is needed"
        )
    settings = settings or Settings("attention" if calibration else "weight")
    if settings.method != "weight" and calibration is None:
        raise ValueError(
            f"method {settings.method} weighs errors by what the layers hear: it needs a calibration"
        )
    if isinstance(ranks, int):
        ranks = uniform(ranks, model.config.num_hidden_layers)
    latent_model = shell(model, ranks.attention(source, name or settings.method)).eval()
    if settings.method == "posterior" and calibration and metrics is None:
        metrics = felt(model, calibration)
    pairs = list(zip(model.encoder.layers, latent_model.encoder.layers, strict=True))
    rows = []
    for layer, (old, new) in enumerate(tqdm(pairs, "converting", unit="layer")):
        assert isinstance(old, ConformerLayer) and isinstance(new, ConformerLayer)
        metric = metrics[layer] if metrics else None
        row = convert_layer(old, new, calibration, settings, metric)
        rows.append({"layer": layer, **ranks.row(layer), **row})
    return latent_model, rows


@torch.no_grad()
def convert_layer(
    old: ConformerLayer,
    new: ConformerLayer,
    calibration: Calibration | None,
    settings: Settings,
    metric: Felt | None = None,
) -> Row:
    """Set one layer's latents and output projection, move the calibration past it, and say what was lost."""
    before, after = attentions(old, new)
    heard = None
    if calibration:
        heard = calibration.statistics(old, settings.sequential, settings.hears_averages)
    k, v = sides(before, heard, settings, metric)
    mean = None if settings.method == "weight" else means(before, heard)
    balance = None
    chain = [] if calibration is None else calibration.chain(settings.sequential)
    exact = after.joint and after.rank_k == len(k.weight)
    if after.joint:
        problem = Joint(k, v)
        balance = problem.equal_energy if metric is None else 1.0
        if calibration and mean is not None and settings.balance_scan and metric is None and not exact:
            balance = best_balance(problem, (old, new), calibration, chain, mean)
        factors = problem.factors(after.rank_k, balance)
    else:
        factors = separate(k, after.rank_k), separate(v, after.rank_v)
    settle(after, before, factors, mean)
    if calibration and settings.refits and not exact:
        refit_output(old, new, calibration, chain)
    row = {} if balance is None else {"balance": float(f"{balance:.6g}")}
    return row | weight_errors(before, factors, heard) | output_errors(old, new, calibration)


def attentions(
    old: ConformerLayer, new: ConformerLayer
) -> tuple[MultiHeadAttention, MultiHeadLatentAttention]:
    """The attention of the layer as it was, and as it becomes."""
    before, after = old.get_submodule("self_attn"), new.get_submodule("self_attn")
    assert isinstance(before, MultiHeadAttention) and isinstance(after, MultiHeadLatentAttention)
    return before, after


def sides(
    before: MultiHeadAttention, heard: Statistics | None, settings: Settings, metric: Felt | None = None
) -> tuple[Side, Side]:
    """K and V of a layer with the inputs and metrics that the settings ask for; `metric` is that of `posterior`."""
    weight_k, weight_v = before.linear_k.weight, before.linear_v.weight
    if heard is None or settings.method == "weight":
        return side(weight_k), side(weight_v)
    inputs_k = heard.within_k if settings.centring else heard.overall_k
    asks = settings.method == "attention"
    metric_k = torch.block_diag(*heard.queries) if asks and settings.query_weight else None
    metric_v = output_metric(before) if asks and settings.output_weight else None
    if metric is not None:
        metric_k, metric_v = metric
    side_k = side(weight_k, inputs_k, metric_k)
    if heard.attended is None:
        return side_k, side(weight_v, heard.overall_v, metric_v)
    shares = output_metric(before).diagonal().view(before.heads, -1).sum(1)
    inputs_v = (heard.attended * (shares / shares.sum())[:, None, None]).sum(0)
    return side_k, side(weight_v, inputs_v, metric_v, heard.attended)


def means(before: SelfAttention, heard: Statistics | None) -> Tensor | None:
    """[H, D]: of what each head's part of V is made of, as far as it was heard."""
    if heard is None:
        return None
    return heard.mean.expand(before.heads, -1) if heard.attended_mean is None else heard.attended_mean


def output_metric(before: SelfAttention) -> Tensor:
    """blkdiag(W_O^h' W_O^h) [D, D]: what an error of V does behind the output projection, head by head."""
    heads = before.linear_out.weight.double().split(before.head_size, dim=1)
    return torch.block_diag(*(head.T @ head for head in heads))


def settle(
    after: MultiHeadLatentAttention,
    before: MultiHeadAttention,
    factors: tuple[Factors, Factors],
    mean: Tensor | None,
) -> None:
    """Write the factors into the attention, and what V lacks for every frame alike into its output bias."""
    k, v = factors
    if after.joint:
        after.linear_latent.weight.copy_(k.latent)
    else:
        after.linear_latent_k.weight.copy_(k.latent)
        after.linear_latent_v.weight.copy_(v.latent)
    after.linear_up_k.weight.copy_(k.up)
    after.linear_up_v.weight.copy_(v.up)
    lost = before.linear_v.bias.double() + lost_mean(before, v.product, mean)
    after.linear_out.bias.copy_(before.linear_out.bias.double() + before.linear_out.weight.double() @ lost)


def lost_mean(before: MultiHeadAttention, product: Tensor, mean: Tensor | None) -> Tensor:
    """[D]: what V lacks on average with this product for a weight, inputs of mean [H, D]; 0 where that is unknown."""
    error = (before.linear_v.weight.double() - product).unflatten(0, (before.heads, -1))
    return torch.zeros(len(product)).double() if mean is None else (error @ mean[..., None]).flatten()


def best_balance(
    problem: Joint,
    layers: tuple[ConformerLayer, ConformerLayer],
    calibration: Calibration,
    chain: Sequence[Tensor],
    mean: Tensor,
) -> float:
    """The balance of K and V with the least error of the layer's outputs, over some of the clips; refined once."""
    old, new = layers
    before, after = attentions(old, new)
    inputs = [chain[index] for index in calibration.some(SCAN_S)]
    wanted = [calibration.run(old, hidden) for hidden in inputs]

    def error(multiple: float) -> float:
        settle(after, before, problem.factors(after.rank_k, multiple * problem.equal_energy), mean)
        found = (calibration.run(new, hidden) for hidden in inputs)
        return sum(float((a - b).double().square().sum()) for a, b in zip(wanted, found, strict=True))

    tried = {multiple: error(multiple) for multiple in SCAN}
    best = min(tried, key=tried.__getitem__)
    tried |= {multiple: error(multiple) for multiple in (best / 2**0.5, best * 2**0.5)}
    return problem.equal_energy * min(tried, key=tried.__getitem__)


def weight_errors(
    before: MultiHeadAttention, factors: tuple[Factors, Factors], heard: Statistics | None
) -> Row:
    """Relative errors of K's and V's weights, the energy that they lose, and relative errors of K and V as heard."""
    row: Row = {}
    inputs = (heard.within_k, heard.overall_v) if heard else (None, None)
    weights = before.linear_k.weight, before.linear_v.weight
    for name, weight, factor, moments in zip("kv", weights, factors, inputs, strict=True):
        error = relative_error(weight, factor.product)
        row[f"{name}_relative_error"] = round(error, 6)
        row[f"{name}_lost_energy"] = round(error**2, 6)
        heard_error = None if moments is None else round(relative_error(weight, factor.product, moments), 6)
        row[f"{name}_frames_error"] = heard_error
    return row


def output_errors(old: ConformerLayer, new: ConformerLayer, calibration: Calibration | None) -> Row:
    """Relative errors of what attention and the layer put out; moves the calibration past the layer."""
    if calibration is None:
        return {"attention_relative_error": None, "output_relative_error": None}
    attention = calibration.attention_error(old, new)
    output = calibration.advance(old, new)
    return {"attention_relative_error": round(attention, 6), "output_relative_error": round(output, 6)}
