"""From the options of fine-tuning to a trainer that is ready to run, with the known traps repaired and said."""

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from asr import checkpoint
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline import provenance
from offline.finetuning.data import Chosen, choose, epoch, plan, sources
from offline.finetuning.distill import Distilled, Weights, check_pair
from offline.finetuning.tuner import FineTuner
from offline.objective import Objective, learns, set_dropout
from offline.trainer import training_arguments
from offline.training_data import Collator, SpeechDataset

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
# What may be different when a run goes on: where things are, and how often they are written. Data and weights are
# compared by their hashes.
FREE = """output_dir resume logging_steps save_steps workers cpu train_manifest dev_manifest data_dir use_hf_dataset
  base_model mla_weights""".split()
# What a configuration may say of CTC, and what holds here: the loss is a mean, and an impossible utterance counts 0.
CTC = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
CTC_DEFAULTS = {"ctc_loss_reduction": "sum", "ctc_zero_infinity": False}  # of a configuration that is silent


def build(args: Namespace) -> tuple[FineTuner, list[str]]:
    """Returns a trainer ready to run, and what was repaired or left out, to be said.

    Raises:
        ValueError: (ManifestError, CheckpointError) something given cannot be used.
    """
    notes: list[str] = []
    args.precision = precision(args, notes)
    set_seed(args.seed)
    model, vocabulary = load(args)
    model.config = repaired(model.config, notes)
    train, dev = data(args, model.config, vocabulary, notes)
    epochs, steps_per_epoch = course(args, train)
    steps = [step for one in epochs for step in one]
    latent_steps = first_stage(args, [len(one) for one in epochs], model)
    training = training_arguments(args, **schedule(args, len(steps), notes))
    objective = make_objective(args, model, vocabulary, training.device)
    tuner = FineTuner(
        objective,
        vocabulary,
        training,
        train=SpeechDataset(
            train.utterances,
            vocabulary,
            seed=args.seed,
            strength=args.augment_strength,
            frames=model.config.frames,
        ),
        batches=[batch for step in steps for batch in step],
        collator=Collator(args.seed, args.chunk_share),
        dev=SpeechDataset(dev.utterances, vocabulary),
        dev_batch_seconds=args.max_batch_seconds or args.batch_size * args.max_duration_s,
        average_decay=args.average_decay,
        muon=args.optimizer == "muon",
        report=report(args, objective, train, dev, training)
        | {"planned_steps": len(steps), "latent_steps": latent_steps, "warmup_steps": training.warmup_steps},
        best_folder="",
        latent_steps=latent_steps,
        patience=args.early_stopping_patience,
        steps_per_epoch=steps_per_epoch,
    )
    return tuner, notes


def precision(args: Namespace, notes: list[str]) -> str:
    """Returns what to compute in: as asked for, else float16 on a GPU and bfloat16 on a CPU."""
    if args.precision == "fp16" and args.cpu:
        notes.append("--fp16 is for GPUs: on the CPU, bfloat16 is taken")
    if args.cpu and args.precision != "fp32":
        return "bf16"
    return args.precision or "fp16"


def load(args: Namespace) -> tuple[ConformerCTC, Vocabulary]:
    """Returns the model to train, float32 on CPU. Raises CheckpointError, which says what makes the missing folder."""
    try:
        model, vocabulary = checkpoint.load(args.mla_weights or args.base_model)
    except checkpoint.CheckpointError as error:
        hint = f"python -m offline.convert --model_name {args.base_model} --output_dir FOLDER makes such a folder"
        raise checkpoint.CheckpointError(f"{error}; {hint}" if args.mla_weights else str(error)) from error
    if args.dropout is not None or args.distill:
        set_dropout(model, args.dropout or 0.0)
    return model, vocabulary


def repaired(config: ModelConfig, notes: list[str]) -> ModelConfig:
    """Returns the configuration with CTC settings that can be learnt with, as they are here in any case.

    A sum over utterances makes the step depend on the batch, and without zero_infinity one impossible utterance makes
    the loss infinite.
    """
    said = {name: config.extra.get(name, CTC_DEFAULTS[name]) for name in CTC}
    wrong = [f"{name} is {said[name]!r}, taken as {CTC[name]!r}" for name in CTC if said[name] != CTC[name]]
    if wrong:
        notes.append(f"the model's configuration: {', '.join(wrong)}")
    return replace(config, extra=config.extra | CTC)


def data(
    args: Namespace, config: ModelConfig, vocabulary: Vocabulary, notes: list[str]
) -> tuple[Chosen, Chosen]:
    """Returns what to learn from and what to score."""
    names = sources(args.train_manifest, args.dev_manifest, args.data_dir, args.use_hf_dataset)
    train, dev = (
        choose(
            corpus,
            config,
            vocabulary,
            limit=limit,
            max_duration_s=args.max_duration_s,
            drop_unknown=args.unknown_characters == "drop",
            root=args.data_dir,
            fetch=args.use_hf_dataset,
        )
        for corpus, limit in zip(names, (args.max_train_samples, args.dev_utterances), strict=True)
    )
    for what, chosen in (("train", train), ("dev", dev)):
        notes.append(
            f"{what}: {len(chosen.utterances)} utterances, {chosen.hours:.2f} h of {', '.join(chosen.sources)}"
        )
        notes += [f"{what}: {count} utterances left out: {why}" for why, count in chosen.left_out.items()]
        if chosen.dropped:
            notes.append(f"{what}: dropped from the texts: {', '.join(map(repr, chosen.dropped))}")
    return train, dev


