"""What the layers of a model hear: calibration clips, their hidden states, statistics of attention inputs.

T frames, D model width, H heads, dh = D / H. Clips run one by one, so every frame is a valid one. Their hidden states
are kept and advanced layer by layer, in the model as it was and as it is converted: each layer runs once over the
clips, and a converted layer's statistics are of what the converted layers before it give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from asr.encoder import ConformerCTC, ConformerLayer, Sight
from asr.mha import MultiHeadAttention
from asr.positions import rotate

Agreement = dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """Of one layer's attention over all clips, float64. K's inputs are V's, turned where positions are rotary.

    `within_k` is about the mean of each clip, which is all that a softmax can see; the overall ones about that of all
    frames. `attended` are V's inputs as each head's attention averages them, None when not asked for.
    """

    frames: int
    mean: Tensor  # [D] of V's inputs
    within_k: Tensor  # [D, D] covariance
    overall_k: Tensor  # [D, D] covariance
    overall_v: Tensor  # [D, D] covariance
    queries: Tensor  # [H, dh, dh] second moments of q + u
    attended_mean: Tensor | None  # [H, D]
    attended: Tensor | None  # [H, D, D] covariance


class Moments:
    """Sums over frames, clip by clip, in float64."""

    def __init__(self, width: int) -> None:
        self.frames = 0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)
        self.between = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """x: [T, D], one clip."""
        x = x.double()
        self.frames += len(x)
        self.sum += x.sum(0)
        self.outer += x.T @ x
        self.between += len(x) * torch.outer(x.mean(0), x.mean(0))

    @property
    def mean(self) -> Tensor:
        return self.sum / self.frames

    @property
    def overall(self) -> Tensor:
        return self.outer / self.frames - torch.outer(self.mean, self.mean)

    @property
    def within(self) -> Tensor:
        return (self.outer - self.between) / self.frames


class Calibration:
    """The clips' hidden states [T, D] before some layer: in the `original` model and in the `converted` one."""

    def __init__(self, model: ConformerCTC, waves: Sequence[Tensor]) -> None:
        """Run the front end. Raises ValueError when no wave is long enough for a frame."""
        self.model = model
        heard = [wave for wave in waves if model.config.frames(len(wave)) > 0]
        if not heard:
            raise ValueError("nothing to calibrate on: no recording fills a frame of 25 ms")
        self.original = [_front_end(model, wave) for wave in tqdm(heard, "listening", unit="clip")]
        self.converted = self.original
        self.seconds = sum(map(len, heard)) / SAMPLE_RATE
        self.frames = sum(map(len, self.original))

    def sight(self, hidden: Tensor) -> Sight:
        frames = len(hidden)
        return self.model.sight(hidden[None], torch.tensor([frames], device=hidden.device), None, 0)

    def chain(self, sequential: bool) -> list[Tensor]:
        """What reaches the next layer: behind the converted layers where sequential, else the original ones."""
        return self.converted if sequential else self.original

    def some(self, limit_s: float) -> list[int]:
        """Indices of clips, evenly spaced, of about so much speech in all: for what is asked many times."""
        step = max(1, round(self.seconds / limit_s))
        return list(range(0, len(self.original), step))

    def run(self, layer: ConformerLayer, hidden: Tensor) -> Tensor:
        """One layer over one clip, [T, D] -> [T, D]."""
        return layer(hidden[None], self.sight(hidden))[0]

    def attend(self, layer: ConformerLayer, hidden: Tensor, x: Tensor) -> Tensor:
        """One layer's attention alone over inputs x [T, D] of a clip."""
        sight = self.sight(hidden)
        return layer.get_submodule("self_attn")(x[None], sight.positions, sight.mask)[0]

    @torch.no_grad()
    def statistics(
        self, layer: ConformerLayer, sequential: bool = True, attended: bool = False
    ) -> Statistics:
        """What the attention of this layer hears, as it was before conversion.

        Behind the converted layers where sequential, else behind the original ones.
        """
        attention = layer.get_submodule("self_attn")
        assert isinstance(attention, MultiHeadAttention)
        width = self.model.config.hidden_size
        k, v = Moments(width), Moments(width)
        queries = torch.zeros(attention.heads, attention.head_size, attention.head_size, dtype=torch.float64)
        heads = [Moments(width) for _ in range(attention.heads if attended else 0)]
        for hidden in self.chain(sequential):
            heard = hear(attention, attention_input(layer, hidden), self.sight(hidden), attended)
            v.add(heard.x)
            if not attention.relative:
                k.add(heard.turned)
            query = heard.query.double()
            queries += query.transpose(-1, -2) @ query
            for moments, averages in zip(heads, heard.averages, strict=True):
                moments.add(averages)
        k = v if attention.relative else k
        return Statistics(
            v.frames, v.mean, k.within, k.overall, v.overall, queries / v.frames,
            attended_mean=torch.stack([moments.mean for moments in heads]) if attended else None,
            attended=torch.stack([moments.overall for moments in heads]) if attended else None,
        )  # fmt: skip

    @torch.no_grad()
    def attention_error(self, old: ConformerLayer, new: ConformerLayer) -> float:
        """Relative error of the attention's outputs on the same inputs, those of the converted chain."""
        error = Spread()
        for hidden in self.converted:
            x = attention_input(old, hidden)
            error.add(self.attend(old, hidden, x), self.attend(new, hidden, x))
        return error.relative

    @torch.no_grad()
    def advance(self, old: ConformerLayer, new: ConformerLayer) -> float:
        """Move both chains past this layer; returns the relative error of its outputs, converted against original."""
        error = Spread()
        steps = list(self._pairs(old, new, error))
        self.original, self.converted = [list(chain) for chain in zip(*steps, strict=True)]
        return error.relative

    def _pairs(
        self, old: ConformerLayer, new: ConformerLayer, error: "Spread"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for original, converted in zip(self.original, self.converted, strict=True):
            pair = self.run(old, original), self.run(new, converted)
            error.add(*pair)
            yield pair

    @torch.no_grad()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """[T, D] after the last layer -> float64 [T, V]."""
        return self.model.lm_head(self.model.encoder.layer_norm(hidden)).double().log_softmax(-1)

    def agreement(self) -> Agreement:
        """After the last layer: frames, share with the same best token, KL(original || converted) in nats a frame."""
        same, divergence = 0, 0.0
        for original, converted in zip(self.original, self.converted, strict=True):
            teacher, student = self.log_probs(original), self.log_probs(converted)
            same += int((teacher.argmax(-1) == student.argmax(-1)).sum())
            divergence += kl(teacher, student)
        return {
            "frames": self.frames,
            "argmax_agreement": round(same / self.frames, 6),
            "ctc_kl": divergence / self.frames,
        }


def kl(teacher: Tensor, student: Tensor) -> float:
    """KL(teacher || student) in nats, summed over frames; log-probabilities [T, V]."""
    return float((teacher.exp() * (teacher - student)).sum())


class Spread:
    """|found - wanted| over |wanted - its mean|, over frames of many clips: a constant offset flatters nothing."""

    def __init__(self) -> None:
        self.error = self.square = 0.0
        self.frames = 0
        self.sum: Tensor | float = 0.0

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """[T, D] each."""
        wanted = wanted.double()
        self.error += float((found.double() - wanted).square().sum())
        self.square += float(wanted.square().sum())
        self.sum = self.sum + wanted.sum(0)
        self.frames += len(wanted)

    @property
    def relative(self) -> float:
        energy = self.square - float(torch.as_tensor(self.sum).square().sum()) / self.frames
        return float((self.error / energy) ** 0.5) if energy > 0 else 0.0


def attention_input(layer: ConformerLayer, hidden: Tensor) -> Tensor:
    """What reaches a layer's attention, [T, D], as `ConformerLayer.forward` makes it."""
    return layer.self_attn_layer_norm(hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden)))


