"""Conversion: exact where it can be, better with what is heard, and nothing of the attention left out."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from asr.encoder import ConformerCTC
from offline.calibration import Calibration, attention_input
from offline.conversion import Settings, attentions, best_balance, convert, means, settle, sides
from offline.factorise import Joint
from offline.ranks import Ranks, uniform
from tests.conftest import noise, tiny_model

WIDTH = 32
WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001, 12_000))]
ALL = Settings("attention")


def said(model: ConformerCTC) -> torch.Tensor:
    """Log-probabilities of all frames of all clips."""
    with torch.inference_mode():
        clips = [model(wave[None], torch.tensor([len(wave)]))[0][0] for wave in WAVES]
    return torch.cat(clips).log_softmax(-1)


def difference(one: ConformerCTC, other: ConformerCTC) -> float:
    return (said(one) - said(other)).abs().max().item()


@pytest.mark.parametrize("multiple", [0.05, 1.0, 20.0])
@torch.no_grad()
def test_a_latent_as_wide_as_the_model_is_exact_for_any_balance(multiple: float) -> None:
    model = tiny_model()
    heard = Calibration(model, WAVES)
    exact, _ = convert(model, WIDTH, "mha")
    for old, new in zip(model.encoder.layers, exact.encoder.layers, strict=True):
        before, after = attentions(old, new)
        statistics = heard.statistics(old)
        problem = Joint(*sides(before, statistics, ALL))
        settle(
            after, before, problem.factors(WIDTH, multiple * problem.equal_energy), means(before, statistics)
        )
    assert difference(model, exact) < 1e-4


@pytest.mark.parametrize("method", ["weight", "activation", "attention", "posterior"])
def test_full_width_is_exact_in_float64_by_every_method(method: str) -> None:
    model = tiny_model().double()
    heard = Calibration(model, WAVES)
    exact, rows = convert(model, WIDTH, "mha", heard, Settings(method))
    assert difference(model, exact) < 1e-10
    assert max(row["output_relative_error"] for row in rows) < 1e-6
    latent = exact.encoder.layers[1].self_attn.linear_latent.weight
    assert (latent @ latent.T - torch.eye(WIDTH)).abs().max() < 1e-12


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_separate_latents_of_full_width_are_exact(positions: str) -> None:
    model = tiny_model("mha", positions).double()
    heard = Calibration(model, WAVES)
    exact, _ = convert(model, uniform(WIDTH, 3, joint=False), "mha", heard)
    assert exact.config.attention.latent == "separate"
    assert difference(model, exact) < 1e-10


@torch.no_grad()
def test_position_scores_and_biases_are_kept_where_the_earlier_prototype_drops_them() -> None:
    """That prototype copies u and the position projection and never uses them, and leaves out the K and V biases."""
    model = tiny_model()
    ours, _ = convert(model, WIDTH, "mha")
    assert difference(model, ours) < 1e-4
    without_positions, without_biases = copy.deepcopy(ours), copy.deepcopy(ours)
    for layer in without_positions.encoder.layers:
        for name in ("pos_bias_u", "pos_bias_v", "linear_pos.weight"):
            layer.self_attn.get_parameter(name).zero_()
    for old, layer in zip(model.encoder.layers, without_biases.encoder.layers, strict=True):
        layer.self_attn.linear_out.bias.copy_(old.self_attn.linear_out.bias)
    assert difference(model, without_positions) > 0.05
    assert difference(model, without_biases) > 0.05


@torch.no_grad()
def test_what_k_and_v_add_to_every_frame_alike_is_exact_at_any_rank() -> None:
    model = tiny_model()
    heard = Calibration(model, WAVES)
    narrow, _ = convert(model, 4, "mha", heard)
    moved = copy.deepcopy(model)
    for layer in moved.encoder.layers:
        layer.self_attn.linear_k.bias.add_(3.0)  # all scores of a query alike: nothing changes
        layer.self_attn.linear_v.bias.add_(1.0)
    fixed = replace(ALL, balance_scan=False, output_refit=False)
    from_moved, _ = convert(moved, uniform(4, 3), "mha", Calibration(moved, WAVES), fixed)
    plain, _ = convert(model, 4, "mha", Calibration(model, WAVES), fixed)
    for before, after in zip(plain.encoder.layers[0:1], from_moved.encoder.layers[0:1], strict=True):
        lifted = after.self_attn.linear_out.bias - before.self_attn.linear_out.bias
        expected = before.self_attn.linear_out.weight.sum(1)
        assert torch.allclose(lifted, expected, atol=1e-5)
        assert torch.allclose(
            after.self_attn.linear_up_k.weight, before.self_attn.linear_up_k.weight, atol=1e-5
        )
    assert narrow.config.attention.rank == (4, 4, 4)


@torch.no_grad()
def test_a_cut_of_v_alone_leaves_the_mean_of_attention_as_it_was() -> None:
    model = tiny_model().double()
    converted, _ = convert(model, Ranks(False, (WIDTH,) * 3, (4,) * 3), "mha", Calibration(model, WAVES))
    heard = Calibration(model, WAVES)
    old, new = model.encoder.layers[0], converted.encoder.layers[0]
    inputs = [(hidden, attention_input(old, hidden)) for hidden in heard.original]
    wanted, found = (torch.cat([heard.attend(layer, *pair) for pair in inputs]) for layer in (old, new))
    assert (wanted - found).abs().max() > 0.1
    assert (wanted.mean(0) - found.mean(0)).abs().max() < 1e-10


def test_calibration_beats_plain_svd() -> None:
    model = tiny_model()
    errors = {}
    for method in ("weight", "activation", "attention"):
        heard = Calibration(model, WAVES)
        converted, rows = convert(model, 12, "mha", heard, Settings(method))
        assert converted.config.attention.method == method
        errors[method] = float((said(converted) - said(model)).norm())
        assert (rows[0]["k_relative_error"] < 0.9) and rows[0]["k_lost_energy"] == pytest.approx(
            rows[0]["k_relative_error"] ** 2, abs=1e-5
        )
    assert errors["activation"] < errors["weight"] and errors["attention"] < errors["weight"]


def test_figures_without_speech_are_of_the_weights_alone() -> None:
    _, rows = convert(tiny_model(), 8, "mha")
    assert [row["layer"] for row in rows] == [0, 1, 2] and {row["rank"] for row in rows} == {8}
    unheard = ("k_frames_error", "v_frames_error", "attention_relative_error", "output_relative_error")
    assert all(row[name] is None for row in rows for name in unheard)
    assert all(0 < row["k_relative_error"] < 1 for row in rows)


def test_errors_are_those_of_the_models() -> None:
    """Of one layer, measured the long way."""
    model = tiny_model()
    heard = Calibration(model, WAVES)
    converted, rows = convert(model, 8, "mha", heard)
    old, new = (m.encoder.layers[0].self_attn for m in (model, converted))
    product = new.linear_up_k.weight @ new.linear_latent.weight
    error = (old.linear_k.weight - product).norm() / old.linear_k.weight.norm()
    assert rows[0]["k_relative_error"] == pytest.approx(error.item(), abs=1e-5)
    before, after = [], []
    old.register_forward_hook(lambda module, args, out: before.append((args, out[0])))
    said(model)
    with torch.inference_mode():
        after = [new(*args)[0] for args, _ in before]
    wanted, found = torch.cat([out for _, out in before]), torch.cat(after)
    error = (found - wanted).norm() / (wanted - wanted.mean(0)).norm()
    assert rows[0]["attention_relative_error"] == pytest.approx(error.item(), rel=1e-3)


@pytest.mark.parametrize("switch", [field.name for field in fields(Settings) if field.name != "method"])
def test_every_switch_changes_what_is_made(switch: str) -> None:
    model = tiny_model()
    whole, _ = convert(model, 8, "mha", Calibration(model, WAVES))
    without, _ = convert(model, 8, "mha", Calibration(model, WAVES), replace(ALL, **{switch: False}))
    assert difference(whole, without) > 1e-4


@torch.no_grad()
def test_the_scan_finds_a_balance_with_no_more_error_than_equal_energy() -> None:
    model = tiny_model()
    heard = Calibration(model, WAVES)
    made, _ = convert(model, 8, "mha")
    old, new = model.encoder.layers[0], made.encoder.layers[0]
    before, after = attentions(old, new)
    statistics = heard.statistics(old)
    problem, mean = Joint(*sides(before, statistics, ALL)), means(before, statistics)
    assert mean is not None

    def error(balance: float) -> float:
        settle(after, before, problem.factors(8, balance), mean)
        pairs = [(heard.run(old, hidden), heard.run(new, hidden)) for hidden in heard.converted]
        return sum(float((a - b).square().sum()) for a, b in pairs)

    found = best_balance(problem, (old, new), heard, heard.converted, mean)
    assert error(found) <= min(error(problem.equal_energy * multiple) for multiple in (0.5, 1.0, 2.0)) * (
        1 + 1e-6
    )


def test_ranks_may_differ_by_layer_and_side() -> None:
    model = tiny_model()
    converted, rows = convert(model, Ranks(False, (4, 8, 12), (20, 16, 12)), "mha", Calibration(model, WAVES))
    assert [(row["rank_k"], row["rank_v"]) for row in rows] == [(4, 20), (8, 16), (12, 12)]
    assert converted.encoder.layers[0].self_attn.linear_latent_v.weight.shape == (20, WIDTH)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(ValueError, match="already has mla"):
        convert(tiny_model("mla"), 8, "mla")
    with pytest.raises(ValueError, match=r"rotary.*separate"):
        convert(tiny_model("mha", "rotary"), 8, "mha")
    with pytest.raises(ValueError, match="needs a calibration"):
        convert(tiny_model(), 8, "mha", None, ALL)
