"""docker-compose.yml, .env.example and nginx: what they name exists in the code."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from docker import stack
from service import app, metrics
from service.settings import Settings
from tests.docker.conftest import ROOT, needs
from tests.docker.files import (
    CLIENTS_KEY,
    COMPOSE,
    DOCKER,
    DOCKERFILES,
    FILES,
    NGINX,
    OURS,
    PROFILES,
    SERVICES,
    SET_ELSEWHERE,
    defaults,
    routes,
    seconds,
)


def test_compose_accepts_the_file() -> None:
    needs("docker-compose")
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    command = ["docker-compose", "--env-file", ".env.example", *profiles, "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_publishes_each_port_once(profile: str) -> None:
    running = [one for one in SERVICES.values() if profile in one.get("profiles", [profile])]
    ports = [port for service in running for port in service.get("ports", [])]
    assert len(set(ports)) == len(ports) >= 3
    served = [one for one in running if "PORT:-8000" in str(one.get("ports"))]
    assert len(served) == (profile != "load")


def test_every_profile_is_used_and_described() -> None:
    assert {name for service in SERVICES.values() for name in service.get("profiles", [])} == set(PROFILES)
    head = (ROOT / "docker-compose.yml").read_text().split("x-hardened")[0]
    assert set(re.findall(r"profile (\w+)", head)) == set(PROFILES)


@pytest.mark.parametrize("name", SERVICES)
def test_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "dcgm-exporter")
    assert service["pids_limit"]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert not service.get("privileged")
    assert service.get("cap_add", []) == (["SYS_ADMIN"] if name == "dcgm-exporter" else [])


@pytest.mark.parametrize("name", SERVICES)
def test_has_a_health_check(name: str) -> None:
    built = "build" in SERVICES[name]  # then it stands in the Dockerfile
    assert built or "healthcheck" in SERVICES[name] or name == "dcgm-exporter"


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_a_version(name: str) -> None:
    if "build" not in SERVICES[name]:
        assert re.search(r":v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_are_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, _ = volume.partition(":")
        assert not source.startswith("./") or (ROOT / source).exists()
        assert source.startswith((".", "/")) or source in COMPOSE["volumes"]
    assert set(SERVICES[name].get("secrets", [])) <= set(COMPOSE["secrets"])


def test_secrets_are_files_outside_the_repository() -> None:
    for secret in COMPOSE["secrets"].values():
        assert "docker/secrets/" in secret["file"]
    assert (DOCKER / "secrets" / ".gitignore").read_text().split() == ["*", "!.gitignore"]


def test_only_the_service_can_be_reached_from_other_machines() -> None:
    published = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    open_to_all = {name for name, port in published.items() if not port.startswith("127.0.0.1:")}
    assert open_to_all == {"service-cpu", "service-gpu", "nginx"}
    assert {published[name].partition("}")[0] for name in open_to_all} == {"${BIND:-127.0.0.1"}


# Settings, routes, times


@pytest.mark.parametrize("name", OURS)
def test_the_service_gets_every_setting(name: str) -> None:
    given = {variable.removeprefix("MLA_ASR_").lower() for variable in OURS[name]["environment"]}
    missing = set(Settings.model_fields) - SET_ELSEWHERE - given
    lines = "".join(f"\n    MLA_ASR_{setting.upper()}:" for setting in sorted(missing))
    assert not missing, f"add to the environment of x-service in docker-compose.yml:{lines}"
    assert given <= set(Settings.model_fields) - SET_ELSEWHERE


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_variables_are_settings(file: Path) -> None:
    named = set(re.findall(r"MLA_ASR_[A-Z_]*[A-Z]", file.read_text())) - {CLIENTS_KEY}
    unknown = {name for name in named if name.removeprefix("MLA_ASR_").lower() not in Settings.model_fields}
    assert unknown == set()


def test_the_clients_key_is_read_by_the_load_tests() -> None:
    assert CLIENTS_KEY in SERVICES["locust"]["environment"]
    assert any(CLIENTS_KEY in path.read_text() for path in (ROOT / "loadtests").glob("*.py"))


def test_the_example_environment_is_that_of_the_compose_file() -> None:
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^([A-Z_]+)=", example, flags=re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    passed = {name for name in OURS["service-cpu"]["environment"]}
    assert used - named == {"MLA_ASR_OPEN_METRICS"}
    assert named - used - passed == {"COMPOSE_PROFILES"}


def test_the_readme_writes_the_tag_and_the_revision_into_the_example(tmp_path: Path) -> None:
    (line,) = re.findall(r"^sed -i .*$", (DOCKER / "README.md").read_text(), flags=re.MULTILINE)
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    said = line.replace("$(git rev-parse --short HEAD)", "abc").replace("$(git rev-parse HEAD)", "abcdef")
    subprocess.run(said, shell=True, cwd=tmp_path, check=True)
    written = (tmp_path / ".env").read_text().splitlines()
    assert {"TAG=abc", "REVISION=abcdef"} <= set(written) and "$(" not in "".join(written)


def test_the_examples_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in re.findall(
        r"^(MLA_ASR_\w+)=(.*)$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE
    ):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.models == defaults("models")
    assert settings.max_upload_bytes == defaults("max_upload_bytes")
    assert settings.drain_timeout_s == defaults("drain_timeout_s")


def test_containers_have_time_to_drain() -> None:
    needed_s = defaults("drain_delay_s") + defaults("drain_timeout_s") + app.ENGINE_STOP_S
    for service in OURS.values():
        assert seconds(service["stop_grace_period"]) > needed_s
    nginx_s = seconds(re.findall(r"worker_shutdown_timeout (\w+);", NGINX)[0])
    assert needed_s < nginx_s < seconds(SERVICES["nginx"]["stop_grace_period"])
    described = (DOCKER / "README.md").read_text()
    assert f"{needed_s:g} s" in described


def test_nginx_has_the_services_limits() -> None:
    """From the variables that the service has them from, with the service's defaults."""
    limits = stack.nginx_limits()
    for name, value in limits.items():
        assert float(value) == defaults(name.removeprefix("MLA_ASR_").lower())
    assert set(re.findall(r"\$\{(\w+)\}", NGINX)) == set(limits)
    assert all(name.startswith(SERVICES["nginx"]["environment"]["NGINX_ENVSUBST_FILTER"]) for name in limits)
    for line in (
        "client_max_body_size ${MLA_ASR_MAX_UPLOAD_BYTES};",
        "client_body_timeout ${MLA_ASR_UPLOAD_IDLE_S}s;",
        "proxy_read_timeout ${MLA_ASR_MAX_TIMEOUT_S}s10000ms;",
        "proxy_read_timeout ${MLA_ASR_MAX_STREAM_S}s60000ms;",
    ):
        assert line in NGINX