class Heard(NamedTuple):
    """One clip in one attention."""

    x: Tensor  # [T, D]
    turned: Tensor  # [T, D]: x, rotated where positions are rotary
    query: Tensor  # [H, T, dh]: q + u
    averages: Sequence[Tensor]  # [T, D] of each head: x averaged by its softmax, or nothing


def hear(attention: MultiHeadAttention, x: Tensor, sight: Sight, attended: bool) -> Heard:
    """What `SelfAttention.forward` makes of inputs x [T, D], up to the softmax; its weights average x itself."""
    turned = x if attention.relative else rotate(x[None], sight.positions)[0]
    query = attention.split(attention.linear_q(turned)[None])
    whole = query + attention.pos_bias_u[:, None] if attention.relative else query
    averages: Sequence[Tensor] = ()
    if attended:
        bias = attention.bias(query * attention.scale, sight.positions, len(x), sight.mask)
        keys = attention.split(attention.linear_k(turned)[None])
        inputs = x.expand(1, attention.heads, -1, -1)
        averages = attention.weigh(whole * attention.scale, keys, inputs, bias)[0].unbind()
    return Heard(x, turned, whole[0], averages)


@torch.no_grad()
def _front_end(model: ConformerCTC, wave: Tensor) -> Tensor:
    features = model.features(wave[None], torch.tensor([len(wave)]), None)
    return model.feature_projection(features)[0]
