"""The benchmark measures what it says, on equal models alone, and writes what is needed to repeat it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from offline import benchmark
from offline.benchmark import main
from offline.speed import ceiling
from offline.speed.arms import ARMS, LARGE, Arm
from offline.speed.twins import PATHS

SHORT = ["--clip_s", "0.5", "--repeats", "2", "--device", "cpu"]
ALL = [("mha", None), *((f"mla-{cut}", path) for cut in ("lossless", "75", "87.5") for path in PATHS)]
ALL += [("stock-eager", None), ("stock-sdpa", None)]


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "CPU_SHAPES", [(64, 64, 64)])


def run(output: Path, *options: object) -> dict[str, Any]:
    assert main([*map(str, options), "--output_file", str(output)]) == 0
    return json.loads(output.read_text())


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """The one line that the command ends with."""
    assert main([*map(str, options), "--output_file", "never.json"]) == 2
    assert not Path("never.json").exists()
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


def test_every_arm_and_batch_size_has_its_row(tiny_folder, tmp_path: Path) -> None:
    folder = tiny_folder("mha")
    result = run(tmp_path / "new" / "b.json", "offline", "--model", folder, "--batch_size", "1,3", *SHORT)
    rows = result["results"]
    assert [(row["arm"], row["path"]) for row in rows] == ALL * 2
    assert [row["batch_size"] for row in rows] == [1] * len(ALL) + [3] * len(ALL)
    for row in rows:
        assert 0 < row["rtfx_quartiles"][0] <= row["rtfx"] <= row["rtfx_quartiles"][1]
        assert row["rtfx"] < row["rtfx_model"]  # text and normalisation come on top
        assert row["rtfx"] == pytest.approx(row["batch_size"] * 0.5 / row["batch_s_median"], rel=1e-3)
        low, high = row["batch_s_quartiles"]
        assert low <= row["batch_s_median"] <= high
        assert (row["latency_s"] is not None) == (row["batch_size"] == 1)
        assert row["padding_share"] == 0 and row["clip_s"] == [0.5]
        share = row["gflops"] / result["ceiling_gflops"]["float32"]
        assert row["share_of_ceiling"] == pytest.approx(share, abs=1e-4)
    absorbed = {row["path"]: row["absorbed_layers"] for row in rows if row["arm"] == "mla-75"}
    assert (absorbed["absorbed"], absorbed["expanded"]) == (3, 0)
    models = {name.split(": ")[1]: model for name, model in result["what"]["models"].items()}
    assert list(models) == ARMS
    assert [models[arm]["cached_values_per_frame"] for arm in ARMS[:4]] == [192, 96, 48, 24]
    assert result["how"]["dtype"] == "float32" and result["how"]["repeats"] == 2


def test_what_was_compared_stands_in_the_file(tiny_folder, tmp_path: Path) -> None:
    only = ["--arms", "mla-75,stock-eager", "--paths", "auto", "--batch_size", 1, "--dtype", "bfloat16"]
    result = run(tmp_path / "b.json", "--model", tiny_folder("mha"), *only, *SHORT)
    assert [(row["arm"], row["path"]) for row in result["results"]] == [
        ("mla-75", "auto"),
        ("stock-eager", None),
    ]
    against = {"mla-75": "mla-75 expanded", "stock-eager": "mha"}
    for dtype in ("float32", "bfloat16"):
        checks = [check for check in result["checks"] if check["dtype"] == dtype]
        assert [check["path"] for check in checks] == ["auto", "absorbed", None]
        assert all(check["against"] == against[check["arm"]] for check in checks)
        assert all(0 <= check["changed_frames"] <= 1 and check["frames"] > 0 for check in checks)
    exact = [check["max_log_prob_difference"] for check in result["checks"] if check["dtype"] == "float32"]
    assert max(exact) <= 1e-4
    assert set(result["ceiling_gflops"]) == {"float32", "bfloat16"}


def test_without_a_subcommand_and_with_an_mla_folder(tiny_folder, tmp_path: Path) -> None:
    models = f"{tiny_folder('mha')},{tiny_folder('mla-separate')}"
    options = ["--arms", "mha", "--paths", "absorbed,expanded", "--batch_size", "2"]
    result = run(tmp_path / "b.json", "--model", models, *options, *SHORT)
    labels = [
        (row["model"].split("-relative")[0][-12:], row["arm"], row["path"]) for row in result["results"]
    ]
    assert [label[1:] for label in labels] == [("mha", None), ("mla", "absorbed"), ("mla", "expanded")]
    assert labels[0][0] != labels[1][0]


def test_a_difference_stops_it_before_anything_is_timed(
    tiny_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = benchmark.build

    def planted(*args: Any) -> list[Arm]:
        arms = built(*args)
        lossless = next(arm for arm in arms if arm.label.arm == "mla-lossless")
        with torch.no_grad():
            lossless.network.get_parameter("encoder.layers.1.self_attn.linear_up_k.weight")[0] += 0.1
        return arms

    monkeypatch.setattr(benchmark, "build", planted)
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "--model", tiny_folder("mha"), *SHORT)
    assert "nothing is timed" in said and "mla-lossless auto against mha" in said


def test_memory_of_an_arm_alone_and_a_picture(tiny_folder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "b.png"
    options = [
        "--arms",
        "mla-75",
        "--paths",
        "absorbed",
        "--batch_size",
        "1,4",
        "--memory",
        "--plot",
        picture,
    ]
    result = run(tmp_path / "b.json", "--model", tiny_folder("mha"), *options, *SHORT)
    for row in result["results"]:
        assert row["peak_resident_bytes"] >= row["idle_resident_bytes"] > 50_000_000
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["streams"], "no subcommand 'streams'; choices: offline, stream"),
        (["--model", "mhha"], "mha, mla"),
        (["--arms", "mha,mla"], "'mla' is no arm; choices: mha, mla-lossless"),
        (["--arms", "mla-30"], "'mla-30' is no arm"),
        (["--paths", "expand"], "'expand' is no path; choices: auto, absorbed, expanded"),
        (["--device", "tpu"], "--device is 'tpu'; choices here: cpu"),
        (["--manifest", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_used_is_named(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *options)


def test_clips_that_would_run_in_windows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--clip_s", "10,61", "--output_file", "never.json"])
    assert "clips are 0.1 to 60 s long" in capsys.readouterr().err


def test_rotary_positions_have_no_joint_latent(tiny_folder, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_folder("mha", "rotary")
    assert "--arms mha,stock-eager,stock-sdpa" in refused(capsys, "--model", folder, *SHORT)
    rows = run(tmp_path / "b.json", "--model", folder, "--arms", "mha,stock-sdpa", "--batch_size", 1, *SHORT)[
        "results"
    ]
    assert [row["arm"] for row in rows] == ["mha", "stock-sdpa"]


def test_the_large_model_is_the_reference_architecture() -> None:
    assert (LARGE.num_hidden_layers, LARGE.hidden_size, LARGE.num_attention_heads) == (24, 1024, 16)
    assert LARGE.attention.kind == "mha"
