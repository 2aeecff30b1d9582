"""The metric of `posterior` is the Fisher information, in nats: against every token's own gradient."""

import torch
from torch import Tensor

from asr.encoder import ConformerCTC
from offline.calibration import Calibration
from offline.conversion import Settings, convert
from offline.posterior import felt
from offline.ranks import allocated, uniform
from offline.sensitivity import gains
from tests.conftest import noise, tiny_config, tiny_model

FRAMES = 4
WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001))]


def expected(model: ConformerCTC, heard: Calibration) -> Tensor:
    """F of V in the last layer, with the mean over tokens taken in full: of a clip's frames, [D, D] a frame."""
    hidden = heard.original[0]
    for layer in model.encoder.layers[:-1]:
        hidden = heard.run(layer, hidden)
    last, caught = model.encoder.layers[-1], []
    hook = last.self_attn.linear_v.register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.enable_grad():
        log_probs = model.lm_head(model.encoder.layer_norm(heard.run(last, hidden))).log_softmax(-1)
    hook.remove()
    total = torch.zeros(hidden.shape[-1], hidden.shape[-1])
    for frame in log_probs:
        for log_prob in frame:
            (gradient,) = torch.autograd.grad(log_prob, caught, retain_graph=True)
            total += log_prob.detach().exp() * gradient[0].T @ gradient[0]
    return total / len(log_probs)


def test_the_metric_is_the_mean_over_the_posteriors_of_every_tokens_gradient() -> None:
    model = tiny_model()
    wave = WAVES[0][: 320 * FRAMES + 80]
    heard = Calibration(model, [wave] * 400)  # each time other tokens are drawn
    found = felt(model, heard)
    assert len(found) == 3
    exact = expected(model, heard).double()
    assert (found[-1][1] - exact).norm() < 0.3 * exact.norm()
    for metric in (*found[0], *found[2]):
        assert torch.linalg.eigvalsh(metric).min() > -1e-12 * metric.norm()


def test_weighing_by_the_posteriors_diverges_less_than_weighing_by_the_inputs_alone() -> None:
    model = tiny_model()
    divergence = {}
    for method in ("activation", "posterior"):
        heard = Calibration(model, WAVES)
        convert(model, 8, "mha", heard, Settings(method))
        divergence[method] = heard.agreement()["ctc_kl"]
    assert divergence["posterior"] < divergence["activation"]


def test_its_gains_share_ranks_out_without_a_probe() -> None:
    model = tiny_model()
    with torch.no_grad():  # what this layer's attention says is lost: no rank is worth anything there
        model.encoder.layers[1].self_attn.linear_out.weight.mul_(1e-4)
    heard = Calibration(model, WAVES)
    start = heard.original
    for joint in (True, False):
        ranks = uniform(8, 3, joint)
        found = gains(model, ranks, heard, Settings("posterior"), felt(model, heard))
        shared = allocated(found, ranks, tiny_config())
        assert shared.k[1] == 2 and shared.v[1] == 2
    assert heard.original is start
