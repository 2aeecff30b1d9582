"""The workflow's commands, its shell script and its Python script, down to the parser."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from offline.finetune import parser

ROOT = Path(__file__).parents[3]
WORKFLOW = """--base_model facebook/wav2vec2-conformer-rel-pos-large-960h-ft
  --mla_weights checkpoints/conformer_mla_from_hf/converted_model.pt --output_dir results/conformer_mla_finetuned
  --num_epochs 10 --learning_rate 1e-5 --batch_size 8 --gradient_accumulation_steps 2"""


def test_the_workflow_and_its_defaults_parse_in_both_spellings() -> None:
    plain = parser().parse_args(WORKFLOW.split())
    dashed = [w.replace("_", "-") if w.startswith("--") else w for w in WORKFLOW.split()]
    assert parser().parse_args(dashed) == plain
    assert plain == parser().parse_args(WORKFLOW.split()[:6])  # what it spells out are the defaults
    assert (plain.warmup_steps, plain.early_stopping_patience, plain.trainable) == (500, 3, "attention")
    assert plain.freeze_feature_encoder and not plain.distill and plain.precision is None
    more = "--offline_data_dir d --use_hf_dataset --max-samples 5 --save-steps 7 --eval_steps 8 --model-dir m"
    known = parser().parse_args([*more.split(), "--output_dir", "o"])
    assert (known.data_dir, known.max_train_samples, known.mla_weights) == (Path("d"), 5, "m")
    assert (known.save_steps, known.eval_steps, known.use_hf_dataset) == (7, 8, True)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("convert_hf_conformer_to_mla", "--model_name --output_dir --latent_dim --mla_variant"),
        ("finetune_mla_conformer", "--base_model --mla_weights --output_dir --num_epochs --save_steps"),
        ("evaluate_hf_model", "--model_name --output_file --dataset --batch_size --max_samples"),
        ("evaluate_finetuned_mla", "--model_dir --offline_data_dir --use_hf_dataset"),
    ],
)
def test_the_workflows_scripts_are_the_commands(
    script: str, options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"scripts/{script}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and [option for option in options.split() if option not in said] == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the shell script and, for a Python, a program that prints what it is asked to run."""
    (tmp_path / "run_mla_finetuning.sh").write_text((ROOT / "run_mla_finetuning.sh").read_text())
    (tmp_path / "python").write_text("#!/bin/sh\nprintf RUN && printf '\\037%s' \"$@\" && echo\n")
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def shell(checkout: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHON": "./python", **variables}
    whole = ["bash", str(checkout / "run_mla_finetuning.sh"), *words]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, cwd="/")


def commands(checkout: Path, *words: str, **variables: str) -> list[list[str]]:
    done = shell(checkout, *words, **variables)
    assert done.returncode == 0, done.stderr
    return [line.split("\x1f")[1:] for line in done.stdout.split("\n") if line.startswith("RUN\x1f-m")]


def test_quick_and_full_reach_the_parser(checkout: Path) -> None:
    (checkout / "data/speech").mkdir(parents=True)
    (checkout / "data/speech/train.jsonl").touch()
    convert, quick = commands(checkout, "quick")
    assert convert[:6] == "-m offline.convert --model_name mha --output_dir checkpoints/mha_mla".split()
    assert convert[-2:] == ["--calibration_manifest", "data/speech/train.jsonl"]
    args = parser().parse_args(quick[2:])
    assert (args.base_model, args.mla_weights) == ("mha", "checkpoints/mha_mla")
    assert (args.max_train_samples, args.num_epochs, args.batch_size, args.gradient_accumulation_steps) == (
        1000,
        5,
        4,
        4,
    )
    assert (args.eval_steps, args.save_steps, args.learning_rate) == (200, 200, 1e-5)
    (checkout / "checkpoints/mha_mla").mkdir(parents=True)
    (checkout / "checkpoints/mha_mla/config.json").touch()
    (full,) = commands(
        checkout, "full", "--distill", "--learning_rate", "1e-4", TRAIN_DATA="a.csv", DEV_DATA="b c.csv"
    )
    args = parser().parse_args(full[2:])
    assert (args.max_train_samples, args.num_epochs, args.batch_size, args.gradient_accumulation_steps) == (
        None,
        10,
        8,
        2,
    )
    assert (args.eval_steps, args.save_steps, args.learning_rate, args.warmup_steps) == (
        1000,
        1000,
        1e-4,
        500,
    )
    assert args.distill and (args.train_manifest, args.dev_manifest) == (["a.csv"], ["b c.csv"])


