"""Many arms at a glance: a line each, on the screen and as Markdown."""

from typing import Any

Result = dict[str, Any]
Line = list[str]
KIB = 2**10


def several(result: Result) -> bool:
    """Whether a model was heard in more than one way."""
    return len({facts.get("profile") for facts in result["what"]["models"].values()}) > 1


def table(result: Result) -> list[Line]:
    """Returns the heading and a line an arm; a model's arms follow each other, the whole recordings first."""
    facts, entries = result["what"]["models"], result["results"]
    first = next(iter(entries.values()))
    domains = [name for name in first["by_domain"] if name != "-"]
    domains = domains if len(domains) > 1 else []
    checked = any("changed_frames" in entry for entry in entries.values())
    heading = ["arm", "WER %", "95 %", "to full", "normalised", "CER %", *(f"{name} WER" for name in domains)]
    heading += ["audio s per s", "KiB a stream", *(["frames changed"] if checked else [])]
    models = list(dict.fromkeys(facts[name]["model"] for name in entries))
    lines = [heading]
    for name in sorted(entries, key=lambda name: models.index(facts[name]["model"])):
        entry, total = entries[name], entries[name]["total"]
        line = [name, _number(total["wer"]), "{:.2f}-{:.2f}".format(*total["wer_95"]), _loss(name, result)]
        line += [_number(total["wer_normalised"]), _number(total["cer"])]
        line += [_number(entry["by_domain"][domain]["wer"]) for domain in domains]
        line += [f"{entry['speed']['rtfx']:.1f}", _kib(facts[name].get("bytes_per_stream"))]
        lines.append(line + ([_changed(entry)] if checked else []))
    return lines


def whole(name: str, result: Result) -> str | None:
    """Returns the arm in which this arm's model heard whole recordings and decoded alike, if there is one."""
    facts = result["what"]["models"]
    alike = (facts[name]["model"], "full", facts[name].get("decoding"))
    return next(
        (
            other
            for other in result["results"]
            if (facts[other]["model"], facts[other]["profile"], facts[other].get("decoding")) == alike
        ),
        None,
    )


def text(result: Result) -> str:
    """Returns the table with its columns aligned, and what it counts."""
    lines = table(result)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([_counts(result), *rows])


def markdown(result: Result) -> str:
    """Returns the table as Markdown, and what it counts."""
    heading, *lines = table(result)
    rule = ["---", *["---:"] * (len(heading) - 1)]
    rows = ["| " + " | ".join(line) + " |" for line in (heading, rule, *lines)]
    return "\n".join([*rows, "", _counts(result), ""])


def _counts(result: Result) -> str:
    total, how = next(iter(result["results"].values()))["total"], result["how"]
    joined = f", joined to at least {how['join_s']:g} s each" if how.get("join_s") else ""
    size = f"{total['utterances']} recordings, {total['words']} words, {total['audio_s'] / 60:.1f} minutes{joined}"
    return f"{size}; {how['dtype']}, {result['what']['device']}."


def _loss(name: str, result: Result) -> str:
    """WER relative to the same model on whole recordings."""
    base = whole(name, result)
    before = result["results"][base]["total"]["wer"] if base else None
    if base == name or not before:
        return "-"
    return f"{100 * (result['results'][name]['total']['wer'] / before - 1):+.1f} %"


def _changed(entry: dict[str, Any]) -> str:
    changed = entry.get("changed_frames")
    return f"{changed['changed']} of {changed['frames']}" if changed else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _kib(count: int | None) -> str:
    return "-" if count is None else f"{count / KIB:,.0f}"
