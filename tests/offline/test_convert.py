"""Conversion: exact where it can be, better with calibration, and nothing of the attention left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr import load
from offline import convert
from offline.convert import Statistics, calibrate, rank_of
from offline.factorise import joint, relative_error
from tests.conftest import noise, tiny_model

WIDTH = 32
CLIPS = [noise(16_000, 1), noise(9_001, 2)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for index in range(6):
        clip = noise(16_000, seed=10 + index)
        soundfile.write(tmp_path / f"{index}.flac", clip / np.abs(clip).max(), 16_000)
        lines.append(json.dumps({"audio_filepath": f"{index}.flac", "duration": 1.0, "text": "A"}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "train.jsonl"


def run(source: Path, target: Path, *options: str) -> None:
    convert.run(
        convert.arguments().parse_args(["--model_name", str(source), "--output_dir", str(target), *options])
    )


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_latent_as_wide_as_the_model_is_lossless(
    calibrated: bool, tiny_folder, manifest: Path, tmp_path: Path
) -> None:
    options = ["--calibration_manifest", str(manifest)] if calibrated else []
    run(tiny_folder("mha"), tmp_path / "mla", "--cache_reduction", "0.5", *options)
    mha, mla = load(tiny_folder("mha"), device="cpu"), load(tmp_path / "mla", device="cpu", dtype="float32")
    assert mla.config.attention.rank == (WIDTH,) * 3
    assert mla.cache_bytes_per_second == mha.cache_bytes_per_second / 2
    for one, other in zip(mha.log_probs(CLIPS), mla.log_probs(CLIPS), strict=True):
        assert np.abs(one - other).max() < 0.02  # the folder holds float16
    exact, _ = convert.convert(
        mha.model, WIDTH, "mha", calibrate(mha.model, [manifest], 3) if calibrated else None
    )
    mla.model = exact
    for one, other in zip(mha.log_probs(CLIPS), mla.log_probs(CLIPS), strict=True):
        assert np.abs(one - other).max() < 1e-4


@torch.no_grad()
def test_calibration_beats_plain_svd(tiny_folder, manifest: Path) -> None:
    mha = load(tiny_folder("mha"), device="cpu")
    statistics = calibrate(mha.model, [manifest], 6)
    whole = mha.model(*(t for t in _batch(CLIPS)))[0]
    errors = {}
    for method, given in (("weight", None), ("activation", statistics)):
        model, _ = convert.convert(mha.model, 12, "mha", given)
        assert model.config.attention.method == method
        errors[method] = float((model(*_batch(CLIPS))[0] - whole).norm())
    assert errors["activation"] < errors["weight"]


def _batch(clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(clip) for clip in clips])
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True), lengths


def test_position_scores_and_biases_survive(tiny_folder) -> None:
    """Easily left out: u, v, the position projection, and the effect of the K and V biases."""
    mha = load(tiny_folder("mha"), device="cpu").model
    mla, _ = convert.convert(mha, WIDTH, "mha", None)
    for old, new in zip(mha.encoder.layers, mla.encoder.layers, strict=True):
        for name in ("pos_bias_u", "pos_bias_v", "linear_pos.weight", "linear_q.bias"):
            assert torch.equal(old.self_attn.get_parameter(name), new.self_attn.get_parameter(name))
    with torch.inference_mode():
        expected = mha(*_batch(CLIPS))[0][0]
        mha.encoder.layers[0].self_attn.linear_v.bias.add_(1.0)
        assert (
            convert.convert(mha, WIDTH, "mha", None)[0](*_batch(CLIPS))[0][0] - expected
        ).abs().max() > 0.01


def test_error_falls_as_rank_grows_and_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_k, weight_v, x = (torch.randn(WIDTH, WIDTH, generator=generator) for _ in range(3))
    covariance = (x.T @ x / WIDTH).double()
    errors = []
    for rank in (4, 8, 16, 24, WIDTH):
        factors = joint(weight_k, weight_v, rank, covariance)
        errors.append(relative_error(weight_k, factors.up_k @ factors.latent, covariance))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3 and errors[-1] < 1e-10


def test_statistics_are_those_of_all_frames_together() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 2
    statistics = Statistics(6)
    statistics.add(x[:20])
    statistics.add(x[20:])
    assert torch.allclose(statistics.mean, x.double().mean(0))
    assert torch.allclose(statistics.covariance, torch.cov(x.double().T, correction=0), atol=1e-6)


RANKS = [
    (160, (None, 0.75), 80),
    (160, (None, 0.8), 64),  # exactly a fifth, although 320 * (1 - 0.8) is a little less
    (160, (None, 0.9), 32),
    (1024, (None, 0.75), 512),
    (1024, (None, 0.8), 400),
    (1024, (None, 0.9), 192),
    (1024, (200, 0.5), 192),
]


@pytest.mark.parametrize(("width", "options", "rank"), RANKS)
def test_ranks(width: int, options: tuple, rank: int) -> None:
    assert rank_of(width, *options) == rank


def test_impossible_requests_are_named(tiny_folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 to 32"):
        run(tiny_folder("mha"), tmp_path, "--latent_dim", "33")
    with pytest.raises(ValueError, match="already has mla"):
        run(tiny_folder("mla"), tmp_path)
    with pytest.raises(ValueError, match="separate"):
        run(tiny_folder("mha", "rotary"), tmp_path)
    assert tiny_model().config.attention.kind == "mha"
