"""The schedule by its seed, and requests at their times against a real server."""

import asyncio
import json
from itertools import cycle
from pathlib import Path

import pytest

from loadtests import clips
from loadtests.figures import of_requests, quantiles
from loadtests.http_client import WARM_UP_ALONE, Sample, Target, send_all
from loadtests.open_loop import WARM_UP_USERS, main, run, schedule
from loadtests.scrape import delta, scrape
from service.settings import Settings
from tests.fakes import FakeTranscriber
from tests.service.conftest import Served, serving, wait_until


def test_the_schedule_hangs_on_the_seed_alone() -> None:
    times = schedule(4.0, 5.0, seed=1)
    assert times == schedule(4.0, 5.0, seed=1) != schedule(4.0, 5.0, seed=2)
    assert [round(t, 4) for t in times[:4]] == [0.0361, 0.5061, 0.8669, 0.9405]
    assert times == sorted(times) and times[0] > 0 and times[-1] < 5.0
    assert times == schedule(4.0, 50.0, seed=1)[: len(times)]  # longer ones begin alike


def test_the_schedule_is_a_poisson_process() -> None:
    """20,000 gaps: their mean is known to 0.7%, and as many are below it as of an exponential distribution."""
    times = schedule(10.0, 2_000.0, seed=7)
    gaps = [later - earlier for earlier, later in zip([0.0, *times[:-1]], times, strict=True)]
    assert sum(gaps) / len(gaps) == pytest.approx(0.1, rel=0.03)
    assert sum(gap < 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.01)


async def test_requests_go_at_their_times_and_the_server_counts_as_many(
    fakes: Served, manifest: Path
) -> None:
    sounds, times = clips.read(manifest), [0.0, 0.05, 0.05, 0.3]
    before = scrape(fakes.url)
    samples = await run(Target(fakes.url, "mla"), sounds, times)
    counted = delta(before, scrape(fakes.url), wall_s=1.0)
    assert [sample.intended_s for sample in samples] == times
    assert [sample.clip for sample in samples] == ["0.flac", "1.flac", "2.flac", "0.flac"]
    for sample in samples:
        assert sample.outcome == "ok" and sample.text.startswith("samples ")
        assert sample.sent_s >= sample.intended_s and sample.done_s > sample.sent_s
        assert sample.latency_s == pytest.approx(sample.done_s - sample.intended_s)
        assert set(sample.timing) == {"queue_s", "inference_s", "batch_size"}
    assert counted["ok"] == counted["answered"] == 4 and counted["rejected"] == 0
    assert counted["audio_s"] == pytest.approx(sum(sample.audio_s for sample in samples), abs=0.01)
    assert counted["mean"]["batch_size"] >= 1


async def test_waiting_before_it_is_sent_counts(fakes: Served, manifest: Path) -> None:
    """Due a second before the start: latency says so, the time on the way does not."""
    (sample,) = await run(Target(fakes.url, "mha"), clips.read(manifest), [-1.0])
    assert sample.latency_s > 1.0 and sample.sent_s - sample.intended_s >= 1.0
    found = of_requests([sample], goal=(1.0, 2.0))
    assert found["lag_s"]["p50"] >= 1.0 and found["within"] == 0.0 and not found["meets_goal"]


async def test_refused_is_not_failed(manifest: Path) -> None:
    held = FakeTranscriber()
    with serving(
        Settings(decode_workers=1, stream_memory="0", max_queue_audio_s=1.0), {"mha": held}
    ) as served:
        held.gate.clear()
        sending = asyncio.ensure_future(run(Target(served.url, "mha"), clips.read(manifest), [0.0] * 6))
        await asyncio.to_thread(
            wait_until, lambda: served.metric("asr_requests_rejected_total") >= 3, "refusals"
        )
        held.gate.set()
        samples = await sending
        refused = served.metric("asr_requests_rejected_total")
    found = of_requests(samples)
    assert found["busy"] == refused >= 3 and found["ok"] >= 1, found["errors"]
    assert found["requests"] == found["ok"] + found["busy"] == 6 and found["error"] == 0
    assert found["latency_s"]["count"] == found["ok"]  # a refusal has no latency


