"""The calculator against numbers worked out by hand, and on the files that are committed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.capacity import GIB, Device, busy, capacity, main, streams_by_time
from loadtests.constants import Constants, ConstantsError, StepTime, read, step_time

RESULTS = Path(__file__).parents[2] / "results"
STEP = StepTime(chunk_s=1.0, fixed_s=0.1, each_s=0.02, most=15.0)
MODEL = Constants(
    "m",
    fixed_bytes=2 * GIB,
    bytes_per_stream=GIB / 8,
    transient_bytes=1 * GIB,
    step=STEP,
    streams_at_goal=30.5,
    late_beyond=True,
    audio_s_per_s=50.0,
    mean_audio_s=5.0,
)


@pytest.mark.parametrize(
    ("pace", "streams"),
    [
        (0.1, 0),  # one takes 0.12 of a second
        (0.13, 1),  # waits for no other
        (0.2, 1),
        (0.25, 2),  # two steps of one
        (0.6, 20),  # two steps of ten take 0.6 s
        (0.8, 30),
        (1.0, 37),  # twenty, of which two would take a second, were never in a step: 15 every 0.4 s
        (10.0, 375),
    ],
)
def test_streams_by_time_are_in_steps_as_large_as_were_measured(pace: float, streams: int) -> None:
    assert streams_by_time(STEP, pace) == streams
    assert streams_by_time(None, pace) is None


def test_a_chunk_of_its_own_step_each() -> None:
    assert busy(STEP, 0) == 0.0 and busy(None, 0) == 0.0 and busy(None, 1) is None
    assert busy(STEP, 5) == pytest.approx(0.6) and busy(STEP, 5, speed=2.0) == pytest.approx(0.3)


def test_the_time_of_a_step_is_a_line() -> None:
    found = step_time([(1, 0.12), (5, 0.2), (10, 0.3)], 0.64)
    assert found and (found.fixed_s, found.each_s, found.most) == pytest.approx((0.1, 0.02, 10))
    steep = step_time([(1, 0.1), (2, 0.5)], 0.64)  # would begin at -0.3
    assert steep and (steep.fixed_s, steep.each_s) == pytest.approx((0.0, 1.1 / 5))


@pytest.mark.parametrize("points", [[], [(1, 0.1)], [(1, 0.1), (1, 0.2)], [(1, 0.2), (2, 0.1)]])
def test_a_time_of_steps_that_the_points_do_not_carry(points: list[tuple[float, float]]) -> None:
    assert step_time(points, 0.64) is None


def test_time_binds() -> None:
    """8 GiB leave 5 for caches: 40 streams; 30 were in time, and 35 were not. They leave nothing."""
    found = capacity(MODEL, Device(8 * GIB))
    assert (found.streams_by_memory, found.streams_by_time, found.streams) == (40, 30, 30)
    assert found.binds == "time" and not found.worked_out
    assert found.requests_per_s == pytest.approx(10.0)
    assert found.requests_per_s_beside_streams == 0.0


def test_a_share_of_the_time() -> None:
    """0.6 of it: two steps of ten streams in a chunk, and the rest for requests."""
    found = capacity(MODEL, Device(8 * GIB, time_share=0.6))
    assert (found.streams_by_time, found.worked_out) == (20, True)
    assert found.requests_per_s_beside_streams == pytest.approx(4.0)


def test_memory_binds() -> None:
    """3.5 GiB leave 0.5: 4 streams, which take 0.48 of the time."""
    found = capacity(MODEL, Device(3.5 * GIB))
    assert (found.streams, found.binds) == (4, "memory")
    assert found.requests_per_s_beside_streams == pytest.approx(10.0 * 0.52)


def test_a_share_for_caches_and_a_faster_device() -> None:
    """A quarter of 8 GiB: 16 streams. Twice as fast: 75 by the time of steps, and 5 take 0.3 of the time."""
    found = capacity(MODEL, Device(8 * GIB, cache_share=0.25, speed=2.0), clip_s=10.0, streams=5)
    assert (found.streams_by_memory, found.streams_by_time, found.streams) == (16, 75, 16)
    assert found.worked_out and found.requests_per_s == pytest.approx(10.0)
    assert found.requests_per_s_beside_streams == pytest.approx(10.0 * 0.7)


def test_streams_that_were_in_time_are_never_too_many() -> None:
    """Where places ended the streams, time has room for those and for as many as the time of steps says."""
    for measured, streams in ((30.0, 37), (50.0, 50)):
        found = capacity(replace(MODEL, streams_at_goal=measured, late_beyond=False), Device(80 * GIB))
        assert (found.streams_by_time, found.worked_out) == (streams, True)


def test_an_unknown_time_is_not_guessed() -> None:
    unknown = replace(MODEL, step=None)
    assert capacity(unknown, Device(80 * GIB)).streams_by_time == 30
    found = capacity(unknown, Device(80 * GIB, speed=2.0))
    assert found.streams_by_time is None and not found.worked_out and found.binds == "memory"
    assert found.requests_per_s_beside_streams is None


def test_a_model_that_does_not_fit() -> None:
    found = capacity(MODEL, Device(2.5 * GIB))
    assert found.streams == 0 and found.requests_per_s is None and "does not fit" in found.binds


def test_constants_of_a_benchmark() -> None:
    file = RESULTS / "benchmark-stream.json"
    record = json.loads(file.read_text())
    of = {one.name: one for one in read(file, "640/10", RESULTS / "benchmark.json")}
    rows = [
        r for r in record["results"] if (r["arm"], r["chunk_ms"], r["left_context_s"]) == ("mha", 640, 10)
    ]
    mha = of["mha"]
    assert mha.bytes_per_stream == sum(rows[0]["bytes_per_stream"].values())
    assert (
        mha.fixed_bytes
        == record["what"]["models"]["mha: mha"]["weight_bytes"] + record["table_bytes"]["640x10"]
    )
    assert mha.step and (mha.step.chunk_s, mha.step.most) == (0.64, 4)
    largest = next(row["step_s_median"] for row in rows if row["streams"] == 4)
    assert mha.step.fixed_s + 4 * mha.step.each_s == pytest.approx(largest, rel=0.1)
    assert mha.streams_at_goal is None and mha.audio_s_per_s and len(of) > 1
    assert of["mla-75"].bytes_per_stream < mha.bytes_per_stream / 3


def test_files_and_profiles_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConstantsError, match="choices: 640/2"):
        read(RESULTS / "benchmark-stream.json", "640/11")
    for content in ("{", "[]", '{"results": []}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ConstantsError, match=r"a\.json"):
            read(tmp_path / "a.json")
    of_int8 = {"left_context_s": 1, "cache_dtype": "int8", "path": "auto"}
    (tmp_path / "a.json").write_text(json.dumps({"results": [of_int8]}))
    with pytest.raises(ConstantsError, match=r"a\.json: no rows with cache_dtype model and path auto"):
        read(tmp_path / "a.json")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(RESULTS / "benchmark-stream-large.json")
    assert main([file, "--memory_gib", "80", "--profile", "640/30", "--speed", "50"]) == 0
    said = capsys.readouterr().out
    assert "mla-87.5" in said and "Not in the file: speed of clips" in said
    assert "worked out from steps of up to 2 (mha)" in said
    assert main([file, "--memory-gib", "80", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    memory = {model["name"]: model["streams_by_memory"] for model in models}
    assert memory["mla-87.5"] > 4 * memory["mha"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["none.json", "--memory_gib", "1"], "none.json"),
        (["x", "--memory_gib", "-1"], "'-1' is not a number above 0"),
        (["x", "--memory_gib", "1", "--cache_share", "2"], "'2' is not a share"),
        (["x", "--memory_gib", "1", "--streams", "-2"], "'-2' is not a whole number"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
