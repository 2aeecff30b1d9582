"""Converts a multi-head attention (MHA) checkpoint to multi-head latent attention (MLA).

K and V of each layer become projections up from small latents, which are all that a cache then keeps:
  joint    one latent for both, of --latent_dim values (default)
  simple   one for K and one for V, of --latent_dim values each

--method says what the latents are the best for:
  weight      K's and V's weights (plain SVD); needs no speech
  activation  K and V as the layers make them of calibration speech: K within each clip, for a softmax does not see
              what all keys share
  attention   scores and attention outputs: K weighed by the second moments of the queries, V by the output projection,
              and fitted to inputs as the softmax averages them; the output projection is then fitted to the rest
  posterior   the CTC posteriors: K and V weighed by how these feel their errors (gradients back through the model),
              in one unit for both and for all layers; the output projection fitted as well
Biases and means fold exactly, position scores stay as they are. Layers are calibrated in turn, each on what the
converted ones before it give. --lossless is a joint latent as wide as the model: the same outputs to rounding, half
the cache, which in bytes equals caching the layer's input. It is written in float32.

Writes a checkpoint folder with report.json. Its figures, per layer and as a table on the screen:
  k_relative_error, v_relative_error    |W - W'| / |W| of the weights (Frobenius norm); k_lost_energy, v_lost_energy:
                                        their squares (energy = squared norm), so 0.25 of the one is 0.06 of the other
  k_frames_error, v_frames_error        the same of K and V themselves over the calibration speech, about their means
  attention_relative_error              of the attention's outputs, both variants given the same inputs
  output_relative_error                 of the layer's outputs, converted model against original model
and of the model: parameters, flops_per_frame (in a clip of 10 s), cache_bytes_per_frame (in the folder's dtype), and
agreement on the calibration speech: frames with the same best token, KL of the CTC posteriors in nats a frame. What
needs calibration speech is null without.
"""

import json
import sys
import time
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from asr import checkpoint
from asr.config import Attention, ModelConfig
from asr.encoder import ConformerCTC
from asr.transcriber import DTYPES
from offline import calibration_speech, cli, conversion_report, cost, files, provenance
from offline.calibration import Calibration
from offline.conversion import SCAN, Row, Settings, convert
from offline.corpora import digest
from offline.data import Utterance
from offline.fold import folded
from offline.posterior import felt
from offline.ranks import Ranks, allocated, rank_of, uniform
from offline.sensitivity import gains

EXAMPLE = """python -m offline.convert --model_name mha --output_dir runs/mla --cache_reduction 0.75 \\
      --calibration_manifest data/speech/train.jsonl
  python -m offline.convert --model_name mha --output_dir runs/lossless --lossless
  python -m offline.convert --model_name runs/mla --export_hf runs/mla-folded        (fold an mla model)
  python -m offline.convert --large --output_file results/convert-large.json         (time and memory at 618M)"""
CACHE_REDUCTION = 0.75


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--model_name", default="mha", help="MHA model: bundled name, folder, or hub id")
    add("--output_dir", type=Path, help="folder to write the MLA checkpoint to")
    add("--dtype", choices=list(DTYPES), help="of the written weights; default: float16, float32 if lossless")
    add("--export_hf", type=Path, metavar="FOLDER", help="also write the folded twin, W_K' = W_UK A, an MHA folder "
        "in float32 that stock transformers loads; of an mla model that is all that is done")  # fmt: skip
    options.flag("--overwrite", default=False, help="replace a model that is in the folder already")
    options.flag("--dry_run", default=False, help="show ranks, costs, time and memory; write nothing")
    _add_size_options(options)
    _add_calibration_options(options)
    _add_ablation_options(options)
    options.flag(
        "--large", default=False, help="measure a conversion of the 618M architecture, random weights"
    )
    add("--output_file", type=Path, help="JSON to write, with --large")
    return options


def _add_size_options(options: cli.Parser) -> None:
    add = options.add_argument_group("size").add_argument
    add("--mla_variant", choices=["joint", "simple"], default="joint", help="one latent a layer, or two")
    add("--latent_dim", type=cli.count, help="values of each latent a frame, instead of --cache_reduction")
    saved = f"share of the K/V cache to save: 0.5, 0.75, 0.875...; default: {CACHE_REDUCTION}"
    add("--cache_reduction", type=cli.share, help=saved)
    add("--lossless", action="store_true", help="joint latents as wide as the model: exact, at half the cache; "
        "no fewer bytes than caching the layer's input")  # fmt: skip
    add("--rank_allocation", choices=["uniform", "greedy"], default="uniform", help="the same rank in every layer, or "
        "more where a rank saves more (lost energy x how the posteriors feel it), under the same total")  # fmt: skip


