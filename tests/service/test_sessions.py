"""One stream's way to the device: its grid of chunks, its marks, its deadlines, and its slot."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import Transcriber
from service import stepper
from service.errors import NotFound, Overloaded, Unavailable
from service.metrics import Metrics
from service.scheduler import StepLimits, StepQueue
from service.segments import Final, Partial, Rules
from service.sessions import Flushed, Inbox, Mark, Session, Work
from service.settings import Profile
from service.slots import Slots, allocate
from service.stepper import ChunkScores
from service.streams import Streams
from tests.fakes import FakeTranscriber, spoken

PROFILES = [Profile("balanced", 640, 10.0), Profile("fast", 320, 5.0)]
CHUNK, FIRST = 10_240, 10_320


def test_the_fake_cuts_as_the_transcriber_does() -> None:
    """What the tests below take for granted of chunks and tails."""
    cut = Transcriber.chunks
    model = FakeTranscriber()
    model.config.hop_samples = 320  # type: ignore[attr-defined]
    wave = spoken("A" * 30)
    assert [len(piece) for piece in cut(model, wave, chunk_frames=32)] == [FIRST, CHUNK, CHUNK, 7_680]  # type: ignore[arg-type]
    assert [len(piece) for piece in cut(model, wave[:FIRST], chunk_frames=32)] == [FIRST, 0]  # type: ignore[arg-type]


# The inbox


def numbers(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)


def test_chunks_come_in_order_with_the_time_of_their_last_sample() -> None:
    inbox = Inbox()
    assert inbox.next(1) is None
    for at, arrived in ((0, 1.0), (3, 2.0), (6, 3.0), (9, 4.0)):
        inbox.push(numbers(at, 3), arrived)
    works = [inbox.next(5), inbox.next(4), inbox.next(4)]
    assert [(w.samples.tolist(), w.arrived) for w in works if w] == [
        ([0, 1, 2, 3, 4], 2.0),
        ([5, 6, 7, 8], 3.0),
    ]
    assert works[2] is None and inbox.samples == 3


def said(work: Work | None) -> tuple[list[float], list[object], bool] | None:
    return work and (work.samples.tolist(), [mark.id for mark in work.marks], work.full)


def test_marks_that_wait_are_answered_together_and_the_end_after_them() -> None:
    inbox = Inbox()
    inbox.push(numbers(0, 7), 1.0)
    inbox.mark(Mark("flush", 1))
    inbox.push(numbers(7, 1), 2.0)
    inbox.mark(Mark("flush", 2, numbers(8, 1)))
    inbox.push(numbers(8, 1), 3.0)
    inbox.mark(Mark("end"))
    assert inbox.marks == 3
    assert [said(inbox.next(5)) for _ in range(3)] == [
        ([0, 1, 2, 3, 4], [], True),
        ([5, 6, 7, 8], [1, 2], False),
        ([5, 6, 7, 8], [None], False),
    ]
    assert inbox.marks == 0


def test_a_chunk_answers_the_flushes_within_it() -> None:
    inbox = Inbox()
    inbox.push(numbers(0, 2), 1.0)
    inbox.mark(Mark("flush", 1))
    inbox.mark(Mark("flush", 2, numbers(2, 2)))
    inbox.mark(Mark("flush", 3, numbers(2, 4)))  # which reaches beyond
    inbox.push(numbers(2, 3), 2.0)
    assert [said(inbox.next(5)) for _ in range(3)] == [
        ([0, 1, 2, 3, 4], [1, 2], True),
        ([5], [3], False),
        None,
    ]


def test_a_rest_that_completes_a_chunk_is_heard_and_then_left_out() -> None:
    inbox = Inbox()
    inbox.push(numbers(0, 3), 1.0)
    inbox.mark(Mark("flush", 1, numbers(3, 9)))
    assert [said(inbox.next(5)) for _ in range(4)] == [
        ([0, 1, 2, 3, 4], [], True),
        ([5, 6, 7, 8, 9], [], True),
        ([10, 11], [1], False),
        None,
    ]
    inbox.push(numbers(3, 4), 2.0)
    inbox.mark(Mark("flush", 2, numbers(7, 5)))
    assert said(inbox.next(5)) == ([10, 11], [2], False)
    inbox.push(numbers(7, 8), 2.0)
    assert said(inbox.next(5)) == ([10, 11, 12, 13, 14], [], True)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 40), st.none(), st.just("hear")), max_size=60),
    st.integers(1, 16),
    st.integers(0, 4),
    st.integers(0, 20),
)
def test_nothing_is_lost_or_heard_twice(
    actions: list[int | str | None], size: int, tail: int, held_back: int
) -> None:
    """Audio in any pieces, flushes (None) anywhere: the chunks are the audio, and each flush hears all before it.

    A resampler holds back as many samples as it can up to `held_back`.
    """
    inbox, came, given = Inbox(), 0, 0
    flushed_at: deque[tuple[int, int]] = deque()
    heard: list[float] = []

    def hear() -> bool:
        """All there is; whether that was the end."""
        while work := inbox.next(size + (0 if heard else tail)):
            assert not work.full or len(work.samples) == size + (0 if heard else tail)
            told = heard + work.samples.tolist()
            assert told == list(range(len(told)))
            if work.full or work.ends:
                heard.extend(work.samples.tolist())
            for mark in work.marks[: -1 if work.ends else None]:
                number, before = flushed_at.popleft()
                assert mark.id == number and len(told) >= before
            if work.ends:
                return True
        return False

    for number, action in enumerate(actions):
        if action == "hear":
            hear()
            assert not flushed_at
        elif isinstance(action, int):
            came += action
            ready = max(given, came - held_back)
            inbox.push(numbers(given, ready - given), float(number))
            given = ready
        else:
            inbox.mark(Mark("flush", number, numbers(given, came - given)))
            flushed_at.append((number, came))
    inbox.push(numbers(given, came - given), 0.0)
    inbox.mark(Mark("end"))
    assert hear()
    assert heard == list(range(came)) and not flushed_at


# The session


class Device:
    """An engine's thread in short: steps what is submitted, when it is told to."""

    def __init__(self, slots: int = 2, profiles: Sequence[Profile] = PROFILES) -> None:
        self.model = FakeTranscriber()
        self.slots = allocate({"mha": self.model}, profiles, len(profiles) * slots * 1000, None)
        import threading

        self.steps = StepQueue(StepLimits(), threading.Condition(threading.RLock()))
        self.streams = Streams(profiles, self.slots, self.steps, rules=Rules(), buffer_s=2.0)
        self.metrics = Metrics({})
        self.deadlines: list[float] = []
        self.fresh: list[bool] = []

    def run(self) -> int:
        """Make one step; how many streams were in it."""
        step = self.steps.take(time.monotonic() + 1)
        if not step:
            return 0
        self.deadlines += [piece.deadline for piece in step.pieces]
        self.fresh += [piece.fresh for piece in step.pieces]
        stepper.run(self.model, self.slots[step.lane], step, self.metrics)
        return len(step.pieces)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def run() -> None:
            while True:
                self.run()
                await asyncio.sleep(0)

        task = asyncio.ensure_future(run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def balanced(self) -> Slots:
        return self.slots["mha", "balanced"]


async def heard(session: Session) -> list[object]:
    return [event async for event, _ in session.events()]


async def test_a_session_hears_its_audio_on_the_grid_in_a_fresh_slot() -> None:
    device = Device()
    async with device.running():
        with device.streams.open("mha", None) as session:
            wave = spoken("HELLO THERE YOU")
            for at in range(0, len(wave), 1000):
                session.push(wave[at : at + 1000])
            session.mark(Mark("flush", 7))
            session.mark(Mark("end"))
            *_, final = said = await heard(session)
    assert isinstance(final, Final) and final.text == "HELLO THERE YOU"
    assert Flushed(7) in said
    assert [list(step.values()) for step in device.model.steps] == [
        [FIRST],
        [len(wave) - FIRST],
        [len(wave) - FIRST],
    ]
    assert device.fresh == [True, False, False]
    assert session.usage.steps == 2 and session.usage.audio_s == pytest.approx(len(wave) / 16_000)
    assert device.balanced.active == 0


async def test_flushes_that_wait_take_one_step_with_a_chunks_deadline() -> None:
    """One for every 20 ms of a chunk; had they a step each, a few such clients would take the device."""
    device = Device()
    wave = spoken("ABCDEFGH")[:CHUNK]
    with device.streams.open("mha", "balanced") as session:
        started = time.monotonic()
        for number in range(32):
            session.push(wave[320 * number : 320 * (number + 1)])
            session.mark(Mark("flush", number))
        session.mark(Mark("end"))
        async with device.running():
            events = await heard(session)
    assert [event.id for event in events if isinstance(event, Flushed)] == list(range(32))
    assert [list(step.values()) for step in device.model.steps] == [[CHUNK], [CHUNK]]
    assert device.deadlines[0] - started == pytest.approx(0.64, abs=0.3)
    assert session.usage.steps == 1


async def test_a_flush_hears_what_the_resampler_holds_back_beyond_the_chunk() -> None:
    device = Device()
    wave = spoken("ABCDEFGHI")[: 36 * 320]  # a letter is four frames, a chunk eight letters
    with device.streams.open("mha", "balanced") as session:
        async with device.running():
            session.push(wave[:10_000])
            session.mark(Mark("flush", 1, wave[10_000:]))
            events = session.events()
            told = []
            while not told or not isinstance(told[-1], Flushed):
                told.append((await anext(events))[0])
            session.push(wave[10_000:])
            session.mark(Mark("end"))
            *_, final = [event async for event, _ in events]
    assert [event.text for event in told if isinstance(event, Partial)][-1] == "ABCDEFGHI"
    assert isinstance(final, Final) and final.text == "ABCDEFGHI"
    sizes = [next(iter(step.values())) for step in device.model.steps]
    assert sizes == [FIRST, len(wave) - FIRST, len(wave) - FIRST]


async def test_a_flush_within_a_chunk_and_the_end_hear_what_waits() -> None:
    device = Device(profiles=[Profile("ahead", 640, 10.0, 160)])
    wave = spoken("ABCDEFGH")  # a chunk, of which two letters wait
    async with device.running():
        with device.streams.open("mha", None) as session:
            session.push(wave[:9_000])
            session.mark(Mark("flush", 1))
            session.push(wave[9_000:])
            session.mark(Mark("end"))
            events = await heard(session)
    assert [event.text for event in events if isinstance(event, Partial)] == ["ABCDEF", "ABCDEFGH"]
    assert isinstance(events[2], Flushed) and events[3] == Final(0, "ABCDEFGH", events[3].words, 0.0, 0.62)
    assert [list(step.values()) for step in device.model.steps] == [[FIRST], [0], [0]]
    assert session.usage.steps == 2


async def test_it_says_when_it_owes_nothing() -> None:
    device, quiet = Device(), []
    with device.streams.open("mha", "balanced") as session:
        session.when_quiet = lambda: quiet.append(session.usage.steps)
        session.push(np.zeros(FIRST + 5, np.float32))
        listening = asyncio.ensure_future(heard(session))
        while device.steps.due() == float("inf"):
            await asyncio.sleep(0)
        assert session.owes and not quiet
        device.run()
        while session.owes:
            await asyncio.sleep(0)
        assert quiet == [1]
        session.mark(Mark("flush"))
        assert session.owes
        session.mark(Mark("end"))
        async with device.running():
            await listening
        assert session.owes and quiet == [1]


async def test_audio_that_came_faster_than_it_was_spoken_is_not_urgent() -> None:
    """Four chunks at once are due one chunk's length after another; one that comes at its time, its length later."""
    device = Device()
    async with device.running():
        with device.streams.open("mha", "balanced") as session:
            started = time.monotonic()
            session.push(np.zeros(FIRST + 3 * CHUNK, np.float32))
            session.mark(Mark("end"))
            await heard(session)
    waits = [deadline - started for deadline in device.deadlines]
    assert waits[0] == pytest.approx(0.64, abs=0.3)
    assert np.diff(waits) == pytest.approx([0.64] * 3)


async def test_a_stream_that_has_caught_up_is_live_again() -> None:
    """What comes after a burst has been heard is due a chunk's length later, whatever the burst was worth."""
    device = Device()
    async with device.running():
        with device.streams.open("mha", "balanced") as session:
            session.push(np.zeros(FIRST + 3 * CHUNK, np.float32))
            listening = asyncio.ensure_future(heard(session))
            while session.usage.steps < 4:
                await asyncio.sleep(0)
            before = time.monotonic()
            session.push(np.zeros(CHUNK, np.float32))
            after = time.monotonic()
            session.mark(Mark("end"))
            await listening
    assert before + 0.64 <= device.deadlines[4] <= after + 0.64


@pytest.mark.parametrize(("after_s", "late"), [(0.0, 0), (0.7, 1)])
async def test_a_chunk_whose_scores_come_after_its_deadline_is_late(after_s: float, late: int) -> None:
    device = Device()
    with device.streams.open("mha", "balanced") as session:
        session.push(np.zeros(FIRST, np.float32))
        session.mark(Mark("end"))
        listening = asyncio.ensure_future(heard(session))
        while device.steps.due() == float("inf"):
            await asyncio.sleep(0)
        await asyncio.sleep(after_s)
        device.run()
        await listening
    assert session.usage.late_steps == late
    counted = f'asr_stream_late_steps_total{{model="mha",profile="balanced"}} {late}.0'
    assert counted in device.metrics.expose().decode()


async def test_the_try_of_a_part_is_never_late() -> None:
    device = Device()
    with device.streams.open("mha", "balanced") as session:
        session.push(np.zeros(FIRST - 100, np.float32))
        session.mark(Mark("flush"))
        listening = asyncio.ensure_future(heard(session))
        while device.steps.due() == float("inf"):
            await asyncio.sleep(0)
        await asyncio.sleep(0.7)
        device.run()
        session.mark(Mark("end"))
        while not device.run():
            await asyncio.sleep(0)
        await listening
    assert (session.usage.steps, session.usage.late_steps) == (1, 0)


async def test_room_is_bounded_and_comes_back() -> None:
    device = Device()
    with device.streams.open("mha", "balanced") as session:
        await session.room()
        session.push(np.zeros(2 * 16_000, np.float32))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.room(), 0.05)
        said = asyncio.ensure_future(heard(session))
        async with device.running():
            await asyncio.wait_for(session.room(), 120)
        said.cancel()
        await asyncio.gather(said, return_exceptions=True)


