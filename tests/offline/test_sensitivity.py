"""Gains are in one unit: what a layer's ranks are worth to the posteriors."""

import pytest
import torch

from offline.calibration import Calibration, kl
from offline.conversion import Settings, means, sides
from offline.ranks import allocated, uniform
from offline.sensitivity import _cut, _joint, gains
from tests.conftest import noise, tiny_config, tiny_model

WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001))]


@torch.no_grad()
def test_what_lies_beyond_the_uniform_rank_is_the_divergence_of_cutting_there() -> None:
    model = tiny_model()
    heard = Calibration(model, WAVES)
    start = heard.original
    found = gains(model, uniform(8, 3), heard, Settings("attention", centring=False, attended_values=False))
    assert heard.original is start and heard.converted is start
    assert len(found) == 3 and all((gain.diff() <= 1e-12).all() and gain.shape == (32,) for gain in found)
    # of the last layer, the long way: only it cut, by the same factors
    for layer in model.encoder.layers[:2]:
        heard.original = [heard.run(layer, hidden) for hidden in heard.original]
    last = model.encoder.layers[2]
    statistics = heard.statistics(last, sequential=False)
    ((_, weight_k, weight_v, _),) = _joint(
        *sides(last.self_attn, statistics, Settings("attention", centring=False, attended_values=False)), 8
    )
    cut = _cut(last, weight_k, weight_v, means(last.self_attn, statistics))
    divergence = sum(
        kl(heard.log_probs(heard.run(last, hidden)), heard.log_probs(heard.run(cut, hidden)))
        for hidden in heard.original
    )
    assert float(found[2][8:].sum()) == pytest.approx(divergence, rel=1e-3)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", ["weight", "attention"])
def test_a_layer_that_matters_more_gets_more_under_the_same_total(joint: bool, method: str) -> None:
    model = tiny_model()
    with torch.no_grad():  # what this layer's attention says is lost: no rank is worth anything there
        model.encoder.layers[1].self_attn.linear_out.weight.mul_(1e-4)
    ranks = uniform(16 if joint else 8, 3, joint)
    heard = Calibration(model, WAVES) if method == "attention" else None
    found = allocated(gains(model, ranks, heard, Settings(method)), ranks, tiny_config())
    assert sum(found.k) == sum(ranks.k) if joint else sum(found.k) + sum(found.v) == sum(ranks.k) * 2
    if method == "attention":
        assert found.k[1] == 2 and found.v[1] == 2


def test_without_speech_every_layer_counts_alike() -> None:
    for gain in gains(tiny_model(), uniform(8, 3), None, Settings("weight")):
        assert float(gain.sum()) == pytest.approx(1)
