"""Many clients that speak in real time to a running server, and how long its texts take.

    python -m loadtests.paced talk.flac --model mla --clients 4,16 --seconds 30 --output_file results/paced.json
    python -m loadtests.paced *.flac --model mla --profile fast --clients 64 --url ws://asr.example:8000

Every client is a stream of its own: the files, one after another with a pause after each, so that segments end, and
again from the start, each client at another place of them. A piece of sound is sent when its last sample has been
spoken, never ahead of it. Clients begin spread over one chunk, so that their phases mix. Latencies are by this
machine's clock, network included:

  partial   from when the piece with the last sample of what the message needs (its audio_s, the look-ahead, and the
            5 ms that the last frame reaches beyond) was due, to when the message came
  final     the same for the chunk that let the server say it; the message names none, so that is the last chunk on
            the stream's grid that was sent in full when it came: too little where the server is more than a chunk
            behind, which its partials show; none for those after the end
  last      from when the sound had been spoken to its end, to `done`: the last words, and all that was still waiting

They count from when a piece was due, not from when it was sent: a server that takes no more, or a slow client, does not
make them shorter.

What a word waits for its chunk to fill, up to `chunk_ms`, and then `lookahead_ms`, comes on top.
Late is a partial or a final that takes longer than a chunk; `late_steps` are what the server itself counted as late.
Lost is a client that never got `done`; its error is kept. `late_send_s` is how far behind its plan a client sent:
much of it where partials come in time means that this machine was too slow, and figures are not to be trusted.
Knows the protocol, and nothing of the project's code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
import urllib.request
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from loadtests.cli import count, positive
from loadtests.figures import quantiles
from loadtests.paced_client import (
    GIVE_UP_S,
    Client,
    Message,
    Sound,
    SoundError,
    authorization,
    speak,
)
from loadtests.service_process import git_commit

CHUNK_S = 0.48  # of the service's first profile


async def measure(clients: int, sound: Sound, options: argparse.Namespace) -> Message:
    """So many clients at once; the figures of all together."""
    started = time.monotonic()
    address = f"{options.url.rstrip('/')}/stream?model={options.model}"
    start: Message = {"profile": options.profile} if options.profile else {}
    length_s = len(sound.samples) / sound.rate

    def client(number: int) -> Coroutine[None, None, Client]:
        pieces = sound.pieces(length_s * number / clients, options.seconds, options.piece_ms)
        after_s = options.spread_s * number / clients
        return speak(address, sound.rate, pieces, after_s, start, options.key)

    done = await asyncio.gather(*map(client, range(clients)))
    return {"clients": clients, "wall_s": round(time.monotonic() - started, 2), **figures(done)}


def figures(clients: Sequence[Client]) -> Message:
    """What the clients noted, together."""
    partial_s = [value for client in clients for value in client.partial_s]
    final_s = [value for client in clients for value in client.final_s]
    late = sum(value > client.chunk_s for client in clients for value in (*client.partial_s, *client.final_s))
    errors = [client.error for client in clients if client.error]
    return {
        "chunk_ms": round(1000 * max(client.chunk_s for client in clients)) or None,
        "lookahead_ms": round(1000 * max(client.lookahead_s for client in clients)),
        "partial_s": quantiles(partial_s),
        "final_s": quantiles(final_s),
        "last_s": quantiles([client.last_s for client in clients if client.last_s is not None]),
        "late": late,
        "steps": sum(client.usage.get("steps", 0) for client in clients),
        "late_steps": sum(client.usage.get("late_steps", 0) for client in clients),
        "lost": len(errors),
        "errors": sorted(set(errors)),
        "audio_s": round(sum(client.usage.get("audio_s", 0.0) for client in clients), 3),
        "words": sum(len(text.split()) for client in clients for text in client.texts),
        "late_send_s": quantiles([value for client in clients for value in client.late_send_s]),
    }


def line(row: Message) -> str:
    """One row for the screen."""
    shown = []
    for name in ("partial_s", "final_s", "last_s"):
        at = [row[name][quantile] for quantile in ("p50", "p95", "p99")]
        times = "/".join("-" if value is None else f"{1000 * value:.0f}" for value in at)
        shown.append(f"{name[:-2]} {times}")
    counts = f"{row['late']} late, {row['late_steps']} of {row['steps']} steps late, {row['lost']} lost"
    lag_ms = 1000 * (row["late_send_s"]["p99"] or 0.0)
    return f"{row['clients']} clients: p50/p95/p99 ms: {', '.join(shown)}; {counts}; sent late p99 {lag_ms:.1f} ms"


def provenance(options: argparse.Namespace, models: Any) -> Message:
    """How it was measured, which models served, and on which machine the clients ran."""
    left_out = ("files", "output_file", "key")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    how = {**given, "files": [file.name for file in options.files]}
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {
        "what": {"git_commit": git_commit(), "clients_machine": machine, "models": models},
        "how": how,
    }


def served(options: argparse.Namespace) -> Any:
    """What the server says of its models; None where it does not say."""
    address = f"{options.url.rstrip('/').replace('ws', 'http', 1)}/v1/models"
    try:
        asked = urllib.request.Request(address, headers=authorization(options.key))
        with urllib.request.urlopen(asked, timeout=GIVE_UP_S) as answer:
            return json.load(answer)["data"]
    except (OSError, ValueError, KeyError):
        return None


def chunk_s(models: Any, options: argparse.Namespace) -> float:
    """How long the chunks are that will be played, by what the server says of its models; else CHUNK_S."""
    profiles = [p for card in models or [] if card["id"] == options.model for p in card.get("profiles") or []]
    chosen = (p for p in profiles if options.profile in (None, p["name"]))
    return next((p["chunk_ms"] / 1000 for p in chosen), CHUNK_S)


def parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n\n")
    options = argparse.ArgumentParser(
        prog="python -m loadtests.paced",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        help="sound to play, all of one rate: wav, flac, ogg or mp3, 8 to 48 kHz",
    )
    add("--model", default="mla", help="name of the model (default: mla)")
    add("--profile", help="latency and context: balanced, fast or long (default: the server's)")
    add("--clients", type=_counts, default=[4], help="at once, one number after another: 4,16 (default: 4)")
    add("--pause_s", "--pause-s", type=positive, default=1.5, help="silence after a file (default: 1.5)")
    add("--seconds", type=positive, default=30.0, help="of sound that each client plays (default: 30)")
    add("--piece_ms", "--piece-ms", type=positive, default=100.0, help="of sound in a message (default: 100)")
    add(
        "--spread_s",
        "--spread-s",
        type=positive,
        help=f"time over which clients begin (default: a chunk as the server says, else {CHUNK_S})",
    )
    add("--url", default="ws://localhost:8000", help="the server (default: ws://localhost:8000)")
    add("--key", default=os.environ.get("MLA_ASR_KEY"), help="API key (default: $MLA_ASR_KEY)")
    add("--output_file", "--output-file", type=Path, help="JSON to write")
    return options


def _counts(text: str) -> list[int]:
    counts = [count(part) for part in text.split(",")]
    if 0 in counts:
        raise argparse.ArgumentTypeError(f"{text!r}: without clients nothing is measured")
    return counts


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when every client got to its end, 1 when some did not, 2 for what cannot be used."""
    options = parser().parse_args(argv)
    try:
        sound = Sound.read(options.files, options.pause_s)
    except SoundError as error:
        print(f"paced: {error}", file=sys.stderr)
        return 2
    models = served(options)
    options.spread_s = options.spread_s or chunk_s(models, options)
    result: Message = {**provenance(options, models), "results": []}
    for clients in options.clients:
        row = asyncio.run(measure(clients, sound, options))
        result["results"].append(row)
        print(line(row), *row["errors"], sep="\n  ", flush=True)
        if options.output_file:
            options.output_file.parent.mkdir(parents=True, exist_ok=True)
            options.output_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["lost"] for row in result["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
