"""The commands that try the deployment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from docker import host_check, smoke, stack
from docker.report import Report
from tests.docker.conftest import ROOT, needs
from tests.docker.files import SERVICES


def test_a_report_keeps_what_failed(tmp_path: Path) -> None:
    report = Report()
    report.check("good", lambda: 3)
    report.check("bad", lambda: 1 / 0)
    report.write(
        tmp_path / "report.json", ["x"], {"python": [sys.executable, "--version"], "none": ["no-program"]}, ""
    )
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["held"] is False
    assert [(one["check"], one["held"]) for one in written["checks"]] == [("good", True), ("bad", False)]
    assert "ZeroDivisionError" in written["checks"][1]["found"]
    assert written["versions"]["python"].startswith("Python 3") and written["versions"]["none"] == ""


@pytest.mark.parametrize("module", ["docker.smoke", "docker.host_check"])
def test_help(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"python -m {module}" in done.stdout and "--output" in done.stdout


def test_the_host_check_sets_what_the_compose_file_reads(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    host = host_check.Host(tmp_path, "cpu")
    ours = {name for name in host.environment if name.endswith(("_PORT", "_FILE")) and name in text}
    assert {*host_check.PORTS} - {"PORT"} <= ours
    assert {"API_KEYS_FILE", "GRAFANA_ADMIN_PASSWORD_FILE"} <= ours
    assert {"service-gpu-0", "service-gpu-1"} <= set(SERVICES)


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    for program in smoke.PROGRAMS:
        needs(program)
    assert smoke.main(["--seconds", "15", "--output", str(tmp_path / "smoke.json")]) == 0
    checks = json.loads((tmp_path / "smoke.json").read_text())["checks"]
    (panels,) = [check["found"] for check in checks if check["check"] == "every panel has data"]
    assert panels["queries"] == len(list(stack.expressions()))
