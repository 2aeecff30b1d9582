"""The training loop: `transformers.Trainer`, given the CTC objective, our batches, and averaged weights.

What is random is a function of (seed, step) or kept in the checkpoint, so a run that was stopped goes on exactly.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jiwer
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.ctc import Vocabulary, greedy
from asr.encoder import ConformerCTC
from offline.data import Collator, RunSampler, SpeechDataset, batches_of
from offline.muon import Muon, groups_of

WEIGHTS, AVERAGE, STATE = "model.safetensors", "average.safetensors", "trainer_state.json"
LOG = "log.jsonl"


class Objective(nn.Module):
    """The model with its loss, as one module: what the trainer (and DDP) wraps."""

    def __init__(
        self, model: ConformerCTC, blank: int, intermediate_weight: float = 0.0, attention_only: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.blank = blank
        self.intermediate_weight = intermediate_weight
        self.attention_only = attention_only
        if attention_only:
            for name, parameter in model.named_parameters():
                parameter.requires_grad = ".self_attn." in name

    def train(self, mode: bool = True) -> "Objective":
        """As in torch; where only attention learns, batch norm keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if self.attention_only and isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor,
        targets: Tensor,
        target_lengths: Tensor,
        chunk_frames: int | None = None,
        left_context_frames: int = 0,
    ) -> dict[str, Tensor]:
        """Returns {"loss"}, a scalar: CTC of the last layer, plus the weighted one of the middle layer."""
        middle = self.model.config.num_hidden_layers // 2 if self.intermediate_weight else None
        sight = {"chunk_frames": chunk_frames, "left_context_frames": left_context_frames}
        logits, frames, *between = self.model(waves, lengths, intermediate_layer=middle, **sight)
        loss = ctc_loss(logits, frames, targets, target_lengths, self.blank)
        for scores in between:
            loss = loss + self.intermediate_weight * ctc_loss(
                scores, frames, targets, target_lengths, self.blank
            )
        return {"loss": loss}


def ctc_loss(logits: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """Returns nats per character of the batch, in float32 whatever the logits [B, T, V] are.

    An utterance without a path (fewer frames than characters) counts as 0 and gives no gradient.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        total = F.ctc_loss(
            log_probs, targets, frames, target_lengths, blank=blank, reduction="sum", zero_infinity=True
        )
    return total / target_lengths.sum()


class Average:
    """Exponential moving average of all weights and buffers; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards model, after optimiser step number step (from 1)."""
        decay = min(self.decay, step / (step + 9))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value.detach(), 1 - decay)
            else:
                self.tensors[name].copy_(value)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Gives model the averaged weights for a while."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            model.load_state_dict(own)


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
        report: dict[str, Any],
    ) -> None:
        super().__init__(objective, args, data_collator=collator, train_dataset=train, eval_dataset=dev)
        self.objective, self.vocabulary = objective, vocabulary
        self.batches, self.dev, self.report = batches, dev, report
        durations_s = [utterance.duration_s for utterance in dev.utterances]
        order = sorted(range(len(durations_s)), key=durations_s.__getitem__)
        self.dev_batches = batches_of(order, durations_s, dev_batch_seconds)
        self.average = Average(objective.model, average_decay)
        self.muon = muon
        self.metrics: dict[str, float] | None = None
        self._logged = (0.0, time.monotonic())
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
        """Scores the averaged weights on dev; keeps them in best/ when their word error rate is the lowest so far."""
        started = time.monotonic()
        with self.average.applied(self.objective.model):
            loss, pairs = self._transcribe_dev()
            references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
            metrics = {
                "eval_loss": loss,
                "eval_wer": round(100 * jiwer.wer(references, hypotheses), 3),
                "eval_cer": round(100 * jiwer.cer(references, hypotheses), 3),
                "eval_s": round(time.monotonic() - started, 1),
            }
            best = self.state.best_metric
            if best is None or metrics["eval_wer"] < best:
                self.save_folder("best", metrics)
        if self.args.should_save:
            for reference, hypothesis in pairs[:: max(1, len(pairs) // 3)][:4]:
                tqdm.write(f"  said  {reference}\n  heard {hypothesis}")
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._logged = self.hours_heard(self.state.global_step), time.monotonic()
        self.metrics = metrics
        return metrics

    @torch.no_grad()
    def _transcribe_dev(self) -> tuple[float, list[tuple[str, str]]]:
        """Returns nats per character and (reference, hypothesis) of each dev recording."""
        self.objective.eval()
        hop_s = self.objective.model.config.hop_samples / SAMPLE_RATE
        nats, characters, pairs = 0.0, 0, []
        for indices in tqdm(self.dev_batches, "dev", leave=False, disable=not self.args.should_save):
            batch = self.data_collator([self.dev[0, index] for index in indices], whole=True)
            inputs = self._prepare_inputs(batch)
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
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
        folder = Path(self.args.output_dir) / name
        checkpoint.save(self.objective.model, self.vocabulary, folder, report, dtype=torch.float32)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips; a gradient that is not finite becomes zero, so that one bad batch cannot end a run of hours.

        The optimiser still takes that step, on its momentum and weight decay alone.
        """
        norm: Tensor = super()._clip_grad_norm(model)
        if not torch.isfinite(norm):
            tqdm.write(
                f"step {self.state.global_step + 1}: gradient norm is {float(norm)}, gradients set to 0"
            )
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        return norm

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes weights and average as safetensors (the Trainer's own also pickles its arguments)."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_dict or self.model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
        save_file(self.average.tensors, folder / AVERAGE, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        average = load_file(Path(resume_from_checkpoint) / AVERAGE)  # which knows no "cpu:0", as DDP calls it
        self.average.tensors = {name: value.to(self.args.device) for name, value in average.items()}


class _AfterStep(TrainerCallback):
    """Moves the average after each optimiser step; starts the clock of the throughput."""

    def __init__(self, trainer: CTCTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._logged = self.trainer.hours_heard(state.global_step), time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.average.update(self.trainer.objective.model, state.global_step)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end, or None. The state file is written last."""
    complete = [state.parent for state in output_dir.glob(f"checkpoint-*/{STATE}")]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
