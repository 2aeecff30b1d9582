"""A tiny MHA model and an MLA model made of it, as folders."""

from dataclasses import replace
from pathlib import Path

import torch

from asr import checkpoint
from asr.config import Attention, ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from asr.mha import MultiHeadAttention
from asr.mla import MultiHeadLatentAttention
from offline.train import TOKENS
from tests.offline.tones import TINY, write_tones

RANK = 6


def compressed(model: ConformerCTC, rank: int = RANK) -> ConformerCTC:
    """The model with K and V of each layer made from one latent: the truncated SVD of their weights."""
    ranks = (rank,) * model.config.num_hidden_layers
    attention = Attention(kind="mla", latent="joint", rank=ranks, source="mha", method="weight")
    small = ConformerCTC(replace(model.config, attention=attention))
    small.load_state_dict(model.state_dict(), strict=False)
    pairs = zip(small.encoder.layers, model.encoder.layers, strict=True)
    for new, old in ((n.get_submodule("self_attn"), o.get_submodule("self_attn")) for n, o in pairs):
        assert isinstance(new, MultiHeadLatentAttention) and isinstance(old, MultiHeadAttention)
        both = torch.cat((old.linear_k.weight, old.linear_v.weight))
        left, values, right = torch.linalg.svd(both, full_matrices=False)
        up_k, up_v = (left[:, :rank] * values[:rank]).chunk(2)
        with torch.no_grad():
            new.linear_latent.weight.copy_(right[:rank])
            new.linear_up_k.weight.copy_(up_k)
            new.linear_up_v.weight.copy_(up_v)
            new.linear_out.bias.add_(old.linear_out.weight @ old.linear_v.bias)
    return small


def write_arms(folder: Path, **changes: object) -> Path:
    """Writes mha/, mla/ and the recordings of `write_tones`; returns the folder. changes: to the configuration."""
    torch.manual_seed(0)
    model = ConformerCTC(ModelConfig.from_dict(TINY | changes)).eval()
    for name, arm in (("mha", model), ("mla", compressed(model))):
        checkpoint.save(arm, Vocabulary(TOKENS), folder / name, dtype=torch.float32)
    return write_tones(folder)
