"""The training loop: `transformers.Trainer`, given the CTC objective, our batches, and averaged weights.

What is random is a function of (seed, step) or kept in the checkpoint, so a run that was stopped goes on exactly.
"""

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import jiwer
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.ctc import Vocabulary, greedy
from offline.average import Average
from offline.data import batches_of
from offline.muon import Muon, groups_of
from offline.objective import Objective, ctc_loss
from offline.shrinkage import EVERY, lower_rank
from offline.training_data import Collator, RunSampler, SpeechDataset

for hook in ("_clip_grad_norm", "_save", "_save_rng_state", "_load_from_checkpoint"):
    if not hasattr(Trainer, hook):  # they are its own: without one of them ours would silently not be called
        raise ImportError(
            f"this version of transformers has no Trainer.{hook}: pip install 'transformers>=5.3'"
        )

WEIGHTS, AVERAGE = "model.safetensors", "average.safetensors"
LOG = "log.jsonl"


def training_arguments(args: Namespace, **own: Any) -> TrainingArguments:
    """Our options in the Trainer's words: those that every training has, and a command's own."""
    training = TrainingArguments(
        output_dir=str(args.output_dir),
        learning_rate=args.learning_rate,
        optim="adamw_torch_fused",
        weight_decay=args.weight_decay,
        max_grad_norm=1.0,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        use_cpu=args.cpu,
        eval_strategy="steps",
        eval_steps=args.eval_steps,
        save_steps=args.save_steps,
        save_total_limit=2,
        logging_steps=args.logging_steps,
        metric_for_best_model="wer",
        greater_is_better=False,
        report_to=["tensorboard"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=args.workers,
        seed=args.seed,
        **own,
    )
    # Without torchrun the Trainer would cut batches among all GPUs, which ours cannot be.
    if training.n_gpu > 1:
        training._n_gpu = 1
    return training


class CTCTrainer(Trainer):
    """A Trainer for manifests: batches by seconds, averaged weights, word error rates, no pickled extras."""

    control: TrainerControl

    def __init__(
        self,
        objective: Objective,
        vocabulary: Vocabulary,
        args: TrainingArguments,
        *,
        train: SpeechDataset,
        batches: list[list[int]],
        collator: Collator,
        dev: SpeechDataset,
        dev_batch_seconds: float,
        average_decay: float,
        muon: bool = False,
        kv_shrinkage: float = 0.0,
        report: dict[str, Any],
        best_folder: str = "best",
    ) -> None:
        super().__init__(objective, args, data_collator=collator, train_dataset=train, eval_dataset=dev)
        self.objective, self.vocabulary = objective, vocabulary
        self.batches, self.dev, self.report, self.best_folder = batches, dev, report, best_folder
        durations_s = [utterance.duration_s for utterance in dev.utterances]
        order = sorted(range(len(durations_s)), key=durations_s.__getitem__)
        self.dev_batches = batches_of(order, durations_s, dev_batch_seconds)
        learning = {name for name, p in objective.model.named_parameters() if p.requires_grad}
        if objective.trainable == "all":
            learning |= {name for name, _ in objective.model.named_buffers()}
        self.average = Average(objective.model, average_decay, learning.__contains__)
        self.muon, self.kv_shrinkage = muon, kv_shrinkage
        self.metrics: dict[str, float] = {}  # of the last evaluation, and the step that it came after
        self.evaluated_at: int | None = None
        self._logged = (0.0, time.monotonic())
        self._statistics: dict[str, Tensor] = {}
        self.add_callback(_AfterStep(self))

    def get_train_dataloader(self) -> DataLoader:
        """The whole run as one pass; skipping its first steps decodes nothing."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            batch_sampler=RunSampler(self.batches, self.args.process_index, self.args.world_size),
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            pin_memory=self.args.device.type == "cuda",
            generator=torch.Generator(),  # so that starting the workers leaves the dropout's generator alone
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight matrices decay; norms, biases and the position biases do not."""
        return [n for n, p in model.named_parameters() if p.ndim > 1 and "pos_bias" not in n]

    def create_optimizer(self, *given: Any, **named: Any) -> Optimizer:
        """Muon where it is asked for, else what the arguments name."""
        if self.muon and self.optimizer is None:  # type: ignore[has-type]
            args = self.args
            decaying = set(self.get_decay_parameter_names(self.objective))
            groups = groups_of(self.objective, decaying, args.weight_decay)
            self.optimizer = Muon(groups, args.learning_rate, (args.adam_beta1, args.adam_beta2))
        optimiser: Optimizer = super().create_optimizer(*given, **named)
        return optimiser

    def hours_heard(self, steps: int) -> float:
        """Audio in the first steps optimiser steps, before augmentation, all processes together."""
        first = steps * self.args.gradient_accumulation_steps * self.args.world_size
        utterances = self.train_dataset.utterances
        return sum(utterances[i].duration_s for batch in self.batches[:first] for i in batch) / 3600

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds audio_s_per_s, the throughput since the last line, and writes the line to log.jsonl too."""
        if "loss" in logs:
            (heard_before, before), now = self._logged, time.monotonic()
            heard = self.hours_heard(self.state.global_step)
            logs["audio_s_per_s"] = round((heard - heard_before) * 3600 / max(now - before, 1e-9), 1)
            self._logged = heard, now
        super().log(logs, start_time)
        if self.args.should_save:
            with (Path(self.args.output_dir) / LOG).open("a") as lines:
                print(json.dumps({"step": self.state.global_step, **logs}), file=lines)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Scores the averaged weights on dev; keeps them when their word error rate is the lowest so far."""
        with self.average.applied(self.objective.model):
            metrics, pairs = self.score()
            best = self.state.best_metric
            if best is None or metrics["eval_wer"] < best:
                self.save_folder(self.best_folder, metrics)
        if self.args.should_save:
            for reference, hypothesis in pairs[:: max(1, len(pairs) // 3)][:4]:
                tqdm.write(f"  said  {reference}\n  heard {hypothesis}")
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._logged = self.hours_heard(self.state.global_step), time.monotonic()
        self.metrics, self.evaluated_at = metrics, self.state.global_step
        return metrics

    def score(self) -> tuple[dict[str, float], list[tuple[str, str]]]:
        """Returns the error rates (%) of the weights as they stand on dev, and (reference, hypothesis) of each clip."""
        started = time.monotonic()
        loss, pairs = self._transcribe_dev()
        references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
        metrics = {
            "eval_loss": loss,
            "eval_wer": round(100 * jiwer.wer(references, hypotheses), 3),
            "eval_cer": round(100 * jiwer.cer(references, hypotheses), 3),
            "eval_s": round(time.monotonic() - started, 1),
        }
        return self._agreed(metrics), pairs

    def _agreed(self, metrics: dict[str, float]) -> dict[str, float]:
        """Returns the first process's metrics in every process, so that all take the same decisions."""
        if self.args.world_size == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.args.device)
        torch.distributed.broadcast(values, src=0)
        return dict(zip(metrics, values.tolist(), strict=True))

    @torch.no_grad()
    def _transcribe_dev(self) -> tuple[float, list[tuple[str, str]]]:
        """Returns nats per character and (reference, hypothesis) of each dev recording."""
        self.objective.eval()
        hop_s = self.objective.model.config.hop_samples / SAMPLE_RATE
        nats, characters, pairs = 0.0, 0, []
        for indices in tqdm(self.dev_batches, "dev", leave=False, disable=not self.args.should_save):
            batch = self.data_collator([self.dev[0, index] for index in indices], whole=True)
            inputs = self._prepare_inputs(batch)
            half = torch.float16 if self.args.fp16 else torch.bfloat16
            with torch.autocast(self.args.device.type, half, enabled=self.args.fp16 or self.args.bf16):
                logits, frames = self.objective.model(inputs["waves"], inputs["lengths"])
            targets, lengths = inputs["targets"], inputs["target_lengths"]
            loss = ctc_loss(logits, frames, targets, lengths, self.objective.blank)
            nats += float(loss) * int(lengths.sum())
            characters += int(lengths.sum())
            log_probs = logits.float().log_softmax(-1).cpu().numpy()
            for index, scores, length in zip(indices, log_probs, frames.tolist(), strict=True):
                said = self.vocabulary.decode(self.dev.targets[index])  # in the case of what is heard
                pairs.append((said, greedy(scores[:length], self.vocabulary, hop_s)[0]))
        return nats / characters, pairs

    def save_folder(self, name: str, metrics: dict[str, float]) -> None:
        """Writes the model as it stands to output_dir/name, with the report of the run so far."""
        if not self.args.should_save:
            return
        step = self.state.global_step
        report = {
            **self.report,
            "steps": step,
            "hours_heard": round(self.hours_heard(step), 3),
            "dev": metrics,
        }
        folder, staging = (Path(self.args.output_dir) / n for n in (name, f".writing-{name}"))
        checkpoint.save(self.objective.model, self.vocabulary, staging, report, dtype=torch.float32)
        folder.mkdir(exist_ok=True)
        for file in staging.iterdir():  # a run that is killed leaves whole files, the old or the new ones
            file.replace(folder / file.name)
        staging.rmdir()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips; a gradient that is not finite becomes zero, so that one bad batch cannot end a run of hours.

        The optimiser still takes that step, on its momentum and weight decay alone. Batch norm's statistics are again
        what they were before it.
        """
        norm: Tensor = super()._clip_grad_norm(model)
        if torch.isfinite(norm):
            return norm
        self.objective.model.load_state_dict(self._statistics, strict=False)
        # In float16 the loss scaler looks for steps to leave out itself.
        if not self.args.fp16:
            tqdm.write(
                f"step {self.state.global_step + 1}: gradient norm is {float(norm)}, gradients set to 0"
            )
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        return norm

    def keep_statistics(self) -> None:
        """Keeps batch norm's statistics, for a batch that spoils them."""
        buffers = self.objective.model.named_buffers()
        self._statistics = {name: value.detach().clone() for name, value in buffers if "running_" in name}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes weights and average as safetensors (the Trainer's own also pickles its arguments).

        Every process comes here. Only one may write: batch norm's statistics are each process's own until the next
        step begins, and two writers of one file can spoil it.
        """
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_dict or self.model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
        save_file(self.average.tensors, folder / AVERAGE, metadata={"format": "pt"})

    def _save_rng_state(self, output_dir: str) -> None:
        """As in the Trainer; whose state file, written next, then says that all processes are done."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        average = load_file(Path(resume_from_checkpoint) / AVERAGE)  # which knows no "cpu:0", as DDP calls it
        self.average.tensors = {name: value.to(self.args.device) for name, value in average.items()}


class _AfterStep(TrainerCallback):
    """Lowers the rank of keys and values, moves the average, and starts the clock of the throughput."""

    def __init__(self, trainer: CTCTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._logged = self.trainer.hours_heard(state.global_step), time.monotonic()
        self.trainer.keep_statistics()
        # A checkpoint has brought its own; how often a run is looked at may change.
        state.logging_steps, state.eval_steps, state.save_steps = (
            args.logging_steps,
            args.eval_steps,
            args.save_steps,
        )

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, optimizer: Optimizer, **_: Any
    ) -> None:
        if self.trainer.kv_shrinkage and (state.global_step + 1) % EVERY == 0:
            rate = optimizer.param_groups[0]["lr"]  # of the step just taken: the schedule moves on after this
            lower_rank(self.trainer.objective.model, EVERY * rate * self.trainer.kv_shrinkage)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.average.update(self.trainer.objective.model, state.global_step)
        self.trainer.keep_statistics()
