"""Evaluation, run for real on tiny random models: what it writes, how it goes on, what it refuses."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch

import asr
from offline.scoring import COUNTS, normalise
from tests.conftest import noise
from tests.offline.evaluation.runs import TEXTS, Options, evaluate, refused, two_models, write_manifest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


@pytest.fixture
def options(manifest: Path, tiny_folder) -> Options:
    return two_models(manifest, tiny_folder)


def test_every_text_is_kept_and_the_figures_follow(
    options: Options, manifest: Path, tiny_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*options, "--latency-clips", "2"]
    result, rows = evaluate(options, manifest.parent / "new" / "out.json")
    assert [row["id"] for row in rows] == [
        "5",
        "4",
        "2",
        "1",
        "0",
    ]  # longest first; the empty one is left out
    assert [row["batch"] for row in rows] == [0, 0, 1, 1, 2]
    names = [str(tiny_folder(kind)) for kind in ("mha", "mla")]
    for row in rows:
        wave, _ = soundfile.read(row["audio"], dtype="float32")
        assert row["reference"] == TEXTS[int(row["id"])].upper() and row["words"] == len(
            row["reference"].split()
        )
        assert (
            row["duration_s"] == len(wave) / 16_000
            and row["voice"] == f"v{row['id']}"
            and row["speaker"] == "s"
        )
        assert list(row["models"]) == names
        for name, heard in row["models"].items():
            assert heard["text"] == asr.load(name, device="cpu").transcribe([wave])[0].text
            assert len(heard["edits"]) == sum(heard[count] for count in COUNTS)
            assert heard["seconds"] > heard["forward_seconds"] > 0
    said = [row["reference"] for row in rows]
    for name in names:
        entry = result["results"][name]
        heard = [row["models"][name]["text"].upper() for row in rows]
        assert entry["total"]["wer"] == pytest.approx(100 * jiwer.wer(said, heard), abs=1e-3)
        pairs = [(normalise(s), normalise(h)) for s, h in zip(said, heard, strict=True) if s != "UM"]
        plain = 100 * jiwer.wer([s for s, _ in pairs], [h for _, h in pairs])
        assert entry["total"]["wer_normalised"] == pytest.approx(plain, abs=1e-3)
        assert entry["total"]["utterances"] == 5 and entry["by_manifest"]["six"] == entry["total"]
        assert entry["by_domain"]["everyday"]["utterances"] == 3 and len(entry["by_voice"]) == 5
        spent_s = sum(row["models"][name]["seconds"] for row in rows)
        audio_s = sum(row["duration_s"] for row in rows)
        assert entry["speed"]["rtfx"] == pytest.approx(audio_s / spent_s, rel=1e-2)
        assert entry["speed"]["rtfx_model"] >= entry["speed"]["rtfx"]
        assert entry["speed"]["latency_ms"]["p95"] >= entry["speed"]["latency_ms"]["p50"] > 0
        assert entry["memory"]["peak_process_bytes"] > 1e7
        model, facts = asr.load(name, device="cpu"), result["what"]["models"][name]
        assert facts["folder_hash"] == model.folder_hash and facts["parameters"] == model.parameters
        assert facts["cache_bytes_per_second"] == model.cache_bytes_per_second
        assert facts["cached_values_per_frame"] == model.config.cached_values_per_frame()
    assert "utterances" not in result and result["utterances_file"] == "out.jsonl"
    assert set(result["how"]["manifests"]) == {str(manifest)}
    shown = capsys.readouterr().out
    assert "domain everyday" in shown and names[1] in shown and "cache" in shown


def test_a_stopped_run_goes_on_to_the_same_figures(
    options: Options, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last batch's file is broken at first: the run stops there, as it would when killed while writing a line."""
    straight, straight_rows = evaluate(options, manifest.parent / "straight.json")
    output, whole = manifest.parent / "out.json", manifest.with_name("0.flac").read_bytes()
    manifest.with_name("0.flac").write_bytes(b"nothing")
    assert "0.flac: not a sound file" in refused(options, output, capsys)
    assert not output.exists()
    before = output.with_suffix(".jsonl").read_text()
    assert before.count("\n") == 4
    output.with_suffix(".jsonl").write_text(before + '{"id": "0", "aud')
    manifest.with_name("0.flac").write_bytes(whole)
    result, rows = evaluate(options, output)
    assert (
        output.with_suffix(".jsonl").read_text().startswith(before)
    )  # with the seconds that were measured then
    assert not list(manifest.parent.glob("*.partial.json"))

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        keep = {
            n: {k: v for k, v in m.items() if k != "peak_bytes" and "seconds" not in k}
            for n, m in row["models"].items()
        }
        return row | {"models": keep}

    assert list(map(timeless, rows)) == list(map(timeless, straight_rows))
    for name, entry in straight["results"].items():
        for part in ("total", "by_domain", "by_voice", "by_manifest"):
            assert result["results"][name][part] == entry[part]
        spent_s = sum(row["models"][name]["seconds"] for row in rows)
        assert result["results"][name]["speed"]["inference_s"] == pytest.approx(spent_s, abs=1e-3)


