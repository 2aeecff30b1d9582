"""Which clips run together: order, cost, fairness, bounds, and that none is lost or run after it was given up."""

import math
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Batch, Batcher, Job, Limits
from service.errors import DeadlineExceeded, Overloaded, Unavailable

LIMITS = Limits(
    max_batch_frames=1000, max_batch_items=8, max_queue_audio_s=1000.0, max_queue_s=math.inf, window=16
)
LATER = time.monotonic() + 3600


def job(frames: int = 100, model: str = "mha", *, audio_s: float = 1.0, deadline: float = LATER) -> Job:
    return Job(model, None, frames, audio_s, deadline)


def filled(*jobs: Job, limits: Limits = LIMITS) -> Batcher:
    batcher = Batcher(["mha", "mla"], limits)
    for one in jobs:
        batcher.submit(one)
    return batcher


def drain(batcher: Batcher) -> list[Batch]:
    """All batches there are, each finished before the next is taken."""
    batches = []
    while batch := batcher.take():
        batches.append(batch)
        batcher.finish(batch, 0.1)
    return batches


def test_a_lone_request_goes_at_once_and_alone() -> None:
    one = job()
    batch = filled(one).take()
    assert batch is not None and batch.jobs == [one]


def test_nothing_queued_is_nothing() -> None:
    assert filled().take() is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 1500), max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_every_job_runs_once_within_the_cost_with_the_oldest_in_each_batch(
    frames: list[int], second: list[bool]
) -> None:
    jobs = [job(n, "mla" if is_mla else "mha") for n, is_mla in zip(frames, second, strict=False)]
    batches = drain(filled(*jobs))
    assert sorted(map(id, (j for batch in batches for j in batch.jobs))) == sorted(map(id, jobs))
    waiting = list(jobs)
    for batch in batches:
        assert batch.padded_frames <= 1000 or len(batch.jobs) == 1
        assert len(batch.jobs) <= 8
        assert {j.model for j in batch.jobs} == {batch.model}
        assert batch.jobs[0] is next(j for j in waiting if j.model == batch.model)
        assert [j for j in waiting if j in batch.jobs] == batch.jobs
        waiting = [j for j in waiting if j not in batch.jobs]


def test_company_is_the_nearest_in_length() -> None:
    jobs = [job(100), job(900), job(110), job(500), job(105), job(90)]
    batches = drain(filled(*jobs, limits=Limits(max_batch_frames=440, max_batch_items=8)))
    assert [[j.frames for j in batch.jobs] for batch in batches] == [[100, 110, 105, 90], [900], [500]]


def test_company_may_not_bring_more_padding_than_a_batch_costs() -> None:
    jobs = [job(n) for n in (100, 160, 120, 40, 139, 200)]
    batches = drain(filled(*jobs, limits=replace(LIMITS, overhead_frames=40)))
    # 120 lengthens one clip by 20, 139 two by 19 each; 160 would lengthen three by 21 each, and 40 has 99 to pad.
    assert [[j.frames for j in batch.jobs] for batch in batches] == [[100, 120, 139], [160, 200], [40]]


@pytest.mark.parametrize(("overhead_s", "together"), [(0.0, 1), (10.0, 8)])
def test_what_a_batch_costs_is_learnt_from_those_that_ran(overhead_s: float, together: int) -> None:
    batcher = filled(*(job(n) for n in (100, 200, 300, 400) for _ in range(8)))
    while batch := batcher.take():
        batcher.finish(batch, overhead_s + 0.01 * batch.padded_frames)
    for n in range(8):
        batcher.submit(job(100 + n))
    batch = batcher.take()
    assert batch is not None and len(batch.jobs) == together


def test_company_comes_from_the_oldest_only() -> None:
    limits = Limits(max_batch_frames=10_000, max_batch_items=8, window=3)
    batches = drain(filled(*(job(n) for n in (100, 500, 500, 100)), limits=limits))
    assert [len(batch.jobs) for batch in batches] == [3, 1]


def test_a_long_clip_is_not_starved_by_short_ones() -> None:
    batcher = filled(job(100), job(900))
    for _ in range(2):
        for _ in range(8):
            batcher.submit(job(100))
        batch = batcher.take()
        assert batch is not None
        batcher.finish(batch, 0.1)
    assert [j.frames for j in batch.jobs] == [900]


def test_models_share_the_device_by_time() -> None:
    limits = Limits(max_batch_items=1, max_queue_s=math.inf)
    batcher = filled(*(job(model=model) for model in ("mha", "mla") for _ in range(40)), limits=limits)
    order = []
    for _ in range(40):
        batch = batcher.take()
        assert batch is not None
        order.append(batch.model)
        batcher.finish(batch, 3.0 if batch.model == "mha" else 1.0)
    assert 9 <= order.count("mha") <= 11


