"""Streaming: chunk by chunk equals the chunk-masked whole forward, in any slot, phase and company."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import Transcriber, load
from asr.cache import StreamCache
from tests.conftest import noise

HOP, TAIL = 320, 80
KINDS = [
    ("mha", "relative"),
    ("mla", "relative"),
    ("mla-separate", "relative"),
    ("mha", "rotary"),
    ("mla-separate", "rotary"),
]
Folder = Callable[..., Path]


def streamed(model: Transcriber, cache: StreamCache, slot: int, clip: np.ndarray) -> np.ndarray:
    """[frames, V] of a clip in one slot, alone."""
    pieces = model.chunks(clip, chunk_frames=cache.chunk_frames)
    return np.concatenate([model.step(cache, [slot], [piece])[0] for piece in pieces])


def whole(model: Transcriber, clip: np.ndarray, cache: StreamCache) -> np.ndarray:
    sight = {"chunk_frames": cache.chunk_frames, "left_context_frames": cache.left_context_frames}
    return model.log_probs([clip], **sight, lookahead_frames=cache.lookahead_frames)[0]


@pytest.mark.parametrize(("kind", "positions"), KINDS)
@pytest.mark.parametrize("left", [0, 8, 50, 250, 500])
@pytest.mark.parametrize("chunk", [8, 16, 32, 64])
def test_streamed_equals_the_chunk_masked_whole(
    chunk: int, left: int, kind: str, positions: str, tiny_folder: Folder
) -> None:
    """11.5 chunks and a few samples; the ring is refilled several times where it is short."""
    model = load(tiny_folder(kind, positions), device="cpu")
    cache = model.new_cache(1, chunk_frames=chunk, left_context_frames=left)
    clip = noise(HOP * (11 * chunk + chunk // 2) + TAIL + 123)
    got, expected = streamed(model, cache, 0, clip), whole(model, clip, cache)
    assert got.shape == expected.shape == (11 * chunk + chunk // 2, 32)
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize(("kind", "positions"), KINDS)
@pytest.mark.parametrize(
    ("chunk", "left", "ahead"), [(8, 0, 3), (8, 12, 8), (8, 50, 20), (24, 250, 8), (24, 500, 1)]
)
def test_with_look_ahead_too(
    chunk: int, left: int, ahead: int, kind: str, positions: str, tiny_folder: Folder
) -> None:
    model = load(tiny_folder(kind, positions), device="cpu")
    cache = model.new_cache(1, chunk_frames=chunk, left_context_frames=left, lookahead_frames=ahead)
    clip = noise(HOP * (11 * chunk + chunk // 2) + TAIL + 123)
    got, expected = streamed(model, cache, 0, clip), whole(model, clip, cache)
    assert got.shape == expected.shape == (11 * chunk + chunk // 2, 32)
    assert np.abs(got - expected).max() < 1e-4
    blind = model.log_probs([clip], chunk_frames=chunk, left_context_frames=left)[0]
    assert np.abs(blind - expected).max() > 1e-3


def test_scores_come_when_the_look_ahead_has_been_heard(tiny_folder: Folder) -> None:
    """Audio beyond a chunk and its look-ahead changes nothing in it; the look-ahead does."""
    model = load(tiny_folder("mla"), device="cpu")
    cache = model.new_cache(2, chunk_frames=8, left_context_frames=20, lookahead_frames=3)
    clip = noise(HOP * 40 + TAIL)
    pieces = model.chunks(clip, chunk_frames=8)
    got = [model.step(cache, [0], [piece])[0] for piece in pieces]
    assert [len(scores) for scores in got] == [5, 8, 8, 8, 8, 3]
    other = np.concatenate((clip[: HOP * 16 + TAIL], noise(9_000, seed=5) * 3))
    changed = [model.step(cache, [1], [piece])[0] for piece in model.chunks(other, chunk_frames=8)]
    assert np.abs(np.concatenate(got[:2]) - np.concatenate(changed[:2])).max() < 1e-5
    assert np.abs(got[2][:3] - changed[2][:3]).max() > 1e-3


@pytest.mark.parametrize("ahead", [0, 3, 11])
@pytest.mark.parametrize(
    "samples", [0, 1, 399, 400, HOP * 8 + TAIL - 1, HOP * 8 + TAIL, HOP * 8 + TAIL + 1, HOP * 16 + TAIL]
)
def test_first_and_last_chunks_of_every_length(samples: int, ahead: int, tiny_folder: Folder) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    cache = model.new_cache(1, chunk_frames=8, left_context_frames=12, lookahead_frames=ahead)
    clip = noise(samples)
    got, expected = streamed(model, cache, 0, clip), whole(model, clip, cache)
    assert len(got) == len(expected) == max(0, (samples - TAIL) // HOP)
    assert np.abs(got - expected).max(initial=0.0) < 1e-4


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize(("kind", "positions"), KINDS)
def test_streams_at_mixed_phases_are_each_as_alone(
    kind: str, positions: str, ahead: int, tiny_folder: Folder
) -> None:
    """Eight streams start, pause and end at different times, in shuffled order, and their slots are used again."""
    model = load(tiny_folder(kind, positions), device="cpu")
    rng = np.random.default_rng(0)
    cache = model.new_cache(8, chunk_frames=8, left_context_frames=20, lookahead_frames=ahead)
    clips = [noise(int(rng.integers(0, HOP * 60)), seed=number) for number in range(16)]
    waiting = list(range(16))
    playing: dict[int, tuple[int, list[np.ndarray]]] = {}
    heard: dict[int, list[np.ndarray]] = {number: [] for number in range(16)}
    while waiting or playing:
        for slot in set(range(8)) - set(playing):
            if waiting and rng.random() < 0.5:
                number = waiting.pop(0)
                cache.reset([slot])
                playing[slot] = number, model.chunks(clips[number], chunk_frames=8)
        chosen = [slot for slot in rng.permutation(list(playing)).tolist() if rng.random() < 0.7]
        pieces = [playing[slot][1].pop(0) for slot in chosen]
        for slot, scores in zip(chosen, model.step(cache, chosen, pieces), strict=True):
            heard[playing[slot][0]].append(scores)
            if not playing[slot][1]:
                del playing[slot]
    for number, clip in enumerate(clips):
        got, expected = np.concatenate(heard[number]), whole(model, clip, cache)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max(initial=0.0) < 1e-4


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 99),
    chunk=st.integers(1, 40),
    left=st.integers(0, 70),
    ahead=st.integers(0, 50),
    samples=st.integers(0, 30_000),
)
def test_any_chunk_context_look_ahead_and_length(
    seed: int, chunk: int, left: int, ahead: int, samples: int, tiny_folder: Folder
) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    cache = model.new_cache(2, chunk_frames=chunk, left_context_frames=left, lookahead_frames=ahead)
    clip = noise(samples, seed)
    assert np.abs(streamed(model, cache, 1, clip) - whole(model, clip, cache)).max(initial=0.0) < 1e-4


@pytest.mark.parametrize("ahead", [0, 3])
def test_trying_leaves_the_cache_as_it_was(ahead: int, tiny_folder: Folder) -> None:
    """What `keep=False` says is what the stream says when it ends there, and it goes on as if nothing was asked."""
    model = load(tiny_folder("mha"), device="cpu")
    cache = model.new_cache(2, chunk_frames=8, left_context_frames=12, lookahead_frames=ahead)
    clip = noise(HOP * 30 + TAIL)
    pieces = model.chunks(clip, chunk_frames=8)
    got: list[np.ndarray] = []
    for number, piece in enumerate(pieces):
        for part in (piece[: len(piece) // 2], piece[:0]):
            tried = model.step(cache, [0], [part], keep=False)[0]
            heard = np.concatenate([*pieces[:number], part])
            rest = whole(model, heard, cache)[sum(map(len, got)) :]
            assert tried.shape == rest.shape and np.abs(tried - rest).max(initial=0.0) < 1e-4
        if ahead and number < len(pieces) - 1:
            with pytest.raises(ValueError, match="slot 0: a full chunk; with look-ahead only a part"):
                model.step(cache, [0], [piece], keep=False)
        else:
            model.step(cache, [0], [piece], keep=False)
        got += model.step(cache, [0], [piece])
    assert np.abs(np.concatenate(got) - whole(model, clip, cache)).max() < 1e-4


@pytest.mark.parametrize(("kind", "values"), [("mha", 64 * 3), ("mla", 12 + 16 + 20), ("mla-separate", 66)])
def test_the_cache_holds_k_and_v_or_the_latent_and_nothing_else(
    kind: str, values: int, tiny_folder: Folder
) -> None:
    model = load(tiny_folder(kind), device="cpu")
    cache = model.new_cache(3, chunk_frames=8, left_context_frames=50)
    assert cache.bytes_by_part["attention"] == 3 * 50 * values * 4
    assert cache.bytes_by_part["convolution"] == 3 * 3 * 15 * 32 * 4
    assert cache.nbytes == sum(cache.bytes_by_part.values()) == 3 * cache.bytes_per_slot
    assert 50 * model.cache_bytes_per_second == pytest.approx(50 * 50 * values * 4)
    small = model.new_cache(3, chunk_frames=8, left_context_frames=50, dtype="int8")
    scales = 3 * (1 if kind == "mla" else 2)
    assert small.bytes_by_part["attention"] == 3 * 50 * (values + 4 * scales)


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize(("kind", "positions"), KINDS)
def test_int8_stays_close(kind: str, positions: str, ahead: int, tiny_folder: Folder) -> None:
    model = load(tiny_folder(kind, positions), device="cpu")
    cache = model.new_cache(1, chunk_frames=8, left_context_frames=50, lookahead_frames=ahead, dtype="int8")
    clip = noise(HOP * 90 + TAIL)
    got, expected = streamed(model, cache, 0, clip), whole(model, clip, cache)
    difference = np.abs(got - expected)
    assert difference[: 8 - ahead].max() < 1e-4  # the first chunk reads nothing from the ring
    assert 0 < difference.max() < 0.05


def test_memory_is_allocated_once(tiny_folder: Folder) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    cache = model.new_cache(2, chunk_frames=8, left_context_frames=12, lookahead_frames=3)

    def all_of_it() -> list[torch.Tensor]:
        rings = [tensor for ring in cache.rings for tensor in ring.tensors()]
        return [cache.convolution, cache.waiting, cache.pcm_tail, cache.sums, *rings]

    places = [tensor.data_ptr() for tensor in all_of_it()]
    streamed(model, cache, 0, noise(HOP * 40))
    assert all(tensor.any() for tensor in all_of_it())
    cache.reset([0, 1])
    after = all_of_it()
    assert [tensor.data_ptr() for tensor in after] == places
    assert not any(tensor.any() for tensor in after)


def test_a_poisoned_stream_spoils_nobody_else_and_not_its_slot(tiny_folder: Folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    cache = model.new_cache(2, chunk_frames=8, left_context_frames=12, lookahead_frames=3)
    clip = noise(HOP * 40)
    for ring in cache.rings:
        ring.values[0] = torch.nan
    cache.convolution[:, 0] = cache.waiting[0] = torch.nan
    assert np.abs(streamed(model, cache, 1, clip) - whole(model, clip, cache)).max() < 1e-4
    cache.reset([0])
    assert np.abs(streamed(model, cache, 0, clip) - whole(model, clip, cache)).max() < 1e-4


@pytest.mark.parametrize("ahead", [0, 3])
def test_bfloat16_streams(ahead: int, tiny_folder: Folder) -> None:
    """Kernels round by shape there, so frames may differ: but few do, and none by much."""
    model = load(tiny_folder("mla"), device="cpu", dtype="bfloat16")
    cache = model.new_cache(1, chunk_frames=8, left_context_frames=50, lookahead_frames=ahead)
    assert cache.bytes_by_part["attention"] == 50 * 48 * 2
    clip = noise(HOP * 200 + TAIL)
    got, expected = streamed(model, cache, 0, clip), whole(model, clip, cache)
    changed = (got.argmax(-1) != expected.argmax(-1)).mean()
    assert np.abs(got - expected).max() < 0.25
    assert changed < 0.1


def test_a_step_that_fails_leaves_its_streams_to_be_reset_and_no_others(
    tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some layers have written, some have not: going on from there would be wrong without a word."""
    model = load(tiny_folder("mla"), device="cpu")
    cache = model.new_cache(3, chunk_frames=8, left_context_frames=16)
    first, second, third = noise(HOP * 8 + TAIL), noise(HOP * 8), noise(HOP * 8)
    model.step(cache, [0, 1, 2], [first] * 3)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model.model.encoder.layers[-1], "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.step(cache, [0], [second], keep=False)  # has written nothing
        with pytest.raises(RuntimeError, match="out of memory"):
            model.step(cache, [1], [second])
    with pytest.raises(ValueError, match=r"slot 1: .* a step of it has failed"):
        model.step(cache, [1], [second])
    (kept,), (other,) = model.step(cache, [0], [second]), model.step(cache, [2], [second])
    assert np.array_equal(kept, other)
    cache.reset([1])
    (again,) = model.step(cache, [1], [first])
    assert len(again) == 8 and len(model.step(cache, [1], [third])[0]) == 8


