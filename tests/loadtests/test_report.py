"""A report made of recorded samples whose figures are known."""

import json
import re
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests import plan, report
from loadtests.analysis import agreement, carries, levels
from loadtests.capacity import Device
from loadtests.capacity import capacity as worked_out
from loadtests.capacity import main as capacity
from loadtests.cells import Bench
from loadtests.constants import of_sweep
from loadtests.figures import row
from loadtests.http_client import Sample
from loadtests.plan import Cell, Session, Sizes
from loadtests.scrape import delta, parse
from loadtests.store import Store, StoreError
from loadtests.stream_load import StreamSample
from loadtests.sweep import Sweep

MIB = 2**20
CARD = {"attention": {"kind": "mha"}, "parameters": 5_000_000, "device": "cpu", "dtype": "float32"}
WHAT = {"machine": {"cpu": "some", "cores": 2}, "threads": "1", "git_commit": "c0ffee"}
SIZES = Sizes(2, (1, 4), (0.5, 1.0), (2, 8), (0, 4, 8), 1.0, 1.0, 1.0)
HOW: dict[str, Any] = {
    "models": {"mha": "mha", "mla": "mla"},
    "sizes": plan.described(SIZES),
    "goal": {"p95_s": 1.0, "p99_s": 2.0},
    "manifest": "speech",
    "stream_memory": 512 * MIB,
}
# What a stream takes, and how much slower than mha the model is.
STREAM_BYTES = {"mha": 5 * MIB, "mla": 2 * MIB}
SLOWER = {"mha": 1.0, "mla": 1.25}


def record(cell: Cell) -> dict[str, Any]:
    """What a sweep keeps beside the samples, with a device that is busy for 2% of the time with each stream."""
    metrics = {
        'asr_stream_step_duration_seconds_sum{model="m"}': 0.02 * cell.level * 10 * (cell.kind == "streams"),
        'asr_stream_step_duration_seconds_count{model="m"}': 10 * (cell.kind == "streams"),
        "asr_model_weight_bytes": 20 * MIB,
    }
    server = delta({}, parse("\n".join(f"{name} {value}" for name, value in metrics.items())), wall_s=10.0)
    memory = {"process": 300 * MIB, "peak": 340 * MIB, "tree": 290 * MIB, "device": None, "allocated": None}
    profile = {
        "name": "load",
        "chunk_ms": 640,
        "slots": 512 * MIB // STREAM_BYTES[cell.model],
        "cache_bytes_per_stream": STREAM_BYTES[cell.model],
    }
    made = {
        "cell": asdict(cell),
        "wall_s": 10.0,
        "client_cpu_share": 0.1,
        "server": server,
        "memory": {"before": memory, "after": memory},
        "models": [{"id": cell.model, "weight_bytes": 20 * MIB, "profiles": [profile], **CARD}],
    }
    if cell.kind == "open":
        made["rate"] = 10 * cell.level
    if cell.kind == "memory":
        taken = 300 * MIB + (cell.level > 0) * 10 * MIB + int(cell.level) * STREAM_BYTES[cell.model]
        made |= {"streams": int(cell.level), "held": memory | {"process": taken}}
        if not cell.level:
            made["loaded"] = memory
    return made


