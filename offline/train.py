"""Trains a Conformer with CTC on speech manifests, from scratch or from a checkpoint, on CPU or GPUs.

Writes to --output_dir: best/ (lowest dev WER) and final/, both checkpoint folders of averaged weights; checkpoint-N/
to resume from; log.jsonl and runs/ (TensorBoard). Started again with the same arguments, it goes on where it stopped.
"""

import argparse
import json
import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import set_seed

from asr import checkpoint
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline import cli, provenance
from offline.corpora import evenly
from offline.data import ManifestError, Utterance, read_manifests
from offline.deepen import deepen
from offline.gabor import gabor_init
from offline.objective import Objective, set_dropout
from offline.resume import resume_point
from offline.trainer import CTCTrainer, training_arguments
from offline.training_data import CHUNK_FRAMES, Collator, SpeechDataset, join, plan, why_not

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
EXAMPLE = """python -m offline.train --train_manifest data/speech/train.jsonl --dev_manifest data/speech/dev.jsonl \\
      --output_dir runs/mha --max_steps 6000
  torchrun --nproc_per_node 4 -m offline.train ... --batch_seconds 400                (four GPUs)
  OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m offline.train ... --batch_seconds 24 --workers 0   (two CPU cores)"""
# What may be different when a run goes on: how long it is, how often it is looked at, and where.
FREE = "output_dir resume max_steps decay_steps eval_steps save_steps logging_steps workers cpu".split()
JOIN_COPIES = 3  # so many different companies for each recording


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__, EXAMPLE)
    _add_data_options(options)
    _add_model_options(options)
    _add_schedule_options(options)
    return options


def _add_data_options(options: cli.Parser) -> None:
    group = options.add_argument_group("data")
    add = group.add_argument
    add(
        "--train_manifest",
        type=cli.paths,
        required=True,
        help="a.jsonl,b.jsonl; name one twice to hear it so",
    )
    add("--dev_manifest", type=cli.paths, required=True, help="manifests that choose the best checkpoint")
    add("--dev_utterances", type=cli.count, default=300, help="at most so many of them, evenly spaced")
    add("--output_dir", type=Path, required=True, help="folder for all that is written")
    add("--batch_seconds", type=cli.positive, default=48.0, help="padded audio in one batch, a process")
    add("--max_duration_s", type=cli.positive, default=20.0, help="leave out longer recordings")
    add(
        "--join_s",
        type=cli.weight,
        default=0.0,
        help="also hear recordings in a row, up to so many s; 0: never",
    )
    add("--workers", type=cli.natural, default=1, help="processes that decode and augment")
    add("--augment_strength", type=cli.weight, default=1.0, help="scales the chance of every augmentation")
    add(
        "--augment_ramp_steps", type=cli.natural, default=600, help="steps in which it rises to that strength"
    )
    options.flag("--augment", default=True, help="speed, room, noise, channel, level, silence", group=group)


def add_new_model_options(options: cli.Parser) -> argparse._ArgumentGroup:
    """What `new_model` needs, for every command that makes one; returns the group."""
    group = options.add_argument_group("new model")
    add = group.add_argument
    config = Path(__file__).parent / "recipes" / "bundled.json"
    add("--model_config", type=Path, default=config, help="dimensions of a new model (config.json fields)")
    add("--init_from", help="start from this folder, bundled name or hub id instead; mha or mla")
    add("--seed", type=cli.natural, default=1, help="of weights, order, augmentation, masks, dropout")
    bands = "start the first convolution as a bank of band-passes"
    options.flag("--gabor_init", default=True, help=bands, group=group)
    return group