def test_refusals_name_the_slot(tiny_folder: Folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    cache = model.new_cache(2, chunk_frames=8, left_context_frames=0)
    first = noise(HOP * 8 + TAIL)
    with pytest.raises(ValueError, match="from 0 to 1"):
        model.step(cache, [2], [first])
    with pytest.raises(ValueError, match="at most once"):
        model.step(cache, [1, 1], [first, first])
    with pytest.raises(ValueError, match="2640 are the most"):
        model.step(cache, [0], [noise(HOP * 8 + TAIL + 1)])
    model.step(cache, [0], [first])
    with pytest.raises(ValueError, match="2560 are the most"):
        model.step(cache, [0], [first])
    model.step(cache, [0], [noise(100)])
    with pytest.raises(ValueError, match="slot 0: the stream has ended"):
        model.step(cache, [0], [noise(100)])
    with pytest.raises(ValueError, match="NaN"):
        model.step(cache, [1], [np.full(100, np.nan, np.float32)])
    with pytest.raises(ValueError, match="chunk_frames 0"):
        model.new_cache(1, chunk_frames=0, left_context_frames=0)
    with pytest.raises(ValueError, match="lookahead_frames -1"):
        model.new_cache(1, chunk_frames=8, left_context_frames=0, lookahead_frames=-1)
    with pytest.raises(ValueError, match="chunk_frames is -1"):
        model.chunks(first, chunk_frames=-1)
    with pytest.raises(ValueError, match="int4"):
        model.new_cache(1, chunk_frames=8, left_context_frames=0, dtype="int4")
    cache.reset([0])
    assert len(model.step(cache, [0], [first])[0]) == 8
