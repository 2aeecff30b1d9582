"""Our forward gives what `transformers`' gives, and, where stock code leaks padding, what it gives for a clip alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, Wav2Vec2FeatureExtractor

from asr import checkpoint, load
from asr.ctc import Vocabulary
from tests.conftest import noise, randomise, tiny_config

TOLERANCE = 1e-4
CLIPS = [noise(16_000, 1), noise(9_001, 2), noise(23_456, 3), noise(400, 4)]
EXTRACTOR = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)


def stock(positions: str = "relative", **changes: object) -> Wav2Vec2ConformerForCTC:
    fields = tiny_config("mha", positions, **changes).to_dict()
    fields.pop("attention")
    model = Wav2Vec2ConformerForCTC(Wav2Vec2ConformerConfig(**fields))
    randomise(model)
    return model.eval()


def stock_log_probs(model: Wav2Vec2ConformerForCTC, clips: list[np.ndarray]) -> np.ndarray:
    inputs = EXTRACTOR(clips, sampling_rate=16_000, return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model(**inputs).logits.log_softmax(-1).numpy()


def saved(model: Wav2Vec2ConformerForCTC, folder: Path, vocabulary: Vocabulary) -> Path:
    """The folder that `save_pretrained` writes, with a vocabulary."""
    model.save_pretrained(folder)
    checkpoint._write(folder / "vocab.json", {token: i for i, token in enumerate(vocabulary.tokens)})
    return folder


CONFIGS = {
    "relative": {},
    "rotary": {"positions": "rotary"},
    "no-conv-bias": {"conv_bias": False},
    "narrow-kernel": {"conv_depthwise_kernel_size": 7},
    "relu-gelu": {"hidden_act": "relu", "feat_extract_activation": "relu"},
    "one-head": {"num_attention_heads": 1},
    "other-strides": {"conv_stride": (5, 2, 2, 2, 2, 2, 1)},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_one_clip_equals_transformers(changes: dict, tmp_path: Path, vocabulary: Vocabulary) -> None:
    reference = stock(**changes)
    ours = load(saved(reference, tmp_path, vocabulary), device="cpu")
    for clip in CLIPS:
        expected = stock_log_probs(reference, [clip])[0]
        got = ours.log_probs([clip])[0]
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() < TOLERANCE


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_padding_leaks_in_transformers_and_not_here(
    positions: str, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """The reason for the own forward: a stock clip's scores depend on what it is batched with."""
    reference = stock(positions)
    ours = load(saved(reference, tmp_path, vocabulary), device="cpu")
    batched, stock_batched = ours.log_probs(CLIPS), stock_log_probs(reference, CLIPS)
    leaks = []
    for index, clip in enumerate(CLIPS):
        alone = stock_log_probs(reference, [clip])[0]
        assert np.abs(batched[index] - alone).max() < TOLERANCE
        leaks.append(np.abs(stock_batched[index, : len(alone)] - alone).max())
    assert max(leaks) > 0.1  # a tenth of a nat: far beyond rounding


CHUNKED = [
    {},
    {"chunk_frames": 8, "left_context_frames": 10},
    {"chunk_frames": 8, "left_context_frames": 10, "lookahead_frames": 3},
]


@pytest.mark.parametrize("kind", ["mha", "mla", "mla-separate"])
@pytest.mark.parametrize("chunks", CHUNKED)
def test_batch_equals_alone(kind: str, chunks: dict, tiny_folder) -> None:
    model = load(tiny_folder(kind), device="cpu")
    batched = model.log_probs(CLIPS, **chunks)
    for clip, scores in zip(CLIPS, batched, strict=True):
        assert np.abs(scores - model.log_probs([clip], **chunks)[0]).max() < TOLERANCE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["mha", "mla", "mla-separate"])
def test_on_a_gpu_float32_is_float32(kind: str, tiny_folder) -> None:
    """Batch = alone = the CPU's, which TF32 would miss by a factor of ten."""
    model, cpu = (
        load(tiny_folder(kind), device="cuda", dtype="float32"),
        load(tiny_folder(kind), device="cpu"),
    )
    for clip, scores in zip(CLIPS, model.log_probs(CLIPS), strict=True):
        assert np.abs(scores - model.log_probs([clip])[0]).max() < TOLERANCE
        assert np.abs(scores - cpu.log_probs([clip])[0]).max() < TOLERANCE


def test_order_and_company_do_not_matter(tiny_folder) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    forward = model.log_probs(CLIPS)
    backward = model.log_probs(CLIPS[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert np.abs(one - other).max() < TOLERANCE


def test_a_clip_too_short_for_a_frame_has_none_and_harms_no_other(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    short, clip = noise(399), CLIPS[0]
    none, beside = model.log_probs([short, clip])
    assert none.shape == (0, 32)
    assert np.abs(beside - model.log_probs([clip])[0]).max() < TOLERANCE
    assert model.log_probs([short])[0].shape == (0, 32)
    assert model.log_probs([np.zeros(0, np.float32)])[0].shape == (0, 32)
    assert model.transcribe([short])[0].text == ""
    assert model.log_probs([]) == []


@pytest.mark.slow
def test_the_reference_architecture_equals_transformers(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """All 618M parameters, seeded random weights, one clip and a padded batch."""
    config = Wav2Vec2ConformerConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, hidden_act="swish",
        feat_extract_norm="layer", conv_bias=True, vocab_size=32, position_embeddings_type="relative",
    )  # fmt: skip
    reference = Wav2Vec2ConformerForCTC(config).eval()
    randomise(reference)
    assert 615e6 < sum(p.numel() for p in reference.parameters()) < 621e6
    ours = load(saved(reference, tmp_path, vocabulary), device="cpu")
    clips = [noise(32_000, 1), noise(20_000, 2)]
    batched = ours.log_probs(clips)
    for clip, scores in zip(clips, batched, strict=True):
        expected = stock_log_probs(reference, [clip])[0]
        assert np.abs(ours.log_probs([clip])[0] - expected).max() < TOLERANCE
        assert np.abs(scores - expected).max() < TOLERANCE