def test_the_peak_may_be_of_a_run_that_was_killed(options: Options, manifest: Path) -> None:
    """The longest recordings come first: a run that goes on has not seen what they took."""
    output = manifest.parent / "out.json"
    result, rows = evaluate(options, output)
    partial = {name: result[name] for name in ("what", "how")}
    output.with_suffix(".partial.json").write_text(json.dumps(partial))
    output.unlink()
    for arm in rows[0]["models"].values():
        assert arm["peak_bytes"][0] > 1e7
        arm["peak_bytes"] = [10**15]
    output.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again, _ = evaluate(options, output)
    assert {entry["memory"]["peak_process_bytes"] for entry in again["results"].values()} == {10**15}
    for row in rows:  # of a version that kept none
        for arm in row["models"].values():
            arm.pop("peak_bytes", None)
    output.with_suffix(".partial.json").write_text(json.dumps(partial))
    output.unlink()
    output.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last, _ = evaluate(options, output)
    assert all(1e7 < entry["memory"]["peak_process_bytes"] < 10**15 for entry in last["results"].values())


def test_what_is_measured_already_is_left_as_it_is(
    options: Options, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = manifest.parent / "out.json"
    evaluate(options, output)
    files = {file: file.read_bytes() for file in (output, output.with_suffix(".jsonl"))}
    capsys.readouterr()
    trn = manifest.parent / "trn"
    evaluate([*options, "--trn", str(trn)], output)
    assert "measured already" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in files} == files
    assert (trn / "ref.trn").read_text().splitlines()[0] == "A B C D (s-5)" and len(list(trn.iterdir())) == 3
    assert "batch_seconds: 60.0 -> 2.0" in refused([*options, "--batch_seconds", "2"], output, capsys)
    manifest.write_text(manifest.read_text().replace("one two", "ONE TWO"))
    assert f"manifest {manifest}: " in refused(options, output, capsys)
    evaluate([*options, "--no_resume"], output)
    assert output.with_suffix(".jsonl").read_bytes() != files[output.with_suffix(".jsonl")]