async def test_marks_that_wait_are_bounded_as_well() -> None:
    device = Device()
    with device.streams.open("mha", "balanced") as session:
        for number in range(32):
            await asyncio.wait_for(session.room(), 120)
            session.mark(Mark("flush", number))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.room(), 0.05)


async def test_a_slot_is_free_only_when_nothing_writes_into_it() -> None:
    device = Device(slots=1)
    with device.streams.open("mha", "balanced") as session:
        session.push(np.zeros(FIRST, np.float32))
        listening = asyncio.ensure_future(heard(session))
        while device.steps.due() == float("inf"):
            await asyncio.sleep(0)
        step = device.steps.take(time.monotonic() + 1)
        assert step
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert device.balanced.active == 1
    with pytest.raises(Overloaded, match="stream_memory"), device.streams.open("mha", "balanced"):
        pass
    step.pieces[0].future.set_result(ChunkScores(np.zeros((0, 28), np.float32), late=False))
    assert device.balanced.active == 0


async def test_a_chunk_that_waits_leaves_with_its_stream() -> None:
    device = Device(slots=1)
    with device.streams.open("mha", "balanced") as session:
        session.push(np.zeros(FIRST, np.float32))
        listening = asyncio.ensure_future(heard(session))
        while device.steps.due() == float("inf"):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert device.balanced.active == 0
    assert device.run() == 0 and device.steps.live == 0


def test_whom_to_refuse() -> None:
    device = Device(slots=1)
    with pytest.raises(NotFound, match="choices: balanced, fast"), device.streams.open("mha", "slow"):
        pass
    with pytest.raises(NotFound, match="no room"), device.streams.open("mla", "fast"):
        pass
    device.streams.drain()
    with pytest.raises(Unavailable, match="shutting down"), device.streams.open("mha", "fast"):
        pass
    assert device.balanced.active == 0


def test_draining_tells_everyone_once() -> None:
    device, told = Device(), []
    with device.streams.attend(told.append):
        assert device.streams.connected == 1
        device.streams.drain()
        device.streams.drain()
    assert [error.code for error in told] == ["draining"] and device.streams.connected == 0
