"""Ray Serve on this machine, by the commands and the configuration that are for a cluster: for `docker.ray_trial`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docker import stack
from docker.client import WAIT_S, Client
from docker.report import ROOT

CONFIG = ROOT / "docker" / "ray" / "serve.yaml"
PROXY = "service.ray_proxy.middleware"
BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """A Ray node of our own, with the service on it."""

    folder: Path
    token: str
    front: Client
    dashboard: str
    metrics: str
    env: dict[str, str]

    def deploy(self, **how_many: Any) -> None:
        """Deploy the committed configuration, with what is different on one small machine."""
        config = yaml.safe_load(CONFIG.read_text())
        config["http_options"] = {"host": "127.0.0.1", "port": int(self.front.url.rpartition(":")[2])}
        settings = {"DEVICE": "cpu", "THREADS": 1, "STREAM_MEMORY": "256MiB", "DECODE_WORKERS": 1}
        (one,) = config["applications"]
        one["runtime_env"]["env_vars"] = {f"MLA_ASR_{name}": str(value) for name, value in settings.items()}
        (deployment,) = one["deployments"]
        del deployment["autoscaling_config"]
        deployment |= {"ray_actor_options": {"num_cpus": 1}} | how_many
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [str(BIN / "serve"), "deploy", "--address", self.dashboard, str(path)]
        subprocess.run(command, env=self.env, check=True, capture_output=True, timeout=WAIT_S)

    def replicas(self) -> list[dict[str, Any]]:
        """What Serve says of those that run, or will, or are to go."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/serve/applications/", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            deployments = json.load(answer)["applications"]["asr"]["deployments"]
        return list(deployments["asr"]["replicas"]) if deployments else []

    def wait_for(self, count: int, without: str = "") -> dict[str, float]:
        """Wait until just so many replicas are there, and run, none of them called `without`; how long that took."""
        started = time.monotonic()
        while True:
            found = {one["replica_id"]: one["state"] for one in self.replicas()}
            waited_s = time.monotonic() - started
            if list(found.values()) == ["RUNNING"] * count and without not in found:
                return {f"seconds until {count} run": round(waited_s, 1)}
            assert waited_s < WAIT_S, f"not {count} that run: {found}"
            time.sleep(0.2)

    def exported(self, name: str, label: str) -> dict[str, float]:
        """The metric in Ray's exporter, summed by a label."""
        with urllib.request.urlopen(self.metrics, timeout=WAIT_S) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line.startswith(f"{name}{{"):
                value = line.partition(f'{label}="')[2].partition('"')[0]
                found[value] = found.get(value, 0.0) + float(line.rpartition(" ")[2])
        return found

    def lost(self) -> dict[str, float]:
        """How many requests, and streams, had their replica die."""
        return self.exported("ray_asr_replica_lost_total", "kind")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A node of Ray of our own, which hears nobody without its token, and reports to nobody."""
    head, dashboard, agent, metrics, front = stack.free_ports(5)
    token = secrets.token_hex(32)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PROXY,
        "OMP_NUM_THREADS": "1",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += [f"--port={head}", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
    command += [f"--temp-dir={folder / 'ray'}", f"--object-store-memory={100 * 2**20}"]
    log = folder / "ray.log"
    with stack.running(command, log, cwd=ROOT, env=env) as process:
        url = f"http://127.0.0.1:{dashboard}"
        stack.wait_for(f"{url}/api/gcs_healthz", process, log)
        served = Client(f"http://127.0.0.1:{front}", key="none")
        yield Cluster(folder, token, served, url, f"http://127.0.0.1:{metrics}/metrics", env)
