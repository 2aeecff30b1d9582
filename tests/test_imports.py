"""Who may import whom. ARCHITECTURE.md draws the same arrows."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("asr", "docker", "offline", "service", "loadtests")
MAY_IMPORT = {
    "asr": {"asr"},
    "docker": {"docker"},
    "offline": {"asr", "offline"},
    "service": {"asr", "service"},
    "loadtests": {"loadtests"},
}
# A module of asr/ imports of asr/ only what stands on an earlier line.
ASR_LAYERS = [
    {
        "config",
        "framing",
        "blocks",
        "masks",
        "positions",
        "normalise",
        "ctc",
        "hot_words",
        "ngram",
        "precision",
    },
    {"audio", "cache", "search", "subtitles", "windows"},
    {"attention", "beam", "convolution"},
    {"mha", "mla"},
    {"encoder"},
    {"checkpoint", "stream"},
    {"transcriber"},
    {"__init__"},
    {"__main__"},
]
# What asr/ takes from outside: the core dependencies, and two extras, imported where they are used.
ASR_PACKAGES = {"av", "huggingface_hub", "numpy", "safetensors", "soundfile", "soxr", "torch", "tqdm"}
# Modules of service/ that know no model and no web framework, and what of the project they may import.
SERVICE_CORE: dict[str, set[str]] = {
    "batch_cost": set(),
    "batcher": {"batch_cost", "errors"},
    "errors": set(),
    "keys": {"errors"},
    "metrics": set(),
    "schemas": {"errors"},
    "settings": {"keys", "ngram", "spelling"},  # of asr/ only what reads word n-grams, without torch
    "spelling": set(),
}
# How a model is loaded, and torch with it. In service/ only app does; the decoding processes must do without.
LOADERS = {"", "load", "Transcriber", "checkpoint", "encoder", "transcriber"}
NOT_IN_CORE = {"asr", "fastapi", "starlette", "torch", "uvicorn"}


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import, at any depth; the name is empty in `import module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((("." * node.level) + (node.module or ""), alias.name) for alias in node.names)


def violations(file: str, source: str) -> list[str]:
    """Return what `source` imports against the rules, were it the file at this path."""
    package, module = Path(file).parts[0], Path(file).stem
    found = []
    for target, name in imported(source):
        top = target.split(".")[0]
        inner = _inner(target, name)
        broken = (
            (target.startswith("."), "relative import"),
            (top in OURS and top not in MAY_IMPORT[package], f"{package} imports {top}"),
            (top == "transformers" and package != "offline", "transformers outside of offline"),
            (package == "asr" and top == "asr" and _layer(inner) >= _layer(module), "asr inward"),
            (package == "asr" and top not in ASR_PACKAGES | {"asr"} and _is_foreign(top), "asr dependency"),
            (package == "service" and module != "app" and _loads(target, name), "only app loads models"),
            (_is_core(file) and top in NOT_IN_CORE and inner not in SERVICE_CORE[module], "service core"),
            (_is_core(file) and top == "service" and inner not in SERVICE_CORE[module], "service core"),
        )
        found += [f"{file}: {rule}: {target} {name}".strip() for holds, rule in broken if holds]
    return found


def _inner(target: str, name: str) -> str:
    """The module below the package: `asr.ctc` and `from asr import ctc` -> ctc; `from asr import load` -> __init__."""
    parts = target.split(".")
    if len(parts) > 1:
        return parts[1]
    return name if (ROOT / parts[0] / f"{name}.py").exists() else "__init__"


def _loads(target: str, name: str) -> bool:
    package, _, module = target.partition(".")
    return package == "asr" and (module or name) in LOADERS


def _layer(module: str) -> int:
    layers = [index for index, layer in enumerate(ASR_LAYERS) if module in layer]
    assert layers, f"asr/{module}.py has no place in ASR_LAYERS"
    return layers[0]


def _is_core(file: str) -> bool:
    return Path(file).parts[0] == "service" and Path(file).stem in SERVICE_CORE


def _is_foreign(top: str) -> bool:
    return top not in sys.stdlib_module_names and top not in OURS


FILES = sorted(str(f.relative_to(ROOT)) for package in OURS for f in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_imports_follow_the_arrows(file: str) -> None:
    assert violations(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("asr/mha.py", "from offline import data", "asr imports offline"),
        ("asr/ctc.py", "from asr.config import ModelConfig", "asr inward"),
        ("asr/encoder.py", "from asr import load", "asr inward"),
        ("asr/checkpoint.py", "def f():\n    import transformers", "transformers outside of offline"),
        ("asr/audio.py", "import scipy.signal", "asr dependency"),
        ("asr/mla.py", "from .mha import MultiHeadAttention", "relative import"),
        ("service/app.py", "import offline.convert", "service imports offline"),
        ("offline/evaluate.py", "from service.settings import Settings", "offline imports service"),
        ("service/engine.py", "from transformers import AutoModel", "transformers outside of offline"),
        ("service/batcher.py", "import torch.nn", "service core"),
        ("service/batcher.py", "from fastapi import Request", "service core"),
        ("service/batcher.py", "from service.engine import Engine", "service core"),
        ("service/routes.py", "import asr", "only app loads models"),
        ("service/engine.py", "from asr import load", "only app loads models"),
        ("service/decoding.py", "from asr.transcriber import Transcript", "only app loads models"),
        ("loadtests/report.py", "import asr", "loadtests imports asr"),
    ],
)
def test_a_forbidden_import_is_found(file: str, source: str, rule: str) -> None:
    (found,) = (v for v in violations(file, source) if rule in v)
    assert file in found


def test_what_is_allowed_passes() -> None:
    assert violations("offline/train.py", "import transformers\nfrom asr import checkpoint") == []
    assert violations("service/batcher.py", "import threading\nfrom service.errors import Overloaded") == []
    assert violations("asr/transcriber.py", "from asr import checkpoint\nimport torch") == []
    assert violations("service/app.py", "import asr") == []
    assert violations("service/answers.py", "from asr import Transcript, subtitles") == []


def test_decoding_processes_do_without_torch() -> None:
    code = "import sys, service.decoding; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
