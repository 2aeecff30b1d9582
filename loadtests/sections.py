"""What a sweep's report says, in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtests.capacity import Capacity, Device, capacity
from loadtests.constants import of_sweep
from loadtests.document import Block, Heading, Paragraph, Picture, Table
from loadtests.rows import Row
from loadtests.tables import MIB, clips_table, held_table, number, of, rest_table, spread, streams_table

ABOUT = {
    "closed.png": "Answers a second and 95th percentile of latency by users at once",
    "open.png": "Median and 95th percentile of latency by requests a second",
    "streams.png": "95th percentile of how long partials take, and the device's time, by live streams",
    "memory.png": "Resident memory by streams held open",
}


def blocks(result: Row, pictures: Sequence[str]) -> list[Block]:
    """The whole report."""

    def shown(name: str) -> list[Block]:
        return [Picture(name, ABOUT[name])] if name in pictures else []

    return [
        Heading("Load test", 1),
        *_setting(result),
        Heading("What each carries"),
        *_carries(result),
        Heading("Agreement"),
        *_agreement(result),
        Heading("Users who wait for their answer"),
        *shown("closed.png"),
        clips_table(result, "closed", "users"),
        Heading("Requests at set times"),
        Paragraph(
            "Poisson arrivals, the same for every model. Latency is from the intended time; `lag` is how late this "
            "machine sent (p99). Above capacity the queue grows for as long as it lasts: latencies there say how long "
            "that was."
        ),
        *shown("open.png"),
        clips_table(result, "open", "share"),
        Heading("Live streams"),
        Paragraph("In real time, more and more until 95% of the partials no longer come within a chunk."),
        *shown("streams.png"),
        streams_table(result),
        Heading("Memory"),
        *_memory(result),
        *shown("memory.png"),
    ]


def _setting(result: Row) -> list[Block]:
    what, how = result["what"], result["how"]
    machine, sizes, goal = what.get("machine", {}), how["sizes"], how["goal"]
    models = ", ".join(
        f"{card['id']} ({card.get('attention', {}).get('kind')}, {card.get('parameters', 0) / 1e6:.2f}M parameters, "
        f"{card.get('dtype')} on {card.get('device')})"
        for card in what["models"]
    )
    client = [
        entry["client_cpu"]["median"] for kind in ("closed", "open", "streams") for entry in of(result, kind)
    ]
    return [
        Paragraph(
            f"{models}. One model in a process, in turns, {sizes['repeats']} repeats; figures are medians over them, "
            f"with lowest and highest in brackets. Machine: {machine.get('cpu')}, {machine.get('cores')} cores, "
            f"threads of the service: {what.get('threads') or 'as torch chooses'}; commit {what.get('git_commit')}. "
            f"The clients ran on the same machine and took up to {number(max(client, default=None), 2)} of a core."
        ),
        Paragraph(
            f"Requests: {how['manifest']}, 60% of the clips alone, the rest joined to as much as 8 or 15 s. WER is of "
            f"the texts that came back. The goal: 95% within {goal['p95_s']:g} s and 99% within {goal['p99_s']:g} s, "
            f"refused ones counting as late; streams: none lost, 95% of the partials within their chunk."
        ),
    ]


def _carries(result: Row) -> list[Block]:
    models = result["carries"]
    lines: list[tuple[str, Callable[[Row], str]]] = [
        ("answers a second, at best", lambda m: spread(m["requests_per_s"])),
        ("audio a second, at best, s", lambda m: spread(m["audio_s_per_s"], 0)),
        ("users at the goal", lambda m: spread(m["users_at_goal"], 0)),
        ("requests a second at the goal", lambda m: spread(m["rate_at_goal"])),
        (
            "streams at the goal",
            lambda m: ("" if m["streams_missed_in"] else "at least ") + spread(m["streams_at_goal"], 0),
        ),
        ("memory a stream, by formula, MiB", lambda m: number(m["cache_bytes_per_stream"], 2, 1 / MIB)),
        ("memory a stream, seen from outside, MiB", lambda m: spread(m["bytes_per_stream"], 2, 1 / MIB)),
        (f"streams in {result['how']['stream_memory'] / MIB:.0f} MiB", lambda m: number(m["slots"], 0)),
        ("what binds there", _binds),
    ]
    rows = [[name, *(show(model) for model in models.values())] for name, show in lines]
    pairs = [
        [f"{model}: {name}", spread(ratio, 2)]
        for model, ratios in result["ratios"].items()
        for name, ratio in ratios.items()
    ]
    told: list[Block] = [Table(["", *models], rows)]
    if pairs:
        first = next(iter(models))
        told += [
            Paragraph(
                f"Against {first} at the same level, the median over repeats of the ratio within one (iso-config):"
            ),
            Table(["", f"ratio to {first}"], pairs),
        ]
    return [*told, *_iso_memory(result)]


def _binds(model: Row) -> str:
    """In the memory that was given for streams, whether time or that memory ends first."""
    carried, places = model["streams_at_goal"]["median"], model["slots"]
    if carried is None or places is None:
        return "-"
    return "memory" if places <= carried else "time"


def _iso_memory(result: Row) -> list[Block]:
    """The same memory for each model: how many streams by it and by time, from the measured constants."""
    constants = [of_sweep(name, model) for name, model in result["carries"].items()]
    fixed = max((one.fixed_bytes + one.transient_bytes for one in constants), default=0)
    budgets = [fixed + mib * MIB for mib in (16, 64, 256, 1024)]
    rows = [
        [
            f"{(budget - fixed) / MIB:.0f} MiB beyond {fixed / MIB:.0f} MiB",
            *(_fits(capacity(one, Device(budget))) for one in constants),
        ]
        for budget in budgets
    ]
    return [
        Paragraph(
            "The same memory for each (iso-memory): streams that fit in beside the model and a batch, and streams that "
            "this machine has time for (0.8 of it, `~` beyond what was measured); the lesser binds. `python -m "
            "loadtests.capacity` works it out for other devices."
        ),
        Table(["memory", *result["carries"]], rows),
    ]


def _fits(found: Capacity) -> str:
    by_time = (
        "-"
        if found.streams_by_time is None
        else f"{found.streams_by_time}{'~' if found.extrapolated else ''}"
    )
    return f"{number(found.streams_by_memory, 0)} by memory, {by_time} by time: {found.binds}"


def _agreement(result: Row) -> list[Block]:
    told: list[Block] = []
    for name, found in result["agreement"].items():
        if found is None or not found["compared"]:
            told.append(Paragraph(f"{name.capitalize()}: none to compare with."))
            continue
        told.append(
            Paragraph(
                f"{name.capitalize()}: of {found['compared']} medians {found['within']} agree within 10%; their "
                f"difference is {found['median']:.1%} in the middle and {found['most']:.1%} at most."
            )
        )
        if found["beyond"]:
            told.append(
                Table(
                    ["beyond 10%", "difference"],
                    [[key, f"{value:.1%}"] for key, value in found["beyond"].items()],
                )
            )
    several = [
        f"{model} {found['with_several_texts']} of {found['clips']}"
        for model, found in result["texts"].items()
    ]
    return [
        *told,
        Paragraph(
            f"Clips that were not given one and the same text at every level: {', '.join(several) or 'none sent'}."
        ),
    ]


def _memory(result: Row) -> list[Block]:
    return [
        Paragraph(
            "A process of its own for each number of streams, with room for no more; each stream has filled its "
            "cache. `process` is resident memory, `tree` with the decoding processes (shared pages once), `device` by "
            "the driver, `caches` what the service says of them. Memory a stream, above, is the slope over the streams."
        ),
        held_table(result),
        Paragraph(
            "At rest: no streams, nothing asked yet; Python, torch and the weights. Transient: how far the peak under "
            "the highest number of users was above that; of the allocator with a GPU, else of resident memory."
        ),
        rest_table(result),
    ]
