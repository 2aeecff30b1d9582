"""Recordings heard in streams and in windows: the same scores as by the other ways to them."""

import numpy as np
import pytest
import torch

import asr
from offline.evaluation.hearing import naive, new_cache, streamed, texts
from offline.evaluation.profiles import FULL, Profile
from tests.conftest import noise

LENGTHS = (40_000, 9_999, 22_480, 500, 80, 5_200)  # 5_200: 16 frames, a chunk and nothing after it
WAVES = [noise(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(params=["mha", "mla"])
def model(request: pytest.FixtureRequest, tiny_folder) -> asr.Transcriber:
    torch.set_num_threads(1)
    return asr.load(tiny_folder(request.param), device="cpu")


@pytest.mark.parametrize("ahead", [0, 4])
@pytest.mark.parametrize("left", [0, 5, 64, 5_000])
def test_streams_are_the_chunk_masked_whole(model: asr.Transcriber, left: int, ahead: int) -> None:
    found = streamed(model, WAVES, Profile(16, left, lookahead_frames=ahead))
    whole = model.log_probs(WAVES, chunk_frames=16, left_context_frames=left, lookahead_frames=ahead)
    for ours, theirs in zip(found, whole, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_cache_has_no_room_for_what_cannot_be_there(model: asr.Transcriber) -> None:
    profile = Profile(16, 5_000)
    assert [new_cache(model, 2, profile, n).left_context_frames for n in (0, 16, 17, 90)] == [0, 0, 16, 80]
    ahead = Profile(16, 5_000, lookahead_frames=4)
    assert [new_cache(model, 2, ahead, n).left_context_frames for n in (0, 15, 16, 90)] == [0, 0, 12, 76]
    assert new_cache(model, 2, profile).left_context_frames == 5_000
    assert new_cache(model, 2, Profile(16, 5_000, int8=True), 90).rings[0].values.dtype == torch.int8


@pytest.mark.parametrize("left", [0, 20, 5_000])
def test_the_naive_way_is_a_clip_of_its_own_for_each_chunk(model: asr.Transcriber, left: int) -> None:
    found = naive(model, WAVES, Profile(16, left, naive=True))
    for wave, scores in zip(WAVES, found, strict=True):
        frames = model.config.frames(len(wave))
        assert scores.shape == (frames, len(model.vocabulary.tokens))
        for first in range(0, frames, 16):
            begin, end = max(first - left, 0), min(first + 16, frames)
            (alone,) = model.log_probs([wave[320 * begin : 320 * end + 80]])
            np.testing.assert_allclose(scores[first:end], alone[first - begin :], atol=1e-4)


def test_texts_follow_the_scores(model: asr.Transcriber) -> None:
    whole = [transcript.text for transcript in model.transcribe(WAVES)]
    live = [t.text for t in model.transcribe(WAVES, chunk_frames=16, left_context_frames=20)]
    assert texts(model, WAVES, FULL) == whole
    assert texts(model, WAVES, Profile(16, 20)) == live != whole
    exact = [noise(40_080)]  # no samples after its last frame, which a window would not normalise with
    once = texts(model, exact, Profile(5_000, 0, naive=True))
    assert once == [transcript.text for transcript in model.transcribe(exact)] != [""]
