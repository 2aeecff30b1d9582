"""The output projection's refit: the best linear one, and the original keeps its own."""

import pytest
import torch

from offline.calibration import Calibration
from offline.conversion import Settings, attentions, convert
from offline.refit import refit_output
from tests.conftest import noise, tiny_model

WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001, 12_000))]


@torch.no_grad()
def test_no_other_output_projection_near_it_comes_closer() -> None:
    model = tiny_model()
    heard = Calibration(model, WAVES)
    latent, _ = convert(model, 8, "mha", Calibration(model, WAVES), Settings("attention", output_refit=False))
    old, new = model.encoder.layers[0], latent.encoder.layers[0]
    kept = old.self_attn.linear_out.weight.clone()
    before = heard.attention_error(old, new)
    refit_output(old, new, heard, heard.original)
    best = heard.attention_error(old, new)
    assert best < 0.99 * before
    assert torch.equal(old.self_attn.linear_out.weight, kept)
    out = attentions(old, new)[1].linear_out
    step = torch.randn(out.weight.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    for sign in (1, -1):
        out.weight.add_(sign * step)
        assert heard.attention_error(old, new) > best
        out.weight.sub_(sign * step)


@pytest.mark.parametrize("method", ["attention", "posterior"])
def test_with_it_the_calibration_speech_diverges_less(method: str) -> None:
    model = tiny_model()
    divergence = {}
    for refit in (False, True):
        heard = Calibration(model, WAVES)
        convert(model, 8, "mha", heard, Settings(method, output_refit=refit))
        divergence[refit] = heard.agreement()["ctc_kl"]
    assert divergence[True] < divergence[False]
