"""The tables of a report, in Markdown that can be read as plain text too."""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
VOICES_SHOWN, ERRORS_SHOWN = 5, 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = True) -> str:
    """Returns a Markdown table without the columns that are empty in all rows; padded: cells of equal width."""
    used = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[str(line[column]).replace("|", "\\|") for column in used] for line in [head, *rows]]
    widths = [max(len(line[i]) for line in lines) if padded else 3 for i in range(len(used))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Returns a figure, or nothing where there is none."""
    if value is None:
        return ""
    return f"{round(value, digits) + 0.0:{'+' if sign else ''},.{digits}f}"  # no -0.00


def share(value: float | None, digits: int = 1) -> str:
    """Returns a share as percent."""
    return "" if value is None else f"{100 * value:.{digits}f}%"


def interval(bounds: Sequence[float | None], *, sign: bool = False) -> str:
    """Returns [low, high], or nothing where it is not known."""
    return "" if None in bounds else f"[{', '.join(number(bound, sign=sign) for bound in bounds)}]"


def p_value(values: Row, name: str) -> str:
    """Returns p and its Holm-adjusted value."""
    if values[name] is None:
        return ""
    adjusted = values.get(f"{name}_holm")
    return _p(values[name]) + (f" ({_p(adjusted)})" if adjusted is not None else "")


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0005 else "<0.0005"


def costs(found: Row) -> str:
    """Returns sizes, speed and memory of each arm."""
    head = ["arm", "dtype", "batch", "parameters", "weights MB", "cache values/frame", "cache kB/s", "RTFx",
            "RTFx model-only", "p50 ms", "p95 ms", "memory MB", "memory is"]  # fmt: skip
    return table(head, [[name, *_costs(arm)] for name, arm in found["arms"].items()])


def _costs(arm: Row) -> list[str]:
    latency, memory = arm["latency_ms"] or {}, arm["memory_bytes"]
    alone = ", alone in its process" if arm["alone_in_its_process"] else ", with the other models of its file"
    return [
        str(arm["settings"]["dtype"] or ""),
        str(arm["settings"]["batch_size"] or ""),
        number(arm["parameters"], 0),
        number(_over(arm["weight_bytes"], 1e6), 1),
        number(arm["cached_values_per_frame"], 0),
        number(_over(arm["cache_bytes_per_second"], 1e3), 1),
        number(arm["rtfx"]),
        number(arm["rtfx_model"]),
        number(latency.get("p50"), 1),
        number(latency.get("p95"), 1),
        number(_over(memory, 1e6), 1),
        arm["memory_kind"].replace("_", " ") + alone if memory else "",
    ]


def _over(value: float | None, unit: float) -> float | None:
    return value / unit if value is not None else None


def identical(found: Row) -> str:
    """Returns the share of identical transcripts of each comparison, and below it what rounding alone does."""
    rows = [[row["arm"], row["baseline"], share(row["identical"], 2), _what_differs(row, found["arms"])]
            for row in of_other_models(found)]  # fmt: skip
    for row in found["null"]:
        changes = ", ".join(f"{name} {ours} / {theirs}" for name, (ours, theirs) in row["differs"].items())
        rows.append(
            [*row["arms"], share(row["identical"], 2), f"the same model: {changes or 'measured twice'}"]
        )
    note = "" if found["null"] else (
        "\n\nNo null to set this beside: no model here was measured in two ways (float32 and bfloat16, batch 1 and 32)."
    )  # fmt: skip
    return table(["arm", "and", "identical", "what differs"], rows) + note


def _what_differs(pair: Row, arms: dict[str, Row]) -> str:
    ours, theirs = (arms[pair[side]]["folder_hash"] for side in ("arm", "baseline"))
    if ours is None or ours != theirs:
        return "another model"
    return f"the same weights, heard otherwise: {', '.join(pair['settings_that_differ'])}"


def setting(name: str, value: Any, *, whole: bool = True) -> str:
    """Returns one setting of an arm; of a beam search (facts in a dict) what was set for it, or only what it is."""
    if not isinstance(value, dict):
        return "greedy" if name == "decoding" and value is None else str(value)
    way = "beam+lm" if value.get("lm") else "beam"
    details = ", ".join(f"{key} {_cell(entry)}" for key, entry in value.items() if entry)
    return f"{way}: {details}" if whole else way


def of_other_models(found: Row) -> list[Row]:
    """Returns the comparisons but those of a model with itself, heard alike."""
    return [pair for pair in found["comparisons"] if not pair["same_model"]]


def by_group(found: Row, field: str) -> str:
    """Returns both rates and the difference in each domain or engine; nothing where there is only one."""
    rows = [
        [pair["arm"], pair["baseline"], value, *_group(row)]
        for pair in of_other_models(found)
        for value, row in pair[f"by_{field}"].items()
    ]
    head = ["arm", "against", field, "words", "WER %", "baseline %", "difference", "95 %"]
    return table(head, rows) if rows else ""


def _group(row: Row) -> list[str]:
    bounds = interval(row["interval_95"], sign=True) if "interval_95" in row else ""
    ours, theirs = row["wer"]
    return [
        number(row["words"], 0),
        number(ours),
        number(theirs),
        number(row["difference"], sign=True),
        bounds,
    ]


def by_voice(found: Row) -> str:
    """Returns the voices at both ends of each comparison; report.json has all."""
    parts = []
    for pair in of_other_models(found):
        voices = pair.get("by_speaker") or pair.get("by_voice") or {}
        order = sorted(voices.items(), key=lambda entry: -entry[1]["difference"])
        worse, better = (sum(sign * row["difference"] > 0 for _, row in order) for sign in (1, -1))
        ends = order[: min(worse, VOICES_SHOWN)] + order[len(order) - min(better, VOICES_SHOWN) :]
        if order:
            head = ["voice", "words", "WER %", "baseline %", "difference", ""]
            parts.append(
                f"{pair['arm']} against {pair['baseline']}: worse on {worse} of {len(order)}, better on {better}."
                + ("\n\n" + table(head, [[name, *_group(row)] for name, row in ends]) if ends else "")
            )
    return "\n\n".join(parts)


def errors(pair: Row) -> str:
    """Returns the most frequent errors that only one of a pair makes, each with an example."""
    head = ["made by", "times", "said", "heard", "example"]
    rows = [
        [pair[side], str(row["count"]), row["reference"], row["heard"], _example(row["example"])]
        for side in ("arm", "baseline")
        for row in pair[f"only_{side}"][:ERRORS_SHOWN]
    ]
    title = f"{pair['arm']} against {pair['baseline']}:"
    return f"{title}\n\n{table(head, rows, padded=False)}" if rows else f"{title} none."


def _example(example: Row) -> str:
    return f"`{example['id']}` {example['reference']} → {example['heard'] or '(nothing)'}"


def conversions(found: dict[str, Row]) -> str:
    """Returns how each converted model came out."""
    head = ["model", "from", "latents", "method", "ranks", "K error", "V error", "K lost energy", "V lost energy",
            "attention error", "output error", "argmax agreement", "CTC KL, nats", "frames"]  # fmt: skip
    rows = [
        [name, row["source"] or "", row["latent"] or "", row["method"] or "", _ranks(row["ranks"]),
         *(share(row[f"mean_{error}_relative_error"]) for error in "kv"),
         *(share(row[f"mean_{error}_lost_energy"], 2) for error in "kv"),
         *(share(row[f"mean_{what}_relative_error"], 2) for what in ("attention", "output")),
         share(row["argmax_agreement"], 3), _small(row["ctc_kl"]), number(row["frames"], 0)]
        for name, row in found.items()
    ]  # fmt: skip
    return table(head, rows) + "\n\nErrors are means over the layers, relative Frobenius." if rows else ""


def _ranks(ranks: dict[str, list[int]]) -> str:
    spans = [f"{min(each)}-{max(each)}" if len(set(each)) > 1 else str(each[0]) for each in ranks.values()]
    return " + ".join(spans)


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def benchmark(found: Row) -> str:
    """Returns a benchmark's rows, as many figures as each has."""
    columns: dict[str, None] = {}
    for row in found["rows"]:
        columns |= dict.fromkeys(key for key in row if not key.endswith("quartiles"))
    rows = [[_cell(row.get(column)) for column in columns] for row in found["rows"]]
    place = ", ".join(str(part) for part in (found["device"], found["dtype"]) if part)
    threads = f", {found['threads']} threads" if found["threads"] else ""
    return f"`{found['file']}` ({place}{threads})\n\n{table(list(columns), rows)}"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)
