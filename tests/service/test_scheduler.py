"""Steps and batches on one device: who goes together, who goes first, and that neither starves the other."""

import threading
import time
from collections import Counter
from concurrent.futures import CancelledError

import pytest

from service.batcher import Batch, Batcher, Job, Limits
from service.errors import Unavailable
from service.scheduler import CREDIT_S, GROW_STEPS, Lane, Piece, Scheduler, Step, StepLimits

MHA, MLA, FAST = ("mha", "balanced"), ("mla", "balanced"), ("mha", "fast")


def scheduler(wait_s: float = 0.0, clip_share: float = 0.2, max_streams: int = 4) -> Scheduler:
    batcher = Batcher(["mha", "mla"], Limits(max_batch_frames=1000, max_live_batch_frames=300))
    return Scheduler(batcher, StepLimits(max_streams, wait_s, clip_share))


def piece(deadline: float = 0.0, lane: Lane = MHA, *, slot: int = 0, keep: bool = True) -> Piece:
    return Piece(lane, slot, None, deadline, 0.64, keep)


def ready(plan: Scheduler, *pieces: Piece) -> list[Piece]:
    for one in pieces:
        plan.steps.submit(one)
    return list(pieces)


def clip(frames: int = 100, model: str = "mha") -> Job:
    return Job(model, None, frames, frames / 50, time.monotonic() + 3600)


def take(plan: Scheduler) -> Batch | Step | None:
    """The next work, done with at once."""
    work = plan.take(0)
    if isinstance(work, Step):
        for one in work.pieces:
            one.future.set_result(None)
    if work:
        plan.finish(work, 0.0)
    return work


def stepped(plan: Scheduler) -> list[Piece]:
    work = take(plan)
    assert isinstance(work, Step)
    return work.pieces


# Who goes together


def test_a_step_takes_all_that_are_ready_oldest_deadline_first() -> None:
    plan = scheduler()
    pieces = ready(plan, *(piece(deadline) for deadline in (3.0, 1.0, 2.0)))
    assert stepped(plan) == [pieces[1], pieces[2], pieces[0]]
    assert take(plan) is None


def test_models_profiles_and_flushes_step_apart_the_most_urgent_first() -> None:
    plan = scheduler()
    a, b, c, d, e = ready(
        plan, piece(4.0), piece(2.0, MLA), piece(3.0, FAST), piece(1.0, keep=False), piece(5.0, MLA)
    )
    assert [stepped(plan) for _ in range(4)] == [[d], [b, e], [c], [a]]


def test_a_flush_goes_when_it_is_due_not_before_everyone() -> None:
    plan = scheduler()
    late, tried, early = ready(plan, piece(2.0), piece(1.0, keep=False), piece(0.5, MLA))
    assert [stepped(plan) for _ in range(3)] == [[early], [tried], [late]]


def test_a_step_has_a_largest_size_and_nobody_is_left_behind() -> None:
    plan = scheduler(max_streams=4)
    pieces = ready(plan, *(piece(10.0 - n) for n in range(10)))
    assert [stepped(plan) for _ in range(3)] == [pieces[:5:-1], pieces[5:1:-1], pieces[1::-1]]


def test_a_step_that_lacked_memory_makes_those_of_its_lane_smaller_until_they_go_well() -> None:
    plan = scheduler(max_streams=4)

    def sizes(lane: Lane, count: int) -> list[int]:
        """Of steps that go well, when so many chunks are ready."""
        found = []
        pieces = ready(plan, *(piece(lane=lane) for _ in range(count)))
        while work := plan.steps.take(0.0):
            plan.steps.went_well(work)
            found.append(len(work.pieces))
        assert sum(found) == len(pieces)
        return found

    plan.steps.lacked_memory(Step(MHA, True, [piece() for _ in range(4)]))
    assert sizes(MLA, 8) == [4, 4]
    assert sizes(FAST, 8) == [4, 4]
    assert sizes(MHA, 1) + sizes(MHA, 1) == [1, 1]  # which show nothing of larger ones
    assert sizes(MHA, 2 * GROW_STEPS) == [2] * GROW_STEPS
    assert sizes(MHA, 3 * GROW_STEPS) == [3] * GROW_STEPS
    assert sizes(MHA, 40 * GROW_STEPS) == [4] * 10 * GROW_STEPS
    plan.steps.lacked_memory(Step(MHA, True, [piece()]))  # smaller than one it cannot be
    assert sizes(MHA, 8) == [4, 4]
    for _ in range(4):
        plan.steps.lacked_memory(Step(MHA, True, [piece() for _ in range(plan.steps.most(MHA))]))
    assert sizes(MHA, 2) == [1, 1]


