"""What training minimises: the model with its CTC loss as one module, and which of its parameters learn."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.attention import SelfAttention
from asr.encoder import ConformerCTC

# What the names of the parameters that learn hold.
PARTS = {
    "all": ("",),
    "attention": (".self_attn.",),
    "latent": (".self_attn.linear_latent", ".self_attn.linear_up_"),
}
FRONT_END = "feature_extractor."


def learns(part: str, name: str) -> bool:
    """Whether the parameter of this name belongs to that part of PARTS."""
    return any(piece in name for piece in PARTS[part])


class Objective(nn.Module):
    """The model with its loss, as one module: what the trainer (and DDP) wraps."""

    def __init__(
        self,
        model: ConformerCTC,
        blank: int,
        intermediate_weight: float = 0.0,
        trainable: str = "all",
        freeze_front_end: bool = False,
        batch_statistics: bool = False,
    ) -> None:
        """trainable: one of PARTS. Raises ValueError where the model has no such parameters.

        batch_statistics: batch norm uses and learns those of each batch, where all parameters learn. For training from
        the start; to a model that is good already they are noise, since a batch is a few voices.
        """
        super().__init__()
        self.model = model
        self.blank = blank
        self.intermediate_weight = intermediate_weight
        self.trainable = trainable
        self.batch_statistics = batch_statistics
        for name, parameter in model.named_parameters():
            frozen = freeze_front_end and name.startswith(FRONT_END)
            parameter.requires_grad = learns(trainable, name) and not frozen
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"a model with {model.config.attention.kind} attention has no {trainable} factors"
            )

    def train(self, mode: bool = True) -> "Objective":
        """As in torch; where only a part learns, or without batch_statistics, batch norm keeps to those it has."""
        super().train(mode)
        keeps = self.trainable != "all" or not self.batch_statistics
        for module in self.modules():
            if keeps and isinstance(module, nn.BatchNorm1d):
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


def set_dropout(model: ConformerCTC, share: float) -> None:
    """Sets all dropout; the configuration, and so what is saved, stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, SelfAttention):
            module.dropout = share