def test_nginx_names_routes_that_are_there() -> None:
    ours = set(re.findall(r"location = (/\S+)", NGINX)) - {"/nginx-health"}
    assert ours == {"/key", "/stream", "/metrics"}
    assert ours <= routes()
    (pattern,) = re.findall(r"location ~ (\S+) {", NGINX)
    assert {path for path in routes() if re.search(pattern, path)} == routes("POST") != set()


def test_urls_of_health_and_metrics_are_there() -> None:
    files = [*DOCKERFILES, DOCKER / "healthcheck.py", DOCKER / "prometheus" / "prometheus.yml"]
    named = {url for file in files for url in re.findall(r"/(?:health/\w+|metrics\b)", file.read_text())}
    assert {"/health/ready", "/health/live", "/metrics"} == named
    assert named <= routes()


def test_the_metrics_know_every_route_and_outcome_and_codes_that_are_there() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    assert set(metrics.ROUTES) <= routes()
    assert set(re.findall(r'outcome = "(\w+)"', sources)) <= set(metrics.OUTCOMES)
    codes = set(re.findall(r'(?:code = |code=|NO_SPACE = )"(\w+)"', sources))
    assert {*metrics.REASONS, *metrics.FAILURES} <= codes
    called = set(re.findall(r"metrics\.request\((\S+)\)", sources))
    assert called == {'"/transcribe"', "ROUTE"}
