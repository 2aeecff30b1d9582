"""The chunk-masked whole forward: what it may see, what it may not, and its limits."""

import numpy as np
import pytest
import torch

from asr import load
from asr.masks import attention_mask, chunk_mask
from asr.normalise import PRIOR_RMS, PRIOR_SAMPLES, normalise, normalise_chunks
from tests.conftest import noise, tiny_model

HOP, TAIL = 320, 80
CHUNK, LEFT = 8, 12


def test_the_mask_is_the_one_drawn() -> None:
    drawn = ["110000", "110000", "011100", "011100", "000111", "000111"]
    assert chunk_mask(6, 2, 1, torch.device("cpu")).int().tolist() == [[int(c) for c in row] for row in drawn]


def test_no_row_of_a_mask_is_empty() -> None:
    valid = torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    mask = attention_mask(valid, chunk_mask(6, 2, 1, torch.device("cpu")))
    assert mask is not None and mask.any(-1).all()
    assert not mask[0, 0, :3, 3:].any()


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        ("mha", "relative"),
        ("mla", "relative"),
        ("mla-separate", "relative"),
        ("mha", "rotary"),
        ("mla-separate", "rotary"),
    ],
)
def test_later_audio_never_changes_earlier_chunks(kind: str, positions: str, tiny_folder) -> None:
    model = load(tiny_folder(kind, positions), device="cpu")
    clip = noise(HOP * 40 + TAIL)
    whole = model.log_probs([clip], chunk_frames=CHUNK, left_context_frames=LEFT)[0]
    for chunks in (1, 2, 4):
        seen = HOP * CHUNK * chunks + TAIL
        other = np.concatenate((clip[:seen], noise(9_000, seed=5) * 3))
        changed = model.log_probs([other], chunk_frames=CHUNK, left_context_frames=LEFT)[0]
        assert np.abs(whole[: CHUNK * chunks] - changed[: CHUNK * chunks]).max() < 1e-4
        assert np.abs(whole[CHUNK * chunks :][:5] - changed[CHUNK * chunks :][:5]).max() > 1e-3


def test_left_context_is_what_reaches_back(tiny_folder) -> None:
    """Left context changes what a chunk says, but for the first, which has none."""
    model = load(tiny_folder("mha"), device="cpu")
    clip = noise(HOP * 40 + TAIL)
    none = model.log_probs([clip], chunk_frames=CHUNK, left_context_frames=0)[0]
    some = model.log_probs([clip], chunk_frames=CHUNK, left_context_frames=LEFT)[0]
    assert np.array_equal(none[:CHUNK], some[:CHUNK])
    assert np.abs(none[CHUNK:] - some[CHUNK:]).max() > 1e-3


def test_one_chunk_as_long_as_the_clip_differs_from_offline_by_normalisation_alone(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu").model
    clip = torch.from_numpy(noise(HOP * 20 + TAIL))[None]
    lengths = torch.tensor([clip.shape[1]])
    with torch.inference_mode():
        chunked = model.feature_extractor(normalise_chunks(clip, lengths, HOP * 64, TAIL))
        in_chunks, _ = model(clip, lengths, chunk_frames=64, left_context_frames=0)
        x = model.feature_projection(chunked)
        last, _ = model.encoder(x, model.sight(x, torch.tensor([20]), None, 0))
        assert (model.lm_head(last) - in_chunks).abs().max() < 1e-5


def test_cumulative_normalisation_follows_its_formula() -> None:
    clip = noise(HOP * CHUNK * 3 + 1_000)
    normed = normalise_chunks(torch.from_numpy(clip)[None], torch.tensor([len(clip)]), HOP * CHUNK, TAIL)[
        0
    ].numpy()
    start = 0
    for chunk in range(4):
        end = min(HOP * CHUNK * (chunk + 1) + TAIL, len(clip))
        heard, weight = clip[:end].astype(np.float64), end + PRIOR_SAMPLES
        mean = heard.sum() / weight
        variance = (np.square(heard).sum() + PRIOR_SAMPLES * PRIOR_RMS**2) / weight - mean**2
        expected = (clip[start:end] - mean) / np.sqrt(variance + 1e-7)
        assert np.abs(normed[start:end] - expected).max() < 1e-5
        start = end
    assert start == len(clip)


def test_whole_normalisation_has_no_mean_and_unit_variance_whatever_the_padding() -> None:
    clip = torch.from_numpy(noise(5_000))
    alone = normalise(clip[None], torch.tensor([5_000]))[0]
    padded = normalise(torch.nn.functional.pad(clip, (0, 777), value=9.0)[None], torch.tensor([5_000]))[0]
    assert abs(alone.mean()) < 1e-6 and abs(alone.var(correction=0) - 1) < 1e-3
    assert torch.equal(padded[:5_000], alone) and not padded[5_000:].any()


def test_silence_stays_finite(tiny_folder) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    silence = np.zeros(16_000, np.float32)
    for chunks in ({}, {"chunk_frames": CHUNK}):
        assert np.isfinite(model.log_probs([silence], **chunks)[0]).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"chunk_frames": 0},
        {"chunk_frames": 8, "left_context_frames": -1},
        {"chunk_frames": 8, "lookahead_frames": -1},
    ],
)
def test_bad_chunks_are_named(bad: dict, tiny_folder) -> None:
    with pytest.raises(ValueError, match=str(min(bad.values()))):
        load(tiny_folder("mha"), device="cpu").log_probs([noise(1_000)], **bad)


def test_bad_waves_are_named(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    with pytest.raises(ValueError, match="wave 1 has shape"):
        model.log_probs([noise(1_000), np.zeros((2, 1_000), np.float32)])
    with pytest.raises(TypeError, match=r"wave 0 is a str; .* asr\.audio\.read"):
        model.log_probs(["talk.flac"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="wave 0 holds NaN"):
        model.log_probs([np.full(1_000, np.nan, np.float32)])


@pytest.mark.parametrize("chunk", [1, 8, 15, 16, 40, 64])
def test_the_chunk_convolution_is_each_chunk_after_its_left_context_and_before_zeros(chunk: int) -> None:
    module = tiny_model("mha").encoder.layers[0].conv_module
    x = torch.randn(2, 32, 45, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = module.depthwise_in_chunks(x, chunk)
        assert got.shape == x.shape
        padded = torch.nn.functional.pad(x, (15, 0))
        for start in range(0, 45, chunk):
            end = min(start + chunk, 45)
            cut = torch.nn.functional.pad(padded[..., start : end + 15], (0, 15))
            assert (module.depthwise_conv(cut) - got[..., start:end]).abs().max() < 1e-5