def _add_calibration_options(options: cli.Parser) -> None:
    add = options.add_argument_group("calibration").add_argument
    add("--method", choices=["weight", "activation", "attention", "posterior"],
        help="default: attention with --calibration_manifest, else weight")  # fmt: skip
    speech = "training speech: manifests, LibriSpeech train splits, ...: a,b"
    add("--calibration_manifest", type=cli.names, help=speech)
    add("--data_dir", "--offline_data_dir", type=Path, help="folder of the LibriSpeech splits")
    fetched = "fetch a split or an hf: data set that is not here; nothing is fetched without"
    add("--download", "--use_hf_dataset", action="store_true", help=fetched)
    heard = "seconds of it to listen to, drawn by a fixed seed"
    add("--calibration_s", type=cli.positive, default=300.0, help=heard)
    forced = "take speech that is named as a test or dev split, too"
    add("--force_calibration", action="store_true", help=forced)


def _add_ablation_options(options: cli.Parser) -> None:
    group = options.add_argument_group("ablation: what can be left out of a calibrated method")
    for name, text in (
        ("centring", "K's inputs about the mean of their clip, not of all clips"),
        ("query_weight", "K's errors weighed by the queries (attention)"),
        ("output_weight", "V's errors weighed by the output projection (attention)"),
        ("attended_values", "V's inputs as each head's attention averages them (attention)"),
        ("sequential", "each layer calibrated behind the converted ones, not in the original"),
        ("balance_scan", "K against V by the layer's output error, not equal energy (joint; not posterior)"),
        ("output_refit", "the output projection fitted anew to attention's outputs (attention, posterior)"),
    ):
        options.flag(f"--{name}", default=True, help=text, group=group)


def check(args: Namespace, config: ModelConfig) -> None:
    """Raises ValueError where options or the model do not go together; settles what is left open."""
    if config.attention.kind != "mha":
        raise ValueError(
            f"{args.model_name} already has {config.attention.kind} attention; an mha model is needed "
            "(or --export_hf without --output_dir, to fold it)"
        )
    check_size(args, config)
    if args.method in ("activation", "attention", "posterior") and not args.calibration_manifest:
        raise ValueError(
            f"--method {args.method} weighs errors by what the layers hear: give training speech with "
            "--calibration_manifest, or use --method weight"
        )
    if args.lossless and args.method in ("activation", "attention", "posterior"):
        raise ValueError(f"--lossless loses nothing that --method {args.method} could weigh: leave it out")
    if args.output_dir is None and not args.dry_run:
        raise ValueError("--output_dir is missing: a folder to write to (or --dry_run)")
    check_folders(args)
    default = "attention" if args.calibration_manifest and not args.lossless else "weight"
    args.method = args.method or default
    args.dtype = args.dtype or ("float32" if args.lossless else "float16")


def check_size(args: Namespace, config: ModelConfig) -> None:
    """Raises ValueError where two options say how wide latents are, or rotary positions rule a joint one out."""
    wide = args.latent_dim or args.cache_reduction not in (None, 0.5)
    if args.lossless and (args.mla_variant == "simple" or wide):
        raise ValueError(
            "--lossless is a joint latent as wide as the model, for half the cache: leave --mla_variant, --latent_dim "
            "and --cache_reduction out"
        )
    if args.latent_dim and args.cache_reduction is not None:
        raise ValueError("--latent_dim and --cache_reduction both say how wide latents are; give one")
    if args.cache_reduction is None:
        args.cache_reduction = 0.5 if args.lossless else CACHE_REDUCTION
    rotary = config.position_embeddings_type == "rotary"
    if rotary and (args.lossless or args.mla_variant == "joint"):
        raise ValueError(
            f"{args.model_name} has rotary positions, which turn the input of K but not of V: no one latent "
            f"serves both, {'and none is lossless' if args.lossless else 'so not joint'}; use --mla_variant simple"
        )


def check_folders(args: Namespace) -> None:
    """Raises ValueError where one folder would be written over another."""
    taken = {checkpoint.resolve(args.model_name).resolve(): "the model's own folder"}
    for option in ("output_dir", "export_hf"):
        folder = getattr(args, option)
        if folder and folder.is_file():
            raise ValueError(f"--{option} {folder} is a file; a folder is needed")
        if folder and folder.resolve() in taken:
            raise ValueError(f"--{option} {folder} is {taken[folder.resolve()]}: it would be overwritten")
        if folder and (folder / "config.json").exists() and not args.overwrite:
            raise ValueError(f"--{option} {folder} holds a model already; --overwrite replaces it")
        if folder:
            taken[folder.resolve()] = f"the folder of --{option}"


def uniform_ranks(args: Namespace, config: ModelConfig) -> Ranks:
    """What is asked for, the same in every layer; the total is that of a greedy allocation, too."""
    joint, width = args.mla_variant == "joint", config.hidden_size
    rank = width if args.lossless else rank_of(width, args.latent_dim, args.cache_reduction, joint)
    return uniform(rank, config.num_hidden_layers, joint)