def samples(cell: Cell) -> list[dict[str, Any]]:
    """20 requests a tenth of a second apart, each as long on the way as there are users; streams that miss at 8."""
    took_s = 0.1 * cell.level * SLOWER[cell.model] * (1 + 0.04 * (cell.repeat - 1))
    if cell.kind == "streams":
        one = StreamSample("s", 10.0, 0.64, [took_s] * 20, [], 0.2, 0.01, 0, 16, "hello", 10, 1)
        return [asdict(one)] * int(cell.level)
    if cell.kind == "memory":
        return []
    if cell.kind == "open":
        took_s = 0.2 if cell.level < 1 else 1.5
    return [
        asdict(Sample("a", 4.0, n / 10, n / 10, n / 10 + took_s, 200, "", "hello", 10, 2)) for n in range(20)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    kept = Store.open(tmp_path / "work", HOW)
    kept.begin()
    kept.note("what", WHAT)
    for session in plan.sessions(["mha", "mla"], SIZES):
        for cell in session.cells:
            kept.write(cell, record(cell), samples(cell))
    return kept


def test_models_take_turns_and_rates_come_last() -> None:
    planned = plan.sessions(["mha", "mla"], SIZES)
    assert [session.model for session in planned if session.cells[0].kind == "open"] == [
        "mha",
        "mla",
        "mla",
        "mha",
    ]
    kinds = [session.cells[0].kind for session in planned]
    assert kinds == (["closed", "memory", "memory", "memory"] * 4) + ["open"] * 4
    assert [cell.level for cell in planned[0].cells] == [1, 4, 2, 8]
    names = [cell.name for session in planned for cell in session.cells]
    assert len(names) == len(set(names)) == 4 * (2 + 2 + 3 + 2)
    assert isinstance(planned[0], Session) and plan.seconds(planned, SIZES) > 20 * plan.START_S


def test_what_each_carries(store: Store) -> None:
    found = report.analyse(store)["carries"]
    mha, mla = found["mha"], found["mla"]
    # 20 requests; the last is sent at 1.9 s and comes 0.1 s later, in the second repeat 0.104 s.
    assert mha["requests_per_s"]["high"] == pytest.approx(20 / 2.0)
    assert mha["requests_per_s"]["low"] == pytest.approx(20 / 2.004, abs=1e-4)
    assert mha["users_at_goal"] == {"median": 4.0, "low": 4.0, "high": 4.0}
    assert mha["rate_at_goal"]["median"] == 5.0 and mha["streams_at_goal"]["median"] == 2.0
    assert mha["streams_missed_in"] == 2
    for name, model in found.items():
        assert model["bytes_per_stream"]["median"] == pytest.approx(STREAM_BYTES[name])
        assert model["fixed_bytes"]["median"] == pytest.approx(310 * MIB)
        assert model["streams_bound_by"] == {"time": 2} and model["memory_of"] == "the process (RSS)"
        assert model["rest_bytes"]["median"] == 300 * MIB and model["transient_bytes"]["median"] == 40 * MIB
        assert model["steps"] == [[3.2, 0.04]] * 2  # 2 streams of 16 steps; 8 miss the goal
    assert (mha["slots"], mla["slots"]) == (102, 256) and mla["weight_bytes"] == 20 * MIB


def test_levels_and_ratios(store: Store) -> None:
    result = report.analyse(store)
    entries = {(e["kind"], e["model"], e["level"]): e for e in result["levels"]}
    users = entries["closed", "mha", 4]
    assert users["p50_s"] == {"median": 0.408, "low": 0.4, "high": 0.416}
    assert users["counts"] == {"requests": 40, "ok": 40, "busy": 0, "error": 0, "not_sent": 0}
    assert (
        users["wer"] == {"errors": 2, "words": 10, "percent": 20.0, "clips": 1} and users["meets_goal"] == 2
    )
    assert entries["streams", "mla", 8]["wer"]["percent"] == 10.0
    assert entries["open", "mha", 1]["meets_goal"] == 0
    assert result["ratios"]["mla"]["closed 4 p50_s"]["median"] == pytest.approx(1.25)
    assert not any(name.startswith("open") for name in result["ratios"]["mla"])  # their rates differ
    assert result["texts"] == {name: {"clips": 1, "with_several_texts": 0} for name in ("mha", "mla")}


def test_a_repeat_that_missed_before_counts_as_a_miss() -> None:
    """It is not asked for more streams; what the others do at that level is no better for it."""
    cells = [Cell("streams", "mha", repeat, level) for repeat, level in ((1, 4), (2, 4), (1, 8))]
    entries = levels([row(record(cell), samples(cell), (1.0, 2.0)) for cell in cells])
    assert [(e["level"], e["repeats"], e["asked"]) for e in entries] == [(4, 2, 2), (8, 1, 2)]


def test_two_models_of_one_name_make_no_report(store: Store) -> None:
    file = next(store.folder.glob("closed-mla-*.json"))
    kept = json.loads(file.read_text())
    kept["models"] = [card | {"sha256": "e" * 64} for card in kept["models"]]
    file.write_text(json.dumps(kept))
    with pytest.raises(StoreError, match="mla had several weights"):
        report.analyse(store)


def test_rates_are_shares_of_each_models_own_best(store: Store) -> None:
    """The last of 20 requests is sent at 1.9 s; in the second repeat all take 4% longer."""
    options = Namespace(models=HOW["models"], goal_p95_s=1.0, goal_p99_s=2.0)
    sweep = Sweep(options, SIZES, store, Bench([], [], SIZES, 1, 0.64, 10.0))
    for model, took_s in (("mha", 0.1), ("mla", 0.125)):
        best = (20 / (1.9 + took_s) + 20 / (1.9 + 1.04 * took_s)) / 2
        assert sweep.rate(Cell("open", model, 1, 0.5)) == pytest.approx(0.5 * best, abs=1e-3)
    assert sweep.rate(Cell("closed", "mla", 1, 4)) == 0.0


def answered(level: float, repeat: int, **errors: int) -> dict[str, Any]:
    """A row of which only the words matter: of each clip ten, and so many wrong ones."""
    cell, sent = Cell("closed", "mha", repeat, level), []
    for clip, wrong in errors.items():
        sent.append(asdict(Sample(clip, 4.0, 0.0, 0.0, 1.0, 200, text="a", words=10, word_errors=wrong)))
    return row(record(cell), sent, (1.0, 2.0))


def test_words_are_compared_over_the_clips_that_every_level_has_answered() -> None:
    """The second level was too short for the hard clip; the third, in one repeat only, lacks the easy one."""
    rows = [answered(1, 1, easy=1, hard=9), answered(1, 2, easy=2, hard=9), answered(2, 1, easy=1)]
    rows += [answered(2, 2, easy=3), answered(3, 1, hard=9)]
    found = [entry["wer"] for entry in levels(rows)]
    assert [wer["percent"] for wer in found] == [15.0, 20.0, None]
    assert {wer["clips"] for wer in found} == {1}


@pytest.mark.parametrize(
    ("device", "allocated", "said", "slope"),
    [
        (None, None, "unmeasured", None),
        (None, 2 * MIB, "by the service", 2 * MIB),
        (3 * MIB, 2 * MIB, "by the driver", 3 * MIB),
    ],
)
def test_on_a_gpu_the_memory_of_the_process_is_not_counted(
    device: int | None, allocated: int | None, said: str, slope: int | None
) -> None:
    rows = []
    for cell in (Cell("memory", "mha", 1, streams) for streams in (0, 4, 8)):
        made = record(cell)
        made["models"][0]["device"] = "cuda:0"
        taken = {"device": device and device * (100 + cell.level)}
        made["held"] |= taken | {"allocated": allocated and allocated * (100 + cell.level)}
        rows.append(row(made, [], (1.0, 2.0)))
    found = carries(rows, {"mha": CARD})["mha"]
    assert said in found["memory_of"] and found["transient_bytes"]["median"] is None
    wanted = (slope, slope and 100 * slope)
    assert (found["bytes_per_stream"]["median"], found["fixed_bytes"]["median"]) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("in_time", "refused", "bound"),
    [(True, 2, {"places": 1}), (False, 2, {"time": 1}), (False, 0, {"time": 1})],
)
def test_streams_that_were_refused_ended_for_want_of_places(
    in_time: bool, refused: int, bound: dict[str, int]
) -> None:
    """Also where the places run out between two levels: 9 of 10 at the second, and all 8 in time before."""
    rows = []
    for level in (8, 10):
        cell = Cell("streams", "mha", 1, level)
        sent = samples(Cell("streams", "mha", 1, 1 if in_time or level == 8 else 9)) * level
        sent = [dict(stream) for stream in sent]
        for stream in sent[: refused if level == 10 else 0]:
            stream |= {"error": "full: all 9 streams are taken", "partial_s": []}
        rows.append(row(record(cell), sent, (1.0, 2.0)))
    assert carries(rows, {"mha": CARD})["mha"]["streams_bound_by"] == bound