def _add_model_options(options: cli.Parser) -> None:
    deeper = "deepen the model of --init_from to so many; new ones change nothing at first"
    add_new_model_options(options).add_argument("--num_layers", type=cli.count, help=deeper)
    add = options.add_argument_group("objective").add_argument
    add("--trainable", choices=["all", "attention"], default="all", help="what learns")
    add("--intermediate_ctc", type=cli.share, default=0.3, help="weight of the middle layer's loss; 0: none")
    add("--chunk_share", type=cli.share, default=0.5, help="share of batches with a random chunk mask")
    low, high = CHUNK_FRAMES
    smallest = f"frames (20 ms) of the smallest such chunk, up to {high}"
    add(
        "--smallest_chunk",
        type=cli.count,
        choices=range(1, high + 1),
        metavar="N",
        default=low,
        help=smallest,
    )
    add("--chunk_start_step", type=cli.natural, default=600, help="no chunk mask before this step")
    add("--dropout", type=cli.share, help="share dropped, everywhere; default: as configured")
    add("--average_decay", type=cli.share, default=0.999, help="of the moving average of the weights")


def _add_schedule_options(options: cli.Parser) -> None:
    group = options.add_argument_group("schedule")
    add = group.add_argument
    add("--max_steps", type=cli.count, default=6000, help="optimiser steps")
    add("--learning_rate", type=cli.positive, default=1.2e-3, help="after warm-up, until the decay")
    add("--warmup_steps", type=cli.natural, default=300, help="linear rise")
    add("--decay_steps", type=cli.natural, default=1500, help="last steps, in which it falls to 0")
    add("--decay", choices=["1-sqrt", "linear", "cosine"], default="1-sqrt", help="how it falls")
    add("--optimizer", choices=["adamw", "muon"], default="adamw", help="muon: for the encoder's matrices")
    add("--weight_decay", type=cli.weight, default=1e-2, help="on weight matrices")
    shrinkage = (
        "of the singular values of [W_K; W_V], a step and unit of rate, so that a small latent can carry them"
    )
    add("--kv_shrinkage", type=cli.weight, default=0.0, help=shrinkage)
    add("--gradient_accumulation_steps", type=cli.count, default=1, help="batches to one optimiser step")
    add("--curriculum_steps", type=cli.natural, default=600, help="first batches, short recordings first")
    add("--eval_steps", type=cli.count, default=250, help="steps from one evaluation to the next")
    add("--save_steps", type=cli.count, default=250, help="steps from one checkpoint to the next")
    add("--logging_steps", type=cli.count, default=25, help="steps from one log line to the next")
    options.flag("--bf16", default=True, help="bfloat16 autocast; the loss stays in float32", group=group)
    options.flag("--cpu", default=not torch.cuda.is_available(), help="leave the GPU alone", group=group)
    options.flag("--resume", default=True, help="go on from the newest checkpoint in output_dir", group=group)


