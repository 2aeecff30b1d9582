"""What batching does to texts and to time: the same clips alone and together, and one clip alone.

It starts `python -m service` itself, in float32, and measures of each model:

- texts: every clip alone, then all of them by --users at once; the texts must be the same;
- batches: those by --users at once, with batches by cost (the service's own way) and by count: whoever is next, as many
  as have the same cost where the longest is among them. One service of each kind, of which the other one is idle; each
  is warmed up by a pass that is not counted, then has --passes of them in turns (a b, b a). Padding's share, the
  device's busy share, and what became of the time: medians over the passes, with lowest and highest;
- alone: a clip of 5 s, --repeats times, one after another: what the service adds to the device's time, at the client
  and within the server, by `Server-Timing`.

Example: python -m loadtests.batching --model mha --model mla --output_file results/batching.json
"""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import soundfile

from loadtests import clips, scrape, service_process
from loadtests.analysis import spread
from loadtests.cli import Parser, count
from loadtests.clips import Clip, ClipsError
from loadtests.figures import Figures, quantiles
from loadtests.http_client import Sample, Target, send_all
from loadtests.plan import turns
from loadtests.service_process import ServiceError
from loadtests.sweep import provenance

FRAMES_PER_S = 50
MAX_BATCH_FRAMES = 6_000
LONE_S = 5.0
WARM_UP = 3
Samples = list[Sample]


def compared(single: Samples, passes: Sequence[Samples]) -> Figures:
    """Clips whose text changed with their company in any pass, and answers that are missing."""
    pairs = [pair for loaded in passes for pair in zip(single, loaded, strict=True)]
    answered = [(one, other) for one, other in pairs if one.outcome == other.outcome == "ok"]
    return {
        "clips": len(single),
        "unanswered": sum(sample.outcome != "ok" for made in (single, *passes) for sample in made),
        "different": sorted({one.clip for one, other in answered if one.text != other.text}),
        "empty": sum(not one.text for one in single),
    }


def load(target: Target, sounds: Sequence[Clip], users: int) -> tuple[Samples, Figures]:
    """One pass over all clips, and what the server counted meanwhile."""
    before, began = scrape.scrape(target.url), time.monotonic()
    samples = asyncio.run(send_all(target, sounds, users))
    wall_s, after = time.monotonic() - began, scrape.scrape(target.url)
    counted = scrape.delta(before, after, wall_s)
    return samples, {
        "wall_s": wall_s,
        "audio_s_per_s": counted["audio_s"] / wall_s,
        "device_busy_share": counted["device_share"]["clips"],
        "mean_batch": counted["mean"]["batch_size"],
        "padding_ratio": padding_ratio(before, after),
    }


def in_turns(
    targets: dict[str, Target], sounds: Sequence[Clip], users: int, passes: int
) -> dict[str, list[tuple[Samples, Figures]]]:
    """So many passes with each target, a b, b a, ..., after one of each that is not counted."""
    for target in targets.values():
        asyncio.run(send_all(target, sounds, users))
    made: dict[str, list[tuple[Samples, Figures]]] = {name: [] for name in targets}
    for _, name in turns(list(targets), passes):
        made[name].append(load(targets[name], sounds, users))
    return made


def over_passes(passes: Sequence[tuple[Samples, Figures]]) -> Figures:
    """Medians and ranges of what the passes gave, and quantiles of the times of all requests."""
    samples = [sample for made, _ in passes for sample in made]
    answered = [sample for sample in samples if sample.outcome == "ok"]
    return {
        "passes": len(passes),
        "answered": len(answered),
        **{name: spread(figures[name] for _, figures in passes) for name in passes[0][1]},
        "sent_to_answered_s": quantiles([sample.done_s - sample.sent_s for sample in answered]),
    }


def padding_ratio(before: scrape.Metrics, after: scrape.Metrics) -> float:
    """Padding's share of all frames on the device between two looks."""
    names = ("asr_padding_frames_total", "asr_frames_total")
    padding, frames = (scrape.total(after, name) - scrape.total(before, name) for name in names)
    return round(padding / max(1.0, padding + frames), 5)


async def lone(target: Target, clip: Clip, repeats: int) -> Figures:
    """What a clip takes beyond the device's time: at the client, and within the server."""
    times: list[tuple[float, float, float]] = []
    form: dict[str, Any] = {"data": {"model": target.model}, "files": {"file": ("clip", clip.body)}}
    async with target.client() as client:
        for _ in range(WARM_UP + repeats):
            began = time.perf_counter()
            answer = await client.post(target.route, **form)
            passed_s = time.perf_counter() - began
            answer.raise_for_status()
            phases = server_timing(answer)
            on_device_s = phases["inference"]
            times.append((on_device_s, passed_s - on_device_s, phases["total"] - on_device_s))
    device_s, at_client_s, in_server_s = (list(column) for column in zip(*times[WARM_UP:], strict=True))
    named = {"device_s": device_s, "added_at_client_s": at_client_s, "added_in_server_s": in_server_s}
    return {"audio_s": clip.audio_s} | {name: quantiles(values) for name, values in named.items()}