def test_a_model_that_was_idle_has_no_credit() -> None:
    limits = Limits(max_batch_items=1, max_queue_s=math.inf)
    batcher = filled(*(job(model="mha") for _ in range(30)), limits=limits)
    for _ in range(10):
        batch = batcher.take()
        assert batch is not None
        batcher.finish(batch, 1.0)
    for _ in range(10):
        batcher.submit(job(model="mla"))
    order = []
    for _ in range(8):
        batch = batcher.take()
        assert batch is not None
        order.append(batch.model)
        batcher.finish(batch, 1.0)
    assert order.count("mha") == 4


def test_cancelled_jobs_leave_at_once_and_never_run() -> None:
    jobs = [job(audio_s=10.0) for _ in range(3)]
    batcher = filled(*jobs)
    assert jobs[0].future.cancel() and jobs[2].future.cancel()
    assert (batcher.waiting("mha"), batcher.queued_audio_s()) == (1, 10.0)
    assert [batch.jobs for batch in drain(batcher)] == [[jobs[1]]]


def test_a_running_job_cannot_be_cancelled() -> None:
    one = job()
    batch = filled(one).take()
    assert batch is not None
    assert not one.future.cancel()


def test_expired_jobs_get_their_error_and_never_run() -> None:
    late, fine = job(deadline=time.monotonic() - 1), job()
    assert [batch.jobs for batch in drain(filled(late, fine))] == [[fine]]
    with pytest.raises(DeadlineExceeded):
        late.future.result(0)


def test_waiting_audio_is_bounded() -> None:
    batcher = filled(job(audio_s=600.0), job(audio_s=400.0))
    with pytest.raises(Overloaded, match="max_queue_audio_s") as refused:
        batcher.submit(job(audio_s=0.1))
    assert int(refused.value.headers["Retry-After"]) >= 1
    with pytest.raises(Overloaded):
        batcher.check_open()
    drain(batcher)
    batcher.check_open()


def test_a_clip_as_long_as_the_bound_gets_in_under_load_and_is_the_last() -> None:
    batcher = filled(job(audio_s=999.0), job(audio_s=1000.0))
    with pytest.raises(Overloaded):
        batcher.submit(job(audio_s=0.1))


def test_waiting_audio_is_bounded_by_what_the_device_achieves() -> None:
    batcher = filled(job(audio_s=60.0), limits=replace(LIMITS, max_queue_s=20.0))
    batch = batcher.take()
    assert batch is not None
    batcher.finish(batch, 10.0)  # 6 s of audio a second: 120 s are 20 s of work
    batcher.finish(batch, 1000.0, well=False)
    for _ in range(2):
        batcher.submit(job(audio_s=60.0))
    with pytest.raises(Overloaded, match=r"\(max_queue_s\); the limit is 120 s") as refused:
        batcher.check_open()
    assert refused.value.headers["Retry-After"] == "20"


def test_windows_come_in_whatever_waits_and_run_with_their_like() -> None:
    batcher = filled(job(audio_s=500.0), job(audio_s=500.0))
    windows = [replace(job(), normalised=True) for _ in range(2)]
    for window in windows:
        batcher.submit(window, admitted=True)
    assert [[one.normalised for one in batch.jobs] for batch in drain(batcher)] == [[False] * 2, [True] * 2]


def test_long_clips_in_work_are_bounded_apart_from_what_waits() -> None:
    batcher = filled()
    with batcher.long_clip(600.0), batcher.long_clip(700.0):
        batcher.submit(job())
        with pytest.raises(Overloaded, match="long clips"), batcher.long_clip(100.0):
            pass
    with batcher.long_clip(100.0):
        pass


def test_closed_refuses_new_and_gives_out_the_old() -> None:
    one = job()
    batcher = filled(one)
    batcher.close()
    with pytest.raises(Unavailable):
        batcher.submit(job())
    assert not batcher.drained
    assert [batch.jobs for batch in drain(batcher)] == [[one]]
    assert batcher.drained


def test_giving_up_answers_everyone() -> None:
    jobs = [job(), job(model="mla"), job()]
    batcher = filled(*jobs)
    jobs[0].future.cancel()
    batcher.fail_all(Unavailable("gone"))
    with pytest.raises(CancelledError):
        jobs[0].future.result(0)
    for one in jobs[1:]:
        with pytest.raises(Unavailable):
            one.future.result(0)
    assert batcher.waiting("mha") == batcher.waiting("mla") == 0


Action = tuple[str, int]
ACTIONS = st.tuples(
    st.sampled_from(["submit", "submit", "submit", "cancel", "expire", "take", "finish"]),
    st.integers(0, 1500),
)