def settings_of(args: Namespace) -> Settings:
    """How the options have errors weighed."""
    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def dry_run(args: Namespace, config: ModelConfig) -> None:
    """Show what would be done. Nothing is loaded, and nothing written."""
    ranks = uniform_ranks(args, config)
    old = cost.on_meta(config, Attention())
    new = cost.on_meta(config, ranks.attention(args.model_name, args.method))
    scans = args.method in ("activation", "attention") and ranks.joint and args.balance_scan
    expected = cost.expectation(
        config,
        calibration_s=args.calibration_s if args.calibration_manifest else 0.0,
        trials=len(SCAN) + 3 if scans else 1,
        greedy=args.rank_allocation == "greedy",
        dtype=DTYPES[args.dtype],
    )
    print(conversion_report.plan(args, ranks, _costs(old, new, args.dtype), expected))


def run(args: Namespace, config: ModelConfig) -> Row:
    """Convert, write, and return the report."""
    started = time.monotonic()
    sources = args.calibration_manifest or []
    where = {"root": args.data_dir, "download": args.download}
    spoken = [(name, calibration_speech.read([name], args.force_calibration, **where)) for name in sources]
    utterances = [utterance for _, found in spoken for utterance in found]
    model, vocabulary = checkpoint.load(args.model_name)
    ranks, settings = uniform_ranks(args, config), settings_of(args)
    heard = Calibration(model, calibration_speech.draw(utterances, args.calibration_s)) if sources else None
    metrics = felt(model, heard) if heard and args.method == "posterior" else None
    if args.rank_allocation == "greedy" and not args.lossless:
        ranks = allocated(gains(model, ranks, heard, settings, metrics), ranks, config)
    name = "lossless" if args.lossless else None
    latent_model, rows = convert(model, ranks, short_name(args.model_name), heard, settings, name, metrics)
    report: Row = {
        **provenance.of_run("offline.convert", args, [], args.model_name),
        "manifests_sha256": {provenance.tidy(source): digest(source, found) for source, found in spoken},
        "source": provenance.tidy(args.model_name),
        "source_folder_hash": checkpoint.folder_hash(checkpoint.resolve(args.model_name)),
        "method": latent_model.config.attention.method,
        "calibration": heard and _heard(args, heard, utterances),
        "layers": rows,
        "agreement": heard and heard.agreement(),
        **_costs(model, latent_model, args.dtype),
    }
    checkpoint.save(latent_model, vocabulary, args.output_dir, dtype=DTYPES[args.dtype])
    report["folder_hash"] = checkpoint.folder_hash(args.output_dir)
    report["seconds"] = round(time.monotonic() - started, 1)
    report["peak_process_bytes"] = provenance.peak_resident_bytes()
    files.write(args.output_dir / "report.json", json.dumps(report, indent=2) + "\n")
    if args.export_hf:
        export(args.output_dir, args.export_hf)
    return report


def short_name(model: str) -> str:
    """What config.json says of where a model came from: a folder's name, or a hub id's without owner and revision."""
    return Path(model if Path(model).exists() else model.partition("@")[0]).name


def _heard(args: Namespace, heard: Calibration, utterances: list[Utterance]) -> Row:
    return {
        "manifests": provenance.tidy([Path(source) for source in args.calibration_manifest]),
        "seconds": round(heard.seconds, 2),
        "clips": len(heard.original),
        "of_utterances": len(utterances),
    }


def _costs(old: ConformerCTC, new: ConformerCTC, dtype: str) -> dict[str, Any]:
    def cache(model: ConformerCTC) -> int:
        return cost.cache_bytes_per_frame(model, DTYPES[dtype])

    return {
        "parameters": cost.both(cost.parameters, old, new),
        "flops_per_frame": cost.both(cost.flops_per_frame, old, new),
        "cache_bytes_per_frame": cost.both(cache, old, new),
        "cached_values_per_frame": cost.both(lambda model: model.config.cached_values_per_frame(), old, new),
    }


def export(source: str | Path, folder: Path) -> None:
    """Write the folded twin of an MLA checkpoint, as it is stored, in float32. Raises ValueError if it is not MLA."""
    model, vocabulary = checkpoint.load(source)
    report = {"made_by": "offline.convert --export_hf", "folded_from": provenance.tidy(source)}
    checkpoint.save(folded(model), vocabulary, folder, report, torch.float32)
    print(f"{folder}: the same outputs from an mha folder in float32, for stock transformers")


def work(args: Namespace) -> None:
    """What the command line asks for."""
    if args.large:
        from offline.convert_large import measure  # which starts this command again

        return measure(args)
    config = checkpoint.read_config(checkpoint.resolve(args.model_name))
    if config.attention.kind == "mla" and args.export_hf and args.output_dir is None:
        check_folders(args)
        if args.dry_run:
            return print(f"{args.model_name} -> {args.export_hf}: would fold the latents, nothing is written")
        return export(args.model_name, args.export_hf)
    check(args, config)
    if args.dry_run:
        return dry_run(args, config)
    print(conversion_report.table(run(args, config), args.output_dir))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.convert", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
