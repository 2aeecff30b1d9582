"""Floating-point operations of a forward over whole clips, and of a live stream's step.

Matrix products and convolutions alone, a multiplication and an addition being two; norms, softmax and activations are
left out, as in `torch.utils.flop_counter`. Position scores are made for all offsets of a query, as here and in
`transformers`.
"""

from collections.abc import Sequence

from asr.config import ModelConfig


def forward_flops(config: ModelConfig, samples: Sequence[int], absorbed: Sequence[bool] = ()) -> int:
    """Operations of one forward over clips of so many samples, without padding.

    The position table is projected once for the batch, for the longest clip; a query of a clip of T frames is scored
    with 2 T offsets.

    Args:
        config: the model's.
        samples: of each clip, at 16 kHz.
        absorbed: whether each layer attends on the latents themselves; not needed for mha.
    """
    frames = [config.frames(n) for n in samples]
    width, layers = config.hidden_size, config.num_hidden_layers
    flops = sum(_front_end(config, n) for n in samples)
    flops += sum(2 * t * width * (config.conv_dim[-1] + config.vocab_size) for t in frames)
    for layer in range(layers):
        attends = bool(absorbed) and absorbed[layer]
        flops += sum(_layer(config, t) + _attention(config, t, t, 2 * t, layer, attends) for t in frames)
    if config.position_embeddings_type == "relative":
        flops += layers * 2 * (2 * max(frames)) * width**2
    return flops


def step_flops(
    config: ModelConfig,
    chunk_frames: int,
    left_context_frames: int,
    lookahead_frames: int = 0,
    absorbed: Sequence[bool] = (),
) -> int:
    """Operations of one stream's full chunk of C frames after a ring of F, counted as in `forward_flops`.

    The layers compute a block of N = C + R frames, those that waited and the chunk. Position tables are made once for
    all steps and cost nothing here; a query is scored with their F + 2 N offsets. On the expanded path K and V are made
    anew of all F + N latents in every step.
    """
    block, width = chunk_frames + lookahead_frames, config.hidden_size
    keys = left_context_frames + block
    flops = _front_end(config, chunk_frames * config.hop_samples + config.tail_samples)
    flops += 2 * width * (chunk_frames * config.conv_dim[-1] + block * config.vocab_size)
    for layer in range(config.num_hidden_layers):
        attends = bool(absorbed) and absorbed[layer]
        flops += _layer(config, block)
        flops += _attention(config, block, keys, keys + block, layer, attends)
    return flops


def _front_end(config: ModelConfig, samples: int) -> int:
    flops, channels = 0, 1
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
        flops += 2 * samples * kernel * channels * width
        channels = width
    return flops


def _layer(config: ModelConfig, frames: int) -> int:
    """All of a layer but its attention: two feed-forwards, pointwise to 2 D and back, depthwise."""
    width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
    return 2 * frames * width * (4 * config.intermediate_size + 3 * width + kernel)


def _attention(config: ModelConfig, queries: int, keys: int, offsets: int, layer: int, absorbed: bool) -> int:
    """Queries, output, memory, position scores, and attending: to K and V, or to latents in every head."""
    width, heads, attention = config.hidden_size, config.num_attention_heads, config.attention
    flops, pairs = 2 * queries * width * 2 * width, 2 * queries * keys
    if config.position_embeddings_type == "relative":
        flops += 2 * queries * offsets * width
    if attention.kind == "mha":
        return flops + 2 * queries * width * 2 * width + pairs * 2 * width
    joint = attention.latent == "joint"
    cached = attention.rank[layer] if joint else attention.rank_k[layer] + attention.rank_v[layer]
    read = 2 * cached if joint else cached  # a joint latent is read twice, as K and as V
    risen = queries if absorbed else keys  # queries down and outputs up, or all latents up to K and V
    flops += 2 * width * (queries * cached + risen * read)
    return flops + pairs * (heads * read if absorbed else 2 * width)