async def test_a_server_that_is_not_there_was_not_sent_to(manifest: Path) -> None:
    (sample,) = await run(Target("http://127.0.0.1:9", "mha"), clips.read(manifest), [0.0])
    assert (sample.outcome, sample.status) == ("not_sent", 0)
    assert of_requests([sample])["requests_per_s"] == 0.0


async def test_users_send_again_once_they_have_their_answer(fakes: Served, manifest: Path) -> None:
    sounds = clips.read(manifest)
    samples = await send_all(Target(fakes.url, "mha"), cycle(sounds), users=2, seconds=0.5)
    assert [s.clip for s in samples[:4]] == ["0.flac", "1.flac", "2.flac", "0.flac"]
    assert len(samples) > 2 and all(sample.outcome == "ok" for sample in samples)
    events = sorted([(s.sent_s, 1) for s in samples] + [(s.done_s, -1) for s in samples])
    at_once = 0
    for _, step in events:
        at_once += step
        assert 0 <= at_once <= 2


async def test_without_a_limit_each_clip_is_sent_once(fakes: Served, manifest: Path) -> None:
    sounds = clips.read(manifest) * 3
    samples = await send_all(Target(fakes.url, "mha"), sounds, users=4)
    assert [sample.clip for sample in samples] == [clip.name for clip in sounds]
    assert all(sample.words == len(clip.text.split()) for sample, clip in zip(samples, sounds, strict=True))


async def test_an_error_is_kept(fakes: Served, manifest: Path) -> None:
    (sample,) = await run(Target(fakes.url, "nobody"), clips.read(manifest), [0.0])
    assert sample.outcome == "error" and sample.status == 404 and sample.error.startswith("model_not_found: ")


def test_figures_by_hand() -> None:
    samples = [Sample("a", 2.0, n, n, n + 0.1 * (n + 1), 200, words=10, word_errors=n) for n in range(4)]
    samples.append(Sample("b", 2.0, 4.0, 4.0, 4.0, 429, "busy"))
    found = of_requests(samples, goal=(0.35, 0.5))
    assert (found["ok"], found["busy"], found["error"], found["not_sent"]) == (4, 1, 0, 0)
    assert found["latency_s"]["p50"] == pytest.approx(0.25) and found["latency_s"]["most"] == pytest.approx(
        0.4
    )
    assert found["wall_s"] == 4.0 and found["requests_per_s"] == 1.0 and found["audio_s_per_s"] == 2.0
    assert found["within"] == 0.6 and not found["meets_goal"]
    assert found["wer"] == {"errors": 6, "words": 40, "percent": 15.0}
    assert of_requests(samples[:4], goal=(0.4, 0.4))["meets_goal"]
    assert quantiles([])["p50"] is None


def test_the_command_keeps_every_sample(
    fakes: Served, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, output = tmp_path / "new" / "samples.jsonl", tmp_path / "open.json"
    options = [
        "--url",
        fakes.url,
        "--manifest",
        str(manifest),
        "--seconds",
        "1",
        "--rate",
        "3,6",
        "--key",
        "k",
    ]
    before = fakes.metric("asr_requests_total", model="mla", outcome="ok")
    assert main([*options, "--samples", str(kept), "--output-file", str(output)]) == 0
    samples = [json.loads(line) for line in kept.read_text().splitlines()]
    sent = fakes.metric("asr_requests_total", model="mla", outcome="ok") - before
    assert sent == len(samples) + WARM_UP_ALONE + WARM_UP_USERS  # which are not counted
    result = json.loads(output.read_text())
    assert "key" not in result["how"]
    for row in result["results"]:
        times = [sample["intended_s"] for sample in samples if sample["rate"] == row["rate"]]
        assert times == schedule(row["rate"], 1.0, 1) and row["requests"] == row["ok"] == len(times)
    assert capsys.readouterr().out.count("lag p99") == 2
    with pytest.raises(SystemExit, match="2"):
        main([*options, "--samples", str(kept)])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "is there already" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "0"], "'0' is not a number above 0"),
        (["--manifest", "/nowhere.jsonl"], "/nowhere.jsonl: No such file"),
        (["--route", "/x"], "/v1/audio/transcriptions"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
