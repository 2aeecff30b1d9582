"""What a budget of memory comes to in slots, and that none is lost or given twice."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import asr
from service.settings import Profile, Settings
from service.slots import allocate
from tests.fakes import FakeTranscriber

PROFILES = [Profile("balanced", 640, 10.0), Profile("fast", 320, 5.0)]


def test_every_model_and_profile_has_an_equal_share() -> None:
    models = {"mha": FakeTranscriber(), "mla": FakeTranscriber()}
    slots = allocate(models, PROFILES, 20_000, None)
    assert {lane: one.total for lane, one in slots.items()} == {
        (model, profile): 5 for model in ("mha", "mla") for profile in ("balanced", "fast")
    }
    assert slots["mha", "fast"].chunk_samples == 5_120 and slots["mha", "fast"].chunk_s == 0.32
    assert slots["mha", "fast"].cache_bytes == 5_000


def test_where_not_one_stream_fits_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert allocate({"mha": FakeTranscriber()}, PROFILES, 1_999, None) == {}
    assert "mha/balanced: no streams, as one takes 1000 bytes of 999 (stream_memory)" in caplog.text


def test_where_no_model_has_loaded_there_is_none() -> None:
    assert allocate({}, PROFILES, 20_000, None) == {}


def test_a_real_models_caches_and_tables_stay_within_the_budget(folders: dict[str, str]) -> None:
    models = {name: asr.load(folder, device="cpu") for name, folder in folders.items()}
    for dtype in (None, "int8"):
        slots = allocate(models, PROFILES, 20_000_000, dtype)
        taken = [one.cache.nbytes + one.cache.table_bytes for one in slots.values()]
        assert all(4_000_000 < bytes_ <= 5_000_000 for bytes_ in taken)
        assert slots["mla", "balanced"].total > slots["mha", "balanced"].total
        assert slots["mla", "fast"].total > slots["mla", "balanced"].total
        assert slots["mha", "fast"].cache.left_context_frames == 250


# Room for a step


def seen(step_bytes: int) -> Callable[[Callable[[], None]], int]:
    """What measures a step of any model, as one that takes so much for each of its eight streams."""

    def measure(call: Callable[[], None]) -> int:
        call()
        return 8 * step_bytes

    return measure


@pytest.mark.parametrize(
    ("step_bytes", "max_streams", "streams"),
    [(0, 256, 25), (1000, 256, 20), (1000, 4, 24), (100_000, 256, 0), (500, 1, 24)],
)
def test_the_largest_step_has_its_room_in_the_budget(step_bytes: int, max_streams: int, streams: int) -> None:
    """Four lanes; one step runs at a time. A fake's stream takes 1000 bytes."""
    models = {"mha": FakeTranscriber(), "mla": FakeTranscriber()}
    slots = allocate(models, PROFILES, 100_000, None, max_streams=max_streams, measure=seen(step_bytes))
    assert [one.total for one in slots.values()] == [streams] * (4 if streams else 0)
    if streams:
        assert 4 * streams * 1000 + min(streams, max_streams) * step_bytes <= 100_000


@pytest.mark.parametrize(
    ("total", "max_streams", "measured", "streams"),
    [(9, 256, True, 9), (9, 6, True, 6), (9, 256, False, 4), (9, 3, False, 3), (2, 256, False, 2)],
)
def test_the_largest_step_is_made_before_the_first_client_where_it_can_be_measured(
    total: int, max_streams: int, measured: bool, streams: int
) -> None:
    model = FakeTranscriber()
    measure = seen(0) if measured else None
    (slots,) = allocate(
        {"mha": model}, PROFILES[:1], total * 1000, None, max_streams=max_streams, measure=measure
    ).values()
    model.steps.clear()
    slots.warm_up(model)
    assert model.steps == [dict.fromkeys(range(streams), 10_320)]
    assert slots.active == 0 and set(slots.cache.resets) == set(range(streams))


def test_slots_are_taken_once_and_come_back() -> None:
    (slots,) = allocate({"mha": FakeTranscriber()}, PROFILES[:1], 3_000, None).values()
    assert [slots.take() for _ in range(4)] == [0, 1, 2, None]
    assert slots.active == 3
    slots.give_back(1)
    assert slots.active == 2
    with pytest.raises(ValueError, match="free already"):
        slots.give_back(1)
    assert slots.take() == 1


def test_many_threads_take_and_give_back() -> None:
    (slots,) = allocate({"mha": FakeTranscriber()}, PROFILES[:1], 5_000, None).values()
    held: set[int] = set()
    lock = threading.Lock()

    def use(_: int) -> None:
        slot = slots.take()
        if slot is None:
            return
        with lock:
            assert slot not in held
            held.add(slot)
        with lock:
            held.remove(slot)
        slots.give_back(slot)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(2000)))
    assert slots.active == 0


# The budget


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512MiB", 2**29),
        ("1.5 GiB", 3 * 2**29),
        ("2GB", 2 * 10**9),
        ("3k", 3000),
        ("0.25", 250),
    ],
)
def test_amounts_of_memory(given: str, bytes_: int) -> None:
    assert Settings(stream_memory=given).stream_budget_bytes(lambda: 1000) == bytes_


@pytest.mark.parametrize("given", ["much", "-1", "1/2", "", "5XB"])
def test_amounts_that_are_none(given: str) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        Settings(stream_memory=given)


# The profiles


def test_profiles_are_settings() -> None:
    assert [p.name for p in Settings().profiles] == ["balanced", "fast", "long"]
    given = Settings(stream_profiles="tiny=40/0.5, wide=1280+320/60")  # type: ignore[arg-type]
    assert given.profiles == [Profile("tiny", 40, 0.5), Profile("wide", 1280, 60.0, 320)]


@pytest.mark.parametrize(
    "given",
    [
        "a=650/10",
        "a=0/10",
        "a=640",
        "a=640/-1",
        "a=20000/1",
        "a=x/y",
        "a=640+/10",
        "a=640+30/1",
        "a=640/0.01",
        "a=640/10,a=320/5",
        "=640/10",
        "a",
    ],
)
def test_profiles_that_are_none(given: str) -> None:
    with pytest.raises(ValueError, match="name="):
        Settings(stream_profiles=given)  # type: ignore[arg-type]
