"""Training for real, on a tiny model and a few tones: it learns, averages, resumes exactly, and refuses nonsense."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from asr import checkpoint
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline.average import Average
from offline.gabor import gabor_init
from offline.objective import Objective, ctc_loss
from offline.resume import newest_checkpoint, resume_point
from offline.train import TOKENS, build, facts, main, parser, run
from offline.trainer import CTCTrainer
from tests.offline.tones import TINY, write_tones


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    return write_tones(tmp_path)


def command(folder: Path, name: str, steps: int, **options: object) -> list[str]:
    chosen: dict[str, object] = {
        "train_manifest": folder / "tones.jsonl",
        "dev_manifest": folder / "tones.jsonl",
        "model_config": folder / "tiny.json",
        "output_dir": folder / name,
        "max_steps": steps,
        "batch_seconds": 1,
        "workers": 0,
        "warmup_steps": 1,
        "decay_steps": 0,
        "curriculum_steps": 2,
        "chunk_start_step": 0,
        "augment_ramp_steps": 0,
        "eval_steps": 1000,
        "save_steps": 3,
    }
    pairs = [(f"--{key}", str(value)) for key, value in (chosen | options).items()]
    return [*(word for pair in pairs for word in pair), "--cpu"]


def train(folder: Path, name: str, steps: int, *flags: str, **options: object) -> CTCTrainer:
    return run(parser().parse_args([*command(folder, name, steps, **options), *(flags or ["--no_bf16"])]))


class StopAt(TrainerCallback):
    """Ends a run before its last step, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_shrinkage_lowers_the_rank_of_keys_and_values_by_the_rate(tones: Path) -> None:
    """At a constant rate of 1e-2 five steps lower every singular value by 5 * 1e-2 * shrinkage, down to 0."""
    options: dict[str, object] = {"learning_rate": 1e-2, "warmup_steps": 0, "save_steps": 5}

    def largest(trainer: CTCTrainer) -> float:
        attention = trainer.objective.model.encoder.layers[0].self_attn
        weights = torch.cat([attention.linear_k.weight, attention.linear_v.weight]).detach()
        return float(torch.linalg.svdvals(weights)[0])

    plain, lowered, gone = (
        largest(train(tones, f"shrunk-{by}", 5, kv_shrinkage=by, average_decay=0, **options))
        for by in (0, 4, 1000)
    )
    assert lowered == pytest.approx(plain - 0.2, abs=1e-5)
    assert gone == 0


def test_shrinkage_is_for_mha(tiny_folder: Callable[..., Path], tones: Path) -> None:
    with pytest.raises(ValueError, match=r"--kv_shrinkage: for mha only"):
        train(tones, "shrunk-mla", 5, init_from=tiny_folder("mla"), kv_shrinkage=1)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {
            "optimizer": "muon",
            "kv_shrinkage": 0.8,
            "join_s": 3,
            "gradient_accumulation_steps": 2,
            "average_decay": 0.995,
        },
    ],
    ids=["AdamW", "as the bundled model"],
)
def test_six_steps_equal_three_then_three_more(tones: Path, how: dict[str, Any]) -> None:
    """Augmentation, masks, dropout, order, schedule, optimiser and average go on as if nothing had happened."""
    train(tones, "straight", 6, decay_steps=2, **how)
    args = parser().parse_args([*command(tones, "stopped", 6, decay_steps=2, **how), "--no_bf16"])
    trainer = build(args)
    assert resume_point(args.output_dir, True, facts(trainer.report)) is None
    trainer.add_callback(StopAt(3))
    trainer.train()
    assert newest_checkpoint(tones / "stopped") == tones / "stopped/checkpoint-3"
    earlier = load_file(tones / "stopped/checkpoint-3/model.safetensors")
    train(tones, "stopped", 6, decay_steps=2, **how)
    for file in (
        "checkpoint-6/model.safetensors",
        "checkpoint-6/average.safetensors",
        "final/model.safetensors",
    ):
        straight, stopped = load_file(tones / "straight" / file), load_file(tones / "stopped" / file)
        assert straight.keys() == stopped.keys() and len(straight) > 40
        assert all(straight[name].equal(stopped[name]) for name in straight)
    later = load_file(tones / "stopped/checkpoint-6/model.safetensors")
    assert not earlier["model.lm_head.weight"].equal(later["model.lm_head.weight"])


