"""A trained folder among the bundled models: float16, its report beside it, and of the right variant."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr import checkpoint
from offline.bundle import main


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "bundled"


def test_weights_are_halved_and_the_report_comes_along(
    bundled: Path, tmp_path: Path, tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(tiny_folder("mla"), tmp_path / "run"))
    (source / "report.json").write_text(json.dumps({"steps": 7}))
    assert main(["--source", str(source), "--name", "mla"]) == 0
    assert "bundled/mla: 0." in capsys.readouterr().out
    report = json.loads((bundled / "mla" / "report.json").read_text())
    assert report == {"steps": 7, "folder_hash": checkpoint.folder_hash(bundled / "mla")}
    assert json.loads((bundled / "mla" / "config.json").read_text())["language"] == "en"
    old, new = (load_file(folder / "model.safetensors") for folder in (source, bundled / "mla"))
    halved = {name: value.half() for name, value in old.items() if ".batch_norm." not in name}
    assert all(new[name].equal(value) for name, value in halved.items())
    assert {new[name].dtype for name in old.keys() - halved.keys()} <= {torch.float32, torch.int64}


def test_the_wrong_variant_and_a_folder_without_report_are_refused(
    bundled: Path, tiny_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(tiny_folder("mla")), "--name", "mha"]) == 2
    assert "has mla attention, it cannot be bundled as mha" in capsys.readouterr().err
    source = Path(shutil.copytree(tiny_folder("mha"), tmp_path / "run"))
    (source / "report.json").unlink(missing_ok=True)
    assert main(["--source", str(source), "--name", "mha"]) == 2
    assert "report.json" in capsys.readouterr().err and not bundled.exists()