def new_model(args: Namespace) -> tuple[ConformerCTC, Vocabulary]:
    """Returns the model to train, float32 on CPU, and its vocabulary. Raises CheckpointError or ValueError."""
    if args.init_from:
        return checkpoint.load(args.init_from)
    try:
        config = ModelConfig.from_dict(json.loads(args.model_config.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--model_config {args.model_config}: {error}") from error
    if config.vocab_size != len(TOKENS):
        raise ValueError(
            f"--model_config {args.model_config}: vocab_size {config.vocab_size}, not {len(TOKENS)}"
        )
    model = ConformerCTC(config)
    if args.gabor_init:
        gabor_init(cast(nn.Conv1d, model.feature_extractor.conv_layers[0].conv))
    return model, Vocabulary(TOKENS)


def usable(
    utterances: list[Utterance], config: ModelConfig, vocabulary: Vocabulary, limit_s: float
) -> list[Utterance]:
    """Returns those that are no longer than limit_s and long enough to spell their text; says how many are not."""
    reasons = [why_not(utterance, config, vocabulary, limit_s) for utterance in utterances]
    for reason, count in Counter(filter(None, reasons)).items():
        print(f"{count} of {len(utterances)} recordings left out: {reason}")
    kept = [utterance for utterance, reason in zip(utterances, reasons, strict=True) if reason is None]
    if not kept:
        raise ManifestError("no usable recording in the manifests")
    return kept


def schedule(args: Namespace) -> dict[str, Any]:
    """The length of the run, its learning rates and its precision, in the Trainer's words."""
    decay_steps = min(args.decay_steps, max(args.max_steps - args.warmup_steps, 0))
    return {
        "max_steps": args.max_steps,
        "warmup_steps": args.warmup_steps,
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": decay_steps, "decay_type": args.decay},
        "adam_beta2": 0.98,
        "bf16": args.bf16,
    }


def build(args: Namespace) -> CTCTrainer:
    """Returns a trainer ready to run. Raises ValueError (ManifestError, CheckpointError) for what cannot be used."""
    training = training_arguments(args, **schedule(args))
    set_seed(args.seed)
    model, vocabulary = new_model(args)
    if args.num_layers:
        if not args.init_from or args.trainable != "all":
            raise ValueError("--num_layers deepens the model of --init_from, with --trainable all")
        model = deepen(model, args.num_layers)
    if args.dropout is not None:
        set_dropout(model, args.dropout)
    if args.kv_shrinkage and model.config.attention.kind == "mla":
        raise ValueError("--kv_shrinkage: for mha only, mla has no W_K and W_V")
    train = usable(
        read_manifests(args.train_manifest, vocabulary), model.config, vocabulary, args.max_duration_s
    )
    dev = usable(read_manifests(args.dev_manifest, vocabulary), model.config, vocabulary, args.max_duration_s)
    dev = evenly(dev, args.dev_utterances)
    together = args.gradient_accumulation_steps * training.world_size
    train_hours = sum(utterance.duration_s for utterance in train) / 3600
    if args.join_s:
        train = join(train, args.join_s, JOIN_COPIES, args.seed)
    durations_s = [utterance.duration_s for utterance in train]
    return CTCTrainer(
        Objective(model, vocabulary.blank, args.intermediate_ctc, args.trainable, batch_statistics=True),
        vocabulary,
        training,
        train=SpeechDataset(
            train,
            vocabulary,
            seed=args.seed,
            strength=args.augment_strength if args.augment else 0.0,
            ramp_steps=args.augment_ramp_steps * together,
            frames=model.config.frames,
        ),
        batches=plan(
            durations_s,
            args.batch_seconds,
            args.max_steps,
            seed=args.seed,
            curriculum_steps=args.curriculum_steps,
            together=together,
        ),
        collator=Collator(args.seed, args.chunk_share, args.chunk_start_step * together, args.smallest_chunk),
        dev=SpeechDataset(dev, vocabulary),
        dev_batch_seconds=args.batch_seconds,
        average_decay=args.average_decay,
        muon=args.optimizer == "muon",
        kv_shrinkage=args.kv_shrinkage,
        report=report(args, model, train_hours, training.world_size),
    )


def report(args: Namespace, model: ConformerCTC, train_hours: float, processes: int) -> dict[str, Any]:
    """What report.json says of any run: how it was started, on which data, from which model."""
    manifests = [*args.train_manifest, *args.dev_manifest]
    return {
        **provenance.of_run("offline.train", args, manifests, args.init_from),
        "processes": processes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": model.config.to_dict(),
        "train_hours": round(train_hours, 3),
    }


def facts(report: dict[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the one that it continues: data, model, and every option but those FREE."""
    options = {name: value for name, value in report["options"].items() if name not in FREE}
    return options | {name: report[name] for name in ("processes", "manifests_sha256", "config")}


def run(args: Namespace) -> CTCTrainer:
    """Trains as args say, unless that is done; returns the trainer, its model with the averaged weights if it ran."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(args.output_dir / "runs"))
    trainer = build(args)
    start = resume_point(args.output_dir, args.resume, facts(trainer.report))
    final = args.output_dir / "final" / "report.json"
    steps = json.loads(final.read_text())["steps"] if final.is_file() else None
    if steps == args.max_steps:
        print(f"{args.output_dir}: finished already", file=sys.stderr)
        return trainer
    if steps and not start:
        raise ValueError(
            f"{args.output_dir} holds a model of {steps} steps and no checkpoint to go on from; "
            "choose another --output_dir"
        )
    trainer.train(resume_from_checkpoint=start)
    if trainer.evaluated_at != trainer.state.global_step:
        trainer.evaluate()
    trainer.average.give(trainer.objective.model)
    trainer.save_folder("final", trainer.metrics)
    return trainer


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when trained, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.train", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
