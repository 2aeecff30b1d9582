"""An MLA model as the MHA model of the same outputs: W_K' = W_UK A and W_V' = W_UV A, biases zero.

b_K is zero because it drops out of the softmax, b_V because it went into the output bias with the conversion.
"""

from dataclasses import replace

import torch
from torch import Tensor

from asr.config import Attention
from asr.encoder import ConformerCTC
from asr.mla import MultiHeadLatentAttention


def products(attention: MultiHeadLatentAttention) -> tuple[Tensor, Tensor]:
    """W_K' and W_V' [D, D], float64."""
    if attention.joint:
        down_k = down_v = attention.linear_latent.weight.double()
    else:
        down_k, down_v = attention.linear_latent_k.weight.double(), attention.linear_latent_v.weight.double()
    return attention.linear_up_k.weight.double() @ down_k, attention.linear_up_v.weight.double() @ down_v


@torch.no_grad()
def folded(model: ConformerCTC) -> ConformerCTC:
    """The twin that stock `transformers` can run; it shares all other tensors with the model.

    Raises ValueError when the model is not MLA.
    """
    if model.config.attention.kind != "mla":
        raise ValueError(
            "only an mla model has latents to fold; an mha folder loads in transformers as it is"
        )
    twin = shell(model, Attention())
    for layer, new in zip(model.encoder.layers, twin.encoder.layers, strict=True):
        weight_k, weight_v = products(layer.get_submodule("self_attn"))  # type: ignore[arg-type]
        attention = new.get_submodule("self_attn")
        for name, weight in (("linear_k", weight_k), ("linear_v", weight_v)):
            attention.get_parameter(f"{name}.weight").copy_(weight)
            attention.get_parameter(f"{name}.bias").zero_()
    return twin.eval()


@torch.no_grad()
def shell(model: ConformerCTC, attention: Attention) -> ConformerCTC:
    """A model of the other variant: all that both have is shared, but for the output biases, which are copied.

    What only it has is not set yet. Nothing else is allocated: a large model is not in memory twice.
    """
    with torch.device("meta"):
        new = ConformerCTC(replace(model.config, attention=attention))
    own = model.state_dict()
    like = model.lm_head.weight
    state = {
        name: own[name] if name in own else like.new_empty(wanted.shape)
        for name, wanted in new.state_dict().items()
    }
    for name in state:
        if name.endswith("self_attn.linear_out.bias"):
            state[name] = state[name].clone()
    new.load_state_dict(state, assign=True)
    return new
