"""What an evaluation comes to: rates in all and by group, speed, memory, and the table on the screen."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from offline import provenance
from offline.evaluation import overview
from offline.evaluation.measure import Arm
from offline.scoring import Row, figures

GROUPS = ("domain", "engine", "voice", "manifest")


def summary(arm: Arm, rows: Sequence[Row], latency_ms: dict[str, float] | None) -> dict[str, Any]:
    """Returns the results entry of one arm: error rates in all and by group, speed, memory."""
    name = arm.name
    parts: dict[str, dict[str, list[Row]]] = {f"by_{group}": defaultdict(list) for group in GROUPS}
    for row in rows:
        for group in GROUPS:
            parts[f"by_{group}"][row[group] or "-"].append(row)
    return {
        "total": figures(rows, name),
        "speed": {**speed(rows, name), "latency_ms": latency_ms},
        "memory": _memory(arm, rows),
        **{
            part: {value: figures(some, name) for value, some in sorted(groups.items())}
            for part, groups in parts.items()
        },
    }


def speed(rows: Sequence[Row], model: str) -> dict[str, Any]:
    """Returns the rates of one model from its rows, whichever run they were measured in."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in rows:
        entry = row["models"][model]
        for place, value in enumerate((row["duration_s"], entry["seconds"], entry["forward_seconds"])):
            sums[row["batch"]][place] += value
    audio_s, inference_s, forward_s = np.array(list(sums.values())).T
    quartiles = np.quantile(audio_s / inference_s, [0.25, 0.5, 0.75])
    return {
        "rtfx": round(float(audio_s.sum() / inference_s.sum()), 2),
        "rtfx_quartiles": [round(float(value), 2) for value in quartiles],
        "rtfx_model": round(float(audio_s.sum() / forward_s.sum()), 2) if forward_s.sum() else None,
        "inference_s": round(float(inference_s.sum()), 3),
    }


def _memory(arm: Arm, rows: Sequence[Row]) -> dict[str, int]:
    """The peak of all batches, whichever run measured them: the longest come first, and may be a killed one's."""
    found = [row["models"][arm.name]["peak_bytes"] for row in rows if "peak_bytes" in row["models"][arm.name]]
    if found and arm.model.device.type == "cuda":
        allocated, reserved = map(max, zip(*found, strict=True))
        return {"peak_allocated_bytes": allocated, "peak_reserved_bytes": reserved}
    return {
        "peak_process_bytes": max([provenance.peak_resident_bytes(), *(resident for (resident,) in found)])
    }


def table(result: dict[str, Any]) -> str:
    """Returns the figures of all models as lines of text; where one has several arms, a line an arm."""
    if overview.several(result):
        return overview.text(result)
    lines = [f"{'':32}{'clips':>7}{'words':>8}{'WER %':>8}{'95 %':>14}{'normalised':>12}{'CER %':>8}"]
    for name, entry in result["results"].items():
        lines.append(f"{name}: {_costs(entry, result['what']['models'][name])}")
        parts = {"all": entry["total"]}
        for group in ("domain", "engine", "manifest"):
            named = {value: row for value, row in entry[f"by_{group}"].items() if value != "-"}
            parts |= {f"{group} {value}": row for value, row in named.items()} if len(named) > 1 else {}
        lines += [_line(label, row) for label, row in parts.items()]
    return "\n".join(lines)


def _line(label: str, row: dict[str, Any]) -> str:
    bounds = "{:.2f}-{:.2f}".format(*row["wer_95"])
    normalised = "-" if row["wer_normalised"] is None else f"{row['wer_normalised']:.2f}"
    counts, wer = f"{row['utterances']:7}{row['words']:8}", f"{row['wer']:8.2f}{bounds:>14}"
    return f"  {label:30}{counts}{wer}{normalised:>12}{row['cer']:8.2f}"


def _costs(entry: dict[str, Any], facts: dict[str, Any]) -> str:
    rates, late, memory = entry["speed"], entry["speed"]["latency_ms"], next(iter(entry["memory"].values()))
    told = [f"{rates['rtfx']:.1f} s of audio per s ({rates['rtfx_model'] or 0:.1f} in the forward)"]
    told += [f"one clip {late['p50']:.0f} ms (95 %: {late['p95']:.0f})"] if late else []
    told += [f"peak {memory / 2**20:,.0f} MiB"]
    cache = facts["cache_bytes_per_second"]
    return ", ".join(told + ([f"cache {cache / 2**10:,.1f} KiB a second"] if cache else []))
