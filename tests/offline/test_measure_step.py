"""One fine-tuning step, measured on a tiny model instead of the large one."""

import json
from pathlib import Path

import pytest

from offline import measure_step
from offline.measure_step import config_of, main, measure, parser, report, sentence
from tests.conftest import tiny_config


def test_a_step_is_taken_in_either_half_precision(tmp_path: Path) -> None:
    config = tiny_config("mla")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    words = (
        f"--output_file {tmp_path}/x.json --model_config {tmp_path}/config.json --clip_s 1 --cpu --distill"
    )
    args = parser().parse_args(words.split())
    results = [measure(args, config_of(args), precision) for precision in ("bf16", "fp16")]
    for result in results:
        assert result["parameters"] > result["parameters_learning"] > 0
        first, second = result["steps"]
        assert (
            first["loss"] != second["loss"]
            and not first["left_out"]
            and all(first[f"{part}_s"] >= 0 for part in ("forward", "backward"))
        )
        assert result["peak_bytes"] >= result["built_peak_bytes"] > 50e6
    written = json.loads(json.dumps(report(args, config, results)))
    assert written["results"] == results and written["how"]["batch_size"] == 1
    assert "parameters learn" in sentence(results[0])


def test_a_peak_is_never_below_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("mla").to_dict()))
    words = f"--output_file x.json --model_config {tmp_path}/config.json --clip_s 0.5 --steps 1 --cpu"
    args, readings = parser().parse_args(words.split()), iter([200, 100])
    monkeypatch.setattr(measure_step, "peak_bytes", lambda device: next(readings))
    result = measure(args, config_of(args), "fp32")
    assert (result["built_peak_bytes"], result["peak_bytes"]) == (200, 200)


def test_the_reference_architecture_is_the_default_and_nonsense_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parser().parse_args(["--output_file", "x.json"])
    assert config_of(args).attention.rank == (512,) * 24 and config_of(args).hidden_size == 1024
    output = ["--output_file", str(tmp_path / "x.json")]
    assert main([*output, "--precision", "int8"]) == 2
    assert "int8: choices are bf16, fp16, fp32" in capsys.readouterr().err
    assert main([*output, "--model_config", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err and not (tmp_path / "x.json").exists()
