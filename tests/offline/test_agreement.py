"""How far models are from one: nothing from itself, exactly as far as a shift of its scores, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

import asr
from offline.agreement import main, of_clip, summary

SPEECH = Path(__file__).parents[1] / "speech" / "test-seen-voices.jsonl"


def test_the_bundled_mla_is_near_mha_and_mha_is_mha(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.json"
    command = ["--model", "mha,mla,mha", "--dataset", str(SPEECH), "--max_samples", "6"]
    assert main([*command, "--output_file", str(output), "--device", "cpu"]) == 0
    result = json.loads(output.read_text())
    assert list(result["results"]) == ["mla", "mha"]
    same, near = result["results"]["mha"], result["results"]["mla"]
    assert same["ctc_kl"] == same["greatest_difference"] == same["changed_frames"] == 0
    assert 0 < near["ctc_kl_95"][0] <= near["ctc_kl"] <= near["ctc_kl_95"][1] < 0.1
    assert near["frames"] == same["frames"] > 0
    assert "nats a frame" in capsys.readouterr().out


def test_what_is_rounding_shows_against_float64(tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    command = ["--dataset", str(SPEECH), *"--model mha,mha --max_samples 3 --device cpu --exact".split()]
    assert main([*command, "--output_file", str(output)]) == 0
    row = json.loads(output.read_text())["results"]["mha"]
    assert row["changed_frames"] == 0 and 1e-7 < row["greatest_difference"] < 1e-3


def test_figures_of_a_clip_are_those_of_its_definition() -> None:
    model = asr.load("mha", device="cpu")
    rng = np.random.default_rng(0)
    one, other = (np.log(rng.dirichlet(np.ones(len(model.vocabulary.tokens)), 40)) for _ in range(2))
    frames, changed, texts, kl, greatest = of_clip(one.astype(np.float32), other.astype(np.float32), model)
    assert frames == 40 and texts == 1
    assert changed == sum(a.argmax() != b.argmax() for a, b in zip(one, other, strict=True))
    exact = sum(
        p * (np.log(p) - q)
        for a, b in zip(one, other, strict=True)
        for p, q in zip(np.exp(a), b, strict=True)
    )
    assert kl == pytest.approx(exact, rel=1e-4)
    assert greatest == pytest.approx(np.abs(one - other).max(), rel=1e-4)
    # in float32 the posteriors do not sum to one, by more than two close models differ: no KL is below nothing
    _, _, _, near, _ = of_clip(one.astype(np.float32), (one - 1e-6).astype(np.float32), model)
    assert 0 <= near < 1e-12
    alone = summary(np.array([[frames, changed, texts, kl, greatest]]))
    assert alone["ctc_kl"] == alone["ctc_kl_95"][0] == pytest.approx(kl / 40)


@pytest.mark.parametrize(("models", "said"), [("mha", "name the others too"), ("mha,nowhere", "nowhere")])
def test_what_cannot_be_compared_is_named(
    models: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", models, "--dataset", str(SPEECH), "--output_file", str(tmp_path / "x.json")]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
