"""Fine-tuning for real, on a tiny model and a few tones: it heals, resumes exactly, and changes only what it should."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import asr
from asr import checkpoint
from offline import finetune
from offline.finetune import main, parser, run
from offline.finetuning.tuner import FineTuner, fruitless
from tests.offline.finetuning.arms import write_arms
from tests.offline.tones import tone

PREFIX = checkpoint.PREFIX


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    return write_arms(tmp_path)


def command(folder: Path, name: str, *flags: str, **options: object) -> list[str]:
    chosen: dict[str, object] = {
        "base_model": folder / "mha",
        "mla_weights": folder / "mla",
        "output_dir": folder / name,
        "train_manifest": folder / "tones.jsonl",
        "dev_manifest": folder / "tones.jsonl",
        "max_steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "workers": 0,
    }
    pairs = [(f"--{key}", str(value)) for key, value in (chosen | options).items() if value is not None]
    return [*(word for pair in pairs for word in pair), "--cpu", *(flags or ["--fp32"])]


def tune(folder: Path, name: str, *flags: str, **options: object) -> FineTuner:
    return run(parser().parse_args(command(folder, name, *flags, **options)))


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that are not bit-equal in two folders of the same model."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {name.removeprefix(PREFIX) for name in old if not old[name].equal(new[name])}


def test_distillation_brings_the_converted_model_back(arms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(
        arms, "healed", "--distill", "--fp32", max_steps=40, ctc_weight=0, mse_weight=1, batch_size=4, logging_steps=1,
        gradient_accumulation_steps=1, eval_steps=40, chunk_share=0,
    )  # fmt: skip
    lines = [json.loads(line) for line in (arms / "healed/log.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "kl" in line]
    assert (
        last["kl"] < 0.3 * first["kl"] and last["mse"] < 0.5 * first["mse"] and last["loss"] < first["loss"]
    )
    assert first["loss"] == pytest.approx(first["kl"] + first["mse"], rel=1e-4) and last["epoch"] == 40
    assert list((arms / "healed/runs").glob("events.out.tfevents*"))

    touched = changed(arms / "mla", arms / "healed")
    assert touched and all(".self_attn." in name for name in touched)  # nor batch norm's statistics
    assert any("linear_latent" in name for name in touched) and any("linear_pos" in name for name in touched)

    metadata = json.loads((arms / "healed/metadata.json").read_text())
    assert metadata["finished"] and not metadata["stopped_early"] and metadata["best"]["step"] == 40
    assert metadata["start"]["eval_loss"] > 0 and metadata["final"] == metadata["best"]
    assert metadata["data"]["train"]["utterances"] == 4 and metadata["attention"]["kind"] == "mla"
    assert metadata["parameters"] > metadata["parameters_learning"] > 0
    assert metadata["weights_sha256"] != metadata["teacher_sha256"] is not None
    assert len(asr.load(arms / "healed").transcribe([tone("A CAB")])) == 1
    assert main(command(arms, "healed", "--distill", "--fp32", max_steps=40, ctc_weight=0, mse_weight=1, batch_size=4,
                        gradient_accumulation_steps=1, eval_steps=40, chunk_share=0)) == 0  # fmt: skip
    assert "finished already" in capsys.readouterr().out


class Kill(TrainerCallback):
    """Raises at a point of the run, as a machine that goes away does."""

    def __init__(self, point: int | None) -> None:
        self.point = point

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.point:
            raise KeyboardInterrupt

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.point is None:
            raise KeyboardInterrupt


STAGES: dict[str, object] = {
    "max_steps": 9, "latent_steps": 2, "trainable": "all", "eval_steps": 1, "dropout": 0.1,
    "early_stopping_patience": 4, "augment_strength": 1, "learning_rate": 1e-4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("point", "save_steps"),
    [(1, 2), (3, 2), (None, 1)],
    ids=["before a checkpoint", "between", "after the end"],
)
def test_a_killed_run_arrives_at_the_same_weights(
    arms: Path, point: int | None, save_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages, dropout, augmentation, masks, the best weights, and the end for want of better ones."""
    options = STAGES | {"save_steps": save_steps}
    straight = tune(arms, "straight", **options)
    build = finetune.build

    def doomed(args: Namespace) -> tuple[FineTuner, list[str]]:
        tuner, notes = build(args)
        tuner.add_callback(Kill(point))
        return tuner, notes

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(finetune, "build", doomed)
        tune(arms, "killed", **options)
    assert not json.loads((arms / "killed/metadata.json").read_text())["finished"]
    killed = tune(arms, "killed", **options)
    assert straight.state.global_step == killed.state.global_step == 5
    for folder in (".", "final"):
        assert changed(arms / "straight" / folder, arms / "killed" / folder) == set()
    told, retold = (
        json.loads((arms / name / "metadata.json").read_text()) for name in ("straight", "killed")
    )
    for fact in ("start", "best", "final"):
        assert told[fact] | {"eval_s": 0} == retold[fact] | {"eval_s": 0}
    assert told["stopped_early"] and retold["stopped_early"] and told["best"]["step"] == 1


