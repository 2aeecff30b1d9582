"""The waveform front end, and the Conformer's depthwise convolution.

B clips, T frames, C channels, D model width. Module names are those of `transformers`' Wav2Vec2-Conformer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.blocks import Blocks
from asr.cache import LayerState
from asr.config import ModelConfig

ACTIVATIONS = {"gelu": nn.GELU, "swish": nn.SiLU, "silu": nn.SiLU, "relu": nn.ReLU}


def activation(name: str) -> nn.Module:
    """The activation that a config names; ValueError with the choices for any other."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; choices: {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class FrontEndLayer(nn.Module):
    """Strided convolution, layer norm over the channels, activation. No padding: a frame sees its own samples only.

    The convolution runs as one matrix product over windows, channels last as the norm wants them: on a CPU that takes
    half the time of a convolution between two transposes.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        channels_in = config.conv_dim[layer - 1] if layer else 1
        kernel, stride = config.conv_kernel[layer], config.conv_stride[layer]
        self.conv = nn.Conv1d(channels_in, config.conv_dim[layer], kernel, stride, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.conv_dim[layer])
        self.activation = activation(config.feat_extract_activation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T_in, C_in] -> [B, T_out, C_out]."""
        windows = cut(x, self.conv.kernel_size[0], self.conv.stride[0])
        x = F.linear(windows, self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias)
        normed: Tensor = self.activation(self.layer_norm(x))
        return normed


def cut(x: Tensor, kernel: int, stride: int) -> Tensor:
    """[B, T_in, C] -> [B, T_out, kernel * C]: the windows of a convolution, whole frames one after another.

    They are put together of blocks of `stride` frames, whose rows lie in memory already: to gather them value by value
    (`Tensor.unfold`) takes longer, and adding them up again in training three to four times as long.
    """
    batch, frames, channels = x.shape
    count, parts = (frames - kernel) // stride + 1, -(-kernel // stride)
    needed = (count - 1 + parts) * stride
    x = F.pad(x, (0, 0, 0, needed - frames)) if needed > frames else x[:, :needed]
    blocks = x.reshape(batch, count - 1 + parts, stride * channels)
    rest = (kernel - (parts - 1) * stride) * channels
    whole = [blocks[:, part : part + count] for part in range(parts - 1)]
    return torch.cat([*whole, blocks[:, parts - 1 :, :rest]], -1)


class FrontEnd(nn.Module):
    """Waveform [B, samples] -> features [B, T, C], one frame per 320 samples, each from 400."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(FrontEndLayer(config, i) for i in range(len(config.conv_dim)))

    def forward(self, waves: Tensor) -> Tensor:
        x = waves[:, :, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """Features [B, T, C] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


class ConvolutionModule(nn.Module):
    """Pointwise, gated, depthwise (kernel 31), batch norm, swish, pointwise.

    Padded frames are zeroed before the depthwise convolution, as if the clip ended there: without that (stock
    `transformers`) every layer lets 15 frames of padding in, and a clip's text depends on its batch.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.reach = (kernel - 1) // 2
        self.layer_norm = nn.LayerNorm(width)
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.activation = activation(config.hidden_act)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=False)
        self.dropout = nn.Dropout(config.conformer_conv_dropout)

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        chunk_frames: int | None,
        state: LayerState | None = None,
        blocks: Blocks | None = None,
    ) -> Tensor:
        """[B, T, D], bool [B, T] -> [B, T, D]. With `chunk_frames`, nothing beyond a frame's own chunk is seen.

        With `state` x is one block of each stream, and the 15 frames before it are the state's; with `blocks` x is
        their copies.
        """
        gated = F.glu(pointwise(self.pointwise_conv1, self.layer_norm(x))) * valid[..., None]
        x = gated.transpose(1, 2)
        if state is not None:
            x = self.depthwise_conv(F.pad(state.after_reach(x), (0, self.reach)))
        elif blocks is not None:
            out = self.depthwise_conv(F.pad(blocks.cut(x, self.reach), (0, self.reach)))
            x = out.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2)
        elif chunk_frames is not None:
            x = self.depthwise_in_chunks(x, chunk_frames)
        else:
            x = self.depthwise(x)
        x = self.activation(self.norm(x.transpose(1, 2), valid))
        return self.dropout(pointwise(self.pointwise_conv2, x))

    def depthwise(self, x: Tensor) -> Tensor:
        """[B, D, T] -> [B, D, T], 15 frames to either side."""
        return self.depthwise_conv(F.pad(x, (self.reach, self.reach)))

    def depthwise_in_chunks(self, x: Tensor, chunk_frames: int) -> Tensor:
        """[B, D, T] -> [B, D, T]: 15 frames to the left, zeros beyond the chunk's right edge.

        Dynamic chunk convolution (Li et al. 2023, arXiv 2304.09325): each chunk is cut out with its left context and
        convolved as a clip of its own.
        """
        batch, _, frames = x.shape
        chunks = -(-frames // chunk_frames)
        x = F.pad(x, (self.reach, chunks * chunk_frames - frames))
        cut = x.unfold(2, self.reach + chunk_frames, chunk_frames)  # [B, D, chunks, 15 + C]
        cut = F.pad(cut.transpose(1, 2).flatten(0, 1), (0, self.reach))
        out = self.depthwise_conv(cut).unflatten(0, (batch, chunks))
        return out.transpose(1, 2).flatten(2)[..., :frames]

    def norm(self, x: Tensor, valid: Tensor) -> Tensor:
        """Batch norm of [B, T, D]; in training its statistics are those of the valid frames alone."""
        if not self.training:
            return self.batch_norm(x.flatten(0, 1)).view_as(x)
        normed = torch.zeros_like(x, dtype=torch.float32)
        normed[valid] = self.batch_norm(x[valid].float())
        return normed.to(x.dtype)


def pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of kernel 1 on [B, T, D], as the matrix product that it is; its parameters keep their names."""
    return F.linear(x, conv.weight[:, :, 0], conv.bias)