def test_how_far_two_runs_agree(store: Store) -> None:
    result = report.analyse(store)
    halves = result["agreement"]["First and second half of the repeats"]
    assert halves["within"] == halves["compared"] and halves["most"] == pytest.approx(0.0385, abs=1e-3)
    rows = [row(*store.read(cell), (1.0, 2.0)) for cell in store.cells()]
    other = levels(rows)
    for entry in other:
        if (entry["kind"], entry["model"], entry["level"]) == ("closed", "mla", 4):
            entry["p50_s"] = {"median": entry["p50_s"]["median"] / 2}
    apart = agreement(result["levels"], other)
    assert apart["beyond"] == {"closed mla 4 p50_s": 1.0} and apart["within"] == apart["compared"] - 1
    assert not any(name.startswith("open") and " 1 " in name for name in apart["beyond"])


def test_all_files_are_written_and_name_what_is_there(store: Store, tmp_path: Path) -> None:
    earlier = report.analyse(store)
    written = report.write(store, tmp_path / "report", earlier)
    assert {file.name for file in written} == {
        *("report.json", "report.md", "report.html"),
        *("closed.png", "open.png", "streams.png", "memory.png"),
    }
    markdown, html = ((tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    pictures = re.findall(r"!\[.+\]\((.+)\)", markdown)
    assert len(pictures) == 4 and all(
        (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures
    )
    assert (
        html.count("data:image/png;base64,") == 4
        and "<code>lag</code>" in html
        and 'src="closed.png' not in html
    )
    assert "| memory a stream, seen from outside, MiB | 5.00 | 2.00 |" in markdown
    assert "Earlier run: of " in markdown and "differ" in markdown and "None" not in markdown
    tables = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables) and len(tables) >= 6
    result = json.loads((tmp_path / "report" / "report.json").read_text())
    assert result["agreement"]["Earlier run"]["most"] == 0.0


def test_the_calculator_reads_it(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 370 MiB 20 are left by 300 at rest, 10 that come with the first stream and 40 for a batch; two are in time."""
    (tmp_path / "report.json").write_text(json.dumps(report.analyse(store)))
    assert capacity([str(tmp_path / "report.json"), "--memory_gib", str(370 / 1024), "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["streams_by_memory"] for model in models] == [4, 10]
    assert [model["streams_by_time"] for model in models] == [2, 2]
    assert [model["binds"] for model in models] == ["time", "time"]


CHUNK_S, FIXED_S, EACH_S = 0.64, 0.02, 0.015


def simulated(streams: int, speed: float = 1.0) -> tuple[list[float], list[int], float]:
    """Streams spread over a chunk, on a device that takes all that wait: latencies, sizes of steps, its share."""
    due = sorted(CHUNK_S * (turn + n / streams) for turn in range(200) for n in range(streams))
    now, at, busy_s = 0.0, 0, 0.0
    latency_s: list[float] = []
    sizes: list[int] = []
    while at < len(due):
        now = max(now, due[at])
        size = sum(when <= now for when in due[at : at + 500])
        took_s = (FIXED_S + EACH_S * size) / speed
        now, busy_s = now + took_s, busy_s + took_s
        latency_s += [now - when for when in due[at : at + size]]
        sizes.append(size)
        at += size
    return latency_s, sizes, busy_s / now


def swept(level: int) -> dict[str, Any]:
    """A row of so many streams on that device."""
    cell = Cell("streams", "mha", 1, level)
    latency_s, sizes, share = simulated(level)
    made = record(cell)
    made["server"]["steps"] = len(sizes)
    made["server"]["mean"]["stream_step_s"] = FIXED_S + EACH_S * sum(sizes) / len(sizes)
    made["server"]["device_share"]["streams"] = share
    sent = [
        StreamSample("s", 10.0, CHUNK_S, latency_s[n::level], [], 0.2, 0.01, 0, 200, "hello", 10, 1)
        for n in range(level)
    ]
    return row(made, [asdict(one) for one in sent], (1.0, 2.0))


def test_streams_share_steps_only_once_the_device_is_busy() -> None:
    """18 streams take nearly all of its time, and yet 36 are in time: what a share of it says is no bound."""
    rows = [swept(level) for level in (4, 9, 18, 24, 30, 36, 42, 48)]
    shares = {row["level"]: row["device_share"] for row in rows}
    assert shares[9] == pytest.approx(2 * shares[4] * 9 / 8, rel=0.02)  # each chunk a step of its own
    assert shares[18] > 0.95 * shares[36]
    found = carries(rows, {"mha": CARD | {"profiles": [{"chunk_ms": 640}]}})
    at_goal = found["mha"]["streams_at_goal"]["median"]
    assert at_goal == 36 and [row["meets_goal"] for row in rows][-2:] == [False, False]
    of = of_sweep("mha", found["mha"] | {"cache_bytes_per_stream": MIB})
    assert of.step and (of.step.fixed_s, of.step.each_s) == pytest.approx((FIXED_S, EACH_S))
    assert of.step.most < 30  # the levels that miss do not count
    fits = worked_out(of, Device(2**40))
    assert (fits.streams_by_time, fits.worked_out) == (36, False)


@pytest.mark.parametrize("speed", [0.5, 2.0, 10.0])
def test_streams_of_a_faster_device_are_in_time_and_not_many_more_are(speed: float) -> None:
    rows = [swept(level) for level in (4, 18, 36, 42)]
    found = carries(rows, {"mha": CARD | {"profiles": [{"chunk_ms": 640}]}})
    of = of_sweep("mha", found["mha"] | {"cache_bytes_per_stream": MIB})
    streams = worked_out(of, Device(2**40, speed=speed)).streams_by_time
    assert streams
    assert np.quantile(simulated(streams, speed)[0], 0.95) <= CHUNK_S
    assert np.quantile(simulated(round(1.25 * streams), speed)[0], 0.95) > CHUNK_S


def test_part_of_a_sweep_can_be_reported(tmp_path: Path) -> None:
    kept = Store.open(tmp_path / "work", HOW)
    kept.begin()
    with pytest.raises(StoreError, match="finished"):
        report.analyse(kept)
    cell = Cell("closed", "mla", 1, 4)
    kept.write(cell, record(cell), samples(cell))
    assert report.main([str(kept.folder), "--output_dir", str(tmp_path / "out")]) == 0
    assert "-" in (tmp_path / "out" / "report.md").read_text()


def test_a_folder_of_another_plan_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Store.open(store.folder, HOW).has(Cell("closed", "mla", 1, 4))
    with pytest.raises(StoreError, match="another manifest"):
        Store.open(store.folder, HOW | {"manifest": "other"})
    with pytest.raises(SystemExit, match="2"):
        report.main([str(tmp_path / "nowhere"), "--output_dir", str(tmp_path)])
    assert capsys.readouterr().err.count("\n") == 1
