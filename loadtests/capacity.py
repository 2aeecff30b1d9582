"""How many streams and requests a device carries, worked out from what was measured of the models, and what binds.

    python -m loadtests.capacity results/loadtest/report.json --memory_gib 16
    python -m loadtests.capacity results/benchmark-stream-large.json --profile 640/30 --memory_gib 80 --speed 50

streams by memory   what the model and a running batch leave of the memory, at most --cache_share of it all, by bytes a
                    stream
streams by time     as many as keep the device busy for --time_share of the time: between measured numbers in a straight
                    line, beyond the last one on the line of the last two (marked ~)
streams             the lesser of the two, and that binds
requests a second   seconds of audio a second / mean length of a clip: alone, and in the time that the streams leave

--speed says how many times as fast as the measured machine the device is. It is an assumption of yours: the constants
know one machine only, and large batches gain more from a large device than this counts.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from loadtests.cli import Parser, count, positive, share
from loadtests.constants import Constants, ConstantsError, read

GIB = 2**30
CLIP_S = 10.0  # where the constants do not say how long clips are


@dataclass(frozen=True)
class Device:
    """What there is: memory, how much of it for caches, how fast, and how much of its time for streams."""

    memory_bytes: float
    cache_share: float = 1.0
    time_share: float = 0.8
    speed: float = 1.0


@dataclass(frozen=True)
class Capacity:
    """What one model carries on a device. `extrapolated`: the time was not measured for so many streams."""

    name: str
    cache_bytes: float
    streams_by_memory: int | None
    streams_by_time: int | None
    extrapolated: bool
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
    by_time, extrapolated = streams_by_time(of.busy, device.time_share * device.speed)
    bounds = {"memory": by_memory, "time": by_time}
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    binds = min(known, key=lambda name: known[name], default="nothing measured")
    most = known.get(binds, 0)
    if free < 0:
        most, binds = 0, "memory: the model does not fit"
    length_s = clip_s or of.mean_audio_s or CLIP_S
    alone = of.audio_s_per_s * device.speed / length_s if of.audio_s_per_s and free >= 0 else None
    left = max(0.0, 1 - busy(of.busy, most if streams is None else streams) / device.speed)
    beside = None if alone is None else alone * left
    return Capacity(
        of.name, cache_bytes, by_memory, by_time, extrapolated, most, binds, alone, beside, length_s
    )


def busy(points: Sequence[tuple[float, float]], streams: float) -> float:
    """The share of its time that the measuring device needs for so many streams; 0 where nothing was measured."""
    if not points or not streams:
        return 0.0
    known = [(0.0, 0.0), *points]
    for (n0, b0), (n1, b1) in pairwise(known):
        if streams <= n1 or (n1, b1) == known[-1]:
            return b0 + (b1 - b0) * (streams - n0) / (n1 - n0)
    raise AssertionError("the last pair returns")


def streams_by_time(points: Sequence[tuple[float, float]], share: float) -> tuple[int | None, bool]:
    """The most streams that need no more than that share, and whether that is beyond what was measured.

    None where nothing was measured, or the last numbers show no cost of one more.
    """
    if not points:
        return None, False
    known = [(0.0, 0.0), *points]
    for (n0, b0), (n1, b1) in pairwise(known):
        if share < b1:
            return math.floor(n0 + (n1 - n0) * (share - b0) / (b1 - b0) + 1e-9), False
    (n0, b0), (n1, b1) = known[-2:]
    if b1 <= b0:
        return None, True
    return math.floor(n1 + (n1 - n0) * (share - b1) / (b1 - b0) + 1e-9), True


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
        by_time = _count(one.streams_by_time) + ("~" if one.extrapolated else "")
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
    add("--profile", help="of a benchmark's: chunk in ms / context in s, such as 640/10 (default: its first)")
    add("--memory_gib", type=positive, required=True, help="the device's memory")
    add(
        "--cache_share", type=share, default=1.0, help="of it for streams, at most (default: 1, what is left)"
    )
    add(
        "--time_share",
        type=share,
        default=0.8,
        help="of its time for streams (default: 0.8, as in the service)",
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
        "\n~ beyond what was measured. Requests are of clips of "
        + ", ".join(sorted({f"{one.mean_audio_s:.3g} s" for one in found}))
        + "."
    )
    for missing in dict.fromkeys(text for of in constants for text in of.missing):
        print(f"Not in the file: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