TWO_PROCESSES = """
import shutil, sys
from pathlib import Path
import torch
from offline import finetune, train

for module in (train, finetune):
    words = sys.argv[1].split() if module is train else sys.argv[2].split()
    folder = Path(words[words.index("--output_dir") + 1])
    assert module.main(words) == 0
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.copytree(folder, folder.with_name("straight-" + folder.name))
        for left in ("checkpoint-4", "final", "log.jsonl", "metadata.json"):
            whole = folder / left
            shutil.rmtree(whole) if whole.is_dir() else whole.unlink(missing_ok=True)
    torch.distributed.barrier()
    assert module.main(words) == 0
"""


def test_two_processes_resume_exactly(tones: Path) -> None:
    """Four steps by torchrun give the same weights and statistics as two of them, then two more from a checkpoint."""
    model = ConformerCTC(ModelConfig.from_dict(TINY))
    checkpoint.save(model, Vocabulary(TOKENS), tones / "mha", dtype=torch.float32)
    training = [*command(tones, "train", 4, save_steps=2, eval_steps=2), "--no_bf16"]
    tuning = (
        f"--base_model {tones}/mha --output_dir {tones}/tune --train_manifest {tones}/tones.jsonl --dev_manifest "
        f"{tones}/tones.jsonl --max_steps 4 --save_steps 2 --eval_steps 2 --batch_size 1 --trainable all --distill "
        "--dropout 0.1 --workers 0 --cpu --fp32 --learning_rate 1e-3"
    )
    (tones / "both.py").write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*launch, str(tones / "both.py"), " ".join(training), tuning],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("train", "tune"):
        steps = [json.loads(line)["step"] for line in (tones / name / "log.jsonl").read_text().splitlines()]
        assert min(steps) > 2  # it did not begin anew
        for file in ("checkpoint-4/model", "checkpoint-4/average", "final/model"):
            folders = (tones / f"straight-{name}", tones / name)
            straight, stopped = (load_file(folder / f"{file}.safetensors") for folder in folders)
            assert straight.keys() == stopped.keys() and len(straight) > 50
            assert all(straight[key].equal(stopped[key]) for key in straight)
        halfway = load_file(tones / name / "checkpoint-2/model.safetensors")
        later = load_file(tones / name / "checkpoint-4/model.safetensors")
        assert not halfway["model.lm_head.weight"].equal(later["model.lm_head.weight"])
        statistics = "model.encoder.layers.0.conv_module.batch_norm.running_mean"
        assert halfway[statistics].equal(later[statistics]) == (name == "tune")
        assert json.loads((tones / name / "final/report.json").read_text())["processes"] == 2


def test_a_half_written_checkpoint_is_passed_over(tones: Path) -> None:
    train(tones, "run", 3)
    (tones / "run/checkpoint-9").mkdir()
    (tones / "run/checkpoint-10").mkdir()
    (tones / "run/checkpoint-10/trainer_state.json").write_text('{"global_st')
    assert newest_checkpoint(tones / "run") == tones / "run/checkpoint-3"
    assert newest_checkpoint(tones / "nowhere") is None


def test_another_seed_or_data_does_not_continue_a_run(
    tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tones, "run", 3)
    assert main(command(tones, "run", 6, seed=2)) == 2
    assert "holds a run with other seed" in capsys.readouterr().err
    assert main(command(tones, "run", 6, max_duration_s=5)) == 2
    assert "holds a run with other max_duration_s" in capsys.readouterr().err
    assert main(command(tones, "run", 6, init_from=tones / "run/final")) == 2
    assert "other init_from" in capsys.readouterr().err
    assert main([*command(tones, "run", 6), "--no_resume"]) == 2
    assert "--no_resume" in capsys.readouterr().err


