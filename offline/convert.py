"""Convert a multi-head attention (MHA) checkpoint to multi-head latent attention (MLA).

K and V of each layer are replaced by one latent of `rank` values and two projections up from it. The biases are handled
exactly: b_K drops out of the softmax, b_V (and the inputs' mean on the V path) folds into the output bias. Position
scores never touch K and stay as they are.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from asr import checkpoint
from asr.attention import SelfAttention
from asr.config import Attention
from asr.encoder import ConformerCTC
from asr.mha import MultiHeadAttention
from asr.mla import MultiHeadLatentAttention
from offline import provenance
from offline.cli import count, parser, paths, positive, reason
from offline.data import load_wave, read_manifests
from offline.factorise import joint, relative_error

Row = dict[str, float]
EXAMPLE = """\
python -m offline.convert --model_name mha --output_dir runs/mla --cache_reduction 0.75 \\
    --calibration_manifest data/speech/train.jsonl"""


class Statistics:
    """Mean and covariance of one layer's attention inputs, gathered clip by clip in float64."""

    def __init__(self, width: int) -> None:
        self.frames = 0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """x: [T, D], valid frames only."""
        x = x.double().cpu()
        self.frames += len(x)
        self.sum += x.sum(0)
        self.outer += x.T @ x

    @property
    def mean(self) -> Tensor:
        return self.sum / max(self.frames, 1)

    @property
    def covariance(self) -> Tensor:
        return self.outer / max(self.frames, 1) - torch.outer(self.mean, self.mean)


A = TypeVar("A", bound=SelfAttention)


def attentions(model: ConformerCTC, kind: type[A]) -> list[A]:
    """The attention of every layer, which is of this kind."""
    found = [layer.get_submodule("self_attn") for layer in model.encoder.layers]
    return [attention for attention in found if isinstance(attention, kind)]


