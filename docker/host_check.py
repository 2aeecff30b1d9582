"""The whole deployment in containers on this host: build, start, use, watch, upgrade, stop. **Not yet run.**

    python -m docker.host_check --profile gpu --output results/host-check.json

In a Compose project of its own, with its own volumes and secrets, which it removes. Profiles gpu and scale need
NVIDIA's driver and container toolkit. Exit status 1 where anything did not hold. Nobody has run it yet: until there is
a result of it under results/, what it checks is unknown.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from docker import stack
from docker.client import Client
from docker.report import ROOT, Report
from docker.smoke import MAX_REQUESTS, MODELS, burst, rules, transcripts

PORTS = {"PORT": 18000, "PROMETHEUS_PORT": 19090, "ALERTMANAGER_PORT": 19093, "GRAFANA_PORT": 13000}
TRAFFIC_S = 90.0  # six scrapes
JOBS = {"asr", "prometheus", "alertmanager", "grafana"}
VERSIONS = {
    "docker": ["docker", "--version"],
    "compose": ["docker", "compose", "version"],
    "gpu": ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
}


class Host:
    """One Compose project: its environment, and what is asked of it."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.profile, self.gpu = profile, profile != "cpu"
        self.key, self.password = secrets.token_hex(32), secrets.token_hex(16)
        self._secret(folder / "api_keys", f"check:{self.key}\n")
        self._secret(folder / "password", self.password)
        self.environment: Mapping[str, str] = {
            **os.environ,
            **{name: str(port) for name, port in PORTS.items()},
            "COMPOSE_PROJECT_NAME": "mla-asr-check",
            "COMPOSE_PROFILES": profile,
            "TAG": "check",
            "API_KEYS_FILE": str(folder / "api_keys"),
            "GRAFANA_ADMIN_PASSWORD_FILE": str(folder / "password"),
            "MLA_ASR_MAX_REQUESTS": str(MAX_REQUESTS),
        }
        self.client = Client(f"http://127.0.0.1:{PORTS['PORT']}", self.key)
        self.prometheus = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}"

    def _secret(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o644)  # in a folder that is closed to others

    def compose(self, *words: str) -> str:
        """Run docker compose. Raises RuntimeError with what it says where it fails."""
        command = ["docker", "compose", "--env-file", "/dev/null", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout

    def inspect(self, names: Sequence[str]) -> list[dict[str, Any]]:
        done = subprocess.run(["docker", "inspect", *names], capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def containers(self) -> dict[str, str]:
        """Each is running and not unhealthy; its state by its name."""
        found = self.inspect(self.compose("ps", "--quiet").split())
        states = {
            one["Name"]: one["State"].get("Health", {}).get("Status", one["State"]["Status"]) for one in found
        }
        assert states and set(states.values()) <= {"healthy", "running"}, states
        return states

    def hardened(self) -> None:
        """What the file says of rights has reached the containers."""
        for one in self.inspect(self.compose("ps", "--quiet").split()):
            if "dcgm" in one["Name"]:
                continue
            assert one["HostConfig"]["ReadonlyRootfs"] and one["HostConfig"]["CapDrop"] == ["ALL"], one[
                "Name"
            ]
            assert one["Config"]["User"] not in ("", "0", "root"), (one["Name"], one["Config"]["User"])

    def targets(self) -> dict[str, int]:
        """Prometheus has found every job by itself, and all of them answer."""
        found = stack.ask(self.prometheus, "query", query="up")["result"]
        up = Counter(one["metric"]["job"] for one in found if one["value"][1] == "1")
        assert set(up) == JOBS | ({"dcgm"} if self.gpu else set()), up
        assert up["asr"] == (2 if self.profile == "scale" else 1), up
        return dict(up)

    def traffic(self) -> int:
        """Rounds of clips and streams of both models."""
        ends, rounds = time.monotonic() + TRAFFIC_S, 0
        while time.monotonic() < ends:
            transcripts(self.client)
            rounds += 1
        return rounds

    def panels(self) -> int:
        """Every panel's every query has data; those of GPUs too where there is one."""
        missing = stack.without_data(self.prometheus, gpu=self.gpu)
        assert missing == [], missing
        return len(list(stack.expressions()))

    def dashboards(self) -> list[str]:
        """Grafana has the dashboards and reaches Prometheus."""
        found = self.grafana("search?tag=mla-asr")
        names = sorted(one["uid"] for one in found)
        assert names == ["mla-asr-compare", "mla-asr-gpu", "mla-asr-service"], names
        health = self.grafana("datasources/uid/prometheus/health")
        assert health["status"] == "OK", health
        return names

    def grafana(self, path: str) -> Any:
        login = base64.b64encode(f"admin:{self.password}".encode()).decode()
        url = f"http://127.0.0.1:{PORTS['GRAFANA_PORT']}/api/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def upgrade(self) -> dict[str, int]:
        """Instances are replaced one after the other while clients send: no request is lost behind nginx."""
        answers: list[str] = []
        stop = threading.Event()

        def send(model: str) -> None:
            while not stop.is_set():
                answers.append(str(self.client.transcribe(model)[0]))

        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(send, MODELS[n % 2]) for n in range(4)]
            try:
                for name in ("service-gpu-0", "service-gpu-1"):
                    self.compose("up", "--detach", "--wait", "--no-deps", "--force-recreate", name)
            finally:
                stop.set()
        for client in clients:
            client.result()
        statuses = Counter(answers)
        assert set(statuses) == {"200"}, statuses
        return dict(statuses)


def run(report: Report, host: Host) -> None:
    report.check("the images are built", lambda: len(host.compose("build")))
    try:
        report.check("everything starts", lambda: host.compose("up", "--detach", "--wait"))
        report.check("containers are healthy", host.containers)
        report.check("containers have no more rights than they need", host.hardened)
        report.check("a key is needed", host.client.wants_a_key)
        report.check("an unknown model is told", host.client.knows_its_models)
        report.check("too large an upload is refused", host.client.refuses_too_much)
        report.check("both models transcribe, stream and send events", lambda: transcripts(host.client))
        report.check("a burst is refused", lambda: burst(host.client))
        report.check("traffic", host.traffic)
        report.check("Prometheus has its targets", host.targets)
        report.check("every panel has data", host.panels)
        report.check("every rule is evaluated", lambda: rules(host.prometheus))
        report.check("Grafana has its dashboards", host.dashboards)
        if host.profile == "scale":
            report.check("nginx keeps /metrics to itself", host.client.hides_its_metrics)
            report.check("instances are upgraded, and no request is lost", host.upgrade)
    finally:
        report.check("everything stops", lambda: host.compose("down", "--volumes"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docker.host_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", choices=("cpu", "gpu", "scale"), default="gpu", help="default: gpu")
    parser.add_argument("--output", type=Path, help="JSON to write (default: none)")
    options = parser.parse_args(argv)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="mla-asr-check-") as folder:
        host = Host(Path(folder), options.profile)
        report.check("no part failed", lambda: run(report, host))
    if options.output:
        given = sys.argv[1:] if argv is None else argv
        note = f"Containers, profile {options.profile}."
        report.write(options.output, ["python", "-m", "docker.host_check", *given], VERSIONS, note)
    print("all held" if report.held else "something did not hold", flush=True)
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
