"""The command: what it writes, shows and refuses."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2ConformerForCTC

import asr
from asr import checkpoint
from offline import conversion, convert_large
from offline.convert import main, parser
from tests.conftest import noise, tiny_config, tiny_model

WIDTH, FRAMES = 32, 16
CLIPS = [noise(16_000, 1), noise(9_001, 2)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, lines = tmp_path_factory.mktemp("speech"), []
    for index in range(4):
        clip = noise(16_000, seed=10 + index)
        soundfile.write(folder / f"{index}.flac", clip / np.abs(clip).max(), 16_000)
        lines.append(json.dumps({"audio_filepath": f"{index}.flac", "duration": 1.0, "text": "A"}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def convert(source: Path, target: Path, *options: str) -> dict:
    """The report of a conversion that works."""
    assert main(["--model_name", str(source), "--output_dir", str(target), *map(str, options)]) == 0
    return json.loads((target / "report.json").read_text())


def log_probs(folder: Path) -> list[np.ndarray]:
    return asr.load(folder, device="cpu", dtype="float32").log_probs(CLIPS)


def streamed_bytes(model: asr.Transcriber) -> int:
    """What the rings of three live streams hold of attention, read from their tensors."""
    cache = model.new_cache(slots=3, chunk_frames=8, left_context_frames=FRAMES)
    return sum(tensor.nbytes for ring in cache.rings for tensor in ring.tensors())


def furthest(one: Path, other: Path) -> float:
    return max(np.abs(a - b).max() for a, b in zip(log_probs(one), log_probs(other), strict=True))


@pytest.mark.parametrize("heard", [False, True])
def test_lossless_says_the_same_from_half_the_cache(
    heard: bool, tiny_folder, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tiny_folder("mha")
    options = ["--calibration_manifest", manifest, "--calibration_s", 2] if heard else []
    report = convert(source, tmp_path, "--lossless", *options)
    mha, mla = (asr.load(folder, device="cpu", dtype="float32") for folder in (source, tmp_path))
    assert furthest(source, tmp_path) < 1e-4
    assert [t.text for t in mha.transcribe(CLIPS)] == [t.text for t in mla.transcribe(CLIPS)]
    assert mla.config.attention.rank == (WIDTH,) * 3 and mla.config.attention.method == "lossless"
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    x = torch.randn(1, 5, WIDTH)
    remembered = [sum(a.self_attn.memory(x, x).nbytes for a in m.model.encoder.layers) for m in (mha, mla)]
    assert remembered[1] * 2 == remembered[0]
    assert report["cache_bytes_per_frame"] == {"mha": remembered[0] // 5, "mla": remembered[1] // 5}
    assert (
        streamed_bytes(mha) == 2 * streamed_bytes(mla) == 3 * FRAMES * report["cache_bytes_per_frame"]["mha"]
    )
    assert "equals a cache of the layer's input" in capsys.readouterr().out
    assert bool(report["agreement"]) == heard
    if heard:
        assert report["agreement"]["argmax_agreement"] == 1 and report["agreement"]["ctc_kl"] < 1e-8


def test_a_calibrated_conversion_is_written_with_all_its_figures(
    tiny_folder, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = (
        "--cache_reduction",
        0.75,
        "--calibration_manifest",
        manifest,
        "--calibration_s",
        3,
        "--dtype",
        "float32",
    )
    report = convert(tiny_folder("mha"), tmp_path, *options)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["attention"] == {
        "kind": "mla", "latent": "joint", "rank": [16] * 3, "source": tiny_folder("mha").name, "method": "attention",
    }  # fmt: skip
    assert report["method"] == "attention" and report["calibration"]["seconds"] == 3
    assert len(report["manifests_sha256"]) == 1 and report["source"]
    for row in report["layers"]:
        errors = [value for key, value in row.items() if key.endswith("_error") or key.endswith("_energy")]
        assert len(errors) == 8 and all(0 < error < 1 for error in errors) and row["rank"] == 16
    assert report["agreement"]["frames"] > 100 and 0 < report["agreement"]["ctc_kl"] < 1
    assert report["parameters"]["mha"] - report["parameters"]["mla"] == 3 * (
        2 * WIDTH**2 + 2 * WIDTH - 3 * 16 * WIDTH
    )
    assert report["cache_bytes_per_frame"] == {"mha": 3 * 2 * WIDTH * 4, "mla": 3 * 16 * 4}
    mha, mla = (asr.load(folder, device="cpu", dtype="float32") for folder in (tiny_folder("mha"), tmp_path))
    assert streamed_bytes(mha) == 4 * streamed_bytes(mla) == 3 * FRAMES * 3 * 2 * WIDTH * 4
    assert report["flops_per_frame"]["mla"] < report["flops_per_frame"]["mha"]
    shown = capsys.readouterr().out
    assert shown.count("\n") > 6 and "KL of the posteriors" in shown and "-75.0%" in shown


def test_the_folder_is_the_model_that_was_made(tiny_folder, tmp_path: Path, vocabulary) -> None:
    convert(tiny_folder("mha"), tmp_path, "--latent_dim", 12, "--dtype", "float32")
    made, _ = conversion.convert(asr.load(tiny_folder("mha"), device="cpu").model, 12, "mha")
    own = asr.Transcriber("made", made, vocabulary).log_probs(CLIPS)
    assert all(np.array_equal(a, b) for a, b in zip(own, log_probs(tmp_path), strict=True))


def test_the_workflow_s_own_command_makes_two_latents(tiny_folder, tmp_path: Path) -> None:
    report = convert(tiny_folder("mha"), tmp_path, "--latent-dim", 16, "--mla-variant", "simple")
    attention = checkpoint.read_config(tmp_path).attention
    assert attention.latent == "separate" and attention.rank_k == attention.rank_v == (16,) * 3
    assert report["method"] == "weight" and report["agreement"] is None and report["calibration"] is None
    sizes = report["cache_bytes_per_frame"]
    assert sizes["mla"] * 2 == sizes["mha"]  # as much as lossless, and not lossless
    assert report["layers"][0]["rank_k"] == 16 and report["layers"][0]["output_relative_error"] is None


@pytest.mark.parametrize("variant", ["joint", "simple"])
def test_greedy_ranks_keep_the_cache_and_lower_the_divergence(
    variant: str, tiny_folder, manifest: Path, tmp_path: Path, vocabulary
) -> None:
    """In a model whose middle attention says next to nothing, its ranks are better spent elsewhere."""
    model = tiny_model()
    with torch.no_grad():
        model.encoder.layers[1].self_attn.linear_out.weight.mul_(1e-3)
    checkpoint.save(model, vocabulary, tmp_path / "mha", dtype=torch.float32)
    found = {}
    for allocation in ("uniform", "greedy"):
        options = (
            "--rank_allocation",
            allocation,
            "--mla_variant",
            variant,
            "--calibration_manifest",
            manifest,
        )
        found[allocation] = convert(tmp_path / "mha", tmp_path / allocation, *options, "--calibration_s", 3)
    uniform, greedy = found["uniform"], found["greedy"]
    assert uniform["cache_bytes_per_frame"] == greedy["cache_bytes_per_frame"]
    assert greedy["agreement"]["ctc_kl"] < uniform["agreement"]["ctc_kl"]


@pytest.mark.parametrize("variant", ["joint", "simple"])
@torch.no_grad()
def test_the_exported_twin_says_the_same_in_stock_transformers(
    variant: str, tiny_folder, tmp_path: Path
) -> None:
    convert(tiny_folder("mha"), tmp_path / "mla", "--mla_variant", variant, "--export_hf", tmp_path / "hf")
    assert furthest(tmp_path / "mla", tmp_path / "hf") < 1e-4
    stock = Wav2Vec2ConformerForCTC.from_pretrained(tmp_path / "hf").eval()
    for clip, expected in zip(CLIPS, log_probs(tmp_path / "mla"), strict=True):
        normed = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[None]
        assert np.abs(stock(normed).logits[0].log_softmax(-1).numpy() - expected).max() < 1e-4


def test_an_mla_folder_can_be_folded_alone(tiny_folder, tmp_path: Path) -> None:
    assert (
        main(
            ["--model_name", str(tiny_folder("mla-separate", "rotary")), "--export_hf", str(tmp_path / "hf")]
        )
        == 0
    )
    assert checkpoint.read_config(tmp_path / "hf").attention.kind == "mha"
    assert furthest(tiny_folder("mla-separate", "rotary"), tmp_path / "hf") < 1e-4


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    tiny_folder, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tiny_folder("mha")
    options = [
        "--output_dir",
        tmp_path / "mla",
        "--export_hf",
        tmp_path / "hf",
        "--calibration_manifest",
        manifest,
    ]
    assert (
        main(["--model_name", str(source), "--dry-run", *map(str, options), "--rank_allocation", "greedy"])
        == 0
    )
    shown = capsys.readouterr().out
    for part in ("joint latents of 16", "attention", "parameters", "FLOPs", "folder's dtype: 384 -> 96 (-75.0%)",
                 "greedy", "expected", "GiB"):  # fmt: skip
        assert part in shown
    folding = ["--model_name", str(tiny_folder("mla")), "--export_hf", str(tmp_path / "hf"), "--dry_run"]
    assert main(folding) == 0 and "would fold" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_rotary_positions_take_two_latents_and_nothing_else(
    tiny_folder, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tiny_folder("mha", "rotary")
    for options in ([], ["--lossless"], ["--lossless", "--mla_variant", "joint"]):
        assert main(["--model_name", str(source), "--output_dir", str(tmp_path / "no"), *options]) == 2
        said = capsys.readouterr().err
        assert "rotary positions, which turn the input of K but not of V" in said and "simple" in said
    assert not (tmp_path / "no").exists()
    options = ("--mla_variant", "simple", "--calibration_manifest", manifest, "--calibration_s", 3)
    report = convert(source, tmp_path / "mla", *options)
    assert report["method"] == "attention" and 0 < report["agreement"]["ctc_kl"] < 0.5


REFUSALS = [
    (["--method", "activation"], "--method activation .*--calibration_manifest"),
    (["--method", "attention"], "--method attention .*--calibration_manifest"),
    (["--latent_dim", "33"], "--latent_dim 33.*2 to 32"),
    (["--cache_reduction", "0.4"], "--cache_reduction 0.4.*saves 0.5 to"),
    (["--lossless", "--mla_variant", "simple"], "--lossless is a joint latent"),
    (
        ["--lossless", "--cache_reduction", "0.75"],
        "--lossless is .* for half the cache: leave .*--cache_reduction",
    ),
    (["--latent_dim", "8", "--cache_reduction", "0.5"], "--latent_dim and --cache_reduction both say"),
    (["--calibration_manifest", "gone.jsonl"], "gone.jsonl: no such manifest; `make speech`"),
    (["--model_name", "nobody"], "no model 'nobody'"),
]


@pytest.mark.parametrize(("options", "said"), REFUSALS)
def test_what_cannot_be_done_is_said_in_one_line(
    options: list[str], said: str, tiny_folder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(["--model_name", str(tiny_folder("mha")), "--output_dir", str(tmp_path / "mla"), *options]) == 2
    )
    line = capsys.readouterr().err.strip()
    assert re.search(said, line) and line.startswith("offline.convert: ") and "\n" not in line
    assert not (tmp_path / "mla").exists()


def test_folders_are_neither_missing_nor_overwritten(tiny_folder, capsys: pytest.CaptureFixture) -> None:
    source = str(tiny_folder("mha"))
    assert main(["--model_name", source]) == 2 and "--output_dir is missing" in capsys.readouterr().err
    assert main(["--model_name", source, "--output_dir", source]) == 2
    assert "overwritten" in capsys.readouterr().err
    assert main(["--model_name", str(tiny_folder("mla")), "--output_dir", "x"]) == 2
    assert "already has mla attention" in capsys.readouterr().err
    for options in (["--model_name", str(tiny_folder("mla"))], ["--model_name", "mha", "--output_dir", "x"]):
        own = str(tiny_folder("mla")) if "mha" not in options else "x"
        assert main([*options, "--export_hf", own]) == 2
        assert "overwritten" in capsys.readouterr().err
    assert not Path("x").exists()


def test_a_model_is_replaced_only_where_that_is_asked(
    tiny_folder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "--model_name",
        str(tiny_folder("mha")),
        "--output_dir",
        str(tmp_path / "mla"),
        "--latent_dim",
        "8",
    ]
    assert main(command) == 0
    before = (tmp_path / "mla" / "model.safetensors").read_bytes()
    assert main([*command[:-1], "4"]) == 2 and "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "mla" / "model.safetensors").read_bytes() == before
    assert main([*command[:-1], "4", "--overwrite"]) == 0
    assert (tmp_path / "mla" / "model.safetensors").read_bytes() != before


def test_held_out_speech_is_refused(
    tiny_folder, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    held_out = manifest.with_name("test-seen.jsonl")
    held_out.write_text(manifest.read_text())
    options = ["--output_dir", str(tmp_path / "mla"), "--calibration_manifest", str(held_out)]
    assert main(["--model_name", str(tiny_folder("mha")), *options]) == 2
    assert "test-seen" in capsys.readouterr().err and not (tmp_path / "mla").exists()
    convert(tiny_folder("mha"), tmp_path / "mla", *options[2:], "--force_calibration", "--calibration_s", 1)


def test_a_librispeech_split_is_found_by_its_name(tiny_folder, tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "train-clean-100" / "84" / "1"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-1-0.flac", noise(16_000, 3), 16_000)
    (chapter / "84-1.trans.txt").write_text("84-1-0 HELLO\n")
    options = ("--calibration_manifest", "train-clean-100", "--data_dir", tmp_path)
    report = convert(tiny_folder("mha"), tmp_path / "mla", *options)
    assert report["calibration"]["seconds"] == 1.0 and list(report["manifests_sha256"]) == ["train-clean-100"]


def test_every_ablation_has_a_switch_that_is_on() -> None:
    plain = parser().parse_args([])
    for name in (field.name for field in fields(conversion.Settings) if field.name != "method"):
        assert getattr(plain, name) is True
        assert getattr(parser().parse_args([f"--no-{name.replace('_', '-')}"]), name) is False


def test_a_large_conversion_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    args = parser().parse_args(
        ["--large", "--output_file", str(tmp_path / "x" / "cost.json"), "--latent_dim", "8"]
    )
    convert_large.measure(args, tiny_config())
    measured = json.loads((tmp_path / "x" / "cost.json").read_text())
    assert measured["how"]["method"] == "weight" and measured["results"]["seconds"] > 0
    assert measured["results"]["peak_resident_bytes"] > 50e6  # torch alone is more
    assert measured["results"]["cache_bytes_per_frame"]["mla"] == 3 * 8 * 2
    more = "--calibration_manifest a,b --data_dir c --dtype bfloat16 --no_centring --download --lossless"
    words = convert_large.options(parser().parse_args(["--large", "--output_file", "x.json", *more.split()]))
    assert sorted(words) == sorted(more.split())
    with pytest.raises(ValueError, match="--output_file"):
        convert_large.measure(parser().parse_args(["--large"]), tiny_config())
