"""The service on Ray Serve, on this machine: two replicas on its processor, of which one is killed, and one retired.

    python -m docker.ray_trial --seconds 20 --output results/ray.json

By the commands and the configuration that are for a cluster (docker/ray/serve.yaml), with no GPU and small figures.
Writes what held as JSON; exit status 1 where anything did not. Needs the extras service, ray and loadtests.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from docker import stack
from docker.client import CLIP, WAIT_S, Client
from docker.ray_cluster import BIN, Cluster, cluster
from docker.report import ROOT, Report

MODELS = ("mha", "mla")
CLIENTS, STREAMS = 4, 6
LONG_S = 40.0  # of a clip that is in work for a while, so that a kill meets it
PIECE_S = 0.1
EXPORT_S = 20.0  # replicas report every 5 s, Ray every 10
NOTE = "Two replicas, one thread each, share one machine with their clients: how it fails over, not how fast. No GPU."
VERSIONS = {"ray": [str(BIN / "ray"), "--version"]}


@contextmanager
def plain(folder: Path) -> Iterator[Client]:
    """The same service as one process."""
    (port,) = stack.free_ports(1)
    log = folder / "service.log"
    settings = {"MLA_ASR_PORT": str(port), "MLA_ASR_DEVICE": "cpu", "MLA_ASR_THREADS": "1"}
    env = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    with stack.running([sys.executable, "-m", "service"], log, cwd=ROOT, env=env) as process:
        stack.wait_for(f"http://127.0.0.1:{port}/health/ready", process, log)
        yield Client(f"http://127.0.0.1:{port}", key="none")


def clips(folder: Path) -> list[Path]:
    """Some committed recordings, and one of all of them, over and over, which takes a while."""
    short = sorted(CLIP.parent.glob("*.flac"))[:6]
    samples = np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in short])
    rate = soundfile.info(CLIP).samplerate
    soundfile.write(folder / "long.flac", np.resize(samples, int(LONG_S * rate)), rate)
    return [folder / "long.flac", *short]


def texts(client: Client, files: Sequence[Path]) -> dict[str, str]:
    """Every clip with every model, and a stream."""
    found = {}
    for model in MODELS:
        for file in files:
            status, body = client.transcribe(model, file)
            assert status == 200, (status, body)
            found[f"{model} {file.name}"] = json.loads(body)["text"]
        found[f"{model} stream"] = client.streams(model)
        assert client.sends_events(model).lower() == client.text(model).lower()
    return found


@dataclass
class Stream:
    """A client that speaks as fast as one would, until it is told something else."""

    model: str
    said: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None  # of the close

    def run(self, url: str, stop: threading.Event) -> None:
        samples, rate = soundfile.read(CLIP, dtype="int16")
        pieces = np.array_split(samples, round(len(samples) / rate / PIECE_S))
        address = f"{url.replace('http', 'ws', 1)}/stream?model={self.model}"
        with connect(address, open_timeout=WAIT_S, compression=None) as socket:
            listener = threading.Thread(target=self._listen, args=(socket,))
            listener.start()
            with suppress(ConnectionClosed):
                socket.send(json.dumps({"type": "start", "sample_rate": rate}))
                for piece in cycle(pieces):
                    if stop.wait(PIECE_S):
                        break
                    socket.send(piece.tobytes())
                socket.send(json.dumps({"type": "end"}))
            listener.join(WAIT_S)
            self.code = socket.close_code

    def _listen(self, socket: Any) -> None:
        with suppress(ConnectionClosed):
            for message in socket:
                self.said.append(json.loads(message))

    @property
    def end(self) -> str:
        last = self.said[-1] if self.said else {"type": "nothing"}
        return f"{self.code} {last.get('code', last['type'])}"


@dataclass
class Load:
    """What clients saw."""

    answers: list[tuple[str, int, str]] = field(default_factory=list)  # which clip, status, text
    streams: list[Stream] = field(default_factory=list)

    def told(self, expected: dict[str, str], *ends: str) -> dict[str, Any]:
        """What came of it. Every request has its text; `ends` are those of streams."""
        statuses = Counter(str(status) for _, status, _ in self.answers)
        wrong = [name for name, status, text in self.answers if status == 200 and text != expected[name]]
        streams = Counter(stream.end for stream in self.streams)
        told = {
            "requests": len(self.answers),
            "statuses": dict(statuses),
            "texts other than those of the plain service": len(wrong),
            "streams": dict(streams),
        }
        assert set(statuses) == {"200"} and not wrong and set(streams) == set(ends), told
        return told


@contextmanager
def load(client: Client, files: Sequence[Path]) -> Iterator[Load]:
    """Clients that send clip after clip, and streams, for as long as the block lasts."""
    seen, stop = Load(streams=[Stream(MODELS[n % 2]) for n in range(STREAMS)]), threading.Event()

    def send(number: int) -> None:
        while not stop.is_set():
            model, file = MODELS[number % 2], files[number % len(files)]
            status, body = client.transcribe(model, file)
            text = json.loads(body)["text"] if status == 200 else body.decode(errors="replace")
            seen.answers.append((f"{model} {file.name}", status, text))
            number += 1

    with ThreadPoolExecutor(CLIENTS + STREAMS) as threads:
        streams = [threads.submit(stream.run, client.url, stop) for stream in seen.streams]
        clients = [threads.submit(send, number) for number in range(CLIENTS)]
        try:
            yield seen
        finally:
            stop.set()
    for done in streams + clients:
        done.result()


def killed(ray: Cluster, files: Sequence[Path], expected: dict[str, str], seconds: float) -> dict[str, Any]:
    """A replica dies under load: no request fails, streams are told to connect again, and there is a new one."""
    before = ray.lost()
    with load(ray.front, files) as seen:
        time.sleep(seconds / 2)
        victim = ray.replicas()[0]
        os.kill(victim["pid"], signal.SIGKILL)
        again = ray.wait_for(2, without=victim["replica_id"])
        time.sleep(seconds / 2)
    told = seen.told(expected, "1000 done", "1012 replica_lost")
    time.sleep(EXPORT_S)
    lost = ray.lost()
    assert lost.get("http", 0) > before.get("http", 0), "no request was with the replica that died"
    return told | again | {"lost with it: http are retried": lost}


def retired(ray: Cluster, files: Sequence[Path], expected: dict[str, str], seconds: float) -> dict[str, Any]:
    """A replica is taken away under load: its streams say what they have heard, and no request fails."""
    with load(ray.front, files) as seen:
        time.sleep(seconds / 2)
        ray.deploy(num_replicas=1)
        left = ray.wait_for(1)
    told = seen.told(expected, "1000 done", "1012 draining") | left
    ended = [stream.said[-2:] for stream in seen.streams if stream.code == 1012]
    assert all(last["type"] == "final" for last, _ in ended), ended
    return told


def scaled(ray: Cluster, files: Sequence[Path], expected: dict[str, str]) -> dict[str, Any]:
    """Requests and streams in work make it two again."""
    bounds = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": (CLIENTS + STREAMS) / 2}
    ray.deploy(autoscaling_config=bounds | {"upscale_delay_s": 1, "look_back_period_s": 11})
    time.sleep(EXPORT_S)
    assert len(ray.replicas()) == 1, "two replicas before there is a load"
    with load(ray.front, files) as seen:
        more = ray.wait_for(2)
    return seen.told(expected, "1000 done") | more


def exported(ray: Cluster) -> dict[str, float]:
    """The service's metrics are in Ray's exporter, each with its replica."""
    requests = ray.exported("ray_asr_requests_total", "replica")
    running = {one["replica_id"] for one in ray.replicas()}
    assert running <= set(requests) and max(requests.values()) > 0, (running, requests)
    return requests


def run(report: Report, folder: Path, seconds: float) -> None:
    files = clips(folder)
    with plain(folder) as client:
        expected = report.check("the plain service", lambda: texts(client, files))
    with cluster(folder) as ray:

        def start() -> dict[str, float]:
            ray.deploy(num_replicas=2)
            return ray.wait_for(2)

        def same() -> int:
            found = texts(ray.front, files)
            assert found == expected, (found, expected)
            return len(found)

        report.check("two replicas run", start)
        report.check("all texts are those of the plain service", same)
        report.check("a replica is killed under load", lambda: killed(ray, files, expected, seconds))
        report.check("metrics are in Ray's exporter", lambda: exported(ray))
        report.check("a replica is retired under load", lambda: retired(ray, files, expected, seconds))
        report.check("load makes it two again", lambda: scaled(ray, files, expected))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docker.ray_trial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=10, help="of load around a kill (default: 10)")
    parser.add_argument("--output", type=Path, help="JSON to write (default: none)")
    options = parser.parse_args(argv)
    if not (BIN / "ray").exists():
        print(f"no {BIN / 'ray'}: pip install '.[service,ray,loadtests]'", file=sys.stderr)
        return 2
    report = Report()
    with tempfile.TemporaryDirectory(prefix="mla-asr-ray-", ignore_cleanup_errors=True) as folder:
        report.check("no part failed to start or stop", lambda: run(report, Path(folder), options.seconds))
    if options.output:
        given = sys.argv[1:] if argv is None else argv
        report.write(options.output, ["python", "-m", "docker.ray_trial", *given], VERSIONS, NOTE)
    print("all held" if report.held else "something did not hold", flush=True)
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
