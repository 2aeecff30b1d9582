"""The loop of fine-tuning: the one of training, in two stages, and ended when dev has not got better for a while."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from offline.objective import learns
from offline.trainer import CTCTrainer


def evaluations(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Returns the lines of a run's history that are evaluations."""
    return [line for line in history if "eval_wer" in line]


def fruitless(history: list[dict[str, float]]) -> int:
    """Returns how many evaluations there were since the best one; of equal ones the first is the best."""
    rates = [line["eval_wer"] for line in evaluations(history)]
    return len(rates) - 1 - rates.index(min(rates)) if rates else 0


class FineTuner(CTCTrainer):
    """A CTCTrainer whose first `latent_steps` steps change the latent factors alone.

    The parts of a loss that has some are logged beside it.
    """

    def __init__(
        self, *given: Any, latent_steps: int = 0, patience: int = 0, steps_per_epoch: int = 1, **named: Any
    ) -> None:
        """patience: end after so many evaluations in a row without a better one; 0: never."""
        super().__init__(*given, **named)
        self.latent_steps, self.patience, self.steps_per_epoch = latent_steps, patience, steps_per_epoch
        self._in_the_end = self.objective.trainable
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self.add_callback(_Course(self))

    def enter_stage(self, step: int) -> None:
        """Says to the objective what learns in optimiser step number step (from 0)."""
        self.objective.trainable = "latent" if step < self.latent_steps else self._in_the_end

    def out_of_patience(self, history: list[dict[str, float]]) -> bool:
        """Whether the run that has this history is to end here. A function of it alone, so a resumed run ends alike."""
        return 0 < self.patience <= fruitless(history)

    def compute_loss(self, *given: Any, return_outputs: bool = False, **named: Any) -> Any:
        """As in the Trainer; keeps the parts of the loss for the log."""
        loss, outputs = super().compute_loss(*given, return_outputs=True, **named)
        for name, part in outputs.items():
            if name != "loss":
                self._parts[name].append(part)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss's parts since the last line."""
        if "loss" in logs:
            logs |= {name: float(torch.stack(parts).mean()) for name, parts in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Drops the gradients of what does not learn in this stage, then clips."""
        for name, parameter in self.objective.model.named_parameters():
            if not learns(self.objective.trainable, name):
                parameter.grad = None
        return super()._clip_grad_norm(model)


class _Course(TrainerCallback):
    """Changes the stage, counts epochs, ends the run early."""

    def __init__(self, tuner: FineTuner) -> None:
        self.tuner = tuner

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tuner.enter_stage(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The Trainer takes the whole run for one epoch.
        state.epoch = state.global_step / self.tuner.steps_per_epoch

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.tuner.out_of_patience(state.log_history):
            control.should_training_stop = True
