"""The dimensions of a model: the Hugging Face `config.json` fields that matter, plus the attention variant."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

FORMAT_VERSION = 1
# Written anew with every folder, so never carried along.
MODEL_TYPE = "wav2vec2-conformer"
MLA_MODEL_TYPE = "wav2vec2-conformer-mla"  # of its own: stock code would load it, with K and V at random
DERIVED_FIELDS = {"model_type", "architectures", "dtype", "torch_dtype", "attention", "format_version"}


@dataclass(frozen=True)
class Attention:
    """Which attention the layers use, and how wide each layer's latents are.

    `mha` caches K and V. `mla` caches one latent of `rank[layer]` values a frame (`joint`), or two of `rank_k[layer]`
    and `rank_v[layer]` (`separate`). `source` and `method` say what an `mla` model was converted from, and how.
    """

    kind: Literal["mha", "mla"] = "mha"
    latent: Literal["joint", "separate"] | None = None
    rank: tuple[int, ...] = ()
    rank_k: tuple[int, ...] = ()
    rank_v: tuple[int, ...] = ()
    source: str | None = None
    method: str | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Attention":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"attention: unknown keys {sorted(unknown)}; known: {[f.name for f in fields(cls)]}"
            )
        return cls(**_tuples(values))

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v}

    def check(self, layers: int, width: int, positions: str) -> None:
        """Raise ValueError where the ranks do not fit a model of so many layers and such a width."""
        if self.kind not in ("mha", "mla"):
            raise ValueError(f"attention kind is {self.kind!r}; choices: 'mha', 'mla'")
        if self.kind == "mha":
            return
        ranks = {"joint": [self.rank], "separate": [self.rank_k, self.rank_v]}.get(self.latent or "")
        if ranks is None:
            raise ValueError(f"attention latent is {self.latent!r}; choices: 'joint', 'separate'")
        if self.latent == "joint" and positions == "rotary":
            raise ValueError(
                "a joint latent needs K and V to be made from the same input, but rotary positions turn the input of "
                "Q and K alone: use latent 'separate' for this checkpoint"
            )
        for per_layer in ranks:
            if len(per_layer) != layers or not all(0 < r <= width for r in per_layer):
                raise ValueError(
                    f"attention needs {layers} ranks, each from 1 to {width}, not {list(per_layer)}"
                )

    def cached_parts(self, layer: int, width: int) -> tuple[int, ...]:
        """Values that one frame leaves in the cache of one layer: of K and of V, or of one latent for both."""
        if self.kind == "mha":
            return width, width
        return (self.rank[layer],) if self.latent == "joint" else (self.rank_k[layer], self.rank_v[layer])


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions under their Hugging Face names (`Wav2Vec2ConformerConfig`), so that a folder's file reads as it is.

    Fields this forward does not need stay in `extra` and are written back unchanged.
    """

    vocab_size: int = 32
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "swish"
    position_embeddings_type: Literal["relative", "rotary"] = "relative"
    rotary_embedding_base: float = 10_000
    conv_depthwise_kernel_size: int = 31
    layer_norm_eps: float = 1e-5
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = True
    feat_extract_norm: str = "layer"
    feat_extract_activation: str = "gelu"
    pad_token_id: int = 0
    hidden_dropout: float = 0.0
    activation_dropout: float = 0.0
    attention_dropout: float = 0.0
    feat_proj_dropout: float = 0.0
    conformer_conv_dropout: float = 0.0
    final_dropout: float = 0.0
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    attention: Attention = field(default_factory=Attention)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.feat_extract_norm != "layer":
            raise ValueError(
                f"feat_extract_norm is {self.feat_extract_norm!r}, only 'layer' is supported: group norm averages over "
                "time, so a clip's output would depend on its padding"
            )
        if self.position_embeddings_type not in ("relative", "rotary"):
            raise ValueError(
                f"position_embeddings_type is {self.position_embeddings_type!r}; choices: 'relative', 'rotary'"
            )
        if self.extra.get("add_adapter"):
            raise ValueError("add_adapter is set, but adapter layers are not supported")
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError(f"conv_dim, conv_kernel and conv_stride differ in length: {self.conv_dim}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads"
            )
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise ValueError(
                f"conv_depthwise_kernel_size is {self.conv_depthwise_kernel_size}, but must be odd"
            )
        self.attention.check(self.num_hidden_layers, self.hidden_size, self.position_embeddings_type)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Read a parsed `config.json`. Raises ValueError naming what is missing, wrong or not supported."""
        model_type = values.get("model_type", MODEL_TYPE)
        if model_type not in (MODEL_TYPE, MLA_MODEL_TYPE):
            raise ValueError(f"model_type is {model_type!r}; choices: {MODEL_TYPE!r}, {MLA_MODEL_TYPE!r}")
        version = values.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, this version reads {FORMAT_VERSION}")
        known = {f.name for f in fields(cls)} - {"attention", "extra"}
        ours = _tuples({k: v for k, v in values.items() if k in known})
        extra = {k: v for k, v in values.items() if k not in known | DERIVED_FIELDS}
        return cls(**ours, attention=Attention.from_dict(values.get("attention", {})), extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds: the Hugging Face fields, `format_version` and `attention`."""
        names = [f.name for f in fields(self) if f.name not in ("attention", "extra")]
        ours = {n: list(v) if isinstance(v := getattr(self, n), tuple) else v for n in names}
        stock = self.attention.kind == "mha"
        kind = {
            "model_type": MODEL_TYPE if stock else MLA_MODEL_TYPE,
            "architectures": ["Wav2Vec2ConformerForCTC" if stock else "ConformerCTC"],
        }
        variant = {"format_version": FORMAT_VERSION, "attention": self.attention.to_dict()}
        return {**kind, **self.extra, **ours, **variant}

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next: the product of the strides (320)."""
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

    @property
    def receptive_samples(self) -> int:
        """Samples that one frame sees (400)."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def tail_samples(self) -> int:
        """Samples that two neighbouring frames share (80): what a stream keeps between chunks."""
        return self.receptive_samples - self.hop_samples

    def frames(self, samples: int) -> int:
        """Frames that so many samples give; 0 when they do not fill one receptive field."""
        return max(0, (samples - self.tail_samples) // self.hop_samples)

    def cached_values_per_frame(self) -> int:
        """Values that one frame leaves in the attention caches of all layers."""
        return sum(sum(self.cached_parts(layer)) for layer in range(self.num_hidden_layers))

    def cached_parts(self, layer: int) -> tuple[int, ...]:
        """Values that one frame leaves in the cache of one layer: of K and of V, or of one latent for both."""
        return self.attention.cached_parts(layer, self.hidden_size)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples, so that a config cannot change."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