def course(args: Namespace, train: Chosen) -> tuple[list[list[list[list[int]]]], int]:
    """Returns the batches of each step of each epoch, of all processes together, and the steps of a whole epoch."""
    durations_s = [utterance.duration_s for utterance in train.utterances]
    how: dict[str, Any] = {
        "batch_size": args.batch_size,
        "batch_seconds": args.max_batch_seconds,
        "seed": args.seed,
        "together": args.gradient_accumulation_steps * int(os.environ.get("WORLD_SIZE", "1")),
    }
    return plan(durations_s, args.num_epochs, args.max_steps, **how), len(epoch(durations_s, 0, **how))


def first_stage(args: Namespace, epochs: list[int], model: ConformerCTC) -> int:
    """Returns the steps in which only the latent factors learn; 0: none. epochs: the steps of each.

    Raises:
        ValueError: there would be no second stage, or the model has no latent factors.
    """
    steps = args.latent_steps or sum(epochs[: args.latent_epochs or 0])
    if steps and args.trainable == "latent":
        raise ValueError(
            "--latent_steps is for a first stage; with --trainable latent there is no second one"
        )
    if steps and not any(learns("latent", name) for name, _ in model.named_parameters()):
        raise ValueError(f"--latent_steps: {model.config.attention.kind} attention has no latent factors")
    if steps >= sum(epochs):
        raise ValueError(f"the first stage has {steps} steps, the whole run {sum(epochs)}")
    return steps


def warm_up(wanted: int, steps: int, notes: list[str]) -> int:
    """Returns the steps of warm-up: as wanted, or a tenth of a run that would hardly get beyond it."""
    if 2 * wanted <= steps:
        return wanted
    notes.append(f"warm-up: {steps // 10} steps, not {wanted}, of {steps} in all")
    return steps // 10


def schedule(args: Namespace, steps: int, notes: list[str]) -> dict[str, Any]:
    """The length of the run, its learning rates and its precision, in the Trainer's words."""
    return {
        "max_steps": steps,
        "warmup_steps": warm_up(args.warmup_steps, steps, notes),
        "lr_scheduler_type": SCHEDULERS[args.decay],
        "fp16": args.precision == "fp16",
        "bf16": args.precision == "bf16",
    }


def make_objective(
    args: Namespace, model: ConformerCTC, vocabulary: Vocabulary, device: torch.device
) -> Objective:
    """Returns the loss: of the texts alone, or with --distill of the teacher's outputs too."""
    learning: dict[str, Any] = {
        "trainable": args.trainable,
        "freeze_front_end": args.freeze_feature_encoder,
    }
    if not args.distill:
        return Objective(model, vocabulary.blank, **learning)
    teacher, known = checkpoint.load(args.base_model)
    check_pair(model, vocabulary, teacher, known)
    weights = Weights(args.ctc_weight, args.kl_weight, args.mse_weight)
    return Distilled(model, vocabulary.blank, teacher.to(device), weights, **learning)


def report(
    args: Namespace, objective: Objective, train: Chosen, dev: Chosen, training: TrainingArguments
) -> dict[str, Any]:
    """What report.json and metadata.json say of any run: how it was started, on which data, from which model."""
    manifests = [Path(name) for name in train.sources + dev.sources if Path(name).is_file()]
    source = args.mla_weights or args.base_model
    parameters = list(objective.model.parameters())
    return {
        **provenance.of_run("offline.finetune", args, manifests, source),
        "base_model": provenance.tidy(args.base_model),
        "source": provenance.tidy(source),
        "attention": objective.model.config.attention.to_dict(),
        "weights_sha256": weights_sha256(source),
        "teacher_sha256": weights_sha256(args.base_model) if args.distill else None,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "parameters_learning": sum(p.numel() for p in parameters if p.requires_grad),
        "data": {"train": train.report(), "dev": dev.report()},
        "processes": training.world_size,
        "device": provenance.machine()["cpu"] if args.cpu else torch.cuda.get_device_name(),
    }


def weights_sha256(name: str) -> list[str]:
    """Returns the hashes of a model's weight files."""
    return list(provenance.hashes(checkpoint.weight_files(checkpoint.resolve(name))).values())


def facts(args: Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the one that it continues: data, weights, and every option but those FREE."""
    options = {name: value for name, value in provenance.tidy(vars(args)).items() if name not in FREE}
    data = {f"{name}_data": chosen["sha256"] for name, chosen in report["data"].items()}
    return options | data | {n: report[n] for n in ("weights_sha256", "teacher_sha256", "processes")}