def test_streams_that_are_always_ready_do_not_starve_another_lane() -> None:
    """Each lane's next chunk is due later than those that wait."""
    plan = scheduler()
    ready(plan, piece(0.5, MLA))
    order = []
    for turn in range(6):
        ready(plan, piece(turn * 0.2))
        order.append(stepped(plan)[0].lane)
    assert MLA in order[:4]


def test_what_was_given_up_is_never_stepped() -> None:
    plan = scheduler()
    a, b, c = ready(plan, piece(1.0), piece(2.0), piece(3.0))
    assert a.future.cancel() and c.future.cancel()
    assert stepped(plan) == [b]
    assert take(plan) is None


# Company


def test_a_chunk_waits_for_company_but_not_for_ever() -> None:
    plan = scheduler(wait_s=0.05)
    for _ in range(3):
        plan.steps.joined(MHA)
    (first,) = ready(plan, piece(1.0))
    assert plan.take(0) is None
    (second,) = ready(plan, piece(2.0))
    work = plan.take(60)
    assert isinstance(work, Step) and work.pieces == [first, second]
    assert time.monotonic() >= first.submitted + 0.05


@pytest.mark.parametrize("change", ["all here", "one leaves", "enough for a step", "flush"])
def test_a_chunk_does_not_wait_in_vain(change: str) -> None:
    plan = scheduler(wait_s=3600, max_streams=2)
    for _ in range(3 if change in ("enough for a step", "flush") else 2):
        plan.steps.joined(MHA)
    ready(plan, piece(1.0, keep=change != "flush"))
    if change in ("all here", "enough for a step"):
        assert plan.take(0) is None
        ready(plan, piece(2.0))
    elif change == "one leaves":
        assert plan.take(0) is None
        plan.steps.left(MHA)
    assert isinstance(plan.take(0), Step)


def test_no_batch_begins_while_a_chunk_waits_for_company() -> None:
    plan = scheduler(wait_s=3600)
    for _ in range(2):
        plan.steps.joined(MHA)
    plan.batcher.submit(clip())
    ready(plan, piece())
    assert plan.take(0) is None
    ready(plan, piece())
    assert isinstance(take(plan), Step)
    assert isinstance(take(plan), Batch)


# Steps and batches


def test_steps_go_first_and_batches_in_the_gaps() -> None:
    plan = scheduler()
    plan.batcher.submit(clip())
    ready(plan, piece())
    assert [type(take(plan)) for _ in range(3)] == [Step, Batch, type(None)]


def run(plan: Scheduler, step_s: float, batch_s: float, total_s: float) -> Counter[type]:
    """Device time by kind of work, when clips wait all the time, and chunks as well."""
    spent: Counter[type] = Counter()
    while spent.total() < total_s:
        if not plan.batcher.busy:
            plan.batcher.submit(clip())
        if plan.steps.due() == float("inf"):
            ready(plan, piece())
        work = plan.take(0)
        assert work
        if isinstance(work, Step):
            work.pieces[0].future.set_result(None)
        device_s = step_s if isinstance(work, Step) else batch_s
        spent[type(work)] += device_s
        plan.finish(work, device_s)
    return spent


@pytest.mark.parametrize(("step_s", "batch_s"), [(0.2, 0.1), (0.2, 5.0), (1.0, 30.0)])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_beside_more_streams_than_the_device_carries_clips_get_their_share(
    share: float, step_s: float, batch_s: float
) -> None:
    spent = run(scheduler(clip_share=share), step_s, batch_s, 2_000 * step_s)
    assert spent[Batch] / spent.total() == pytest.approx(share, rel=0.08)


