"""The benchmark measures what it says, and writes what is needed to repeat it."""

import json
from pathlib import Path

import pytest

from offline.benchmark import LARGE, LARGE_LATENT, main


def test_a_small_benchmark(tiny_folder, tmp_path: Path) -> None:
    output = tmp_path / "results" / "benchmark.json"
    models = f"{tiny_folder('mha')},{tiny_folder('mla')}"
    options = ["--batch_size", "1,3", "--clip_s", "0.5", "--repeats", "2", "--device", "cpu"]
    assert main(["--model", models, *options, "--output_file", str(output)]) == 0
    result = json.loads(output.read_text())
    assert [row["batch_size"] for row in result["results"]] == [1, 1, 3, 3]
    for row in result["results"]:
        low, high = row["batch_s_quartiles"]
        assert 0 < low <= row["batch_s_median"] <= high
        assert row["rtfx"] == pytest.approx(
            row["batch_size"] * 0.5 / row["batch_s_median"], rel=0.01, abs=0.01
        )
    assert {m["attention"]["kind"] for m in result["what"]["models"].values()} == {"mha", "mla"}
    assert result["how"]["dtype"] == "float32" and result["how"]["repeats"] == 2


def test_an_unknown_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "mhha", "--output_file", str(tmp_path / "x.json")]) == 2
    assert "mha, mla" in capsys.readouterr().err


def test_the_large_models_are_the_reference_architecture_at_a_quarter_of_its_cache() -> None:
    width = LARGE.hidden_size
    assert (LARGE.num_hidden_layers, width, LARGE.num_attention_heads) == (24, 1024, 16)
    cached = [attention.cached_values(0, width) for attention in (LARGE.attention, LARGE_LATENT)]
    assert cached == [2048, 512]
