"""The deployment without containers: two services behind nginx, Prometheus, Alertmanager, Locust, every panel's query.

    python -m docker.smoke --seconds 60 --output results/smoke.json

The same configuration files as in containers, see `docker.stack`. Writes what held as JSON; exit status 1 where
anything did not. Needs Debian's prometheus, prometheus-alertmanager and nginx (make tools), and the extra loadtests.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import stack
from docker.client import Client
from docker.report import ROOT, Report

PROGRAMS = ("prometheus", "prometheus-alertmanager", "nginx")
VERSIONS = {program: [program, "-v" if program == "nginx" else "--version"] for program in PROGRAMS}
NOTE = "Plain processes with the configuration of docker/, on this machine alone; no images, no Grafana."
MODELS = ("mha", "mla")
MAX_REQUESTS = 16  # small, so that a burst is refused
BURST = 8 * MAX_REQUESTS
POSTS_WHILE_DRAINING = 40


@dataclass
class Instance:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Everything:
    """What runs."""

    instances: list[Instance]
    front: Client
    prometheus: str
    alertmanager: str


@contextmanager
def everything(folder: Path) -> Iterator[Everything]:
    """Start it all, and stop it afterwards."""
    key = secrets.token_hex(32)
    (folder / "api_keys").write_text(f"smoke:{key}\n")
    with ExitStack() as stop:
        instances = [stop.enter_context(service(folder, port)) for port in stack.free_ports(2)]
        for instance in instances:
            stack.wait_for(f"{instance.url}/health/ready", instance.process, instance.log)
        ports = [instance.port for instance in instances]
        alerts = stop.enter_context(stack.alertmanager(folder))
        prometheus = stop.enter_context(stack.prometheus(folder, ports, alerts))
        front = stop.enter_context(stack.nginx(folder, ports))
        yield Everything(instances, Client(front, key), prometheus, f"http://127.0.0.1:{alerts}")


@contextmanager
def service(folder: Path, port: int) -> Iterator[Instance]:
    """One process of the service, with the settings of docker-compose.yml."""
    spool, log = folder / f"spool-{port}", folder / f"service-{port}.log"
    spool.mkdir()
    settings = {
        "PORT": port,
        "SPOOL_DIR": spool,
        "DEVICE": "cpu",
        "STREAM_MEMORY": "256MiB",
        "MAX_REQUESTS": MAX_REQUESTS,
        "API_KEYS_FILE": folder / "api_keys",
        "OPEN_METRICS": "true",
        "LOG_FORMAT": "json",
    }
    environment = {"OMP_NUM_THREADS": "1", **os.environ} | {
        f"MLA_ASR_{k}": str(v) for k, v in settings.items()
    }
    with stack.running([sys.executable, "-m", "service"], log, cwd=ROOT, env=environment) as process:
        yield Instance(process, port, log)


def transcripts(front: Client) -> dict[str, str]:
    """Both models, all three ways in, through nginx; offline texts are the same by both routes."""
    texts = {
        f"{model} {way.__name__}": way(model) for model in MODELS for way in (front.text, front.sends_events)
    }
    for model in MODELS:
        assert texts[f"{model} text"].lower() == texts[f"{model} sends_events"].lower(), texts
    return texts | {f"{model} streams": front.streams(model) for model in MODELS}


def shared(prometheus: str) -> dict[str, float]:
    """Both instances have had requests."""
    query = 'sum by (instance) (asr_requests_total{outcome="ok"})'
    found = stack.ask(prometheus, "query", query=query)["result"]
    counts = {one["metric"]["instance"]: float(one["value"][1]) for one in found}
    assert len(counts) == 2 and min(counts.values()) > 0, counts
    return counts


def burst(instance: Client) -> dict[str, int]:
    """More at once than one instance takes: some are refused with 429, none fails otherwise."""
    with ThreadPoolExecutor(BURST) as clients:
        statuses = Counter(
            str(status) for status, _ in clients.map(instance.transcribe, MODELS * (BURST // 2))
        )
    assert set(statuses) == {"200", "429"}, statuses
    return dict(statuses)


def locust(front: Client, folder: Path, seconds: int, users: int) -> list[dict[str, Any]]:
    """Locust's users, through nginx, without a failure."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "--locustfile",
        "loadtests/locustfile.py",
        "--headless",
        "--only-summary",
    ]
    command += [
        "--host",
        front.url,
        "--users",
        str(users),
        "--spawn-rate",
        str(users),
        "--run-time",
        f"{seconds}s",
    ]
    command += ["--long-s", "20", "--stop-timeout", "60", "--json-file", str(folder / "locust")]
    log, environment = folder / "locust.log", os.environ | {"MLA_ASR_KEY": front.key}
    with log.open("wb") as file:
        done = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=file, env=environment, timeout=seconds + 180, check=False
        )
    assert done.returncode == 0, log.read_text()[-2000:]
    entries = json.loads((folder / "locust.json").read_text())
    assert sum(entry["num_requests"] for entry in entries) > 0, entries
    kept = ("method", "name", "num_requests", "num_failures", "max_response_time")
    return [{name: entry[name] for name in kept} for entry in entries]