@contextmanager
def watching(model: ConformerCTC, statistics: list[Statistics]) -> Iterator[None]:
    """While open, every clip (batch of one) that the model hears is added to each layer's statistics."""
    pairs = zip(attentions(model, SelfAttention), statistics, strict=True)
    handles = [
        attention.register_forward_pre_hook(lambda _, args, layer=layer: layer.add(args[0][0]))
        for attention, layer in pairs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def calibrate(model: ConformerCTC, manifests: list[Path], limit_s: float) -> list[Statistics]:
    """Statistics of every layer over the first `limit_s` seconds of the manifests."""
    statistics = [Statistics(model.config.hidden_size) for _ in model.encoder.layers]
    heard_s = 0.0
    with (
        watching(model, statistics),
        torch.inference_mode(),
        tqdm(total=limit_s, unit="s", desc="calibrate") as bar,
    ):
        for utterance in read_manifests(manifests):
            wave = torch.from_numpy(load_wave(utterance.audio))[None]
            model(wave, torch.tensor([wave.shape[1]]))
            heard_s += utterance.duration_s
            bar.update(utterance.duration_s)
            if heard_s >= limit_s:
                break
    return statistics


def convert(
    model: ConformerCTC, rank: int, source: str, statistics: list[Statistics] | None
) -> tuple[ConformerCTC, list[Row]]:
    """An MLA model of the same outputs as far as `rank` allows, and a report line of each layer.

    Plain SVD of the weights without statistics. Raises ValueError when the model is not MHA, or its positions are
    rotary (no joint latent is exact there).
    """
    if model.config.attention.kind != "mha":
        raise ValueError(
            f"{source} already has {model.config.attention.kind} attention; an mha model is needed"
        )
    method = "activation" if statistics else "weight"
    ranks = (rank,) * model.config.num_hidden_layers
    attention = Attention(kind="mla", latent="joint", rank=ranks, source=source, method=method)
    latent_model = ConformerCTC(replace(model.config, attention=attention))
    latent_model.load_state_dict(model.state_dict(), strict=False)
    inputs: list[Statistics | None] = [*statistics] if statistics else [None] * len(ranks)
    layers = zip(
        attentions(model, MultiHeadAttention),
        attentions(latent_model, MultiHeadLatentAttention),
        inputs,
        strict=True,
    )
    rows = [{"layer": index, **fill(new, old, heard)} for index, (old, new, heard) in enumerate(layers)]
    return latent_model.eval(), rows


@torch.no_grad()
def fill(new: MultiHeadLatentAttention, old: MultiHeadAttention, heard: Statistics | None) -> Row:
    """Set one layer's latent projections and its output bias (the queries and positions are copied already).

    Returns the rank, and the relative output error (Frobenius) of K and V over the calibration inputs.
    """
    weight_k, weight_v = old.linear_k.weight.double(), old.linear_v.weight.double()
    covariance = heard.covariance if heard else None
    factors = joint(weight_k, weight_v, new.rank_k, covariance)
    new.linear_latent.weight.copy_(factors.latent)
    new.linear_up_k.weight.copy_(factors.up_k)
    new.linear_up_v.weight.copy_(factors.up_v)
    # softmax weights sum to 1, so whatever V lacks for every frame alike can be added after them
    lost = old.linear_v.bias.double()
    if heard:
        lost = lost + (weight_v - factors.up_v @ factors.latent) @ heard.mean
    new.linear_out.bias.add_(old.linear_out.weight.double() @ lost)
    return {
        "rank": new.rank_k,
        "k_relative_error": round(relative_error(weight_k, factors.up_k @ factors.latent, covariance), 6),
        "v_relative_error": round(relative_error(weight_v, factors.up_v @ factors.latent, covariance), 6),
    }


def rank_of(width: int, latent_dim: int | None, cache_reduction: float) -> int:
    """Latent values a frame: as given, or what leaves (1 - reduction) of the 2 D that K and V take.

    Rounded down to a multiple of 16 (of 2 for models narrower than 512).
    """
    wanted = round(2 * width * (1 - cache_reduction), 6)  # 320 * (1 - 0.8) is 63.99..., and 64 is meant
    rank = math.floor(wanted) if latent_dim is None else latent_dim
    step = 16 if width >= 512 else 2
    if not step <= rank <= width:
        raise ValueError(
            f"a latent of {rank} values does not fit a model of width {width}: {step} to {width}"
        )
    return rank // step * step


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__ or "", EXAMPLE)
    options.add_argument("--model_name", default="mha", help="MHA model: bundled name, folder, or hub id")
    options.add_argument("--output_dir", required=True, help="folder to write the MLA checkpoint to")
    options.add_argument(
        "--latent_dim", type=count, help="latent values a frame and layer (instead of --cache_reduction)"
    )
    options.add_argument("--cache_reduction", type=float, default=0.75, help="share of the K/V cache to save")
    options.add_argument(
        "--calibration_manifest",
        type=paths,
        help="training audio to weigh the errors with; plain SVD without",
    )
    options.add_argument("--calibration_s", type=positive, default=300.0, help="seconds of it to listen to")
    return options


def run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    model, vocabulary = checkpoint.load(args.model_name)
    rank = rank_of(model.config.hidden_size, args.latent_dim, args.cache_reduction)
    manifests = args.calibration_manifest
    statistics = calibrate(model, manifests, args.calibration_s) if manifests else None
    latent_model, rows = convert(model, rank, Path(args.model_name).name, statistics)
    report: dict[str, Any] = {
        **provenance.of_run("offline.convert", args, manifests or [], args.model_name),
        "source": provenance.tidy(args.model_name),
        "method": latent_model.config.attention.method,
        "calibration": {"manifests": provenance.tidy(manifests), "seconds": args.calibration_s}
        if manifests
        else None,
        "cached_values_per_frame": {
            "mha": model.config.cached_values_per_frame(),
            "mla": latent_model.config.cached_values_per_frame(),
        },
        "layers": rows,
        "seconds": round(time.monotonic() - started, 1),
    }
    checkpoint.save(latent_model, vocabulary, args.output_dir, report)
    for row in rows:
        print(f"layer {row['layer']:2}  rank {row['rank']}  K error {row['k_relative_error']:.3f}  "
              f"V error {row['v_relative_error']:.3f}")  # fmt: skip
    before, after = report["cached_values_per_frame"].values()
    print(f"{args.output_dir}: {before} -> {after} cached values a frame ({1 - after / before:.1%} less)")


def main() -> None:
    args = arguments().parse_args()
    try:
        run(args)
    except ValueError as error:
        sys.exit(f"offline.convert: {reason(error)}")


if __name__ == "__main__":
    main()
