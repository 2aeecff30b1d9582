"""Tables of a sweep's report: a row for each level and model."""

from __future__ import annotations

from loadtests.document import Table
from loadtests.rows import Row

MIB = 2**20


def of(result: Row, kind: str) -> list[Row]:
    """The levels of a kind, from the lowest up, the models in their order."""
    entries = [entry for entry in result["levels"] if entry["kind"] == kind]
    order = list(result["carries"])
    return sorted(entries, key=lambda entry: (entry["level"], order.index(entry["model"])))


def number(value: float | None, digits: int = 1, factor: float = 1.0) -> str:
    """As it is shown; a dash for nothing."""
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def spread(values: Row | None, digits: int = 1, factor: float = 1.0) -> str:
    """A median, with lowest and highest where they differ from it."""
    if not values or values["median"] is None:
        return "-"
    middle, low, high = (number(values[name], digits, factor) for name in ("median", "low", "high"))
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def percent(found: Row | None) -> str:
    """An error rate."""
    return "-" if not found or found["percent"] is None else f"{found['percent']:.1f}%"


def clips_table(result: Row, kind: str, level: str) -> Table:
    """What became of requests at each level: latencies from the intended time, and what the server says of itself."""
    clients = f"{level}|model|per s|p50 ms|p95 ms|p99 ms|ok|refused|failed|meets|WER"
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
        *_counts(counts["ok"], counts["busy"], counts["error"] + counts["not_sent"]),
        f"{entry['meets_goal']} of {entry['repeats']}",
        percent(entry["wer"]),
        number(entry["queue_s"]["median"], 1, 1e3),
        *(number(entry[name]["median"], 2) for name in ("batch_size", "padding_ratio", "device_share")),
        *lag,
    ]


def streams_table(result: Row) -> Table:
    """What became of streams at each level, and what the server says of itself."""
    clients = "streams|model|p50 ms|p95 ms|p99 ms|final p95 ms|lost|late|meets|WER"
    return Table(
        f"{clients}|server's mean ms|late steps|step ms|device".split("|"),
        [_streams_row(entry) for entry in of(result, "streams")],
    )


def _streams_row(entry: Row) -> list[str]:
    counts = entry["counts"]
    return [
        f"{entry['level']:g}",
        entry["model"],
        *_times(entry, "p50_s", "p95_s", "p99_s", "final_p95_s"),
        *_counts(counts["lost"], counts["late"]),
        f"{entry['meets_goal']} of {entry['repeats']}",
        percent(entry["wer"]),
        number(entry["server_partial_s"]["median"], 0, 1e3),
        *_counts(counts["late_steps"]),
        number(entry["step_s"]["median"], 1, 1e3),
        number(entry["device_share"]["median"], 2),
    ]


def held_table(result: Row) -> Table:
    """Memory with streams held open."""
    names = ("process_bytes", "tree_bytes", "device_bytes", "cache_bytes")
    return Table(
        "streams held|model|process MiB|tree MiB|device MiB|caches MiB".split("|"),
        [
            [spread(entry["streams"], 0), entry["model"], *(_mib(entry[name]) for name in names)]
            for entry in of(result, "memory")
        ],
    )


def rest_table(result: Row) -> Table:
    """Memory without streams, and how far a load drives it."""
    return Table(
        "model|weights MiB|at rest MiB|transient MiB".split("|"),
        [
            [name, number(m["weight_bytes"], 1, 1 / MIB), _mib(m["rest_bytes"]), _mib(m["transient_bytes"])]
            for name, m in result["carries"].items()
        ],
    )


def _times(entry: Row, *names: str) -> list[str]:
    return [spread(entry[name], 0, 1e3) for name in names]


def _counts(*values: int) -> list[str]:
    return [str(value) for value in values]


def _mib(values: Row) -> str:
    return spread(values, 1, 1 / MIB)
