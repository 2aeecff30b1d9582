"""What a conversion prints: the plan of a dry run, and the table of what was lost."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from offline.ranks import Ranks

COLUMNS = (
    ("K weight", "k_relative_error"),
    ("lost", "k_lost_energy"),
    ("V weight", "v_relative_error"),
    ("lost", "v_lost_energy"),
    ("K frames", "k_frames_error"),
    ("V frames", "v_frames_error"),
    ("attention", "attention_relative_error"),
    ("layer", "output_relative_error"),
)


def plan(args: Namespace, ranks: Ranks, costs: dict[str, Any], expected: dict[str, float]) -> str:
    """The lines of a dry run."""
    kind = (
        f"joint latents of {ranks.k[0]}"
        if ranks.joint
        else f"latents of {ranks.k[0]} for K and {ranks.v[0]} for V"
    )
    how = (
        f"{args.method}, on {args.calibration_s:g} s of speech" if args.calibration_manifest else args.method
    )
    where = f"{args.output_dir or 'a folder'}" + (f", folded to {args.export_hf}" if args.export_hf else "")
    lines = [
        f"{args.model_name} -> {where}, {args.dtype}: would convert, nothing is written",
        f"  {kind} in {len(ranks.k)} layers" + (" on average, by greedy allocation" if _greedy(args) else ""),
        f"  method {'lossless' if args.lossless else how}",
        *totals(costs),
        f"  expected: about {expected['seconds']:.0f} s, {expected['peak_bytes'] / 2**30:.1f} GiB of memory",
    ]
    return "\n".join(lines)


def _greedy(args: Namespace) -> bool:
    return args.rank_allocation == "greedy" and not args.lossless


def totals(costs: dict[str, Any]) -> list[str]:
    """Parameters, arithmetic and cache, mha -> mla."""
    return [
        f"  {name}: {_number(costs[key]['mha'])} -> {_number(costs[key]['mla'])} "
        f"({costs[key]['mla'] / costs[key]['mha'] - 1:+.1%})"
        for name, key in (
            ("parameters", "parameters"),
            ("FLOPs a frame, in a clip of 10 s", "flops_per_frame"),
            ("cache bytes a frame, in the folder's dtype", "cache_bytes_per_frame"),
        )
    ]


def _number(value: int) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else str(value)


def table(report: dict[str, Any], folder: Path) -> str:
    """Per layer ranks and errors, then the totals."""
    ranks = [key for key in ("rank", "rank_k", "rank_v") if key in report["layers"][0]]
    head = ["layer", *ranks, *(name for name, _ in COLUMNS)]
    rows = [
        [str(row["layer"]), *(str(row[key]) for key in ranks), *(_share(row[key]) for _, key in COLUMNS)]
        for row in report["layers"]
    ]
    lines = ["  ".join(f"{cell:>9}" for cell in cells) for cells in (head, *rows)]
    lines += [f"{folder}: {report['method']}, {report['seconds']:g} s", *totals(report)]
    lines += ["  lossless in rounding only; in bytes the latent equals a cache of the layer's input"] * (
        report["method"] == "lossless"
    )
    found = report["agreement"]
    if found:
        lines.append(
            f"  on {found['frames']} calibration frames: best token the same in {found['argmax_agreement']:.3%}, "
            f"KL of the posteriors {found['ctc_kl']:.2e} nats a frame"
        )
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"
