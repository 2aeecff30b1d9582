"""A tiny seeded model of every kind, as a checkpoint folder: what most tests run on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from asr import checkpoint
from asr.config import Attention, ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
LAYERS = 3


def tiny_config(kind: str = "mha", positions: str = "relative", **changes: object) -> ModelConfig:
    """A model of 0.1M parameters: `mha`, `mla` (joint latent), or `mla-separate`."""
    attention = {
        "mha": Attention(),
        "mla": Attention(kind="mla", latent="joint", rank=(12, 16, 20)),
        "mla-separate": Attention(kind="mla", latent="separate", rank_k=(8, 12, 16), rank_v=(12, 10, 8)),
    }[kind]
    values = {
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (8, 8, 16, 16, 16, 16, 16),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "position_embeddings_type": positions,
        "attention": attention,
    }
    return ModelConfig.from_dict(ModelConfig(**(values | changes)).to_dict())  # type: ignore[arg-type]


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic a value that would show if it were left out: no zero biases, no unit norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.1 if parameter.ndim == 1 or "pos_bias" in name else fan_in**-0.5
        offset = 1.0 if parameter.ndim == 1 and name.endswith("norm.weight") else 0.0
        parameter.data.copy_(offset + scale * noise)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def in_the_hubs_cache(folder: Path, cache: Path, revision: str = "main") -> Path:
    """A copy of the folder as the hub's client lays out someone/some-model: its snapshot."""
    repo = cache / "models--someone--some-model"
    ref = repo / "refs" / revision
    ref.parent.mkdir(parents=True)
    ref.write_text("a" * 40)
    return Path(shutil.copytree(folder, repo / "snapshots" / ("a" * 40)))


def tiny_model(
    kind: str = "mha", positions: str = "relative", seed: int = 0, **changes: object
) -> ConformerCTC:
    """The seeded random model of `tiny_config`, in evaluation mode."""
    model = ConformerCTC(tiny_config(kind, positions, **changes))
    randomise(model, seed)
    return model.eval()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """float32 [samples] of seeded noise with an offset and a swell, so that normalisation matters."""
    rng = np.random.default_rng(seed)
    swell = 0.05 + 0.1 * np.linspace(0, 1, samples)
    return (0.02 + swell * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENS)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Callable[..., Path]:
    """A function that writes the tiny model of a kind as a float32 checkpoint folder, once, and gives its path."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str = "mha", positions: str = "relative") -> Path:
        if (kind, positions) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{positions}")
            checkpoint.save(tiny_model(kind, positions), vocabulary, folder, dtype=torch.float32)
            made[kind, positions] = folder
        return made[kind, positions]

    return make
