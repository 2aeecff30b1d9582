"""Several ways to hear in one run, for real on tiny random models: arms, joined recordings, and their comparison."""

from pathlib import Path

import pytest
import soundfile
import torch

import asr
from offline.compare import main as compare
from tests.offline.evaluation.runs import TEXTS, Options, evaluate, refused, two_models, write_manifest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


@pytest.fixture
def options(manifest: Path, tiny_folder) -> Options:
    return two_models(manifest, tiny_folder)


PROFILES = "full,160x0.5,160x0.5/int8,naive-160x0.5"


def test_every_way_to_hear_is_an_arm_of_its_own(
    options: Options, manifest: Path, tiny_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The texts are those of each way by itself; the figures of what the streams take follow the allocation."""
    output = manifest.parent / "out.json"
    plot = output.with_suffix(".png")
    given = [*options, "--profile", PROFILES, "--check_frames", "2", "--plot", str(plot)]
    result, rows = evaluate(given, output)
    ways = ["", "@160ms/0.5s", "@160ms/0.5s/int8", "@naive-160ms/0.5s"]
    names = [f"{tiny_folder(kind)}{way}" for way in ways for kind in ("mha", "mla")]
    assert list(result["results"]) == list(result["what"]["models"]) == list(rows[0]["models"]) == names
    for kind in ("mha", "mla"):
        model, name = asr.load(tiny_folder(kind), device="cpu"), str(tiny_folder(kind))
        for row in rows:
            wave, _ = soundfile.read(row["audio"], dtype="float32")
            live = model.transcribe([wave], chunk_frames=8, left_context_frames=25)[0].text
            heard = [row["models"][name + way] for way in ways]
            assert [one["text"] for one in heard[:2]] == [model.transcribe([wave])[0].text, live]
            assert all(one["seconds"] > one["forward_seconds"] > 0 for one in heard)
        whole, live, small, naive = (result["what"]["models"][name + way] for way in ways)
        cache = model.new_cache(1, chunk_frames=8, left_context_frames=25)
        assert live["bytes_per_stream"] == cache.bytes_per_slot > small["bytes_per_stream"]
        assert (
            live["cache_bytes_per_second"] == whole["cache_bytes_per_second"] == model.cache_bytes_per_second
        )
        assert small["cache_bytes_per_second"] < live["cache_bytes_per_second"]
        assert naive["cache_bytes_per_second"] is None and "bytes_per_stream" not in whole
        assert {facts["folder_hash"] for facts in (whole, live, small, naive)} == {model.folder_hash}
        assert [facts["chunk_frames"] for facts in (whole, live, small, naive)] == [None, 8, 8, 8]
        checked = [result["results"][name + way].get("changed_frames") for way in ways]
        assert checked[0] is checked[3] is None
        assert checked[1]["frames"] == checked[2]["frames"] > 50 and checked[1]["changed"] == 0
        assert checked[2]["greatest_log_prob_difference"] > 1e-4 > checked[1]["greatest_log_prob_difference"]
    shown, table = capsys.readouterr().out, plot.with_suffix(".md").read_text()
    for name in names:
        wer = f"{result['results'][name]['total']['wer']:.2f}"
        assert any(line.startswith(f"{name} ") and wer in line for line in shown.splitlines())
        assert any(line.startswith(f"| {name} |") and wer in line for line in table.splitlines())
    assert plot.stat().st_size > 10_000
    plot.unlink()
    evaluate(given, output)
    assert plot.is_file() and "measured already" in capsys.readouterr().out
    assert "models: " in refused([*options, "--profile", "full"], output, capsys)
    compared = output.parent / "report"
    assert compare([str(output), "--resamples", "50", "--output_dir", str(compared)]) == 0
    assert names[3] in (compared / "report.md").read_text()


def test_kinds_of_cache_beside_each_other(options: Options, manifest: Path, tiny_folder) -> None:
    mla = ["--model", str(tiny_folder("mla")), *options[2:]]
    kinds = [*mla, "--chunk_ms", "160", "--left_context_s", "0.5", "--cache_dtype", "model,int8"]
    name = str(tiny_folder("mla"))
    assert list(evaluate(kinds, manifest.parent / "out.json")[0]["results"]) == [
        f"{name}@160ms/0.5s",
        f"{name}@160ms/0.5s/int8",
    ]
    streams = [*mla, "--profile", "full,160x0,naive-160x0", "--cache_dtype", "int8"]
    assert list(evaluate(streams, manifest.parent / "two.json")[0]["results"]) == [
        name,
        f"{name}@160ms/0s/int8",
        f"{name}@naive-160ms/0s",
    ]


def test_joined_recordings(options: Options, manifest: Path, tiny_folder) -> None:
    given = [*options, "--profile", "full,160x0.5", "--join_s", "2"]
    result, rows = evaluate(given, manifest.parent / "out.json")
    assert sorted(name for row in rows for name in row["joined"]) == ["0", "1", "2", "4", "5"]
    how, total = result["how"], result["results"][str(tiny_folder("mha"))]["total"]
    assert (how["join_s"], how["pause_s"], how["seed"], how["batch_size"]) == (2.0, 0.3, 0, 2)
    assert total["utterances"] == len(rows) < 5
    assert {row["domain"] for row in rows} == {"everyday", "open"}
    for row in rows:
        texts = [TEXTS[int(name)] for name in row["joined"]]
        assert row["reference"] == " ".join(texts).upper()
        seconds = sum(0.5 + 0.25 * int(name) for name in row["joined"]) + 0.3 * (len(texts) - 1)
        assert row["duration_s"] == pytest.approx(seconds) and row["duration_s"] >= 2
