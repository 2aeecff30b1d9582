"""A folded twin says what the mla model says, to rounding, in our code and in stock `transformers`."""

from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2ConformerForCTC

from asr import checkpoint
from asr.config import Attention
from offline.fold import folded, shell
from tests.conftest import noise, tiny_model

WAVE = torch.from_numpy(noise(16_000))[None]
LENGTH = torch.tensor([16_000])


@pytest.mark.parametrize(
    ("kind", "positions"), [("mla", "relative"), ("mla-separate", "relative"), ("mla-separate", "rotary")]
)
@torch.no_grad()
def test_folds_are_exact_in_float64(kind: str, positions: str) -> None:
    model = tiny_model(kind, positions).double()
    twin = folded(model)
    assert twin.config.attention == Attention() and twin.lm_head.weight.dtype == torch.float64
    assert (twin(WAVE, LENGTH)[0] - model(WAVE, LENGTH)[0]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["mla", "mla-separate"])
@torch.no_grad()
def test_stock_transformers_loads_the_twin(kind: str, tmp_path: Path, vocabulary) -> None:
    model = tiny_model(kind)
    checkpoint.save(folded(model), vocabulary, tmp_path, dtype=torch.float32)
    stock, info = Wav2Vec2ConformerForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    normed = (WAVE - WAVE.mean()) / (WAVE.var(correction=0) + 1e-7).sqrt()
    expected = model(WAVE, LENGTH)[0].log_softmax(-1)
    assert (stock.eval()(normed).logits.log_softmax(-1) - expected).abs().max() < 1e-4


def test_only_latents_can_be_folded() -> None:
    with pytest.raises(ValueError, match="only an mla model"):
        folded(tiny_model())


def test_a_shell_holds_the_same_memory_but_for_what_changes() -> None:
    model = tiny_model()
    new = shell(model, tiny_model("mla").config.attention)
    for old_layer, layer in zip(model.encoder.layers, new.encoder.layers, strict=True):
        assert (
            layer.ffn1.intermediate_dense.weight.data_ptr()
            == old_layer.ffn1.intermediate_dense.weight.data_ptr()
        )
        old_bias, bias = old_layer.self_attn.linear_out.bias, layer.self_attn.linear_out.bias
        assert torch.equal(bias, old_bias) and bias.data_ptr() != old_bias.data_ptr()
