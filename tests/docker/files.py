"""The deployment's files, as the tests read them."""

from typing import Any

import yaml

import service.routes
from service import openai_routes, stream_routes
from service.settings import Settings
from tests.docker.conftest import ROOT

DOCKER = ROOT / "docker"
PROFILES = ("cpu", "gpu", "scale", "load")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name.startswith("service-")}
FILES = [ROOT / "docker-compose.yml", ROOT / ".env.example", *sorted(DOCKER.glob("*.*"))]
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
NGINX = (DOCKER / "nginx" / "nginx.conf.template").read_text()
SET_ELSEWHERE = {"host", "port", "spool_dir", "api_keys"}  # by the Dockerfile; keys come as a file
CLIENTS_KEY = "MLA_ASR_KEY"


def defaults(name: str) -> Any:
    return Settings.model_fields[name].default


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def routes(method: str = "") -> set[str]:
    """The service's paths, or those that take this method."""
    parts = (service.routes, openai_routes, stream_routes)
    found = [route for part in parts for route in part.router.routes]
    return {
        getattr(route, "path", "") for route in found if not method or method in getattr(route, "methods", ())
    }