class Played:
    """A batcher, what was done to it in any order, and what must hold after each step."""

    def __init__(self) -> None:
        self.batcher = Batcher(["mha", "mla"], LIMITS)
        self.jobs: list[Job] = []
        self.gone: set[Job] = set()  # cancelled or past their deadline while they waited
        self.ran: list[Job] = []
        self.running: list[Batch] = []
        self.turns: dict[Job, int] = {}  # in how many batches of its model a job's turn must have come

    @property
    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if job not in self.gone and job not in self.ran]

    def submit(self, number: int) -> None:
        one = job(number, ("mha", "mla")[number % 2])
        self.turns[one] = 1 + sum(other.model == one.model for other in self.waiting)
        self.jobs.append(one)
        self.batcher.submit(one)

    def cancel(self, number: int) -> None:
        """Of any job at any time: one that waits goes, all others stay as they are."""
        if self.jobs:
            one = self.jobs[number % len(self.jobs)]
            waits = one in self.waiting
            assert one.future.cancel() == (waits or one.future.cancelled())
            self.gone |= {one} if waits else set()

    def expire(self, number: int) -> None:
        if self.waiting:
            self.waiting[number % len(self.waiting)].deadline = 0.0

    def take(self, _: int = 0) -> None:
        self.gone |= {job for job in self.waiting if job.deadline == 0.0}
        batch = self.batcher.take()
        assert (batch is None) == (not self.waiting)
        if batch is None:
            return
        assert not self.gone & set(batch.jobs) and not set(self.ran) & set(batch.jobs)
        assert all(one.future.running() for one in batch.jobs)
        assert batch.padded_frames <= LIMITS.max_batch_frames or len(batch.jobs) == 1
        assert batch.jobs[0] is next(one for one in self.waiting if one.model == batch.model)
        self.ran += batch.jobs
        self.running.append(batch)
        for one in self.waiting:
            if one.model == batch.model:
                self.turns[one] -= 1
                assert self.turns[one] > 0, "starved"

    def finish(self, number: int) -> None:
        if self.running:
            batch = self.running.pop(number % len(self.running))
            self.batcher.finish(batch, number / 1000)
            for one in batch.jobs:
                one.future.set_result(None)

    def check(self) -> None:
        for model in ("mha", "mla"):
            mine = [one for one in self.jobs if one.model == model]
            assert self.batcher.waiting(model) == sum(one in self.waiting for one in mine)
            on_device = sum(len(batch.jobs) for batch in self.running if batch.model == model)
            assert self.batcher.running(model) == on_device
        assert self.batcher.queued_audio_s() == len(self.waiting)


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_every_job_is_answered_once_and_the_counts_agree(actions: list[Action]) -> None:
    played = Played()
    for name, number in actions:
        getattr(played, name)(number)
        played.check()
    while played.waiting:
        played.take()
    while played.running:
        played.finish(0)
    played.check()
    assert len(played.ran) + len(played.gone) == len(played.jobs)
    assert len(set(played.ran)) == len(played.ran)
    assert all(one.future.done() for one in played.jobs)


def test_threads_that_submit_and_cancel_beside_the_engine_lose_none() -> None:
    batcher = Batcher(["mha", "mla"], LIMITS)
    ran: list[Job] = []

    def engine() -> None:
        while not batcher.drained:
            with batcher.changed:
                batcher.changed.wait_for(lambda: batcher.busy or batcher.drained, 1)
            if batch := batcher.take():
                ran.extend(batch.jobs)
                batcher.finish(batch, 0.001)
                for one in batch.jobs:
                    one.future.set_result(None)

    def client(seed: int) -> None:
        for number in range(200):
            one = job(1 + 7 * (number + seed) % 400, ("mha", "mla")[number % 2], audio_s=0.1)
            batcher.submit(one)
            mine.append(one)
            if number % 3 == seed % 3:
                one.future.cancel()

    mine: list[Job] = []
    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    runner = threading.Thread(target=engine)
    for thread in (runner, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    batcher.close()
    runner.join(60)
    assert len(mine) == 800 and all(one.future.done() for one in mine)
    assert set(ran) == {one for one in mine if not one.future.cancelled()} and len(ran) == len(set(ran))


def test_counts_are_zero_at_rest() -> None:
    batcher = filled(job(), job(), job(model="mla"))
    batch = batcher.take()
    assert batch is not None
    assert batcher.running(batch.model) == len(batch.jobs)
    batcher.finish(batch, 1.0)
    drain(batcher)
    assert [batcher.waiting(m) + batcher.running(m) for m in ("mha", "mla")] == [0, 0]
    assert batcher.queued_audio_s() == 0