def test_the_script_says_what_it_wants(checkout: Path) -> None:
    assert "usage: bash run_mla_finetuning.sh quick|full" in shell(checkout, "--help").stdout
    assert commands(checkout, "quick", "--help") == [["-m", "offline.finetune", "--help"]], (
        "and no conversion"
    )
    wrong, empty = shell(checkout, "fast"), shell(checkout, "quick")
    assert wrong.returncode == 2 and "'fast'; choices: quick, full" in wrong.stderr
    assert (
        empty.returncode == 2 and "Set TRAIN_DATA and DEV_DATA" in empty.stderr and "RUN" not in empty.stdout
    )
    reference = "facebook/wav2vec2-conformer-rel-pos-large-960h-ft"
    nowhere = shell(checkout, "full", BASE_MODEL=reference, DATA_DIR="tree")
    assert nowhere.returncode == 2 and "tree/LibriSpeech/train-clean-100" in nowhere.stderr
    (checkout / "tree/LibriSpeech/train-clean-100").mkdir(parents=True)
    convert, full = commands(checkout, "full", BASE_MODEL=reference, DATA_DIR="tree")
    calibrated = ["--cache_reduction", "0.75", "--calibration_manifest", "tree/LibriSpeech/train-clean-100"]
    assert convert[-5:] == ["checkpoints/conformer_mla_from_hf", *calibrated]
    args = parser().parse_args(full[2:])
    assert (args.output_dir, args.data_dir) == (Path("results/conformer_mla_finetuned"), Path("tree"))
    convert, _ = commands(checkout, "quick", BASE_MODEL="someone/conformer@refs/pr/3", DATA_DIR="tree")
    assert convert[5] == "checkpoints/conformer_mla"
    convert, full = commands(checkout, "quick", "--use_hf_dataset", CONVERT_OPTIONS="--latent_dim 512")
    assert convert[-2:] == ["--latent_dim", "512"] and parser().parse_args(full[2:]).use_hf_dataset


@pytest.mark.parametrize("spelled", [["--train_manifest", "a.csv"], ["--train-manifest=a.csv"]])
def test_the_conversion_is_calibrated_on_what_is_learnt_from(checkout: Path, spelled: list[str]) -> None:
    convert, _ = commands(checkout, "quick", *spelled, "--dev_manifest", "b.csv", TRAIN_DATA="c.csv")
    assert convert[-2:] == ["--calibration_manifest", "a.csv"]
    (checkout / "data/speech").mkdir(parents=True)
    (checkout / "data/speech/train.jsonl").touch()
    convert, _ = commands(checkout, "quick", "--trainable", "latent")
    assert convert[-2:] == ["--calibration_manifest", "data/speech/train.jsonl"]


def test_the_script_refuses_before_it_converts(checkout: Path) -> None:
    alone = shell(checkout, "quick", DEV_DATA="b.csv")
    assert alone.returncode == 2 and "dev speech 'b.csv': TRAIN_DATA and DEV_DATA" in alone.stderr
    alone = shell(checkout, "quick", "--train_manifest=a.csv")
    assert alone.returncode == 2 and "learn from is 'a.csv' and dev speech ''" in alone.stderr
    assert commands(
        checkout, "quick", "--dev-manifest", "b.csv", TRAIN_DATA="a.csv"
    )  # as options they do as well
    (checkout / "made").mkdir()
    (checkout / "made/config.json").write_text('{"attention": {"source": "another"}}')
    data = {"TRAIN_DATA": "a.csv", "DEV_DATA": "b.csv", "MLA_DIR": "made"}
    unmade = data | {"MLA_DIR": "unmade", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    wrong = shell(checkout, "quick", "--epochs", "3", **unmade)
    assert wrong.returncode == 2 and "offline.finetune: unrecognized arguments: --epochs 3" in wrong.stderr
    assert "Converting" not in wrong.stdout
    ignored = shell(checkout, "quick", CONVERT_OPTIONS="--latent_dim 512", **data)
    assert ignored.returncode == 2 and "made is there already" in ignored.stderr
    assert 'Taking made as it is: "source": "another"' in shell(checkout, "quick", **data).stdout
    assert "RUN" not in alone.stdout + ignored.stdout
