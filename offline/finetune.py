"""Fine-tunes a converted model (MLA), or the model that it was made of (MHA), so that it regains what conversion lost.

Writes to --output_dir, as a folder that `asr.load` and the service take: the averaged weights of the lowest word error
rate on dev; beside them metadata.json (model, data, settings, versions, error rates at the start, at best and in the
end), final/ (the averaged weights of the last step), log.jsonl, runs/ (TensorBoard) and checkpoint-N/. Started again
with the same arguments, it goes on where it stopped and arrives at the same weights.

Speech is --train_manifest and --dev_manifest: manifests (.jsonl), tables (.csv, .tsv), Kaldi or LibriSpeech folders,
LibriSpeech splits by name, hf:dataset[:config]:split; several with commas. Without them: LibriSpeech's train-clean-100
and dev-clean, where they are, else data/speech. Utterances with fewer frames than CTC needs for their text are left
out, texts are folded to the vocabulary's case, and the loss is the mean over characters with impossible utterances
counting nothing, whatever the model's configuration says.
"""

import json
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from offline import cli, files
from offline.finetuning.build import build, facts
from offline.finetuning.distill import Weights
from offline.finetuning.tuner import FineTuner, evaluations
from offline.objective import PARTS
from offline.resume import STATE, resume_point

EXAMPLE = """python -m offline.finetune --base_model mha --mla_weights checkpoints/mla --output_dir results/mla-tuned \\
      --train_manifest data/speech/train.jsonl --dev_manifest data/speech/dev.jsonl --distill --latent_steps 200
  torchrun --nproc_per_node 4 -m offline.finetune ...                                           (four GPUs)"""
METADATA = "metadata.json"


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    _add_model_options(options)
    _add_data_options(options)
    _add_objective_options(options)
    _add_schedule_options(options)
    _add_machine_options(options)
    return options


def _add_model_options(options: cli.Parser) -> None:
    add = options.add_argument_group("model").add_argument
    add(
        "--base_model",
        default="mha",
        help="the MHA model: teacher with --distill; bundled name, folder or hub id",
    )
    add(
        "--mla_weights",
        "--model_dir",
        help="the model to train: what offline.convert wrote, a folder or a file in it; without it --base_model itself",
    )
    add("--output_dir", type=Path, required=True, help="folder for all that is written")


def _add_data_options(options: cli.Parser) -> None:
    add = options.add_argument_group("data").add_argument
    add("--train_manifest", type=cli.names, help="speech to learn from, see above")
    add("--dev_manifest", type=cli.names, help="speech that chooses the best weights")
    add("--data_dir", "--offline_data_dir", type=Path, help="folder with LibriSpeech's splits")
    add(
        "--use_hf_dataset",
        "--download",
        action="store_true",
        help="fetch what is not here from the Hugging Face hub (LibriSpeech's splits, hf: data sets)",
    )
    add(
        "--max_train_samples",
        "--max_samples",
        type=cli.count,
        help="learn from at most so many, evenly spaced",
    )
    add("--dev_utterances", type=cli.count, default=300, help="at most so many of dev, evenly spaced")
    add("--max_duration_s", type=cli.positive, default=30.0, help="leave out longer recordings")
    add(
        "--unknown_characters",
        choices=["refuse", "drop"],
        default="refuse",
        help="what to do about characters that the vocabulary lacks",
    )
    add("--batch_size", type=cli.count, default=8, help="clips in one batch, a process")
    add("--max_batch_seconds", type=cli.positive, help="at most so much padded audio in one batch")
    add(
        "--augment_strength",
        type=cli.weight,
        default=0.0,
        help="scales speed, room, noise, ...; 0: none, 1: much",
    )


def _add_objective_options(options: cli.Parser) -> None:
    group = options.add_argument_group("objective")
    add = group.add_argument
    add(
        "--trainable",
        choices=list(PARTS),
        default="attention",
        help="what learns; latent: the latent factors",
    )
    stage = group.add_mutually_exclusive_group().add_argument
    stage("--latent_steps", type=cli.natural, help="first steps, in which only the latent factors learn")
    stage("--latent_epochs", type=cli.natural, help="the same, in epochs")
    frozen = "the convolutions on the waveform do not learn"
    taught = "learn from --base_model's posteriors and attention outputs too"
    options.flag("--freeze_feature_encoder", default=True, help=frozen, group=group)
    options.flag("--distill", default=False, help=taught, group=group)
    weights = Weights()
    add("--ctc_weight", type=cli.weight, default=weights.ctc, help="with --distill, of the texts' loss")
    add(
        "--kl_weight",
        type=cli.weight,
        default=weights.kl,
        help="of the posteriors' KL; both nats a character",
    )
    add("--mse_weight", type=cli.weight, default=weights.mse, help="of the attention outputs' relative error")
    add(
        "--chunk_share",
        type=cli.share,
        default=0.5,
        help="share of batches with a random chunk mask, for streaming",
    )
    add("--dropout", type=cli.share, help="share dropped; default: as configured, and 0 with --distill")
    add(
        "--average_decay", type=cli.share, default=0.999, help="of the moving average of the weights; 0: none"
    )


