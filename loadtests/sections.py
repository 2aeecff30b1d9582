"""What a sweep's report says, in which order, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from loadtests.capacity import Capacity, Device, capacity, streams_by_time
from loadtests.constants import of_sweep
from loadtests.document import Block, Heading, Paragraph, Picture, Table, number, percent, spread
from loadtests.figures import Figures as Row

MIB = 2**20
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
            "Poisson arrivals, at shares of the answers a second that each model gave at best: so each meets what is "
            "little and what is too much for it. Equal shares are unequal rates: whom the same rate costs more is in "
            "the picture, which is over requests a second. Latency is from the intended time; `lag` is how late this "
            "machine sent (p99). At capacity and above the queue grows for as long as it lasts: latencies there say "
            "how long that was."
        ),
        *shown("open.png"),
        clips_table(result, "open", "share"),
        Heading("Live streams"),
        Paragraph(
            "In real time, more and more until 95% of the partials no longer come within a chunk, or a stream is "
            "refused or lost. Times count from when the sound was due, not from when it was sent; `lag` is how late "
            "this machine sent (p99 of the worst stream), `server` the server's own mean for its partials."
        ),
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
    commit = what.get("git_commit")
    begun = f" (begun with {what['begun']})" if what.get("begun", commit) != commit else ""
    return [
        Paragraph(
            f"{models}. One model in a process, in turns, {sizes['repeats']} repeats; figures are medians over them, "
            f"with lowest and highest in brackets. Machine: {machine.get('cpu')}, {machine.get('cores')} cores, "
            f"threads of the service: {what.get('threads') or 'as torch chooses'}; commit {commit}"
            f"{begun}; load average before it began: {what.get('load_average', ['-'])[0]}. "
            f"The clients ran on the same machine and took up to {number(max(client, default=None), 2)} of a core."
        ),
        Paragraph(
            f"Requests are of `{how['manifest']}`: 60% of the clips alone, the rest joined to at most 8 or 15 s. WER "
            "is of the texts that came back, over the same clips at every level, so that levels can be compared "
            f"({_shared(result)}); few words make it coarse. The goal: 95% within {goal['p95_s']:g} s and 99% within "
            f"{goal['p99_s']:g} s, refused ones counting as late; of streams: none lost, 95% of the partials "
            "within their chunk."
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
        ("what ended the streams", _binds),
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
        text = f"Against {first} at the same level, the median over repeats of the ratio within one (iso-config):"
        told += [Paragraph(text), Table(["", f"ratio to {first}"], pairs)]
    return [*told, *_iso_memory(result)]


def _binds(model: Row) -> str:
    """Whether places, of which there are as many as fit into the memory for streams, or time ended first."""
    words = {"places": "memory: no place for more", "time": "time: partials came late"}
    bounds = model["streams_bound_by"]
    if len(bounds) > 1:
        return ", ".join(f"{words[bound]} in {count}" for bound, count in bounds.items())
    return words[next(iter(bounds))] if bounds else "nothing up to there"


def _shared(result: Row) -> str:
    """How many clips and words each kind of load has in common at every level."""
    names = {"closed": "users", "open": "set times", "streams": "streams"}
    first = {
        name: next((e["wer"] for e in of(result, kind) if e["wer"]["words"]), None)
        for kind, name in names.items()
    }
    said = [f"{name}: {wer['clips']} clips, {wer['words']} words" for name, wer in first.items() if wer]
    return "; ".join(said) or "none in common"


def _iso_memory(result: Row) -> list[Block]:
    """The same memory for each model: how many streams by it and by time, from the measured constants."""
    constants = [of_sweep(name, model) for name, model in result["carries"].items()]
    fixed = max((one.fixed_bytes + one.transient_bytes for one in constants), default=0)
    by_steps = ", ".join(f"{one.name} {number(streams_by_time(one.step), 0)}" for one in constants)
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
            "this machine had time for: those at the goal (`~`: worked out, where time alone did not end them). The "
            "lesser binds. `python -m loadtests.capacity` works it out for other devices, from the time of a step by "
            f"its streams (which for this machine would give {by_steps})."
        ),
        Table(["memory", *result["carries"]], rows),
    ]


def _fits(found: Capacity) -> str:
    by_time = number(found.streams_by_time, 0) + "~" * found.worked_out
    return f"{number(found.streams_by_memory, 0)} by memory, {by_time} by time: {found.binds}"


def _agreement(result: Row) -> list[Block]:
    told = [block for name, found in result["agreement"].items() for block in _agrees(name, found)]
    found = result["texts"].items()
    several = [f"{model} {texts['with_several_texts']} of {texts['clips']}" for model, texts in found]
    text = f"Clips that were not given one and the same text every time: {', '.join(several) or 'none sent'}."
    return [*told, Paragraph(text)]


def _agrees(name: str, found: Row | None) -> Iterator[Block]:
    """How far the medians of two runs, or of two halves of one, are apart."""
    if not found or not found["compared"]:
        yield Paragraph(f"{name}: none to compare with.")
        return
    yield Paragraph(
        f"{name}: of {found['compared']} medians {found['within']} agree within 10%; their difference is "
        f"{found['median']:.1%} in the middle and {found['most']:.1%} at most."
    )
    if found["beyond"]:
        rows = [[key, f"{value:.1%}"] for key, value in found["beyond"].items()]
        yield Table(["beyond 10%", "difference"], rows)


def _memory(result: Row) -> list[Block]:
    return [
        Paragraph(
            "A process of its own for each number of streams, with room for no more, all with full caches. `process` "
            "is resident memory, `tree` with the decoding processes (shared pages once), `device` of a GPU by the "
            "driver, `allocated` by the service, `caches` what it says of them. Memory a stream, above, is the slope "
            "of a line through those with streams, and `before streams`, below, where that line begins."
        ),
        held_table(result),
        Paragraph(
            "At rest: no room for streams, nothing asked yet; Python, torch and the weights. Before streams: with what "
            "the first one brings along. Transient: how far the peak under the most users was above rest."
        ),
        rest_table(result),
    ]


def of(result: Row, kind: str) -> list[Row]:
    """The levels of a kind, from the lowest up, the models in their order."""
    entries = [entry for entry in result["levels"] if entry["kind"] == kind]
    order = list(result["carries"])
    return sorted(entries, key=lambda entry: (entry["level"], order.index(entry["model"])))


def clips_table(result: Row, kind: str, level: str) -> Table:
    """What became of requests at each level: latencies from the intended time, and what the server says of itself."""
    rate = "sent per s" if kind == "open" else "answers per s"
    clients = f"{level}|model|{rate}|p50 ms|p95 ms|p99 ms|ok|refused|failed|meets|WER"
    server = "queue ms|batch|padding|device" + ("|lag ms" if kind == "open" else "")
    return Table(f"{clients}|{server}".split("|"), [_clips_row(entry) for entry in of(result, kind)])


def _clips_row(entry: Row) -> list[str]:
    counts, is_open = entry["counts"], entry["kind"] == "open"
    lag = [number(entry["lag_p99_s"]["median"], 1, 1e3)] if is_open else []
    return [
        f"{entry['level']:g}",
        entry["model"],
        spread(entry["rate" if is_open else "requests_per_s"]),
        *_times(entry, "p50_s", "p95_s", "p99_s"),
        *map(str, (counts["ok"], counts["busy"], counts["error"] + counts["not_sent"])),
        f"{entry['meets_goal']} of {entry['asked']}",
        percent(entry["wer"]),
        number(entry["queue_s"]["median"], 1, 1e3),
        *(number(entry[name]["median"], 2) for name in ("batch_size", "padding_ratio", "device_share")),
        *lag,
    ]


def streams_table(result: Row) -> Table:
    """What became of streams at each level, and what the server says of itself."""
    clients = "streams|model|p50 ms|p95 ms|p99 ms|final p95 ms|refused|lost|late|meets|WER"
    return Table(
        f"{clients}|server ms|late steps|step ms|device|lag ms".split("|"),
        [_streams_row(entry) for entry in of(result, "streams")],
    )


def _streams_row(entry: Row) -> list[str]:
    counts = entry["counts"]
    return [
        f"{entry['level']:g}",
        entry["model"],
        *_times(entry, "p50_s", "p95_s", "p99_s", "final_p95_s"),
        *map(str, (counts["refused"], counts["lost"] - counts["refused"], counts["late"])),
        f"{entry['meets_goal']} of {entry['asked']}",
        percent(entry["wer"]),
        number(entry["server_partial_s"]["median"], 0, 1e3),
        str(counts["late_steps"]),
        number(entry["step_s"]["median"], 1, 1e3),
        number(entry["device_share"]["median"], 2),
        number(entry["late_send_s"]["median"], 1, 1e3),
    ]


def held_table(result: Row) -> Table:
    """Memory with streams held open."""
    names = ("process_bytes", "tree_bytes", "device_bytes", "allocated_bytes", "cache_bytes")
    return Table(
        "streams held|model|process MiB|tree MiB|device MiB|allocated MiB|caches MiB".split("|"),
        [
            [spread(entry["streams"], 0), entry["model"], *(_mib(entry[name]) for name in names)]
            for entry in of(result, "memory")
        ],
    )


def rest_table(result: Row) -> Table:
    """Memory without streams, and how far a load drives it."""
    return Table(
        "model|memory of|weights MiB|at rest MiB|before streams MiB|transient MiB".split("|"),
        [
            [
                name,
                m["memory_of"],
                number(m["weight_bytes"], 1, 1 / MIB),
                *(_mib(m[part]) for part in ("rest_bytes", "fixed_bytes", "transient_bytes")),
            ]
            for name, m in result["carries"].items()
        ],
    )


def _times(entry: Row, *names: str) -> list[str]:
    return [spread(entry[name], 0, 1e3) for name in names]


def _mib(values: Row) -> str:
    return spread(values, 1, 1 / MIB)
