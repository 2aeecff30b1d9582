"""The calculator against numbers worked out by hand, and on the files that are committed."""

import json
from pathlib import Path

import pytest

from loadtests.capacity import GIB, Device, busy, capacity, main, streams_by_time
from loadtests.constants import Constants, ConstantsError, read

RESULTS = Path(__file__).parents[2] / "results"
MODEL = Constants(
    "m",
    fixed_bytes=2 * GIB,
    bytes_per_stream=GIB / 8,
    transient_bytes=1 * GIB,
    busy=((10.0, 0.2), (20.0, 0.6)),
    audio_s_per_s=50.0,
    mean_audio_s=5.0,
)


@pytest.mark.parametrize(
    ("share", "streams", "beyond"),
    [
        (0.1, 5, False),  # half way to the first point
        (0.2, 10, False),
        (0.4, 15, False),  # half way between the two
        (0.6, 20, True),
        (0.8, 25, True),  # on the line of the last two: 0.04 a stream
        (0.01, 0, False),
    ],
)
def test_streams_by_time(share: float, streams: int, beyond: bool) -> None:
    assert streams_by_time(MODEL.busy, share) == (streams, beyond)


def test_time_without_a_measurement_or_a_cost_is_not_known() -> None:
    assert streams_by_time((), 0.8) == (None, False)
    assert streams_by_time(((1.0, 0.3), (2.0, 0.3)), 0.8) == (None, True)
    assert streams_by_time(((1.0, 1.6),), 0.8) == (0, False)


@pytest.mark.parametrize(
    ("streams", "share"), [(0, 0.0), (5, 0.1), (10, 0.2), (15, 0.4), (20, 0.6), (30, 1.0)]
)
def test_busy_is_the_same_line_read_the_other_way(streams: float, share: float) -> None:
    assert busy(MODEL.busy, streams) == pytest.approx(share)
    assert busy((), streams) == 0.0


def test_time_binds() -> None:
    """8 GiB leave 5 for caches: 40 streams; 0.8 of the time is enough for 25, and leaves 2 of 10 requests a second."""
    found = capacity(MODEL, Device(8 * GIB))
    assert (found.streams_by_memory, found.streams_by_time, found.streams) == (40, 25, 25)
    assert found.binds == "time" and found.extrapolated
    assert found.requests_per_s == pytest.approx(10.0)
    assert found.requests_per_s_beside_streams == pytest.approx(10.0 * 0.2)


def test_memory_binds() -> None:
    """4 GiB leave 1: 8 streams, which take 0.16 of the time."""
    found = capacity(MODEL, Device(4 * GIB))
    assert (found.streams, found.binds) == (8, "memory")
    assert found.requests_per_s_beside_streams == pytest.approx(10.0 * 0.84)


def test_a_share_for_caches_and_a_faster_device() -> None:
    """A quarter of 8 GiB: 16 streams. Twice as fast: 1.6 of the measured time, 45 streams."""
    found = capacity(MODEL, Device(8 * GIB, cache_share=0.25, speed=2.0), clip_s=10.0, streams=20)
    assert (found.streams_by_memory, found.streams_by_time, found.streams) == (16, 45, 16)
    assert found.requests_per_s == pytest.approx(10.0)
    assert found.requests_per_s_beside_streams == pytest.approx(10.0 * (1 - 0.6 / 2))


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
    assert mha.busy[0] == (1.0, pytest.approx(rows[0]["step_s_median"] / 0.64))
    shares = [share for _, share in mha.busy]
    assert shares == sorted(shares) and mha.audio_s_per_s and len(of) > 1
    assert of["mla-75"].bytes_per_stream < mha.bytes_per_stream / 3


def test_files_and_profiles_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConstantsError, match="choices: 640/2"):
        read(RESULTS / "benchmark-stream.json", "640/11")
    for content in ("{", "[]", '{"results": []}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ConstantsError, match=r"a\.json"):
            read(tmp_path / "a.json")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(RESULTS / "benchmark-stream-large.json")
    assert main([file, "--memory_gib", "80", "--profile", "640/30", "--speed", "50"]) == 0
    said = capsys.readouterr().out
    assert "mla-87.5" in said and "Not in the file: speed of clips" in said
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