def test_beside_streams_that_leave_gaps_no_batch_goes_before_a_step() -> None:
    """Steps take half of the device: whenever a chunk is ready, it is next."""
    plan = scheduler()
    for _ in range(500):
        ready(plan, piece())
        if not plan.batcher.busy:
            plan.batcher.submit(clip())
        step = plan.take(0)
        assert isinstance(step, Step)
        step.pieces[0].future.set_result(None)
        plan.finish(step, 0.1)
        batch = plan.take(0)
        assert isinstance(batch, Batch)
        plan.finish(batch, 0.1)


def test_ten_minutes_of_batches_alone_is_not_held_against_them() -> None:
    plan = scheduler()
    for _ in range(600):
        plan.batcher.submit(clip())
        batch = plan.take(0)
        assert batch
        plan.finish(batch, 1.0)
    assert run(plan, 0.02, 0.5, 200.0)[Batch] == pytest.approx(0.2 * (200 - CREDIT_S / 0.2), rel=0.05)


def test_ten_minutes_of_steps_alone_leaves_no_debt() -> None:
    plan = scheduler()
    for _ in range(600):
        ready(plan, piece())
        step = plan.take(0)
        assert isinstance(step, Step)
        step.pieces[0].future.set_result(None)
        plan.finish(step, 1.0)
    assert run(plan, 0.02, 0.5, 200.0)[Batch] < 45


def test_beside_streams_a_batch_is_small() -> None:
    plan = scheduler()
    plan.steps.joined(MHA)
    for _ in range(6):
        plan.batcher.submit(clip(100))
    sizes = []
    while isinstance(work := take(plan), Batch):
        sizes.append(len(work.jobs))
        if len(sizes) == 1:
            plan.steps.left(MHA)
    assert sizes == [3, 3]


def test_debts_without_clips_do_not_stop_the_steps() -> None:
    """A clip that is owed its time, and is given up: the next step goes."""
    plan = scheduler()
    job = clip()
    plan.batcher.submit(job)
    for _ in range(3):
        ready(plan, piece())
        step = plan.take(0)
        assert isinstance(step, Step)
        step.pieces[0].future.set_result(None)
        plan.finish(step, 2.0)
    job.future.cancel()
    ready(plan, piece())
    assert isinstance(plan.take(0), Step)


# Waiting and ending


@pytest.mark.parametrize("kind", ["step", "batch", "waiting step"])
def test_a_waiting_engine_is_woken(kind: str) -> None:
    plan = scheduler(wait_s=0.02 if kind == "waiting step" else 0.0)
    plan.steps.joined(MHA)
    plan.steps.joined(MHA)
    taken: list[Batch | Step | None] = []
    engine = threading.Thread(target=lambda: taken.append(plan.take(600)))
    engine.start()
    if kind == "batch":
        plan.batcher.submit(clip())
    else:
        ready(plan, piece())
    engine.join(120)
    assert [type(work) for work in taken] == [Batch if kind == "batch" else Step]


def test_closed_it_runs_what_waits_and_is_drained() -> None:
    plan = scheduler()
    ready(plan, piece())
    plan.batcher.submit(clip())
    plan.batcher.close()
    assert not plan.drained
    assert [type(take(plan)) for _ in range(2)] == [Step, Batch]
    assert plan.drained
    started = time.monotonic()
    assert plan.take(3600) is None and time.monotonic() < started + 600


def test_giving_up_answers_everyone_now_and_later() -> None:
    plan = scheduler()
    a, b = ready(plan, piece(), piece(lane=MLA, keep=False))
    job = clip()
    plan.batcher.submit(job)
    b.future.cancel()
    plan.fail_all(Unavailable("gone"))
    with pytest.raises(Unavailable):
        a.future.result(0)
    with pytest.raises(CancelledError):
        b.future.result(0)
    with pytest.raises(Unavailable):
        job.future.result(0)
    with pytest.raises(Unavailable):
        plan.steps.submit(piece())
    assert plan.take(0) is None


def test_streams_are_counted_while_they_live() -> None:
    plan = scheduler()
    plan.steps.joined(MHA)
    plan.steps.joined(MLA)
    assert plan.steps.live == 2
    plan.steps.left(MHA)
    plan.steps.left(MLA)
    assert plan.steps.live == 0