def test_other_weights_under_the_same_name_are_refused(
    options: Options, manifest: Path, tiny_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = manifest.parent / "model"
    shutil.copytree(tiny_folder("mha"), folder)
    options = ["--model_dir", str(folder / "pytorch_model.bin"), *options[2:]]
    evaluate(options, manifest.parent / "out.json")
    shutil.copy(tiny_folder("mha", "rotary") / "config.json", folder)
    shutil.copy(tiny_folder("mha", "rotary") / "model.safetensors", folder)
    assert "weights of " in refused(options, manifest.parent / "out.json", capsys)


def test_as_in_a_live_stream(options: Options, manifest: Path, tiny_folder) -> None:
    frames = [*options, "--chunk-frames", "8", "--left-context-frames", "4"]
    result, rows = evaluate(frames, manifest.parent / "frames.json")
    again, same = evaluate(
        [*options, "--chunk_ms", "160", "--left_context_s", "0.08"], manifest.parent / "ms.json"
    )
    for how in (result["how"], again["how"]):
        assert (how["chunk_frames"], how["left_context_frames"]) == (8, 4)
    model = asr.load(tiny_folder("mha"), device="cpu")
    for row, other in zip(rows, same, strict=True):
        wave, _ = soundfile.read(row["audio"], dtype="float32")
        heard = model.transcribe([wave], chunk_frames=8, left_context_frames=4)[0].text
        assert row["models"][str(tiny_folder("mha"))]["text"] == heard
        assert other["models"][str(tiny_folder("mha"))]["text"] == heard
    offline = evaluate(options, manifest.parent / "whole.json")[0]["how"]
    assert (offline["chunk_frames"], offline["left_context_frames"]) == (None, None)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("--chunk_ms 310 --left_context_s 1", "--chunk_ms is 310, no multiple of 20; the nearest is 320"),
        ("--chunk_ms 5", "--chunk_ms is 5, no multiple of 20; the nearest is 20"),
        ("--chunk_ms 160 --left_context_s 0.05", "--left_context_s is 0.05, no multiple of 0.02; the nearest is 0.04"),
        ("--chunk_ms 160 --left_context_s -1", "--left_context_s is -1, no multiple of 0.02; the nearest is 0"),
        ("--chunk_ms 160 --chunk_frames 8", "--chunk_ms and --chunk_frames say the same thing twice"),
        ("--chunk_ms 160 --left_context_s 1 --left_context_frames 50", "--left_context_s and --left_context_frames"),
        ("--left_context_s 1", "give --chunk_ms, too"),
        ("--attn_implementation sdpa", "--engine transformers"),
        ("--engine transformers --chunk_ms 160", "leave the chunks out"),
        ("--engine transformers --profile full,160x1", "leave the chunks out"),
        ("--profile full,slow", "--profile 'slow' is none; choices: full, fast, balanced, long, <chunk ms>x"),
        ("--profile 160x1 --chunk_ms 160", "--profile and --chunk_ms say the same thing twice"),
        ("--profile balanced,full,480+160x10", "--profile names 480+160ms/10s more than once"),
        ("--profile full,160x1 --cache_dtype int4", "--cache_dtype 'int4' is none; choices: model, int8"),
        ("--profile full --cache_dtype int8", "--cache_dtype is of a live stream's cache"),
        ("--profile full --check_frames 2", "--check_frames is of live streams"),
        ("--profile full,160x1 --plot out.gif", "a picture's name ends in .png or .svg"),
        ("--plot out.png", "--plot shows streams"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(
    given: str, named: str, options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused([*options, *given.split()], tmp_path / "out.json", capsys)
    assert not list(tmp_path.glob("out*"))


def test_stock_code_says_the_same(
    options: Options, manifest: Path, tiny_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [*options[2:4], "--latency_clips", "1", "--device", "cpu"]
    mha = ["--model", str(tiny_folder("mha")), *rest]
    ours, our_rows = evaluate(mha, manifest.parent / "ours.json")
    stock, rows = evaluate([*mha, "--engine", "transformers"], manifest.parent / "stock.json")
    (name,) = stock["results"]
    texts = [[row["models"][name]["text"] for row in some] for some in (our_rows, rows)]
    assert texts[0] == texts[1] and any(texts[0])
    assert stock["results"][name]["total"] == ours["results"][name]["total"]
    assert stock["results"][name]["speed"]["rtfx_model"] > 0
    assert (stock["how"]["batch_size"], ours["how"]["batch_size"]) == (1, 64)
    assert (stock["how"]["engine"], stock["how"]["attn_implementation"]) == ("transformers", "eager")
    assert stock["what"]["models"][name]["cache_bytes_per_second"] is None
    mla = ["--model", str(tiny_folder("mla")), *rest, "--engine", "transformers"]
    assert "--export_hf" in refused(mla, manifest.parent / "mla.json", capsys)


def librispeech(root: Path, clips: int = 5) -> Path:
    folder = root / "LibriSpeech" / "test-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    lines = []
    for number in range(clips):
        name = f"84-121123-{number:04}"
        soundfile.write(folder / f"{name}.flac", noise(8_000 + 1_000 * number, number), 16_000)
        lines.append(f"{name} GO DO YOU HEAR\n")
    (folder / "84-121123.trans.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize("script", ["evaluate_hf_model.py", "evaluate_finetuned_mla.py"])
def test_the_workflows_scripts_on_a_librispeech_split(
    script: str, tiny_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands word for word, but for the model, which comes from the hub there."""
    librispeech(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIBRISPEECH_ROOT", raising=False)
    model = "--model_name" if script == "evaluate_hf_model.py" else "--model_dir"
    command = f"{script} {model} {tiny_folder('mha')} --output_file results/conformer_mha_baseline_full.json"
    monkeypatch.setattr(
        sys, "argv", [*command.split(), "--dataset", "test-clean", "--batch_size", "8", "--max_samples", "3"]
    )
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    assert ended.value.code == 0
    result = json.loads((tmp_path / "results/conformer_mha_baseline_full.json").read_text())
    (entry,) = result["results"].values()
    assert entry["total"]["utterances"] == 3 and set(entry["by_manifest"]) == {"test-clean"}
    assert result["how"]["manifests"].keys() == {"test-clean"} and result["how"]["batch_size"] == 8
    rows = (tmp_path / "results/conformer_mha_baseline_full.jsonl").read_text().splitlines()
    assert {json.loads(row)["id"] for row in rows} == {f"84-121123-{number:04}" for number in (0, 1, 3)}


def test_several_corpora_side_by_side(options: Options, manifest: Path, tiny_folder) -> None:
    root = librispeech(manifest.parent / "libri", clips=2)
    options = ["--model", str(tiny_folder("mla")), "--dataset", f"{manifest},test-clean", *options[4:]]
    result, rows = evaluate([*options, "--offline_data_dir", str(root)], manifest.parent / "out.json")
    (entry,) = result["results"].values()
    assert {name: part["utterances"] for name, part in entry["by_manifest"].items()} == {
        "six": 5,
        "test-clean": 2,
    }
    assert {row["manifest"] for row in rows} == {"six", "test-clean"} and len(
        {row["id"] for row in rows}
    ) == 7


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, options: Options, manifest: Path) -> None:
    result, rows = evaluate([*options, "--dtype", dtype], manifest.parent / "out.json")
    assert result["how"]["dtype"] == dtype and len(rows) == 5
    assert all(entry["speed"]["latency_ms"] is None for entry in result["results"].values())


def test_what_cannot_be_used_is_named(
    options: Options, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    assert "none" in refused(["--model", str(tmp_path / "none"), *options[2:]], output, capsys)
    twice = f"{options[1].split(',')[0]},{options[1]}"
    assert "more than once" in refused(["--model", twice, *options[2:]], output, capsys)
    nowhere = [*options[:2], "--dataset", "test-other", "--data_dir", str(tmp_path)]
    assert f"{tmp_path}/LibriSpeech/test-other" in refused(nowhere, output, capsys)
    manifest.write_text('{"audio_filepath": "0.flac", "duration": 0.5, "text": " "}')
    assert "six.jsonl: no text to compare with" in refused(options, output, capsys)
    assert not list(tmp_path.glob("out*"))


def test_evenly_spaced_over_the_corpus(options: Options, manifest: Path) -> None:
    _, rows = evaluate([*options, "--utterances", "2"], manifest.parent / "out.json")
    assert {row["id"] for row in rows} == {"0", "2"} and np.isclose(rows[0]["duration_s"], 1.0)
