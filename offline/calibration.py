"""What the layers of a model hear: calibration clips, their hidden states, statistics of attention inputs.

T frames, D model width, H heads, dh = D / H. Clips run one by one, so every frame is a valid one. Their hidden states
are kept and advanced layer by layer, in the model as it was and as it is converted: each layer runs once over the
clips, and a converted layer's statistics are of what the converted layers before it give.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.attention import SelfAttention
from asr.audio import SAMPLE_RATE
from asr.encoder import ConformerCTC, ConformerLayer, Sight
from asr.positions import rotate
from offline.corpora import read_corpus
from offline.data import ManifestError, Utterance

CLIP_S = 20.0  # longer recordings are cut: attention takes memory by the square
HELD_OUT = re.compile(r"(?<![a-z])(test|dev|eval|valid|validation)(?![a-z])", re.IGNORECASE)
Agreement = dict[str, float]


def read(sources: Sequence[str], force: bool = False) -> list[Utterance]:
    """The utterances of all sources (`offline.corpora.read_corpus` says which there are).

    Raises ManifestError where one cannot be read, or is held out (see `held_out`) and `force` is not set.
    """
    found = []
    for source in sources:
        utterances = read_corpus(source)
        reason = None if force else held_out(source, utterances)
        if reason:
            raise ManifestError(
                f"{source}: {reason}; what a model is calibrated on cannot test it. Give training speech, "
                "or add --force_calibration"
            )
        found += utterances
    return found


def held_out(source: str, utterances: Sequence[Utterance]) -> str | None:
    """Why a source looks like speech to test on: its name, a `split` in its lines, or its audio's folders."""
    path = Path(source)
    name = re.split(r"[:/]", source.rstrip("/"))[-1]
    if HELD_OUT.search(name):
        return f"the name {name!r} says that it is no training split"
    for split in _splits(path):
        if HELD_OUT.search(split):
            return f"it has lines of the split {split!r}"
    for folder in sorted({folder for utterance in utterances for folder in _folders(utterance.audio, path)}):
        if HELD_OUT.search(folder):
            return f"it names audio in a folder {folder!r}"
    return None


def _splits(path: Path) -> set[str]:
    """The `split` (or `subset`) of a manifest's lines; of anything else none."""
    if path.suffix.lower() not in (".json", ".jsonl") or not path.is_file():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {str(row[key]) for row in rows for key in ("split", "subset") if row.get(key)}


def _folders(audio: Path, manifest: Path) -> tuple[str, ...]:
    """The folders that a source puts a recording in; of one that lies elsewhere the last three."""
    with suppress(ValueError):
        return audio.relative_to(manifest.parent).parent.parts
    return audio.parent.parts[-3:]


def draw(utterances: Sequence[Utterance], limit_s: float, seed: int = 0) -> list[Tensor]:
    """Waves [samples] of at most `limit_s` in all: recordings in seeded order, each in pieces of at most CLIP_S."""
    left, longest = round(limit_s * SAMPLE_RATE), round(CLIP_S * SAMPLE_RATE)
    waves: list[Tensor] = []
    with tqdm(total=round(limit_s), unit="s", desc="reading") as bar:
        for index in np.random.default_rng(seed).permutation(len(utterances)):
            wave = torch.from_numpy(utterances[index].wave())[:left]
            waves += wave.split(longest)
            left -= len(wave)
            bar.update(round(limit_s - left / SAMPLE_RATE) - bar.n)
            if left <= 0:
                break
    return waves


@dataclass(frozen=True)
class Statistics:
    """Of one layer's attention over all clips, float64. K's inputs are V's, turned where positions are rotary."""

    frames: int
    mean: Tensor  # [D] of V's inputs
    within_k: (
        Tensor  # [D, D] covariance of K's inputs about the mean of their clip: all that a softmax can see
    )
    overall_k: Tensor  # [D, D] about the mean of all frames
    overall_v: Tensor  # [D, D]
    queries: Tensor  # [H, dh, dh] second moments of q + u


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
    def statistics(self, layer: ConformerLayer, sequential: bool = True) -> Statistics:
        """What the attention of this layer hears, as it was before conversion."""
        attention = layer.get_submodule("self_attn")
        assert isinstance(attention, SelfAttention)
        k, v = Moments(self.model.config.hidden_size), Moments(self.model.config.hidden_size)
        queries = torch.zeros(attention.heads, attention.head_size, attention.head_size, dtype=torch.float64)
        for hidden in self.converted if sequential else self.original:
            x = attention_input(layer, hidden)
            turned = x if attention.relative else rotate(x[None], self.sight(hidden).positions)[0]
            v.add(x)
            if not attention.relative:
                k.add(turned)
            query = attention.split(attention.linear_q(turned)[None])[0].double()
            if attention.relative:
                query = query + attention.pos_bias_u[:, None].double()
            queries += query.transpose(-1, -2) @ query
        if attention.relative:
            k = v
        return Statistics(v.frames, v.mean, k.within, k.overall, v.overall, queries / v.frames)

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


@torch.no_grad()
def _front_end(model: ConformerCTC, wave: Tensor) -> Tensor:
    features = model.features(wave[None], torch.tensor([len(wave)]), None)
    return model.feature_projection(features)[0]
