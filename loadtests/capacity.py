"""How many streams and requests a device carries, worked out from what was measured of the models, and what binds.

    python -m loadtests.capacity results/loadtest/report.json --memory_gib 16
    python -m loadtests.capacity results/benchmark-stream-large.json --profile 640/30 --memory_gib 80 --speed 50

streams by memory   what the model and a running batch leave of the memory, at most --cache_share of it all, by bytes a
                    stream
streams by time     on the machine that measured, with all of its time (--speed 1 --time_share 1), as many as met the
                    sweep's goal before more were late; all else is worked out from the time of a step (marked ~)
streams             the lesser of the two, and that binds
requests a second   seconds of audio a second / mean length of a clip: alone, and in the time that the streams leave;
                    there each chunk counts as a step of its own, up to --time_share (shared steps leave more)

The time of a step is fitted as a fixed part and one for each of its streams, over the runs that met the goal. Chunks
that come while a step runs wait for it and share the next. So with more streams steps grow, until two take as long as a
chunk, or they have as many streams as any that were measured: that larger ones are worth it is not assumed. '-' is
unknown.

--speed says how many times as fast as the measured machine the device is, in both parts of a step and with requests. It
is an assumption of yours: the constants know one machine only, and large steps and batches gain more from a large
device than this counts.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.cli import Parser, count, positive, share
from loadtests.constants import Constants, ConstantsError, StepTime, read

GIB = 2**30
CLIP_S = 10.0  # where the constants do not say how long clips are


@dataclass(frozen=True)
class Device:
    """What there is: memory, how much of it for caches, how fast, and how much of its time for streams."""

    memory_bytes: float
    cache_share: float = 1.0
    time_share: float = 1.0
    speed: float = 1.0


@dataclass(frozen=True)
class Capacity:
    """What one model carries on a device; None is unknown. `worked_out`: the streams by time were not measured."""

    name: str
    cache_bytes: float
    streams_by_memory: int | None
    streams_by_time: int | None
    worked_out: bool
    streams: int
    binds: str
    requests_per_s: float | None
    requests_per_s_beside_streams: float | None
    mean_audio_s: float


def capacity(
    of: Constants, device: Device, clip_s: float | None = None, streams: int | None = None
) -> Capacity:
    """Work it out for one model; `streams` is how many there are beside the requests, all that fit when not given."""
    free = device.memory_bytes - of.fixed_bytes - of.transient_bytes
    cache_bytes = max(0.0, min(device.memory_bytes * device.cache_share, free))
    by_memory = math.floor(cache_bytes / of.bytes_per_stream) if of.bytes_per_stream else None
    by_time, worked_out = _by_time(of, device.time_share * device.speed)
    bounds = {"memory": by_memory, "time": by_time}
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    binds = min(known, key=lambda name: known[name], default="nothing measured")
    most = known.get(binds, 0)
    if free < 0:
        most, binds = 0, "memory: the model does not fit"
    length_s = clip_s or of.mean_audio_s or CLIP_S
    alone = of.audio_s_per_s * device.speed / length_s if of.audio_s_per_s and free >= 0 else None
    share = busy(of.step, most if streams is None else streams, device.speed)
    beside = None if alone is None or share is None else alone * (1 - min(share, device.time_share))
    return Capacity(
        of.name, cache_bytes, by_memory, by_time, worked_out, most, binds, alone, beside, length_s
    )


def _by_time(of: Constants, pace: float) -> tuple[int | None, bool]:
    """Streams by time, and whether they are worked out: then no fewer than the measured, unless it has less time."""
    worked_out = streams_by_time(of.step, pace)
    if of.streams_at_goal is None or round(pace, 9) < 1:
        return worked_out, worked_out is not None
    measured = math.floor(of.streams_at_goal)
    if of.late_beyond and round(pace, 9) == 1:
        return measured, False
    return (None, False) if worked_out is None else (max(measured, worked_out), True)


def busy(step: StepTime | None, streams: int, speed: float = 1.0) -> float | None:
    """The share of its time that a device needs for so many streams, where none shares a step; None where unknown."""
    if not streams:
        return 0.0
    return None if step is None else streams * (step.fixed_s + step.each_s) / (step.chunk_s * speed)


def streams_by_time(step: StepTime | None, pace: float = 1.0) -> int | None:
    """The most streams that are in time, in steps no larger than were measured; None where unknown.

    A chunk may have to wait for a whole step and then be in the next: two take as long as a chunk at most. One stream
    waits for no other.
    """
    if step is None:
        return None
    chunk_s = step.chunk_s * pace  # in time of the machine that measured
    size = min(step.most, (chunk_s / 2 - step.fixed_s) / step.each_s)
    if size < 1:
        return int(step.fixed_s + step.each_s <= chunk_s)
    return math.floor(size * chunk_s / (step.fixed_s + step.each_s * size) + 1e-9)


def table(found: Sequence[Capacity], constants: Sequence[Constants]) -> str:
    """For the screen: a line for each model."""
    head = [
        "model",
        "fixed MiB",
        "a stream MiB",
        "by memory",
        "by time",
        "streams",
        "binds",
        "requests/s",
        "beside streams",
    ]
    rows = [head]
    for one, of in zip(found, constants, strict=True):
        by_time = _count(one.streams_by_time) + "~" * one.worked_out
        sizes = [f"{of.fixed_bytes / 2**20:.0f}", f"{of.bytes_per_stream / 2**20:.2f}"]
        requests = [_rate(one.requests_per_s), _rate(one.requests_per_s_beside_streams)]
        rows.append(
            [one.name, *sizes, _count(one.streams_by_memory), by_time, str(one.streams), one.binds, *requests]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def parser() -> Parser:
    options = Parser("loadtests.capacity", __doc__)
    add = options.add_argument
    add("constants", type=Path, help="report.json of loadtests.sweep, or JSON of `offline.benchmark stream`")
    add(
        "--offline",
        type=Path,
        help="JSON of `offline.benchmark offline`: requests beside a benchmark's streams",
    )
    add(
        "--profile",
        help="of a benchmark's: milliseconds / seconds, such as 640/10 or 480+160/10 (default: its first)",
    )
    add("--memory_gib", type=positive, required=True, help="the device's memory")
    add(
        "--cache_share", type=share, default=1.0, help="of it for streams, at most (default: 1, what is left)"
    )
    add(
        "--time_share",
        type=share,
        default=1.0,
        help="of its time for streams (default: 1; while clips wait, the service gives streams 0.8)",
    )
    add("--speed", type=positive, default=1.0, help="times as fast as the machine that measured (default: 1)")
    add("--clip_s", type=positive, help=f"mean length of a clip (default: as measured, else {CLIP_S:g})")
    add("--streams", type=count, help="live streams beside the requests (default: all that it carries)")
    add("--json", action="store_true", help="print JSON")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0, or 2 for what cannot be used."""
    options = parser().parse(argv)
    device = Device(options.memory_gib * GIB, options.cache_share, options.time_share, options.speed)
    try:
        constants = read(options.constants, options.profile, options.offline)
    except ConstantsError as error:
        parser().error(str(error))
    found = [capacity(of, device, options.clip_s, options.streams) for of in constants]
    if options.json:
        print(json.dumps({"device": asdict(device), "models": [asdict(one) for one in found]}, indent=1))
        return 0
    print(table(found, constants))
    print(
        "\n~ worked out from steps of up to "
        + ", ".join(f"{of.step.most:.3g} ({of.name})" if of.step else f"- ({of.name})" for of in constants)
        + " streams. Requests are of clips of "
        + ", ".join(sorted({f"{one.mean_audio_s:.3g} s" for one in found}))
        + "."
    )
    for missing in dict.fromkeys(text for of in constants for text in of.missing):
        print(f"Not in the file: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
