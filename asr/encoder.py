"""The model: waveform -> Conformer layers -> one score per frame and character.

B clips, T frames, D model width, V vocabulary. Module names are those of `transformers`' `Wav2Vec2ConformerForCTC`, so
that a checkpoint's tensors keep their names. One forward serves both variants and both operators: the whole signal
(`chunk_frames=None`), and the chunks of a stream, masked or laid out of the whole signal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.blocks import Blocks
from asr.cache import LayerState
from asr.config import ModelConfig
from asr.convolution import ConvolutionModule, FeatureProjection, FrontEnd, activation
from asr.masks import attention_mask, chunk_mask, valid_frames
from asr.mha import MultiHeadAttention
from asr.mla import MultiHeadLatentAttention
from asr.normalise import normalise, normalise_chunks
from asr.positions import relative_table, rotary_table

ATTENTION = {"mha": MultiHeadAttention, "mla": MultiHeadLatentAttention}


class Sight(NamedTuple):
    """What the frames of a batch may see; the same for every layer."""

    positions: Tensor  # as `SelfAttention.forward` takes them
    valid: Tensor  # bool [B, T]
    mask: Tensor | None  # bool [B, 1, T, T], or [B, 1, 1, F + C + R] in a stream
    chunk_frames: int | None = None
    rows: Tensor | None = None  # as `SelfAttention.forward` takes them
    blocks: Blocks | None = None  # of which the frames are copies, where chunks look ahead


class FeedForward(nn.Module):
    """[B, T, D] -> [B, T, D] through a wider layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(self.activation(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward (Gulati et al. 2020, arXiv 2005.08100)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.ffn1_layer_norm = nn.LayerNorm(width)
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = ATTENTION[config.attention.kind](config, layer)
        self.self_attn_dropout = nn.Dropout(config.attention_dropout)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(width)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, sight: Sight, state: LayerState | None = None) -> Tensor:
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.self_attn_dropout(
            self.self_attn(self.self_attn_layer_norm(x), sight.positions, sight.mask, state, sight.rows)
        )
        x = x + self.conv_module(x, sight.valid, sight.chunk_frames, state, sight.blocks)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return self.final_layer_norm(x)


class Encoder(nn.Module):
    """The stack of layers and its final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConformerLayer(config, i) for i in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        upto: int | None = None,
        states: Sequence[LayerState] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, T, D] -> the normed output of the last layer, and of layer `upto` (counted from 1) when asked for."""
        x = self.dropout(x)
        between = None
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, sight, states[number - 1] if states else None)
            if number == upto:
                between = self.layer_norm(x)
        return self.layer_norm(x), between


class ConformerCTC(nn.Module):
    """Wav2Vec2-Conformer with a CTC head, in either attention variant."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = FrontEnd(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor,
        *,
        chunk_frames: int | None = None,
        left_context_frames: int = 0,
        lookahead_frames: int = 0,
        intermediate_layer: int | None = None,
        normalised: bool = False,
    ) -> tuple[Tensor, ...]:
        """Scores of every frame, before the softmax.

        Args:
            waves: float32 [B, samples] at 16 kHz, as recorded (normalisation is in here), padded to the longest.
            lengths: int64 [B], each clip's own samples.
            chunk_frames: None for the whole signal; C for the streaming operator with chunks of C frames, in which a
                frame sees its own chunk and `left_context_frames` (F) frames before it.
            left_context_frames: F; unused without `chunk_frames`.
            lookahead_frames: R, how many frames beyond its chunk a stream has heard when it says what is in it: see
                `blocks`. Unused without `chunk_frames`.
            intermediate_layer: also return the scores that this layer (counted from 1) gives.
            normalised: the waves are `normalise`d already, as windows of one long clip are.

        Returns:
            logits [B, T, V] and frame lengths [B] (0 for a clip under 400 samples), then the intermediate logits when
            asked for. Frames beyond a clip's length hold nothing of use.
        """
        frame_lengths = self.frame_lengths(lengths)
        x = self.feature_projection(self.features(waves, lengths, chunk_frames, normalised))
        sight = self.sight(x, frame_lengths, chunk_frames, left_context_frames, lookahead_frames)
        if sight.blocks is None:
            last, between = self.encoder(x, sight, intermediate_layer)
        else:
            last, between = self.encoder(sight.blocks.spread(x), sight, intermediate_layer)
            last = sight.blocks.final(last)
            between = None if between is None else sight.blocks.final(between)
        logits = self.lm_head(self.dropout(last))
        if between is None:
            return logits, frame_lengths
        return logits, frame_lengths, self.lm_head(self.dropout(between))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Samples [B] -> frames [B]."""
        return ((lengths - self.config.tail_samples) // self.config.hop_samples).clamp(min=0)

    def features(
        self, waves: Tensor, lengths: Tensor, chunk_frames: int | None, normalised: bool = False
    ) -> Tensor:
        """Waves [B, samples] -> front-end features [B, T, C]; T is at least 1."""
        config = self.config
        if waves.shape[1] < config.receptive_samples:
            waves = nn.functional.pad(waves, (0, config.receptive_samples - waves.shape[1]))
        if normalised:
            normed = waves
        elif chunk_frames is None:
            normed = normalise(waves, lengths)
        else:
            normed = normalise_chunks(waves, lengths, chunk_frames * config.hop_samples, config.tail_samples)
        features: Tensor = self.feature_extractor(normed.to(self.lm_head.weight.dtype))
        return features

    def sight(
        self,
        x: Tensor,
        frame_lengths: Tensor,
        chunk_frames: int | None,
        left_context_frames: int,
        lookahead_frames: int = 0,
    ) -> Sight:
        """Position table and masks for hidden states [B, T, D], or for their copies where chunks look ahead."""
        config, frames, device = self.config, x.shape[1], x.device
        if chunk_frames is not None and lookahead_frames:
            blocks = Blocks(frame_lengths, frames, chunk_frames, left_context_frames, lookahead_frames)
            return self._sight_of(blocks)
        dtype = self.lm_head.weight.dtype
        if config.position_embeddings_type == "relative":
            positions = relative_table(frames, frames, config.hidden_size, device, dtype)
        else:
            positions = self.turns(torch.arange(frames, device=device))
        valid = valid_frames(frame_lengths, frames)
        chunks = (
            None if chunk_frames is None else chunk_mask(frames, chunk_frames, left_context_frames, device)
        )
        return Sight(positions, valid, attention_mask(valid, chunks), chunk_frames)

    def _sight_of(self, blocks: Blocks) -> Sight:
        rows = None
        if self.config.position_embeddings_type == "relative":
            like, frames = self.lm_head.weight, blocks.frames
            span = int(frames[-1] - frames[0]) + 1
            positions = relative_table(span, span, self.config.hidden_size, like.device, like.dtype)
            rows = (span - 1 - (frames[:, None] - frames))[None]
        else:
            positions = self.turns(blocks.frames)
        return Sight(positions, blocks.valid, blocks.mask, rows=rows, blocks=blocks)

    def turns(self, frames: Tensor) -> Tensor:
        """The rotary table [2, ..., dh] of frames [...]."""
        config, dtype = self.config, self.lm_head.weight.dtype
        return rotary_table(frames, config.head_size, config.rotary_embedding_base, dtype)