def test_a_tiny_model_learns_its_recordings(tones: Path) -> None:
    trainer = train(
        tones, "learn", 150, "--no_augment", "--no_bf16", batch_seconds=4, learning_rate=1e-2, average_decay=0.9,
        chunk_share=0.2, decay_steps=50, logging_steps=10,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tones / "learn/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 3 and losses[-1] < 0.7
    assert trainer.metrics["eval_wer"] <= 20
    report = json.loads((tones / "learn/best/report.json").read_text())
    assert report["dev"]["eval_wer"] == trainer.metrics["eval_wer"] and report["steps"] == 150
    assert report["hours_heard"] == pytest.approx(150 * (2 + 2 + 3 + 5) * 0.12 / 3600, rel=0.01)
    model, vocabulary = checkpoint.load(tones / "learn/final")
    assert vocabulary.decode(vocabulary.encode("A CAB")) == "A CAB"
    assert all(value.equal(trainer.average.tensors[name]) for name, value in model.state_dict().items())


def test_the_last_step_is_evaluated_too(tones: Path) -> None:
    trainer = train(tones, "odd", 3, eval_steps=2)
    steps = [line["step"] for line in trainer.state.log_history if "eval_wer" in line]
    assert steps == [2, 3]
    report = json.loads((tones / "odd/final/report.json").read_text())
    assert report["steps"] == 3 and report["dev"] == trainer.metrics


def test_only_attention_learns_when_asked(tones: Path) -> None:
    train(tones, "first", 3)
    train(tones, "second", 3, init_from=tones / "first/final", trainable="attention")
    before = load_file(tones / "first/final/model.safetensors")
    after = load_file(tones / "second/final/model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all(".self_attn." in name for name in changed)
    report = json.loads((tones / "second/final/report.json").read_text())
    assert report["source_report"] == json.loads((tones / "first/final/report.json").read_text())
    assert "model_config" not in report["options"] and "model_config" in report["source_report"]["options"]


def test_a_trained_model_is_deepened_and_goes_on(tones: Path) -> None:
    train(tones, "shallow", 3)
    shallow, _ = checkpoint.load(tones / "shallow/final")
    layers = shallow.config.num_hidden_layers
    options: dict[str, object] = {"init_from": tones / "shallow/final", "num_layers": 2 * layers}
    train(tones, "deep", 3, **options)
    trainer = train(tones, "deep", 6, **options)  # resumed
    assert trainer.state.global_step == 6
    deep, _ = checkpoint.load(tones / "deep/final")
    assert deep.config.num_hidden_layers == 2 * layers
    assert deep.encoder.layers[1].ffn1.output_dense.weight.any()


def test_dropout_is_that_asked_for_and_stays_out_of_what_is_saved(tones: Path) -> None:
    trainer = train(tones, "dropping", 1, dropout=0.3)
    shares = {module.p for module in trainer.objective.modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.3}
    assert all(layer.self_attn.dropout == 0.3 for layer in trainer.objective.model.encoder.layers)
    configured = ModelConfig.from_dict(TINY).hidden_dropout
    assert (
        json.loads((tones / "dropping/final/config.json").read_text())["hidden_dropout"] == configured != 0.3
    )


def test_a_finished_run_is_left_as_it_is(tones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its report says which code and which model it came from, and those of today may be others."""
    train(tones, "done", 3)
    report = tones / "done/final/report.json"
    report.write_text(report.read_text().replace('"made_by"', '"mark": 1, "made_by"'))
    train(tones, "done", 3)
    assert "finished already" in capsys.readouterr().err and json.loads(report.read_text())["mark"] == 1
    train(tones, "done", 4)
    assert json.loads(report.read_text())["steps"] == 4 and "mark" not in report.read_text()


def test_a_model_without_its_checkpoints_is_not_replaced(tones: Path) -> None:
    train(tones, "kept", 3)
    for folder in (tones / "kept").glob("checkpoint-*"):
        shutil.rmtree(folder)
    train(tones, "kept", 3)  # finished
    with pytest.raises(ValueError, match="holds a model of 3 steps and no checkpoint to go on from"):
        train(tones, "kept", 6)
    with pytest.raises(ValueError, match="holds a run with other learning_rate"):
        train(tones, "kept", 3, learning_rate=1e-5)
    (tones / "kept/run.json").unlink()
    with pytest.raises(ValueError, match="holds a model that was not trained there"):
        train(tones, "kept", 3)


def test_other_dimensions_are_another_run(tones: Path) -> None:
    train(tones, "sized", 3)
    tiny = json.loads((tones / "tiny.json").read_text())
    (tones / "tiny.json").write_text(json.dumps(tiny | {"hidden_dropout": 0.3}))
    with pytest.raises(ValueError, match="holds a run with other config"):
        train(tones, "sized", 6)


def test_what_a_checkpoint_holds_cannot_be_asked_for_otherwise(tones: Path) -> None:
    train(tones, "run", 3)
    for name, value in {"learning_rate": 1e-5, "optimizer": "muon", "dropout": 0.5}.items():
        with pytest.raises(ValueError, match=f"holds a run with other {name}"):
            train(tones, "run", 6, **{name: value})
    trainer = train(tones, "run", 7, save_steps=2, eval_steps=2, logging_steps=1)
    assert (tones / "run/checkpoint-6").is_dir()
    assert [line["step"] for line in trainer.state.log_history if "eval_wer" in line][-3:] == [4, 6, 7]


def test_a_batch_that_is_not_finite_spoils_nothing(tones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither weights by its gradients, nor batch norm's statistics by its forward."""
    trainer = build(parser().parse_args([*command(tones, "poisoned", 4), "--no_bf16"]))
    collate, batches = trainer.data_collator, 0

    def poisoned(examples: list[Any], **how: Any) -> Any:
        nonlocal batches
        batches += 1
        batch = collate(examples, **how)
        return {**batch, "waves": batch["waves"] * float("nan")} if batches == 2 else batch

    trainer.data_collator = poisoned
    trainer.train()
    assert "step 2: gradient norm is nan" in capsys.readouterr().out
    for tensors in (trainer.average.tensors, trainer.objective.model.state_dict()):
        assert all(value.isfinite().all() for value in tensors.values())
    assert all(np.isfinite(value) for value in trainer.evaluate().values())


def test_bf16_and_accumulation_train_too(tones: Path) -> None:
    trainer = train(tones, "bf16", 3, "--bf16", gradient_accumulation_steps=2)
    assert len(trainer.batches) == 6 and all(
        value.isfinite().all() for value in trainer.average.tensors.values()
    )


def test_the_loss_is_float32_nats_a_character_and_impossible_targets_count_nothing() -> None:
    logits = torch.zeros(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    targets, lengths = torch.tensor([[1, 2], [1, 1]]), torch.tensor([2, 2])
    loss = ctc_loss(logits, torch.tensor([3, 2]), targets, lengths, blank=0)
    paths = 5  # of 3 frames that spell 1 2: 112 122 012 102 120; none of 2 frames spells 1 1
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx((3 * np.log(4) - np.log(paths)) / 4, rel=1e-5)
    loss.backward()
    assert logits.grad is not None and logits.grad[1].abs().max() == 0 < logits.grad[0].abs().max()


def test_the_average_follows_weights_and_buffers() -> None:
    objective = Objective(ConformerCTC(ModelConfig.from_dict(TINY)), blank=0)
    average = Average(objective.model, decay=0.5)
    with torch.no_grad():
        for value in objective.model.state_dict().values():
            value.add_(1)
    own = {name: value.clone() for name, value in objective.model.state_dict().items()}
    average.update(objective.model, step=100)
    with average.applied(objective.model):
        for name, value in objective.model.state_dict().items():
            assert torch.allclose(value, own[name] - 0.5 if value.is_floating_point() else own[name])
    assert all(value.equal(own[name]) for name, value in objective.model.state_dict().items())


def test_gabor_kernels_pass_rising_bands() -> None:
    conv = torch.nn.Conv1d(1, 32, 10, 5)
    gabor_init(conv)
    spectrum = torch.fft.rfft(conv.weight[:16, 0].detach(), 512).abs()
    peaks = spectrum.argmax(1).tolist()
    assert peaks == sorted(peaks) and peaks[0] < 30 and peaks[-1] > 200
    assert torch.allclose(conv.weight.norm(dim=2), torch.ones(32, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max_steps", "0"], "'0' is not a whole number of at least 1"),
        (["--chunk-share", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--train_manifest", "no.jsonl"], "no such file: no.jsonl"),
        (["--trainable", "some"], "invalid choice: 'some'.*attention"),
    ],
)
def test_bad_options_are_named(
    tones: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit):
        main([*command(tones, "bad", 3), *options])
    assert re.search(reason, capsys.readouterr().err)


def test_unusable_inputs_end_with_a_reason(tones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tones / "wrong.json").write_text('{"vocab_size": 30}')
    assert main(command(tones, "bad", 3, model_config=tones / "wrong.json")) == 2
    assert "vocab_size 30, not 32" in capsys.readouterr().err
    assert main(command(tones, "bad", 3, init_from=tones / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(command(tones, "bad", 3, num_layers=4)) == 2
    assert "--num_layers deepens the model of --init_from" in capsys.readouterr().err
    assert main(command(tones, "bad", 3, max_duration_s=0.01)) == 2
    assert "no usable recording" in capsys.readouterr().err
    (tones / "0.flac").write_bytes(b"fLaC, or not")
    assert main(command(tones, "bad", 3)) == 2
    assert "0.flac: not a sound file" in capsys.readouterr().err


def test_dev_texts_are_compared_in_the_case_of_the_vocabulary(tones: Path) -> None:
    manifest = tones / "tones.jsonl"
    manifest.write_text(manifest.read_text().replace("CAB", "cab"))
    trainer = build(parser().parse_args(command(tones, "case", 3)))
    assert sorted(said for said, _ in trainer._transcribe_dev()[1]) == ["A CAB", "AB", "BA", "CAB"]
