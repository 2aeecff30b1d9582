"""What batches cost is found from the times that they took."""

import math
import random

import pytest

from service.batch_cost import FIRST, LEAST, BatchCost


def learnt(batches: int, overhead_s: float, frame_s: float, cost: BatchCost | None = None) -> BatchCost:
    cost, draw = cost or BatchCost(), random.Random(1)
    for _ in range(batches):
        frames = draw.randint(50, 6_000)
        cost.learn(frames, overhead_s + frame_s * frames)
    return cost


@pytest.mark.parametrize(("overhead_s", "frame_s"), [(0.015, 1e-5), (0.001, 3e-4), (0.0, 1e-3)])
def test_a_line_is_found(overhead_s: float, frame_s: float) -> None:
    found = learnt(40, overhead_s, frame_s).overhead_frames
    assert found == pytest.approx(overhead_s / frame_s, rel=1e-6, abs=1e-6)


def test_the_first_batches_in_which_a_device_wakes_do_not_count() -> None:
    cost = BatchCost()
    for _ in range(FIRST):
        cost.learn(100, 5.0)
    assert learnt(20, 0.01, 1e-4, cost).overhead_frames == pytest.approx(100)


def test_it_follows_a_device_that_changes() -> None:
    cost = learnt(400, 0.001, 1e-4, learnt(100, 0.1, 1e-4))
    assert cost.overhead_frames == pytest.approx(10, rel=0.1)


def test_nothing_is_said_of_few_batches_or_of_equal_ones_or_where_longer_ones_take_less() -> None:
    assert learnt(LEAST - 1, 0.01, 1e-4).overhead_frames == math.inf
    equal, odd = BatchCost(), BatchCost()
    for number in range(LEAST):
        equal.learn(500, 0.1 + 0.001 * number)
        odd.learn(500 + 100 * number, 0.1 - 0.001 * number)
    assert equal.overhead_frames == odd.overhead_frames == math.inf


def test_clips_that_are_too_short_for_a_frame_tell_nothing() -> None:
    cost = BatchCost()
    for _ in range(2 * LEAST):
        cost.learn(0, 0.01)
    assert cost.overhead_frames == math.inf
    assert learnt(40, 0.01, 1e-4, cost).overhead_frames == pytest.approx(100, rel=0.01)


def test_where_longer_batches_cost_more_than_in_proportion_there_is_no_overhead() -> None:
    cost = BatchCost()
    for frames in range(100, 2_000, 100):
        cost.learn(frames, 1e-6 * frames**2)
    assert cost.overhead_frames == 0
