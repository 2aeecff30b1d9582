"""Distillation: a converted model learns to do what the model that it was made of does.

B clips, T frames, D model width. The teacher hears the same samples under the same chunk mask, without gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.attention import SelfAttention
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from asr.masks import valid_frames
from offline.objective import Objective, ctc_loss


@dataclass(frozen=True)
class Weights:
    """What each part of the loss counts; `Distilled` says their units.

    With these defaults their gradients are of one order of size on the bundled pair: of the attention's parameters,
    0.5 (ctc), 0.1 to 0.3 (kl) and 0.2 (mse).
    """

    ctc: float = 1.0
    kl: float = 1.0
    mse: float = 10.0


class Distilled(Objective):
    """The sum of three losses, each by its weight.

    ctc: of the texts, nats a character. kl: of the frames' posteriors, teacher || student, nats a character (so that it
    compares with ctc). mse: the squared error of each layer's attention output over the teacher's mean square,
    mean of the layers. Only valid frames count.
    """

    def __init__(
        self, model: ConformerCTC, blank: int, teacher: ConformerCTC, weights: Weights, **learning: Any
    ) -> None:
        """learning: as `Objective` takes it. The teacher stays on its device, and out of parameters and checkpoints."""
        super().__init__(model, blank, **learning)
        self.weights = weights
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple, torch does not see a module

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor,
        targets: Tensor,
        target_lengths: Tensor,
        chunk_frames: int | None = None,
        left_context_frames: int = 0,
    ) -> dict[str, Tensor]:
        """Returns {"loss"} and its parts before weighting, scalars without gradients."""
        sight: dict[str, Any] = {"chunk_frames": chunk_frames, "left_context_frames": left_context_frames}
        (teacher,) = self._teacher
        with torch.no_grad(), attention_outputs(teacher) as wanted:
            wanted_logits, _ = teacher(waves, lengths, **sight)
        with attention_outputs(self.model) as outputs:
            logits, frames = self.model(waves, lengths, **sight)
        valid = valid_frames(frames, logits.shape[1])
        parts = {
            "ctc": ctc_loss(logits, frames, targets, target_lengths, self.blank),
            "kl": posterior_kl(wanted_logits[valid], logits[valid]) / target_lengths.sum(),
            "mse": torch.stack(
                [relative_error(w[valid], o[valid]) for w, o in zip(wanted, outputs, strict=True)]
            ).mean(),
        }
        weights = asdict(self.weights)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": loss} | {name: part.detach() for name, part in parts.items()}


def posterior_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Scores [frames, V] of both -> KL(teacher || student) summed over the frames, nats, float32."""
    with torch.autocast(student.device.type, enabled=False):
        wanted, given = (scores.float().log_softmax(-1) for scores in (teacher, student))
        return F.kl_div(given, wanted, log_target=True, reduction="sum")


def relative_error(teacher: Tensor, student: Tensor) -> Tensor:
    """Outputs [frames, D] of both -> |student - teacher|^2 / |teacher|^2, float32; 0 without frames."""
    wanted = teacher.float()
    return (student.float() - wanted).square().sum() / wanted.square().sum().clamp(min=1e-12)


@contextmanager
def attention_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """While open, a list to which every self-attention of the model, in order, adds its output [B, T, D]."""
    outputs: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _module, _given, output: outputs.append(output))
        for module in model.modules()
        if isinstance(module, SelfAttention)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def check_pair(model: ConformerCTC, vocabulary: Vocabulary, teacher: ConformerCTC, known: Vocabulary) -> None:
    """Raises ValueError where the teacher's outputs cannot be compared with the model's; says what differs."""
    ours, theirs = model.config, teacher.config
    facts = ("num_hidden_layers", "hidden_size", "hop_samples", "tail_samples")
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in facts}
    different = [f"{name} ({our} and {their})" for name, (our, their) in pairs.items() if our != their]
    if vocabulary.tokens != known.tokens:
        different.append("their vocabularies")
    if different:
        raise ValueError(f"--mla_weights was not made of --base_model: they differ in {', '.join(different)}")
