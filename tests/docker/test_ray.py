"""The configuration for Ray Serve, and the trial of it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from docker import ray_cluster, ray_trial
from service import ray_app
from service.settings import Settings
from tests.docker.conftest import ROOT


def test_serve_takes_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    given = yaml.safe_load(ray_cluster.CONFIG.read_text())
    (application,) = ServeDeploySchema.model_validate(given).applications
    module, _, name = application.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is ray_app.app
    (deployment,) = application.deployments
    assert deployment.name == ray_app.deployment.name
    assert set(given["applications"][0]["deployments"][0]) <= {
        "name",
        "ray_actor_options",
        "autoscaling_config",
    }
    for variable, value in application.runtime_env["env_vars"].items():
        assert variable.removeprefix("MLA_ASR_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, value)
    Settings()


def test_what_stands_before_the_proxy_is_there() -> None:
    module, _, name = ray_cluster.PROXY.rpartition(".")
    (made,) = getattr(importlib.import_module(module), name)()
    assert callable(made.cls)


def test_the_proxies_do_without_torch() -> None:
    code = "import sys, service.ray_proxy; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docker.ray_trial", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m docker.ray_trial" in done.stdout and "--output" in done.stdout


@pytest.mark.slow
def test_trial(tmp_path: Path) -> None:
    assert ray_trial.main(["--seconds", "6", "--output", str(tmp_path / "ray.json")]) == 0
    checks = {check["check"]: check for check in json.loads((tmp_path / "ray.json").read_text())["checks"]}
    killed = checks["a replica is killed under load"]["found"]
    assert killed["statuses"] == {"200": killed["requests"]}
