"""Prometheus, its rules, Alertmanager and Grafana: what their files name exists, and their own tools accept it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker import stack
from docker.grafana import dashboards
from service import metrics
from service.metrics import Metrics
from tests.docker.conftest import ROOT, needs
from tests.docker.files import DOCKER, OURS, SERVICES, defaults


def test_targets_are_names_of_the_compose_network() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    names = {alias for service in OURS.values() for alias in service["networks"]["default"]["aliases"]} | set(
        SERVICES
    )
    jobs = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    static = [target for job in jobs for one in job.get("static_configs", []) for target in one["targets"]]
    looked_up = [name for job in jobs for one in job.get("dns_sd_configs", []) for name in one["names"]]
    assert {target.partition(":")[0] for target in static} - {"localhost"} <= names
    assert {"asr", "dcgm-exporter"} == set(looked_up) <= names


@pytest.mark.parametrize(
    "command",
    [
        "promtool check config docker/prometheus/prometheus.yml",
        "promtool check rules docker/prometheus/rules/alerts.yml docker/prometheus/rules/recording.yml",
        "promtool test rules tests/docker/alerts.yml tests/docker/alerts_of_days.yml",
        "amtool check-config docker/alertmanager/alertmanager.yml",
    ],
)
def test_checked_by_their_own_tools(command: str) -> None:
    needs(command.split()[0])
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    files = sorted((DOCKER / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_its_section_in_the_runbook_and_its_test() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    sections = re.findall(r"^## (\w+)$", (DOCKER / "RUNBOOK.md").read_text(), flags=re.MULTILINE)
    assert list(alerts) == sections
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"docker/RUNBOOK.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
    files = sorted(Path(__file__).parent.glob("alerts*.yml"))
    tests = [test for file in files for test in yaml.safe_load(file.read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(alerts)


def test_thresholds_are_within_the_services_limits() -> None:
    by_name = {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}
    assert float(by_name["QueueWait"].rpartition(" > ")[2]) < defaults("max_queue_s")


def test_rules_and_panels_name_metrics_that_are_there() -> None:
    exposed = Metrics({}).registry
    known = {name for names in exposed._collector_to_names.values() for name in names}
    known |= {f"asr_{name}" for name in metrics.GAUGES} | {"asr_model_state"}
    expressions = [expression for _, _, expression in stack.expressions()] + [
        rule["expr"] for rule in rules()
    ]
    named = {name for text in expressions for name in re.findall(r"(?<![:\w])asr_\w+", text)}
    assert len(named) > 30
    assert named - known == set()
    recorded = {name for text in expressions for name in re.findall(r"\b(?:job|model|lane):\w+:\w+", text)}
    assert recorded <= {rule["record"] for rule in rules() if "record" in rule}


def test_device_time_is_shown_of_a_model_with_clips_or_streams_alone(tmp_path: Path) -> None:
    needs("promtool")
    series = {
        'asr_inference_duration_seconds_sum{job="asr", instance="a", model="mha"}': 3,
        'asr_stream_step_duration_seconds_sum{job="asr", instance="a", model="mla", profile="fast"}': 6,
        'asr_audio_seconds_total{job="asr", instance="a", model="mha"}': 30,
        'asr_audio_seconds_total{job="asr", instance="a", model="mla"}': 30,
    }
    (shown,) = [
        text for _, panel, text in stack.expressions() if panel == "Device time for a second of audio"
    ]
    samples = [{"labels": '{model="mha"}', "value": 0.1}, {"labels": '{model="mla"}', "value": 0.2}]
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": f"0+{each}x40"} for name, each in series.items()],
        "promql_expr_test": [{"expr": shown, "eval_time": "5m", "exp_samples": samples}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [case]}))
    command = ["promtool", "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exporter_is_told_what_the_gpu_dashboard_shows() -> None:
    counters = (DOCKER / "dcgm" / "counters.csv").read_text()
    exported = set(re.findall(r"^(DCGM_\w+),", counters, flags=re.MULTILINE))
    shown = {name for _, _, text in stack.expressions() for name in re.findall(r"DCGM_\w+", text)}
    assert shown == exported


def test_the_dashboards_are_what_the_script_writes(tmp_path: Path) -> None:
    dashboards.main(tmp_path)
    for path in sorted(tmp_path.glob("*.json")):
        assert (stack.PANELS / path.name).read_text() == path.read_text(), "run make dashboards"


def test_every_panel_says_what_it_shows() -> None:
    boards = [json.loads(path.read_text()) for path in sorted(stack.PANELS.glob("*.json"))]
    assert len({board["uid"] for board in boards}) == len(boards) == 3
    for board in boards:
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
        assert len({panel["title"] for panel in panels}) == len(panels)
        spaces = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
        assert len(set(spaces)) == len(spaces)
        assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioned = DOCKER / "grafana" / "provisioning"
    source = yaml.safe_load((provisioned / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in SERVICES
    folder = yaml.safe_load((provisioned / "dashboards" / "files.yml").read_text())["providers"][0][
        "options"
    ]["path"]
    assert f"./docker/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{folder}/") and (stack.PANELS / Path(home).name).exists()
