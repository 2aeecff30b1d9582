"""The parts of docker-compose.yml as plain processes on this machine, with the same configuration files.

What differs: Compose's names become addresses, and intervals are short. Needs Debian's prometheus,
prometheus-alertmanager and nginx.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PANELS = HERE / "grafana" / "dashboards"
SCRAPE_S = 1
STOP_S = 30.0
# Dashboards' panels that have no data without a GPU: all of the first, one of the second.
GPU_BOARD = "gpu"
GPU_PANELS = {("compare", "Device memory of the process")}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends; what it says goes to `log`."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, within_s: float = 120.0) -> None:
    """Wait until `url` answers 200. Raises RuntimeError, with the end of the log, where it does not."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer; {log.name} ends with:\n{log.read_text()[-2000:]}")


def nginx_limits() -> dict[str, str]:
    """The service's limits that Compose gives nginx, as they are when the environment names none."""
    environment = yaml.safe_load((HERE.parent / "docker-compose.yml").read_text())["services"]["nginx"][
        "environment"
    ]
    found = {name: re.fullmatch(rf"\$\{{{name}:-(\d+)\}}", str(value)) for name, value in environment.items()}
    return {name: match[1] for name, match in found.items() if match}


def nginx_config(
    folder: Path, port: int, services: Sequence[int], limits: Mapping[str, int] | None = None
) -> str:
    """The committed configuration, with ports of this machine in place of names, and files in `folder`.

    `limits` are settings of the service by their variables' names, where they are not the defaults.

    `resolve` and `resolver` go with the names: Debian's nginx has them only from version 1.27.3 on.
    """
    text = (HERE / "nginx" / "nginx.conf.template").read_text()
    servers = " ".join(f"server 127.0.0.1:{service} max_fails=0;" for service in services)
    values = nginx_limits() | {name: str(value) for name, value in (limits or {}).items()}
    changes = {
        **{rf"\$\{{{name}\}}": value for name, value in values.items()},
        r"resolver(_timeout)? [^;]*;": "",
        r"server asr:8000 resolve max_fails=0;": servers,
        r"listen 8080;": f"listen 127.0.0.1:{port};",
        r"worker_processes auto;": "worker_processes 1;",
        r"/tmp/|/var/cache/nginx/": f"{folder}/",
        r"/dev/(stdout|stderr)": f"{folder}/nginx-\\1.log",
    }
    for found, instead in changes.items():
        text, count = re.subn(found, instead, text)
        if not count:
            raise ValueError(f"nginx.conf.template has no {found!r}")
    return text


def prometheus_config(
    services: Sequence[int], own_port: int, alertmanager_port: int | None = None
) -> dict[str, Any]:
    """The committed configuration for services on these ports; what does not run here is left out."""
    config: dict[str, Any] = yaml.safe_load((HERE / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config["rule_files"] = [str(HERE / "prometheus" / name) for name in config["rule_files"]]
    ports = {"asr": list(services), "prometheus": [own_port]}
    if alertmanager_port:
        ports["alertmanager"] = [alertmanager_port]
    jobs = []
    for job in config["scrape_configs"]:
        if named := ports.get(job["job_name"]):
            kept = {key: value for key, value in job.items() if not key.endswith("_configs")}
            jobs.append(kept | static(named))
    config["scrape_configs"] = jobs
    config["alerting"] = {"alertmanagers": [static([alertmanager_port])]} if alertmanager_port else {}
    return config


def static(ports: Sequence[int]) -> dict[str, Any]:
    return {"static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}


@contextmanager
def prometheus(folder: Path, services: Sequence[int], alertmanager_port: int | None = None) -> Iterator[str]:
    """Prometheus, scraping services on these ports; yields its address."""
    (port,) = free_ports(1)
    path, log = folder / "prometheus.yml", folder / "prometheus.log"
    path.write_text(yaml.safe_dump(prometheus_config(services, port, alertmanager_port)))
    command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], log) as process:
        wait_for(f"http://127.0.0.1:{port}/-/ready", process, log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def alertmanager(folder: Path) -> Iterator[int]:
    """Alertmanager with the committed configuration; yields its port."""
    (port,) = free_ports(1)
    log = folder / "alertmanager.log"
    command = ["prometheus-alertmanager", f"--config.file={HERE / 'alertmanager' / 'alertmanager.yml'}"]
    command += [f"--storage.path={folder / 'alerts'}", "--cluster.listen-address=", "--log.level=warn"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], log) as process:
        wait_for(f"http://127.0.0.1:{port}/-/ready", process, log)
        yield port


@contextmanager
def nginx(folder: Path, services: Sequence[int], **options: Any) -> Iterator[str]:
    """nginx in front of services on these ports; yields its address."""
    (port,) = free_ports(1)
    path, log = folder / "nginx.conf", folder / "nginx.log"
    path.write_text(nginx_config(folder, port, services, **options))
    user = (
        "" if os.geteuid() else "user root;"
    )  # else its workers would be nobody, to whom the folder is closed
    command = ["nginx", "-c", str(path), "-p", str(folder), "-e", str(log), "-g", f"daemon off;{user}"]
    with running(command, log) as process:
        wait_for(f"http://127.0.0.1:{port}/nginx-health", process, log)
        yield f"http://127.0.0.1:{port}"


def ask(prometheus_url: str, path: str, **parameters: str) -> Any:
    """The data that Prometheus' API gives. Raises ValueError with what it says is wrong."""
    url = f"{prometheus_url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from None


def expressions(folder: Path = PANELS) -> Iterator[tuple[str, str, str]]:
    """Every panel's every query: dashboard, panel, expression as Prometheus takes it."""
    values: Mapping[str, str] = {"$__rate_interval": "1m", "$model": ".*", "$instance": ".*"}
    for path in sorted(folder.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"]
                for name, value in values.items():
                    expression = expression.replace(name, value)
                yield path.stem, panel["title"], expression


def needs_gpu(board: str, panel: str) -> bool:
    """Whether a panel has no data on a machine without a GPU."""
    return board == GPU_BOARD or (board, panel) in GPU_PANELS


def without_data(prometheus_url: str, *, gpu: bool = False) -> list[tuple[str, str, str]]:
    """The queries of panels that Prometheus answers with nothing, or with no number; with `gpu` those of GPUs too."""
    return [
        (board, panel, expression)
        for board, panel, expression in expressions()
        if (gpu or not needs_gpu(board, panel)) and not has_data(prometheus_url, expression)
    ]


def has_data(prometheus_url: str, expression: str) -> bool:
    result = ask(prometheus_url, "query", query=expression)["result"]
    return any(not math.isnan(float(series["value"][1])) for series in result)