def test_a_model_is_not_replaced_by_another_run(arms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(arms, "early", eval_steps=2, save_steps=1000)
    shutil.rmtree(arms / "early" / "checkpoint-4")  # the last step's
    kept = (arms / "early/model.safetensors").read_bytes()
    tune(arms, "early", eval_steps=2, save_steps=1000)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds a run with other learning_rate"):
        tune(arms, "early", eval_steps=2, save_steps=1000, learning_rate=1e-4)
    assert (arms / "early/model.safetensors").read_bytes() == kept
    with pytest.raises(ValueError, match="mla holds a model that was not trained there"):
        tune(arms, "mla")


class Watch(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self, tuner: FineTuner) -> None:
        self.model, self.at = tuner.objective.model, {0: self.copy(tuner.objective.model)}

    def copy(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.at[state.global_step] = self.copy(self.model)

    def moved(self, first: int, last: int) -> set[str]:
        return {name for name, value in self.at[first].items() if not value.equal(self.at[last][name])}


def test_the_first_stage_changes_latent_factors_alone(arms: Path) -> None:
    options = STAGES | {
        "max_steps": 4,
        "latent_steps": None,
        "latent_epochs": 2,
        "early_stopping_patience": 0,
    }
    tuner, _ = finetune.build(parser().parse_args(command(arms, "both", **options)))
    watch = Watch(tuner)
    tuner.add_callback(watch)
    tuner.train()
    factors = ("linear_latent", "linear_up_k", "linear_up_v")
    assert watch.moved(0, 2) == {f"encoder.layers.{i}.self_attn.{f}.weight" for i in (0, 1) for f in factors}
    then = watch.moved(2, 4)
    assert {"encoder.layers.0.conv_module.batch_norm.weight", "lm_head.weight"} < then
    assert not any(name.startswith("feature_extractor.") or "running_" in name for name in then)


def test_latent_factors_alone_can_learn(arms: Path) -> None:
    named = arms / "mla" / "converted_model.pt"  # as the workflow has it: the folder that it would lie in
    tune(arms, "latent", trainable="latent", max_steps=1, mla_weights=named)
    touched = changed(arms / "mla", arms / "latent")
    assert len(touched) == 6 and all("linear_latent" in name or "linear_up_" in name for name in touched)


def test_the_mha_model_itself_and_its_front_end_can_learn(arms: Path) -> None:
    options: dict[str, Any] = {"mla_weights": None, "trainable": "all", "logging_steps": 1, "chunk_share": 0}
    tuner = tune(arms, "mha-tuned", "--bf16", "--no_freeze_feature_encoder", **options)
    losses = [line["loss"] for line in tuner.state.log_history if "loss" in line]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
    touched = changed(arms / "mha", arms / "mha-tuned")
    assert any(name.startswith("feature_extractor.") for name in touched)
    assert not any("running_" in name for name in touched)  # batch norm keeps what the whole training gave it
    assert tuner.args.bf16 and asr.load(arms / "mha-tuned").config.attention.kind == "mha"
    config = json.loads((arms / "mha-tuned/config.json").read_text())
    assert config["ctc_loss_reduction"] == "mean" and config["ctc_zero_infinity"] is True


def test_what_was_repaired_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_arms(tmp_path, ctc_loss_reduction="sum", ctc_zero_infinity=False)
    with (folder / "tones.jsonl").open("a") as lines:
        print(json.dumps({"audio_filepath": "0.flac", "duration": 0.24, "text": "A" * 12}), file=lines)
    tune(folder, "out", "--fp16", max_steps=1, warmup_steps=500)
    said = capsys.readouterr().out
    assert "ctc_loss_reduction is 'sum', taken as 'mean', ctc_zero_infinity is False, taken as True" in said
    assert "train: 1 utterances left out: too few frames for their text" in said
    assert "--fp16 is for GPUs: on the CPU, bfloat16 is taken" in said
    assert "warm-up: 0 steps, not 500, of 1 in all" in said
    assert "WER on dev" in said


def test_fruitless_evaluations_are_counted_from_the_first_best() -> None:
    history = [{"loss": 1.0}, *({"eval_wer": rate} for rate in (30.0, 20.0, 20.0)), {"loss": 0.5}]
    assert [fruitless(history[:end]) for end in range(6)] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("flags", "options", "reason"),
    [
        ([], {"mla_weights": "nowhere"}, r"nowhere.*python -m offline.convert --model_name .*mha --output_dir"),
        ([], {"mla_weights": None, "trainable": "latent"}, "mha attention has no latent factors"),
        ([], {"mla_weights": None, "latent_steps": 1}, "--latent_steps: mha attention has no latent"),
        ([], {"latent_steps": 4}, "the first stage has 4 steps, the whole run 4"),
        ([], {"latent_steps": 1, "trainable": "latent"}, "there is no second one"),
        (["--distill"], {"base_model": "mha"}, r"differ in num_hidden_layers \(2 and 12\), hidden_size"),
        ([], {"dev_manifest": None}, "--train_manifest is given without --dev_manifest"),
        ([], {"train_manifest": "nothing.jsonl"}, "nothing.jsonl: no such manifest"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(
    arms: Path, flags: list[str], options: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(arms, "bad", "--fp32", *flags, **options)) == 2
    error = capsys.readouterr().err
    assert re.search(reason, error) and error.count("\n") == 1 and not (arms / "bad").exists()


def test_another_setting_does_not_continue_a_run(arms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(arms, "run", max_steps=1)
    assert main(command(arms, "run", max_steps=1, learning_rate=1e-3, seed=2)) == 2
    assert (
        "holds a run with other learning_rate, seed; choose another --output_dir" in capsys.readouterr().err
    )
    (arms / "tones.jsonl").write_text((arms / "tones.jsonl").read_text().replace("CAB", "BAB"))
    assert main(command(arms, "run", max_steps=1)) == 2
    assert "other train_data, dev_data;" in capsys.readouterr().err
