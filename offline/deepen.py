"""A trained model with more layers, which at first says what it said before."""

from dataclasses import replace

import torch
from torch import nn

from asr.encoder import ConformerCTC

# The last linear map of each branch that a layer adds to its input.
ENDS = ("ffn1.output_dense", "self_attn.linear_out", "conv_module.pointwise_conv2", "ffn2.output_dense")


@torch.no_grad()
def deepen(model: ConformerCTC, layers: int) -> ConformerCTC:
    """Returns a model of so many layers, evenly among them new ones that change nothing yet.

    A new layer is a copy of the one before it whose branches end in zeros. Its final norm would still change something:
    it takes over the scale and shift of the layer before, which keeps the bare norm, and to norm twice is to norm once
    (but for rounding, and for the norms' epsilon where a layer's output is small). Growth that keeps the function: Chen
    et al. 2016, arXiv 1511.05641. Both depths even, the middle layer says what it said, too.

    Raises ValueError for mla, for odd depths, and unless layers is more than the model has and at most twice as many.
    """
    before = model.config.num_hidden_layers
    if model.config.attention.kind == "mla":
        raise ValueError("--num_layers: for mha only; convert the deeper model")
    if not before < layers <= 2 * before:
        raise ValueError(f"--num_layers {layers}: from {before + 1} to {2 * before} for a model of {before}")
    if before % 2 or layers % 2:
        raise ValueError(
            f"--num_layers {layers} for a model of {before}: both even, or the middle layer starts anew"
        )
    more = layers - before
    followed = {-(-number * before // more) - 1 for number in range(1, more + 1)}
    deeper = ConformerCTC(replace(model.config, num_hidden_layers=layers))
    rest = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    missing, unexpected = deeper.load_state_dict(rest, strict=False)
    assert not unexpected and all(".layers." in name for name in missing)
    places = iter(deeper.encoder.layers)
    for index, layer in enumerate(model.encoder.layers):
        copy = next(places)
        copy.load_state_dict(layer.state_dict())
        if index in followed:
            new = next(places)
            new.load_state_dict(layer.state_dict())
            for end in ENDS:
                for parameter in new.get_submodule(end).parameters():
                    nn.init.zeros_(parameter)
            nn.init.ones_(copy.get_parameter("final_layer_norm.weight"))
            nn.init.zeros_(copy.get_parameter("final_layer_norm.bias"))
    return deeper
