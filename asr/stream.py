"""The streaming operator: one chunk of each of many streams through the model's own layers, in one batch.

What it gives equals the whole forward with the same chunks, context and look-ahead (`chunk_frames=` and so on in
`ConformerCTC.forward`), frame by frame.

B streams in a step, C frames a chunk, F frames of left context, R frames of look-ahead, D model width, V vocabulary.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from asr.attention import SelfAttention
from asr.cache import StreamCache, Turn
from asr.encoder import ConformerCTC, Sight
from asr.normalise import normalise_step
from asr.positions import relative_rows, relative_table, ring_ages


def new_cache(
    model: ConformerCTC,
    slots: int,
    chunk_frames: int,
    left_context_frames: int,
    lookahead_frames: int = 0,
    int8: bool = False,
) -> StreamCache:
    """State for `slots` streams, allocated at once, with the layers' position tables.

    Raises ValueError when there would be no slot, no frame in a chunk, or a negative context or look-ahead.
    """
    if slots < 1 or chunk_frames < 1 or left_context_frames < 0 or lookahead_frames < 0:
        raise ValueError(
            f"slots {slots}, chunk_frames {chunk_frames}, left_context_frames {left_context_frames}, "
            f"lookahead_frames {lookahead_frames}: at least 1, 1, 0 and 0 are needed"
        )
    config, like = model.config, model.lm_head.weight
    tables = []
    if config.position_embeddings_type == "relative":
        block = lookahead_frames + chunk_frames
        keys = left_context_frames + block
        offsets = relative_table(block, keys, config.hidden_size, like.device, like.dtype)
        with torch.inference_mode():
            attentions = [layer.get_submodule("self_attn") for layer in model.encoder.layers]
            tables = [cast(SelfAttention, one).table(offsets).contiguous() for one in attentions]
    sizes = chunk_frames, left_context_frames, lookahead_frames
    return StreamCache(config, slots, *sizes, tables, int8, like)


def step(
    model: ConformerCTC, cache: StreamCache, slots: Sequence[int], chunks: Sequence[Tensor], keep: bool = True
) -> tuple[Tensor, list[slice]]:
    """One chunk of each given stream; the cache then holds what later chunks see.

    Args:
        model: the one that `cache` was made for.
        cache: from `new_cache`.
        slots: B of its slots, each once.
        chunks: float32 [samples] of each, as recorded: 320 C + 80 for a stream that has heard nothing, 320 C for any
            other. Fewer, or none, end the stream.
        keep: False leaves the cache as it is: what the streams would say if they ended now.

    Returns:
        logits [B, R + C, V] of the frames that waited and the chunk, and which of each row are said: all that there are
        but the last R; when the stream ends, or is tried, those too.

    Raises:
        ValueError: a slot that is not there, named twice, or ended; a chunk that is too long; with look-ahead a full
            one without `keep`, as a stream does not end with it. Nothing has changed then; after any other error the
            streams of the step need a reset.
    """
    slots = cache.checked(slots)
    heard = cache.frames[slots]
    waves, ends = _placed(cache, slots, chunks, model.config.tail_samples)
    full = ends == waves.shape[1]
    if cache.lookahead_frames and not keep and full.any():
        slot = slots[int(full.argmax())]
        raise ValueError(f"slot {slot}: a full chunk; with look-ahead only a part of one can be tried")
    device = waves.device
    starts = torch.from_numpy(heard - cache.lookahead_frames).to(device)
    kept = torch.from_numpy(np.flatnonzero(full & keep)).to(device)
    turn = Turn(torch.tensor(slots, device=device), starts, kept)
    if keep:
        cache.ended[slots] = True  # until all of it is written: a step that fails leaves a part
    normed = _normalised(cache, turn, waves, torch.from_numpy(ends).to(device))
    features = model.feature_extractor(normed.to(model.lm_head.weight.dtype))
    frames = np.array([model.config.frames(int(end)) for end in ends])
    x = _after_waiting(cache, turn, model.feature_projection(features))
    sight = _sight(model, cache, starts, torch.from_numpy(frames).to(device))
    last, _ = model.encoder(x, sight, states=cache.layers(turn))
    if keep:
        cache.advance(slots, full)
    first = np.maximum(cache.lookahead_frames - heard, 0)
    beyond = np.where(full & keep, cache.chunk_frames, cache.lookahead_frames + frames).clip(min=first)
    return model.lm_head(last), [slice(*ends) for ends in zip(first.tolist(), beyond.tolist(), strict=True)]


def _placed(
    cache: StreamCache, slots: list[int], chunks: Sequence[Tensor], tail_samples: int
) -> tuple[Tensor, np.ndarray]:
    """The chunks as rows [B, 320 C + 80], behind room for the tail where a stream has one, and where each row ends."""
    room = np.where(cache.frames[slots] > 0, tail_samples, 0)
    ends = room + [len(chunk) for chunk in chunks]
    size = cache.chunk_samples + tail_samples
    for slot, start, end in zip(slots, room, ends, strict=True):
        if cache.ended[slot]:
            raise ValueError(f"slot {slot}: the stream has ended, or a step of it has failed; reset it first")
        if end > size:
            raise ValueError(f"slot {slot}: {end - start} samples in a chunk; {size - start} are the most")
    waves = torch.zeros(len(slots), size)
    for row, (chunk, start, end) in enumerate(zip(chunks, room, ends, strict=True)):
        waves[row, start:end] = chunk
    return waves.to(cache.pcm_tail.device), ends


def _normalised(cache: StreamCache, turn: Turn, waves: Tensor, ends: Tensor) -> Tensor:
    """The rows [B, 320 C + 80] as the front end takes them, with the tails; the cache keeps the new tails and sums."""
    tail = cache.pcm_tail.shape[1]
    place = torch.arange(waves.shape[1], device=waves.device)
    before = turn.starts + cache.lookahead_frames
    going = before > 0
    valid = (place < ends[:, None]) & ((place >= tail) | ~going[:, None])
    heard = before * (cache.chunk_samples // cache.chunk_frames) + ends
    normed, sums = normalise_step(waves, valid, cache.sums.index_select(0, turn.slots), heard)
    past = cache.pcm_tail.index_select(0, turn.slots)
    normed[:, :tail] = torch.where(going[:, None], past, normed[:, :tail])
    kept = turn.slots[turn.rows]
    cache.sums[kept] = sums[turn.rows]
    cache.pcm_tail[kept] = normed[turn.rows, waves.shape[1] - tail :]
    return normed


def _after_waiting(cache: StreamCache, turn: Turn, x: Tensor) -> Tensor:
    """The chunks [B, C, D] after the frames that waited, [B, R + C, D]; the last R then wait."""
    if not cache.lookahead_frames:
        return x
    block = torch.cat((cache.waiting.index_select(0, turn.slots), x), dim=1)
    cache.waiting[turn.slots[turn.rows]] = block[turn.rows, cache.chunk_frames :]
    return block


def _sight(model: ConformerCTC, cache: StreamCache, starts: Tensor, frames: Tensor) -> Sight:
    """What blocks of R + C frames that begin with frame `starts` [B], `frames` [B] of the C heard, see."""
    size = cache.lookahead_frames + cache.chunk_frames
    ages = ring_ages(starts, cache.left_context_frames)
    place = torch.arange(size, device=starts.device)
    valid = (starts[:, None] + place >= 0) & (place < cache.lookahead_frames + frames[:, None])
    # a row without a frame sees one, so that its softmax has something to sum over; nobody reads it
    some = valid | ~valid.any(-1, keepdim=True) & (place == 0)
    seen = torch.cat((ages <= starts[:, None], some), -1)[:, None, None]
    if cache.tables:
        return Sight(cache.tables[0], valid, seen, rows=relative_rows(ages, size))
    return Sight(model.turns(starts[:, None] + place), valid, seen)
