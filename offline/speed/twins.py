"""One model's tensors in other shapes: as mla at any cut, made in memory, and as `transformers`' own module.

A twin shares its tensors with the model that it was made of (mla has latents of its own instead of K and V), so twelve
ways to run 618M parameters take little more room than one. The latents come from the mha weights alone, by the plain
SVD: speed and memory are those of any conversion at that cut, the error rate is not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from asr.checkpoint import PREFIX
from asr.config import Attention
from asr.encoder import ConformerCTC
from asr.mha import MultiHeadAttention
from asr.mla import MultiHeadLatentAttention


class Absorbed(MultiHeadLatentAttention):
    """Attends on the latents, whatever that costs."""

    def absorbs(self, queries: int, keys: int) -> bool:
        return True


class Expanded(MultiHeadLatentAttention):
    """Makes K and V, whatever that costs."""

    def absorbs(self, queries: int, keys: int) -> bool:
        return False


PATHS: dict[str, type[MultiHeadLatentAttention]] = {
    "auto": MultiHeadLatentAttention,
    "absorbed": Absorbed,
    "expanded": Expanded,
}


def share(model: ConformerCTC, attention: Attention, other: dict[str, Tensor] | None = None) -> ConformerCTC:
    """Returns a model with this attention that holds the same tensors, but for the `other` ones."""
    with torch.device("meta"):
        twin = ConformerCTC(replace(model.config, attention=attention))
    state = model.state_dict(keep_vars=True) | (other or {})
    twin.load_state_dict({name: state[name] for name in twin.state_dict()}, assign=True)
    return twin.eval()


def on_path(model: ConformerCTC, path: str) -> ConformerCTC:
    """Returns a twin of an mla model that always takes this path of its attention: one of PATHS."""
    twin = share(model, model.config.attention)
    for attention in latent_attentions(twin):
        attention.__class__ = PATHS[path]
    return twin


@torch.no_grad()
def latents(model: ConformerCTC) -> list[Tensor]:
    """Returns per layer float64 [D, D] with orthonormal rows: the inputs that K and V take most from come first.

    The right singular vectors of [a W_K; W_V], where `a` gives K and V the same energy; from the eigenvectors of its
    Gram matrix, so that the 24 layers of 1024 take seconds.
    """
    bases = []
    for attention in _attentions(model):
        key, value = attention.linear_k.weight.double(), attention.linear_v.weight.double()
        gram = (value.norm() / key.norm()) ** 2 * key.T @ key + value.T @ value
        bases.append(torch.linalg.eigh(gram).eigenvectors.flip(-1).T)
    return bases


@torch.no_grad()
def latent_twin(model: ConformerCTC, rank: int, bases: Sequence[Tensor]) -> ConformerCTC:
    """Returns the mla model with the first `rank` rows of each layer's base as its latent.

    The K bias drops out of the softmax, and the V bias passes through it into the output bias.
    """
    other: dict[str, Tensor] = {}
    for layer, (attention, base) in enumerate(zip(_attentions(model), bases, strict=True)):
        latent, out = base[:rank], attention.linear_out
        tensors = {
            "linear_latent.weight": latent,
            "linear_up_k.weight": attention.linear_k.weight.double() @ latent.T,
            "linear_up_v.weight": attention.linear_v.weight.double() @ latent.T,
            "linear_out.bias": out.bias.double() + out.weight.double() @ attention.linear_v.bias.double(),
        }
        prefix = f"encoder.layers.{layer}.self_attn."
        other |= {prefix + name: tensor.to(out.weight.dtype) for name, tensor in tensors.items()}
    ranks = (rank,) * model.config.num_hidden_layers
    return share(model, Attention(kind="mla", latent="joint", rank=ranks, method="weight"), other)


def stock_twin(model: ConformerCTC, implementation: str) -> nn.Module:
    """Returns `transformers`' model with the same tensors; `implementation` of its attention: eager or sdpa."""
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC

    fields = {k: v for k, v in model.config.to_dict().items() if k not in ("attention", "format_version")}
    config = Wav2Vec2ConformerConfig(**fields, attn_implementation=implementation)
    with torch.device("meta"):
        stock = Wav2Vec2ConformerForCTC(config)
    ours = model.state_dict(keep_vars=True).items()
    state = {name if name.startswith("lm_head.") else PREFIX + name: tensor for name, tensor in ours}
    device = model.lm_head.weight.device
    for name, tensor in stock.state_dict().items():  # what it builds and never uses
        if name not in state:
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    stock.load_state_dict(state, assign=True)
    encoder = stock.wav2vec2_conformer.encoder
    encoder.embed_positions = type(encoder.embed_positions)(stock.config).to(
        device
    )  # tables are in no state dict
    return stock.eval()


def _attentions(model: ConformerCTC) -> Iterator[MultiHeadAttention]:
    return (module for module in model.modules() if isinstance(module, MultiHeadAttention))


def latent_attentions(model: nn.Module) -> Iterator[MultiHeadLatentAttention]:
    return (module for module in model.modules() if isinstance(module, MultiHeadLatentAttention))