def server_timing(answer: httpx.Response) -> dict[str, float]:
    """Seconds of each phase in the answer's header."""
    parts = (part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    return {name: float(ms) / 1000 for name, ms in parts}


def first_seconds(sounds: Sequence[Clip], seconds: float) -> Clip:
    """A recording (FLAC) of that length: the start of the clips, joined. Raises ClipsError for too few."""
    whole = clips.join(sounds[:20])
    samples, rate = whole.decoded
    if whole.audio_s < seconds:
        raise ClipsError(f"the clips have {whole.audio_s:.1f} s in all; {seconds:g} s are needed")
    file = io.BytesIO()
    soundfile.write(file, samples[: round(seconds * rate)], rate, format="FLAC", subtype="PCM_16")
    return Clip("first", seconds, whole.text, file.getvalue())


def measure(model: str, sounds: Sequence[Clip], options: Namespace) -> Figures:
    """All figures of one model. Raises ServiceError where the service does not start."""
    mix = clips.mixed(sounds, options.clips, options.seed)
    items = max(1, int(MAX_BATCH_FRAMES / FRAMES_PER_S / max(clip.audio_s for clip in mix)))
    common = ["--dtype", "float32", "--stream-memory", "0", "--max-batch-frames"]
    by_count = [*common, "100000000", "--max-batch-items", str(items), "--batch-window", str(items)]
    by_count += ["--batch-overhead-frames", "100000000"]
    found: Figures = {"model": model, "mix_audio_s": round(sum(clip.audio_s for clip in mix), 1)}
    with (
        service_process.serving({model: model}, [*common, str(MAX_BATCH_FRAMES)]) as service,
        service_process.serving({model: model}, by_count) as other,
    ):
        target = Target(service.url, model)
        found["service"] = service.models()
        found["alone"] = asyncio.run(lone(target, first_seconds(sounds, LONE_S), options.repeats))
        single = asyncio.run(send_all(target, mix, 1))
        targets = {"by_cost": target, "by_count": Target(other.url, model)}
        made = in_turns(targets, mix, options.users, options.passes)
    found |= {name: over_passes(passes) for name, passes in made.items()}
    texts = {name: compared(single, [samples for samples, _ in passes]) for name, passes in made.items()}
    found["texts"] = texts["by_cost"]
    found["by_count"] |= {"batch": items, "different": texts["by_count"]["different"]}
    return found


def line(row: Figures) -> str:
    """One model for the screen."""
    added = row["alone"]["added_at_client_s"]

    def both(name: str, factor: float = 100.0) -> str:
        return " and ".join(f"{factor * row[arm][name]['median']:.1f}" for arm in ("by_cost", "by_count"))

    return (
        f"{row['model']}: {len(row['texts']['different'])} of {row['texts']['clips']} texts differ, "
        f"{row['texts']['unanswered']} requests unanswered; by cost and by count: padding {both('padding_ratio')}%, "
        f"device busy {both('device_busy_share')}%, {both('audio_s_per_s', 1)} s of audio a second; a lone clip of "
        f"{LONE_S:g} s takes {1000 * added['p50']:.0f} ms (p95 {1000 * added['p95']:.0f}) beside the device"
    )


def parser() -> Parser:
    options = Parser("loadtests.batching", __doc__)
    add = options.add_argument
    add("--model", action="append", help="bundled name or folder; may be repeated (default: mha, mla)")
    add("--clips", type=count, default=200, help="requests in the mix (default: 200)")
    add("--users", type=count, default=32, help="requests at once (default: 32)")
    add("--passes", type=count, default=4, help="over the mix, an even number (default: 4)")
    add("--repeats", type=count, default=100, help="of the lone clip (default: 100)")
    add("--seed", type=int, default=1, help="of the mix (default: 1)")
    add("--manifest", type=Path, default=clips.SPEECH, help=clips.MANIFEST_HELP)
    add("--output_file", type=Path, help="JSON to write the figures to")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when all texts were the same, 1 when not, 2 for what cannot be used."""
    options = parser().parse(argv)
    if options.passes % 2 or not options.passes:
        parser().error(
            f"--passes is {options.passes}; it must be even, so that each way is first equally often"
        )
    rows = []
    what = about(sys.argv[1:] if argv is None else argv)
    try:
        sounds = clips.read(options.manifest)
        for model in options.model or ["mha", "mla"]:
            rows.append(measure(model, sounds, options))
            print(line(rows[-1]), flush=True)
            if options.output_file:
                options.output_file.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"what": what, "results": rows}, indent=1)
                options.output_file.write_text(text + "\n", encoding="utf-8")
    except (ClipsError, ServiceError, httpx.HTTPError) as error:
        parser().error(str(error))
    return int(any(row["texts"]["different"] or row["texts"]["unanswered"] for row in rows))


def about(words: list[str]) -> Figures:
    """Which code measured, how, and how busy the machine was with other work."""
    command = shlex.join(["python", "-m", "loadtests.batching", *words])
    return provenance(Namespace(serve=["--dtype", "float32"]), words) | {"command": command}


if __name__ == "__main__":
    sys.exit(main())
