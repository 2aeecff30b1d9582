"""A sweep from its command line, over real servers; the process of the service once by itself."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests import cells, plan, report, sweep
from loadtests.cells import check
from loadtests.clips import read
from loadtests.http_client import Target, warm_up
from loadtests.scrape import scrape, total
from loadtests.service_process import ROOT, Service, ServiceError, family, serving
from service.settings import Settings
from service.slots import PROBE_STREAMS
from tests.fakes import FakeCache, FakeTranscriber
from tests.service import conftest
from tests.service.live import stream_settings

TINY = plan.Sizes(1, (1, 2), (0.5,), (1, 22, 23), (0, 3), 0.3, 1.0, 0.5)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Servers of fakes in this process instead of others; which models were started with which options."""
    starts: list[tuple[str, dict[str, str]]] = []

    @contextmanager
    def fake(models: dict[str, str], options: Sequence[str]) -> Iterator[Service]:
        given = dict(zip(options[::2], options[1::2], strict=True))
        (name,) = models
        starts.append((name, given))
        chosen = {name: given[f"--stream-{name}"] for name in ("memory", "profiles")}
        settings = Settings(
            decode_workers=1,
            stream_memory=chosen["memory"],
            stream_profiles=chosen["profiles"],
            models=models,
        )
        with conftest.serving(settings, {name: FakeTranscriber()}) as served:
            child: Any = SimpleNamespace(pid=os.getpid())
            yield Service(child, served.url)

    monkeypatch.setattr(sweep, "serving", fake)
    monkeypatch.setattr(plan, "QUICK", TINY)
    monkeypatch.setattr(sweep, "MIX_CLIPS", 4)
    return starts


def command(folder: Path, manifest: Path, *options: str) -> int:
    kept = ["--work_dir", str(folder), "--manifest", str(manifest), "--profile", "640/1"]
    return sweep.main(["--quick", "--models", "mla=mla", "--stream-memory", "20480", *kept, *options])


