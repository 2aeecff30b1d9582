"""What training hears: the plan of a run, and the draws that its seed decides."""

from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from asr.ctc import Vocabulary
from offline.data import padded_s, read_manifest
from offline.train import TOKENS
from offline.training_data import (
    CHUNK_FRAMES,
    LEFT_CONTEXT_FRAMES,
    Collator,
    RunSampler,
    SpeechDataset,
    draw_chunk,
    frames_needed,
    join,
    plan,
)
from tests.offline.test_data import manifest

VOCABULARY = Vocabulary(TOKENS)
DURATIONS_S = np.random.default_rng(0).uniform(0.6, 9, 300).tolist()


def test_batches_keep_to_their_seconds_and_epochs_see_everything() -> None:
    batches = plan(DURATIONS_S, 24, 400, seed=3)
    assert len(batches) == 400
    for batch in batches:
        assert padded_s(max(DURATIONS_S[index] for index in batch)) * len(batch) <= 24
    seen: list[int] = []
    while len(seen) < len(DURATIONS_S):
        seen += batches.pop(0)
    assert sorted(seen) == list(range(len(DURATIONS_S)))


def test_a_recording_longer_than_a_batch_is_a_batch() -> None:
    assert sorted(plan([30.0, 1.0], 8, 2, seed=0)) == [[0], [1]]


def test_the_plan_is_its_seeds_and_a_longer_run_begins_as_a_shorter_one() -> None:
    short = plan(DURATIONS_S, 24, 50, seed=3, curriculum_steps=10)
    assert plan(DURATIONS_S, 24, 150, seed=3, curriculum_steps=10)[:50] == short
    assert plan(DURATIONS_S, 24, 50, seed=4, curriculum_steps=10) != short


def test_the_curriculum_rises_then_batches_are_shuffled() -> None:
    batches = plan(DURATIONS_S, 24, 60, seed=3, curriculum_steps=20)
    means_s = [float(np.mean([DURATIONS_S[index] for index in batch])) for batch in batches]
    assert means_s[:20:4] == sorted(means_s[:20:4])
    assert means_s[0] < 1.5 < 7 < means_s[19]
    assert means_s[20:40] != sorted(means_s[20:40])


def test_processes_share_the_plan_in_batches_alike() -> None:
    batches = plan(DURATIONS_S, 24, 40, seed=3, together=2)
    ranks = [list(RunSampler(batches, rank, 2)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [40, 40] == [len(RunSampler(batches, r, 2)) for r in range(2)]
    merged = [[index for _, index in batch] for pair in zip(*ranks, strict=True) for batch in pair]
    assert merged == batches
    longest_s = [
        [max(DURATIONS_S[i] for _, i in batch) for batch in pair] for pair in zip(*ranks, strict=True)
    ]
    assert np.median([abs(a - b) for a, b in longest_s]) < 1


def test_a_step_gives_the_same_samples_whoever_loads_them(tmp_path: Path) -> None:
    utterances = read_manifest(manifest(tmp_path, ["ONE", "TWO", "THREE"]))
    data = SpeechDataset(utterances, VOCABULARY, seed=5, strength=1)
    again = SpeechDataset(utterances, VOCABULARY, seed=5, strength=1)
    assert np.array_equal(data[7, 1].wave, again[7, 1].wave)
    assert not np.array_equal(data[7, 1].wave, data[8, 1].wave)
    batches = plan([1.0] * 3, 4, 4, seed=0)
    one, other = (
        list(
            DataLoader(
                data, batch_sampler=RunSampler(batches), collate_fn=Collator(5, 0.5), num_workers=workers
            )
        )
        for workers in (0, 1)
    )
    for a, b in zip(one, other, strict=True):
        assert a["waves"].equal(b["waves"]) and a["chunk_frames"] == b["chunk_frames"]


def test_a_change_that_leaves_too_few_frames_is_not_made(tmp_path: Path) -> None:
    utterances = read_manifest(manifest(tmp_path, ["ABCDEFGHIJ"]))
    data = SpeechDataset(
        utterances, VOCABULARY, seed=5, strength=1, frames=lambda samples: 10 * (samples == 16_000)
    )
    assert {len(data[step, 0].wave) for step in range(20)} == {16_000}


def test_collated_batches_are_padded_to_few_lengths(tmp_path: Path) -> None:
    data = SpeechDataset(read_manifest(manifest(tmp_path, ["ONE", "SEVEN"], 1.1)), VOCABULARY)
    batch = Collator(0, 1.0)([data[0, 0], data[0, 1]])
    assert batch["waves"].shape == (2, 24_000) and batch["lengths"].tolist() == [17_600, 17_600]
    assert batch["targets"].tolist() == [[*VOCABULARY.encode("ONE"), 0, 0], VOCABULARY.encode("SEVEN")]
    assert batch["waves"][0, 17_600:].abs().max() == 0
    assert Collator(0, 1.0)([data[0, 0]], whole=True)["chunk_frames"] is None
    assert Collator(0, 1.0, chunk_start_step=1)([data[0, 0]])["chunk_frames"] is None


def test_chunk_draws_follow_the_share_and_reach_both_ends() -> None:
    draws = [draw_chunk(1, step, 0.5) for step in range(4000)]
    masked = [draw for draw in draws if draw[0] is not None]
    assert 0.46 < len(masked) / len(draws) < 0.54
    assert (min(c for c, _ in masked), max(c for c, _ in masked)) == CHUNK_FRAMES
    assert min(f for _, f in masked) <= 5 and LEFT_CONTEXT_FRAMES[1] - 5 <= max(f for _, f in masked) <= 500
    assert draw_chunk(1, 17, 0.5) == draws[17]
    larger = [chunk for chunk, _ in (draw_chunk(1, step, 1.0, 24) for step in range(1000)) if chunk]
    assert (min(larger), max(larger)) == (24, CHUNK_FRAMES[1])
    assert all(draw_chunk(1, step, 0.0) == (None, 0) for step in range(50))


def test_doubled_letters_need_a_blank_between_them() -> None:
    assert frames_needed(VOCABULARY.encode("HELLO")) == 6
    assert frames_needed([]) == 0


def test_joined_recordings_are_all_there_in_order_and_within_the_limit(tmp_path: Path) -> None:
    texts = [f"{letter}" for letter in "ABCDEFGH"]
    utterances = read_manifest(manifest(tmp_path, texts))
    rows = join(utterances, limit_s=4.0, copies=3, seed=1)
    assert sorted(letter for row in rows for letter in row.text.split()) == sorted(texts * 3)
    assert max(row.duration_s for row in rows) <= 4.0
    longest = max(rows, key=lambda row: row.duration_s)
    assert len(longest.text.split()) > 1
    parts = [next(u for u in utterances if u.text == letter).wave() for letter in longest.text.split()]
    assert np.array_equal(longest.wave(), np.concatenate(parts))
    assert len(longest.wave()) == round(longest.duration_s * 16_000)
    assert join(utterances, 4.0, 3, seed=1) == rows != join(utterances, 4.0, 3, seed=2)