def _add_schedule_options(options: cli.Parser) -> None:
    group = options.add_argument_group("schedule")
    add = group.add_argument
    add("--num_epochs", type=cli.count, default=10, help="passes over the training data")
    add("--max_steps", type=cli.count, help="optimiser steps, instead of --num_epochs")
    add("--gradient_accumulation_steps", type=cli.count, default=2, help="batches to one optimiser step")
    add("--learning_rate", type=cli.positive, default=1e-5, help="after warm-up")
    add(
        "--warmup_steps",
        type=cli.natural,
        default=500,
        help="linear rise; in a run shorter than twice this, a tenth of it",
    )
    add("--optimizer", choices=["adamw", "muon"], default="adamw", help="muon: for the layers' matrices")
    add("--decay", choices=["linear", "cosine", "constant"], default="linear", help="from warm-up to the end")
    add("--weight_decay", type=cli.weight, default=0.0, help="on weight matrices")
    add(
        "--early_stopping_patience",
        type=cli.natural,
        default=3,
        help="end after so many evaluations without a better one; 0: never",
    )
    add("--eval_steps", type=cli.count, default=1000, help="steps from one evaluation to the next")
    add("--save_steps", type=cli.count, default=1000, help="steps from one checkpoint to the next")
    add("--logging_steps", type=cli.count, default=25, help="steps from one log line to the next")
    add("--seed", type=cli.natural, default=1, help="of order, augmentation, masks, dropout")
    options.flag("--resume", default=True, help="go on from the newest checkpoint in output_dir", group=group)


def _add_machine_options(options: cli.Parser) -> None:
    group = options.add_argument_group("machine")
    options.flag("--cpu", default=not torch.cuda.is_available(), help="leave the GPU alone", group=group)
    group.add_argument("--workers", type=cli.natural, default=1, help="processes that decode and augment")
    kinds = group.add_mutually_exclusive_group().add_argument
    for kind in ("fp16", "bf16", "fp32"):
        kinds(f"--{kind}", dest="precision", action="store_const", const=kind, help=_PRECISION[kind])
    kinds("--no_fp16", "--no_bf16", dest="precision", action="store_const", const="fp32", help="as --fp32")


_PRECISION = {
    "fp16": "mixed precision in float16, for dev, too, with a loss scaler; default on a GPU. On a CPU bf16 is taken",
    "bf16": "mixed precision in bfloat16, for dev, too; default on a CPU",
    "fp32": "no mixed precision",
}


def run(args: Namespace) -> FineTuner:
    """Fine-tunes as args say; returns the trainer, its model holding the averaged weights of the last step.

    Raises:
        ValueError: (ManifestError, CheckpointError) something given cannot be used, or output_dir holds another run.
    """
    started = time.monotonic()
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(args.output_dir / "runs"))
    tuner, notes = build(args)
    start = resume_point(args.output_dir, args.resume, facts(args, tuner.report))
    say = print if tuner.is_world_process_zero() else lambda *_: None
    for note in notes:
        say(note)
    file = args.output_dir / METADATA
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("finished"):
        say(f"{args.output_dir}: finished already; {METADATA} has its figures")
        return tuner
    metadata = tuner.report | {
        "notes": notes,
        "start": (start and known.get("start")) or tuner.score()[0],
        "finished": False,
    }
    write(tuner, file, metadata)
    train(tuner, start)
    ended = outcome(tuner) | {
        "resumed_from": start and Path(start).name,
        "wall_s": round(time.monotonic() - started),
    }
    write(tuner, file, metadata | ended)
    best, before = ended["best"], metadata["start"]
    say(f"{args.output_dir}: WER on dev {before['eval_wer']}% -> {best['eval_wer']}% (step {best['step']})")
    return tuner


def train(tuner: FineTuner, start: str | None) -> None:
    """Trains to the end, or on from a checkpoint; evaluates the last step; writes final/."""
    state = TrainerState.load_from_json(str(Path(start) / STATE)) if start else TrainerState()
    if start and tuner.out_of_patience(state.log_history):  # stopped after the run had ended itself
        tuner._load_from_checkpoint(start)
        tuner.state = state
    else:
        tuner.train(resume_from_checkpoint=start)
    done = evaluations(tuner.state.log_history)
    if not done or done[-1]["step"] < tuner.state.global_step:
        tuner.evaluate()
    tuner.average.give(tuner.objective.model)
    tuner.save_folder("final", evaluations(tuner.state.log_history)[-1])


def outcome(tuner: FineTuner) -> dict[str, Any]:
    """What metadata.json says of a run that is over."""
    done = evaluations(tuner.state.log_history)
    return {
        "finished": True,
        "stopped_early": tuner.state.global_step < tuner.state.max_steps,
        "best": min(done, key=lambda line: line["eval_wer"]),
        "final": done[-1],
    }


def write(tuner: FineTuner, file: Path, metadata: dict[str, Any]) -> None:
    """Writes metadata.json, from one process and at one blow: another may be reading it, or end this one."""
    if tuner.args.should_save:
        files.write(file, json.dumps(metadata, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.finetune", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