def test_a_sweep_writes_its_report_and_goes_on_where_it_was(
    started: list[tuple[str, dict[str, str]]],
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    assert command(work, manifest, "--dry_run") == 0
    assert "4 of 4 services to start, about " in capsys.readouterr().out
    assert not started and not work.exists()

    assert command(work, manifest) == 0
    assert "report.html" in capsys.readouterr().out
    assert [(name, options["--stream-memory"]) for name, options in started] == [
        ("mla", memory) for memory in ("20480", "0", "3000", "20480")
    ]
    assert [options.get("--stream-idle-s") for _, options in started] == [None, "3600", "3600", None]
    result = json.loads((work / "report.json").read_text())
    carried = result["carries"]["mla"]
    assert result["what"]["build"][0]["version"] and result["how"]["models"] == {"mla": "mla"}
    streams, held, rates = (
        {e["level"]: e for e in result["levels"] if e["kind"] == kind}
        for kind in ("streams", "memory", "open")
    )
    assert list(streams) == [1, 22]  # of 20 places: 22 are too many, and 23 were not tried
    assert carried["streams_bound_by"] == {"places": 1}
    assert streams[22]["counts"]["lost"] == 2 and carried["streams_at_goal"]["median"] == 1
    assert streams[1]["wer"]["percent"] == 0.0
    assert rates[0.5]["rate"]["median"] == pytest.approx(0.5 * carried["requests_per_s"]["median"], abs=1e-3)
    assert [e["streams"]["median"] for e in held.values()] == [0, 3]
    assert carried["transient_bytes"]["median"] is not None

    (work / "memory-mla-1-3.json").unlink()
    kept = {file: file.stat().st_mtime_ns for file in work.glob("*-mla-1-*.json")}
    (work / "open-mla-1-0.5.json").rename(work / "away")
    assert command(work, manifest, "--dry_run") == 0
    assert "2 of 4 services to start" in capsys.readouterr().out
    (work / "away").rename(work / "open-mla-1-0.5.json")
    monkeypatch.setattr(report, "write", lambda *_: [])
    assert command(work, manifest) == 0  # the one cell that is missing, and no other
    assert len(started) == 5 and kept == {file: file.stat().st_mtime_ns for file in kept}
    assert (work / "memory-mla-1-3.json").exists()
    monkeypatch.setattr(sweep, "provenance", lambda *_: pytest.fail("nothing is measured"))
    assert command(work, manifest) == 0
    with pytest.raises(SystemExit, match="2"):
        command(work, manifest, "--seed", "2")
    assert "was begun with another seed" in capsys.readouterr().err


@pytest.mark.parametrize("step_bytes", [0, 300])
def test_memory_for_streams_has_room_for_them_and_no_more(
    step_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a GPU, where the largest step has its room in it."""

    def measure(call: Callable[[], None]) -> int:
        call()
        return PROBE_STREAMS * step_bytes

    monkeypatch.setattr(FakeCache, "table_bytes", 70)
    monkeypatch.setattr("service.memory.measure", lambda device: measure)

    def seen(bytes_: int) -> tuple[int, dict[str, int]]:
        options = stream_settings(stream_memory=str(bytes_), stream_profiles="load=640/10")
        with conftest.serving(options, {"mla": FakeTranscriber()}) as served:
            child: Any = SimpleNamespace(pid=os.getpid())
            service = Service(child, served.url)
            return cells.slots(service, "mla"), cells.memory_for(service, "mla")

    _, needed = seen(20_480)
    assert needed == {"each": 1000 + step_bytes, "rest": 70}
    assert seen(3 * needed["each"] + needed["rest"])[0] == 3


@pytest.mark.parametrize(("profile", "seconds"), [("640/10", 0.64), ("200+120/5", 0.2)])
def test_streams_begin_spread_over_a_chunk(
    profile: str, seconds: float, manifest: Path, tmp_path: Path
) -> None:
    given = ["--profile", profile, "--manifest", str(manifest), "--work_dir", str(tmp_path)]
    assert sweep.prepare(sweep.read_options(given)).bench.chunk_s == seconds


def test_what_goes_to_the_service_stays_as_it_is() -> None:
    for given in ("--device cuda --spool-dir /var/my-spool", "--spool-dir=/var/my-spool --device cuda"):
        options = sweep.read_options(["--stream-memory", "1MiB", "--work-dir=/a-b", "--serve", given])
        assert (options.serve, options.stream_memory, options.work_dir) == (given, 2**20, Path("/a-b"))


def test_a_service_that_fails_at_everything_is_not_measured() -> None:
    cell = plan.Cell("closed", "mha", 1, 4)
    broken = {"status": 500, "error": "internal_error: went wrong"}
    with pytest.raises(ServiceError, match=r"closed-mha-1-4: all 2 failed: internal_error"):
        check(cell, [broken, broken])
    for refused in ({"status": 429, "error": "overloaded: wait"}, {"error": "full: all 8 are taken"}):
        check(cell, [broken, refused])
    check(cell, [broken, {"status": 200, "error": ""}])
    check(cell, [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--models", "mha"], "'mha' is not name=source"),
        (["--models", "mha=a", "mla=b", "mha=c"], "mha is there twice"),
        (["--profile", "640"], "'640' is not chunk/context"),
        (["--repeats", "5"], "5; it must be even"),
        (["--manifest", "/nowhere"], "/nowhere: "),
        (["--against", "/nowhere.json"], "/nowhere.json"),
        (["--against", __file__], f"--against {__file__}: it is no report.json"),
        (["--against", str(ROOT / "results" / "benchmark.json")], "benchmark.json: it is no report.json"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sweep.main(["--work_dir", str(tmp_path), *options])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


async def test_the_service_as_a_process(tiny_folder: Callable[..., Path], manifest: Path) -> None:
    options = ["--decode-workers", "1", "--stream-memory", "1MB"]
    with pytest.raises(SystemExit) as ended, serving({"mla": str(tiny_folder("mla"))}, options) as service:
        (card,) = service.models()
        assert card["id"] == "mla" and card["status"] == "ready"
        pids = list(family(service.child.pid))
        assert len(pids) >= 2  # with a decoding process
        before = service.memory()
        service.forget_peak()
        await warm_up(Target(service.url, "mla"), read(manifest), users=2)
        after = service.memory()
        assert total(scrape(service.url), "asr_requests_total", outcome="ok", model="mla") == 3 + 2
        for memory in (before, after):
            assert memory["process"] and memory["peak"] and memory["tree"]
            assert memory["peak"] >= memory["process"] > 50 * 2**20
        os.kill(os.getpid(), signal.SIGTERM)  # whoever stops a sweep
    assert ended.value.code == 128 + signal.SIGTERM
    assert service.child.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids[:1])


@pytest.mark.slow
def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceError, match="no-such-folder"),
        serving({"mla": str(tmp_path / "no-such-folder")}),
    ):
        pass
