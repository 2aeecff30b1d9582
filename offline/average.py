"""The moving average of a model's weights: what is evaluated and kept, since it errs less than the last step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of weights and buffers; young averages forget faster."""

    def __init__(
        self, model: nn.Module, decay: float = 0.999, follows: Callable[[str], bool] = lambda name: True
    ) -> None:
        """follows: which names of the state dict can change at all; the others are left out."""
        self.decay = decay
        self.tensors = {name: value.clone() for name, value in _state(model).items() if follows(name)}

    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards model, after optimiser step number step (from 1)."""
        decay = min(self.decay, step / (step + 9))
        own = _state(model)
        for name, average in self.tensors.items():
            if average.is_floating_point():
                average.lerp_(own[name], 1 - decay)
            else:
                average.copy_(own[name])

    def give(self, model: nn.Module) -> None:
        """Sets model to the averaged weights."""
        model.load_state_dict(self.tensors, strict=False)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Gives model the averaged weights for a while."""
        own = {name: value.clone() for name, value in _state(model).items() if name in self.tensors}
        self.give(model)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)


def _state(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: value.detach() for name, value in model.state_dict().items()}
