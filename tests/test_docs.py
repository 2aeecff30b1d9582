"""What the documents name has to be there: files, make targets, modules, options, and the example has to run."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests" / "speech"
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "asr/bundled/README.md"]


def pictured() -> Iterator[str]:
    """Yield the paths in ARCHITECTURE.md's picture: a folder on the left, its entries indented below it."""
    picture = ARCHITECTURE.split("## The picture")[1].split("```")[1]
    folder = ""
    for line in picture.strip().splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        yield folder + name if line.startswith(" ") else name


def code(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, flags=re.DOTALL | re.MULTILINE)


def test_the_picture_names_what_is_there() -> None:
    assert [path for path in pictured() if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("package", ["asr", "docker", "loadtests", "offline", "service"])
def test_the_picture_leaves_no_module_out(package: str) -> None:
    modules = {f"{package}/{file.name}" for file in (ROOT / package).glob("*.py")} - {
        f"{package}/__init__.py"
    }
    assert modules - set(pictured()) == set()


def test_the_life_of_a_request_names_parts_that_are_there() -> None:
    life = ARCHITECTURE.split("## The life of one request")[1].split("## ")[0]
    parts = {name.removeprefix("asr.") for name in re.findall(r"`([a-z_.]+)`", life)}
    assert len(parts) > 8
    stems = {file.stem for package in ("asr", "service") for file in (ROOT / package).glob("*.py")}
    assert parts - stems == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"serve", "test", "bundled"} <= named
    assert named - set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)) == set()


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    phony = re.findall(r"^\.PHONY: (.*)", MAKEFILE, flags=re.MULTILINE)
    assert set(re.findall(r"^  make ([a-z-]+)", listed.stdout, flags=re.MULTILINE)) == set(
        " ".join(phony).split()
    )


@pytest.mark.parametrize("text", [README, MAKEFILE], ids=["README", "Makefile"])
def test_named_modules_exist(text: str) -> None:
    ours = set(re.findall(r"-m ((?:asr|docker|loadtests|offline|service)[a-z_.]*)", text))
    assert ours
    assert [name for name in ours if importlib.util.find_spec(name) is None] == []


def test_options_of_the_command_line_exist() -> None:
    commands = re.findall(r"-m asr (.*)", README)
    help_text = subprocess.run(
        [sys.executable, "-m", "asr", "--help"], capture_output=True, text=True, check=True
    )
    options = {option for command in commands for option in re.findall(r"--[a-z_]+", command.split("#")[0])}
    assert {"--model", "--format"} <= options
    assert [option for option in options if option not in help_text.stdout] == []


def test_the_library_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, with the bundled model, on a recording of the name that the example gives it."""
    (example,) = code(README, "python")
    spoken = json.loads((SPEECH / "test-seen-voices.jsonl").read_text().splitlines()[0])
    shutil.copy(SPEECH / spoken["audio_filepath"], tmp_path / "talk.flac")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    text, *words = capsys.readouterr().out.splitlines()
    assert len(words) == len(text.split()) == pytest.approx(len(spoken["text"].split()), abs=3)
