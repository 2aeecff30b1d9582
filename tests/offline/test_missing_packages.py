"""Commands that lack a package say so in one line, and with it what installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command", [["-m", "offline.compare"], ["scripts/evaluate_hf_model.py"]], ids=["module", "script"]
)
def test_a_package_that_is_not_installed_is_named(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "jiwer.py").write_text('raise ModuleNotFoundError("No module named jiwer", name="jiwer")\n')
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "needs jiwer" in done.stderr and "pip install 'mla-asr[offline]'" in done.stderr


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "jiwer.py").write_text("1 / 0\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "offline.compare"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
