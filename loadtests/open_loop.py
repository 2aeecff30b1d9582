"""Requests that come when they come, however long the server takes: a Poisson process, seeded.

    python -m loadtests.open_loop --model mla --rate 5 --seconds 30
    python -m loadtests.open_loop --model mha --rate 2,4,8 --seconds 60 --samples runs/open.jsonl

Users who wait for an answer before they ask again (Locust's) slow down with the server, and what they measure looks
good for it. Here the times at which requests are due are drawn beforehand, from the seed alone, and each is sent at its
time, after a warm-up that is not counted. Latency counts from the time that was intended, so that a request that this
machine sent late has waited as well; how late is the schedule lag. Where its p99 is not far below the latencies, this
machine was too slow, and the figures are not to be trusted. Refused (429) is counted apart from errors, and neither
has a latency.
Requests are a mix of the recordings, alone and joined to as much as 15 s. Knows the API, and nothing of the project's
code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

from loadtests import clips
from loadtests.cli import Parser, positive, rates
from loadtests.clips import Clip, ClipsError
from loadtests.figures import of_requests
from loadtests.http_client import ROUTES, Sample, Target, counted, warm_up

WARM_UP_USERS = 16


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds from the start: gaps are exponential with a mean of 1/rate."""
    generator = random.Random(seed)
    times: list[float] = []
    at = generator.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += generator.expovariate(rate)
    return times


async def run(target: Target, sounds: Sequence[Clip], times: Sequence[float]) -> list[Sample]:
    """Send a clip at each time, and wait for all answers. Samples are in the order of the times."""
    async with target.client() as client:
        target.start()
        requests = []
        for clip, due_s in zip(cycle(sounds), times, strict=False):
            await asyncio.sleep(max(0.0, due_s - target.now_s))
            requests.append(asyncio.ensure_future(target.send(client, clip, due_s)))
        samples = await asyncio.gather(*requests)
    return counted(zip(cycle(sounds), samples, strict=False))


def measure(target: Target, sounds: Sequence[Clip], rate: float, options: argparse.Namespace) -> Any:
    """One rate: its samples and figures."""
    cpu_s, started = time.process_time(), time.monotonic()
    times = schedule(rate, options.seconds, options.seed)
    samples = asyncio.run(run(target, sounds, times))
    goal = (options.goal_p95_s, options.goal_p99_s)
    share = (time.process_time() - cpu_s) / (time.monotonic() - started)
    return samples, {"rate": rate, "client_cpu_share": round(share, 3), **of_requests(samples, goal)}


def line(row: dict[str, Any]) -> str:
    """One row for the screen."""
    at = [row["latency_s"][name] for name in ("p50", "p95", "p99")]
    times = "/".join("-" if value is None else f"{1000 * value:.0f}" for value in at)
    lag_ms = 1000 * (row["lag_s"]["p99"] or 0.0)
    percent = row["wer"]["percent"]
    refused = f"{row['busy']} refused, {row['error'] + row['not_sent']} failed"
    return (
        f"{row['rate']:g}/s: {row['ok']} of {row['requests']} answered, {refused}; p50/p95/p99 {times} ms from the "
        f"intended time; lag p99 {lag_ms:.1f} ms; {row['audio_s_per_s']:.1f} s of audio a second; "
        f"WER {'-' if percent is None else f'{percent}%'}"
    )


def write_samples(file: Path, samples: Iterable[Sample], **more: Any) -> None:
    """Add them to a file of JSON lines, each with `more`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(more | asdict(sample)) + "\n" for sample in samples)


def parser() -> Parser:
    options = Parser("loadtests.open_loop", __doc__)
    add = options.add_argument
    add("--model", default="mla", help="name of the model (default: mla)")
    add("--rate", type=rates, default=[2.0], help="requests a second, one after another: 2,4,8 (default: 2)")
    add("--seconds", type=positive, default=30.0, help="over which requests are due (default: 30)")
    add("--seed", type=int, default=1, help="of the times and of the mix (default: 1)")
    add("--manifest", type=Path, default=clips.SPEECH, help=clips.MANIFEST_HELP)
    add("--route", choices=ROUTES, default=ROUTES[0], help=f"where to send (default: {ROUTES[0]})")
    add("--url", default="http://localhost:8000", help="the server (default: http://localhost:8000)")
    add("--key", default=os.environ.get("MLA_ASR_KEY"), help="API key (default: $MLA_ASR_KEY)")
    add("--goal_p95_s", type=positive, default=1.0, help="goal for 95%% (default: 1)")
    add("--goal_p99_s", type=positive, default=2.0, help="goal for 99%% (default: 2)")
    add("--samples", type=Path, help="JSON lines to write every request to; must not be there yet")
    add("--output_file", type=Path, help="JSON to write the figures to")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when all were answered or refused, 1 when some failed, 2 for what cannot be used."""
    options = parser().parse(argv)
    if options.samples and options.samples.exists():
        parser().error(f"--samples: {options.samples} is there already")
    try:
        sounds = clips.mixed(clips.read(options.manifest), 200, options.seed)
    except ClipsError as error:
        parser().error(str(error))
    how = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    how.pop("key")
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    result: dict[str, Any] = {"what": {"clients_machine": machine}, "how": how, "results": []}
    target = Target(options.url, options.model, options.route, options.key)
    asyncio.run(warm_up(target, sounds, WARM_UP_USERS))
    for rate in options.rate:
        samples, row = measure(target, sounds, rate, options)
        result["results"].append(row)
        print(line(row), *row["errors"], sep="\n  ", flush=True)
        if options.samples:
            write_samples(options.samples, samples, rate=rate, model=options.model)
        if options.output_file:
            options.output_file.parent.mkdir(parents=True, exist_ok=True)
            options.output_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["error"] + row["not_sent"] for row in result["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
