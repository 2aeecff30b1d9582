"""What stands beside the transcripts in a report: benchmarks, and how models were converted. Read tolerantly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr import checkpoint
from offline import provenance
from offline.comparison.transcripts import ResultError

Row = dict[str, Any]
PEAKS = ("peak_allocated_bytes", "peak_resident_bytes")
ERRORS = (
    "k_relative_error",
    "v_relative_error",
    "k_lost_energy",
    "v_lost_energy",
    "attention_relative_error",
    "output_relative_error",
)


def conversion(name: str) -> Row:
    """Returns what the report of a converted folder says, errors averaged over layers.

    Raises ValueError when there is no such model, or it has no report of a conversion.
    """
    told = provenance.source_report(name)
    if not told or not told.get("layers"):
        raise ResultError(f"{name}: no report of a conversion in it (report.json of offline.convert)")
    config = checkpoint.read_config(checkpoint.resolve(name))
    layers, attention = told["layers"], config.attention
    parameters = told.get("parameters") or {}
    return {
        "folder": provenance.tidy(name),
        "source": told.get("source") or attention.source,
        "latent": attention.latent,
        "method": told.get("method") or attention.method,
        "width": config.hidden_size,
        "ranks": {
            kind: list(ranks) for kind in ("rank", "rank_k", "rank_v") if (ranks := getattr(attention, kind))
        },
        "cached_values_per_frame": config.cached_values_per_frame(),
        "calibration": told.get("calibration"),
        **{f"mean_{error}": _mean(layers, error) for error in ERRORS},
        **{key: (told.get("agreement") or {}).get(key) for key in ("frames", "argmax_agreement", "ctc_kl")},
        "parameters": parameters or None,
        **{key: told.get(key) for key in ("flops_per_frame", "cache_bytes_per_frame", "seconds")},
    }


def _mean(layers: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in layers if row.get(key) is not None]
    return round(sum(values) / len(values), 6) if values else None


def benchmark(path: Path, content: Row) -> Row:
    """Returns where a benchmark was made, its rows, and each mla row over its mha row. Raises ResultError."""
    rows = content["results"]
    if not rows or not all(isinstance(row, dict) and {"model", "rtfx"} <= row.keys() for row in rows):
        raise ResultError(f"{path}: its results are no rows of offline.benchmark")
    what = content.get("what") or {}
    models = what.get("models") or {}
    return {
        "file": str(path),
        "device": what.get("device"),
        "machine": what.get("machine"),
        "threads": what.get("threads"),
        "dtype": (content.get("how") or {}).get("dtype"),
        "parameters": max(((facts.get("parameters") or 0) for facts in models.values()), default=0) or None,
        "rows": rows,
        "ratios": _ratios(rows, models),
    }


def _ratios(rows: list[Row], models: Row) -> list[Row]:
    """RTFx of every mla row over that of mha with the same batch size and clips, and the share of memory saved."""
    kinds = [_kind(row, models) for row in rows]
    found = []
    for row, kind in zip(rows, kinds, strict=True):
        partner = [
            other for other, its in zip(rows, kinds, strict=True) if its == "mha" and _alike(row, other)
        ]
        if kind == "mla" and partner:
            found.append({
                "arm": label(row),
                "path": row.get("path"),
                "batch_size": row.get("batch_size"),
                "clip_s": row.get("clip_s"),
                **{key: _over(row, partner[0], key) for key in ("rtfx", "rtfx_model")},
                "beyond_noise": _beyond_noise(row, partner[0]),
                "memory_saved": _saved(row, partner[0]),
            })  # fmt: skip
    return found


def label(row: Row) -> str:
    """Returns the name of a benchmark's row: its arm where one is named, else its model, and its path."""
    return " ".join(str(part) for part in (row.get("arm") or row["model"], row.get("path")) if part)


def _kind(row: Row, models: Row) -> str:
    """mha or mla of ours; other for stock code and what cannot be told."""
    arm = str(row.get("arm") or "")
    if arm:
        return "mha" if arm == "mha" else "mla" if arm.startswith("mla") else "other"
    return ((models.get(row["model"]) or {}).get("attention") or {}).get("kind", "other")


def _alike(row: Row, other: Row) -> bool:
    same: list[str] = ["batch_size", "clip_s", "dtype"]
    if "arm" in row and row["arm"] != "mla":
        same.append("model")  # made of the same weights; `mla` is a model of its own
    return all(row.get(key) == other.get(key) for key in same)


def _over(row: Row, other: Row, key: str) -> float | None:
    return round(row[key] / other[key], 4) if row.get(key) and other.get(key) else None


def _beyond_noise(row: Row, other: Row) -> bool | None:
    """Whether the quartiles of the rounds lie apart; None where none were written."""
    quartiles = [_quartiles(each) for each in (row, other)]
    if not all(quartiles):
        return None
    (low, high), (others_low, others_high) = quartiles
    return bool(low > others_high or high < others_low)


def _quartiles(row: Row) -> list[float]:
    """Of RTFx; from those of a batch's seconds where only these were written."""
    if row.get("rtfx_quartiles"):
        return row["rtfx_quartiles"]
    seconds, median = row.get("batch_s_quartiles"), row.get("batch_s_median")
    return [row["rtfx"] * median / bound for bound in reversed(seconds)] if seconds and median else []


def _saved(row: Row, other: Row) -> float | None:
    kind = next((key for key in PEAKS if row.get(key) and other.get(key)), None)
    return round(1 - row[kind] / other[kind], 4) if kind else None
