"""What is heard is what the layers hear, clip by clip."""

import pytest
import torch

from asr.encoder import ConformerCTC
from offline.calibration import Calibration, Moments, Spread, attention_input, hear
from tests.conftest import noise, tiny_model

WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001, 4_000))]


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_statistics_are_of_what_reaches_k_v_and_the_scores(positions: str) -> None:
    model = tiny_model("mha", positions)
    heard: dict[str, list[torch.Tensor]] = {"k": [], "v": []}
    attention = model.encoder.layers[0].self_attn
    for name in heard:
        projection = getattr(attention, f"linear_{name}")
        projection.register_forward_pre_hook(
            lambda _, args, name=name: heard[name].append(args[0][0].double())
        )
    for wave in WAVES:
        model(wave[None], torch.tensor([len(wave)]))
    found = Calibration(model, WAVES).statistics(model.encoder.layers[0])
    k, v = torch.cat(heard["k"]), torch.cat(heard["v"])
    assert found.frames == len(v)
    assert torch.allclose(found.mean, v.mean(0), atol=1e-6)
    assert torch.allclose(found.overall_v, torch.cov(v.T, correction=0), atol=1e-5)
    assert torch.allclose(found.overall_k, torch.cov(k.T, correction=0), atol=1e-5)
    centred = torch.cat([x - x.mean(0) for x in heard["k"]])
    assert torch.allclose(found.within_k, centred.T @ centred / len(k), atol=1e-5)
    query = attention.linear_q(k.float()).double() + (
        attention.pos_bias_u.flatten().double() if positions == "relative" else 0
    )
    for head, block in enumerate(found.queries):
        own = query[:, head * 8 : head * 8 + 8]
        assert torch.allclose(block, own.T @ own / len(own), atol=1e-5)
    assert not torch.allclose(k, v) or positions == "relative"


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_attended_inputs_are_what_v_is_made_of_behind_the_softmax(positions: str) -> None:
    """W_V of a head on its average, its bias, then the output projection: that is the attention's output."""
    model = tiny_model("mha", positions)
    heard, layer = Calibration(model, WAVES), model.encoder.layers[0]
    attention, averages = layer.self_attn, []
    for hidden in heard.original:
        x = attention_input(layer, hidden)
        per_head = torch.stack(list(hear(attention, x, heard.sight(hidden), attended=True).averages))
        values = per_head @ attention.linear_v.weight.unflatten(0, (4, -1)).transpose(-1, -2)
        made = attention.linear_out(values.transpose(0, 1).flatten(1) + attention.linear_v.bias)
        assert (made - heard.attend(layer, hidden, x)).abs().max() < 1e-5
        averages.append(per_head.double())
    found = heard.statistics(layer, attended=True)
    assert found.attended is not None and found.attended_mean is not None
    for head, frames in enumerate(torch.cat(averages, 1)):
        assert torch.allclose(found.attended_mean[head], frames.mean(0), atol=1e-6)
        assert torch.allclose(found.attended[head], torch.cov(frames.T, correction=0), atol=1e-5)
    assert heard.statistics(layer).attended is None


def test_clips_are_centred_apart() -> None:
    moments = Moments(2)
    for offset in (-5.0, 5.0):
        moments.add(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) + offset)
    assert torch.allclose(moments.within, torch.diag(torch.tensor([1.0, 0.0])).double())
    assert float(moments.overall[1, 1]) == pytest.approx(25) and float(moments.mean.abs().sum()) == 0


def walk(model: ConformerCTC, other: ConformerCTC) -> tuple[Calibration, list[float]]:
    heard = Calibration(model, WAVES)
    return heard, [
        heard.advance(*pair) for pair in zip(model.encoder.layers, other.encoder.layers, strict=True)
    ]


@torch.no_grad()
def test_chains_arrive_at_what_the_models_say() -> None:
    model, other = tiny_model(), tiny_model(seed=0)
    other.encoder.layers[1].self_attn.linear_out.weight.mul_(0.5)
    heard, errors = walk(model, other)
    assert errors[0] == 0 and errors[1] > 0 and errors[2] > 0
    divergence = frames = same = 0
    for wave in WAVES:
        teacher, student = (
            m(wave[None], torch.tensor([len(wave)]))[0][0].double().log_softmax(-1) for m in (model, other)
        )
        divergence += float((teacher.exp() * (teacher - student)).sum())
        same += int((teacher.argmax(-1) == student.argmax(-1)).sum())
        frames += len(teacher)
    agreement = heard.agreement()
    assert agreement["frames"] == frames and agreement["ctc_kl"] == pytest.approx(
        divergence / frames, rel=1e-4
    )
    assert agreement["argmax_agreement"] == pytest.approx(same / frames, abs=1e-6)


def test_a_model_agrees_with_itself() -> None:
    heard, errors = walk(tiny_model(), tiny_model())
    assert errors == [0, 0, 0] and heard.agreement() == {
        "frames": heard.frames,
        "argmax_agreement": 1,
        "ctc_kl": 0,
    }


def test_a_constant_offset_flatters_no_error() -> None:
    wanted = torch.tensor([[1.0], [3.0]])
    for offset in (0.0, 100.0):
        spread = Spread()
        spread.add(wanted + offset, wanted + offset + 0.5)
        assert spread.relative == pytest.approx(0.5)


def test_silence_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        Calibration(tiny_model(), [torch.zeros(399)])