def panels(prometheus: str) -> dict[str, int]:
    """Every panel's every query has data, those of GPUs excepted."""
    missing = stack.without_data(prometheus)
    assert missing == [], missing
    asked = [stack.needs_gpu(board, panel) for board, panel, _ in stack.expressions()]
    return {"queries": len(asked), "without data as there is no GPU": sum(asked)}


def rules(prometheus: str) -> int:
    """Every rule is evaluated without an error."""
    found = [rule for group in stack.ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    bad = [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"]
    assert found and not bad, bad
    return len(found)


def alerting(everything: Everything) -> list[str]:
    """Prometheus has found its Alertmanager."""
    found = stack.ask(everything.prometheus, "alertmanagers")["activeAlertmanagers"]
    assert [one["url"] for one in found] == [f"{everything.alertmanager}/api/v2/alerts"], found
    return sorted(
        {alert["labels"]["alertname"] for alert in stack.ask(everything.prometheus, "alerts")["alerts"]}
    )


def upgrade(everything: Everything) -> dict[str, Any]:
    """One instance is told to stop while clients send: nginx gives their requests to the other, and none is lost."""
    going = everything.instances[0]
    with ThreadPoolExecutor(2) as clients:
        answers = [
            clients.submit(everything.front.transcribe, MODELS[n % 2]) for n in range(POSTS_WHILE_DRAINING)
        ]
        time.sleep(0.5)
        going.process.send_signal(signal.SIGTERM)
        statuses = Counter(str(answer.result()[0]) for answer in answers)
    exit_status = going.process.wait(60)
    assert set(statuses) == {"200"} and exit_status == 0, (statuses, exit_status)
    return {"statuses": dict(statuses), "exit_status": exit_status}


def run(report: Report, folder: Path, seconds: int, users: int) -> None:
    started = time.monotonic()
    with everything(folder) as all_of_it:
        front, prometheus = all_of_it.front, all_of_it.prometheus
        report.check("all is up", lambda: {"seconds": round(time.monotonic() - started, 1)})
        report.check(
            "both models transcribe, stream and send events through nginx", lambda: transcripts(front)
        )
        report.check("a key is needed", front.wants_a_key)
        report.check("an unknown model is told", front.knows_its_models)
        report.check("too large an upload is refused by nginx as the service would", front.refuses_too_much)
        report.check("nginx keeps /metrics to itself", front.hides_its_metrics)
        report.check("a burst is refused", lambda: burst(Client(all_of_it.instances[0].url, front.key)))
        report.check("Locust", lambda: locust(front, folder, seconds, users))
        report.check("both models transcribe after it", lambda: transcripts(front))
        time.sleep(2 * stack.SCRAPE_S)
        report.check("both instances have had requests", lambda: shared(prometheus))
        report.check("every panel has data", lambda: panels(prometheus))
        report.check("every rule is evaluated", lambda: rules(prometheus))
        report.check("Prometheus has its Alertmanager", lambda: alerting(all_of_it))
        report.check("an instance drains, and no request is lost", lambda: upgrade(all_of_it))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docker.smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=int, default=60, help="how long Locust loads it (default: 60)")
    parser.add_argument("--users", type=int, default=6, help="Locust's users (default: 6)")
    parser.add_argument("--output", type=Path, help="JSON to write (default: none)")
    options = parser.parse_args(argv)
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        print(f"missing: {', '.join(missing)}; make tools installs them", file=sys.stderr)
        return 2
    report = Report()
    with tempfile.TemporaryDirectory(prefix="mla-asr-smoke-") as folder:
        report.check(
            "no part failed to start or stop",
            lambda: run(report, Path(folder), options.seconds, options.users),
        )
    if options.output:
        given = sys.argv[1:] if argv is None else argv
        report.write(options.output, ["python", "-m", "docker.smoke", *given], VERSIONS, NOTE)
    print("all held" if report.held else "something did not hold", flush=True)
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
