"""offline.compare on result files in the format of offline.evaluate, written here with errors that are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from offline import evaluate
from offline.compare import main, parser
from offline.comparison import plots, report
from offline.comparison.rates import factors
from tests.conftest import noise
from tests.offline.comparison.results import JOINT, MHA, cut_cache, figures, hurt, pair_of_arms, said, write


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return pair_of_arms(tmp_path)


def written(tmp_path: Path, *words: object) -> tuple[dict[str, Any], str]:
    """Runs the command line; returns report.json and report.md."""
    output = tmp_path / "report"
    assert main([*map(str, words), "--output_dir", str(output), "--resamples", "400"]) == 0
    return json.loads((output / "report.json").read_text()), (output / "report.md").read_text()


def test_the_same_arms_do_not_differ(tmp_path: Path) -> None:
    lines = said(100)
    texts = hurt(lines, 0.1, 1)
    path = write(tmp_path / "x.json", lines, {"a": texts, "b": texts}, {"a": MHA, "b": JOINT})
    (pair,) = figures(path)["comparisons"]
    assert pair["difference"] == 0 and pair["identical"] == 1 and pair["discordant_errors"] == 0
    assert pair["p"]["mapsswe"] == pair["p"]["sign_flip"] == 1
    low, high = pair["interval_95"]
    assert low < 0 < high == pytest.approx(100 * 3.7 / 1000, rel=0.25)  # what so few words can rule out
    assert pair["verdict"] == "undecided" and pair["only_arm"] == pair["only_baseline"] == []


def test_a_constructed_difference_is_found(small: Path, tmp_path: Path) -> None:
    (pair,) = figures(small)["comparisons"]
    files = [json.loads(line)["models"] for line in small.with_suffix(".jsonl").read_text().splitlines()]
    errors = [sum(line[name]["substitutions"] for line in files) for name in ("mla", "mha")]
    assert pair["difference"] == pytest.approx(100 * (errors[0] - errors[1]) / 3000, abs=1e-3)
    assert pair["relative"] == pytest.approx(100 * (errors[0] / errors[1] - 1), abs=0.01)
    assert pair["discordant_errors"] == errors[0] - errors[1] > 10
    assert pair["interval_95"][0] > 0 and pair["verdict"] == "worse by more than the margin"
    assert max(pair["p"][name] for name in ("mapsswe", "sign_flip")) < 0.01 < pair["p"]["non_inferiority"]
    assert pair["normalised"]["value"] == pair["difference"]
    assert 0.85 < pair["identical"] < 1 and pair["words"] == 3000


def test_few_words_leave_undecided_what_many_decide(tmp_path: Path) -> None:
    verdicts = {}
    for count in (60, 4000):
        lines = said(count)
        base = [line["reference"] for line in lines]
        arms = {}  # each wrong in one word of one utterance of 40, in different ones
        for name, place in (("mha", 0), ("mla", 20)):
            arms[name] = [f"XX {text[4:]}" if n % 40 == place else text for n, text in enumerate(base)]
        path = write(tmp_path / f"x{count}.json", lines, arms, {"mha": MHA, "mla": JOINT})
        found = figures(path, "--margin", "0.3")
        (pair,) = found["comparisons"]
        verdicts[count] = pair["verdict"], pair["words_needed"]
        said_so = "words would show it non-inferior if the two are equal" in report.markdown(
            found | {"plots": []}
        )
        assert said_so == (count == 60)
    assert verdicts[4000] == ("non-inferior", None)
    assert verdicts[60][0] == "undecided"
    assert 600 < verdicts[60][1]["if_equal"] < 40_000


def test_the_report_holds_the_figures_of_the_json(small: Path, tmp_path: Path) -> None:
    found, text = written(tmp_path, small)
    (pair,) = found["comparisons"]
    low, high = pair["interval_95"]
    arms = found["arms"]
    for figure in (f"{arms['mha']['wer']:.2f}", f"{arms['mla']['wer']:.2f}", f"{pair['difference']:+.2f}",
                   f"[{low:+.2f}, {high:+.2f}]", f"{100 * pair['identical']:.2f}%", "5,000,000", "100.00", "75.0%",
                   f"{pair['over_dispersion']:.2f}", f"{pair['discordant_errors']:,}", "300 utterances, 3,000 words",
                   "150 sentences, 40 voices"):  # fmt: skip
        assert figure in text, figure
    for row in [*pair["by_domain"].values(), *pair["by_engine"].values()]:
        assert f"{row['difference']:+.2f}" in text and f"{row['words']:,}" in text
    assert all(claim["verdict"] in text and claim["figures"] in text for claim in found["claims"])
    assert all(sentence in text for sentences in found["summary"].values() for sentence in sentences)
    error = pair["only_arm"][0]
    assert error["heard"] == "XX" and error["example"]["id"] in text and error["example"]["reference"] in text
    assert sum(row["words"] for row in pair["by_voice"].values()) == 3000


def test_pictures_are_drawn(small: Path, tmp_path: Path) -> None:
    found, _ = written(tmp_path, small)
    assert len(found["plots"]) == 4
    for name in found["plots"]:
        content = (tmp_path / "report" / name).read_bytes()
        assert len(content) > 5000 and content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    drawn = (tmp_path / "report" / "wer_by_cache_cut.svg").read_bytes()
    ((name, points),) = plots.lines(found).items()
    (pair,) = found["comparisons"]
    ends = [found["arms"]["mha"]["wer"] + bound for bound in pair["interval_95"]]
    assert name == "joint attention" and points == [(75.0, found["arms"]["mla"]["wer"], *ends)]
    written(tmp_path, small)
    assert (tmp_path / "report" / "wer_by_cache_cut.svg").read_bytes() == drawn


def test_a_second_model_of_one_method_has_a_line_of_its_own(tmp_path: Path) -> None:
    lines = said(40)
    names = ("mha", "mla", "healed")
    path = write(tmp_path / "x.json", lines, {name: hurt(lines, 0.1, 1) for name in names},
                 {"mha": MHA, "mla": JOINT, "healed": JOINT})  # fmt: skip
    for name in names[1:]:
        cut_cache(path, name, 0.5)
    assert list(plots.lines(figures(path))) == ["joint attention", "joint attention (healed)"]


def test_names_of_folders_do_not_crowd_the_picture_out() -> None:
    assert plots.short("runs/mla-75") == "mla-75" and plots.short("mha") == "mha"
    assert plots.short("results/dev.json:/some/where/mla") == "dev.json:mla"
    assert plots.short("x" * 99) == "x" * plots.LONGEST_NAME


def test_a_seed_gives_the_same_report(small: Path, tmp_path: Path) -> None:
    found = [figures(small, "--seed", seed)["comparisons"] for seed in ("1", "1", "2")]
    assert found[0] == found[1] != found[2]


def test_rounding_alone_stands_beside(small: Path, tmp_path: Path) -> None:
    """The same mha in bfloat16, with one text changed; and an mla in bfloat16, which is compared with that one."""
    lines = said(300)
    rounded = json.loads(small.read_text())["results"]
    texts = [json.loads(line)["models"] for line in small.with_suffix(".jsonl").read_text().splitlines()]
    arms = {name: [line[name]["text"] for line in texts] for name in rounded}
    arms["mha"][0] = "QUITE DIFFERENT"
    half = write(tmp_path / "half.json", lines, arms, {"mha": MHA, "mla": JOINT}, {"dtype": "bfloat16"})
    cut_cache(half, "mla", 0.75)
    found, text = written(tmp_path, small, half)
    assert list(found["arms"]) == ["dev:mha", "dev:mla", "half:mha", "half:mla"]
    by_arms = {tuple(row["arms"]): row for row in found["null"]}
    assert set(by_arms) == {("dev:mha", "half:mha"), ("dev:mla", "half:mla")}
    assert by_arms["dev:mha", "half:mha"]["identical"] == pytest.approx(299 / 300, abs=1e-5)
    assert by_arms["dev:mha", "half:mha"]["differs"] == {"dtype": ["float32", "bfloat16"]}
    against = {row["arm"]: row["baseline"] for row in found["comparisons"]}
    assert against == {"dev:mla": "dev:mha", "half:mha": "dev:mha", "half:mla": "half:mha"}
    null = next(row for row in found["comparisons"] if row["arm"] == "half:mha")
    assert null["same_model"] and "mapsswe_holm" not in null["p"]  # no part of the family
    pair = next(row for row in found["comparisons"] if row["arm"] == "dev:mla")
    assert pair["p"]["mapsswe_holm"] == pytest.approx(2 * pair["p"]["mapsswe"], abs=1e-4)
    assert "the same model: dtype float32 / bfloat16" in text and "99.67%" in text
    assert list(plots.lines(found)) == ["joint attention", "joint attention, dtype bfloat16"]


def test_what_to_compare_with_can_be_said(small: Path, tmp_path: Path) -> None:
    found = figures(small, "--baseline", "mla", "--pairs", "mla=mha")
    assert [(row["arm"], row["baseline"]) for row in found["comparisons"]] == [("mha", "mla"), ("mla", "mha")]
    first, second = found["comparisons"]
    assert first["difference"] == -second["difference"]
    assert [row["count"] for row in first["only_baseline"]] == [row["count"] for row in second["only_arm"]]


def test_what_cannot_be_compared_is_named(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(300)
    texts = {"other": [line["reference"] for line in lines]}
    fewer = write(tmp_path / "fewer.json", lines[:290], {"other": texts["other"][:290]}, {"other": JOINT})
    asked = [{**line, "reference": "QUITE ANOTHER SENTENCE", "words": 3} if n < 4 else line
             for n, line in enumerate(lines)]  # fmt: skip
    changed = write(tmp_path / "changed.json", asked, texts, {"other": JOINT})
    alone = write(tmp_path / "alone.json", lines, texts, {"other": JOINT})
    two, kinds = {"other": texts["other"][:1], "mha": texts["other"][:1]}, {"other": JOINT, "mha": JOINT}
    single = write(tmp_path / "single.json", lines[:1], two, kinds)
    benchmark = tmp_path / "benchmark.json"
    benchmark.write_text(json.dumps({"what": {}, "how": {}, "results": [{"model": "mha", "rtfx": 1.0}]}))
    nonsense = tmp_path / "nonsense.json"
    nonsense.write_text('{"layers": []}')
    cases = [
        ([fewer], ["not over the same utterances", "10 of 300", "dev.json alone", "u00290"]),
        ([changed], ["4 of 300 references differ", "u00000", "QUITE ANOTHER"]),
        (["--baseline", "nobody"], ["'nobody'", "choices: mha, mla"]),
        (["--pairs", "mla=x"], ["'x'", "choices: mha, mla"]),
        (["--pairs", "mla=mla"], ["with itself"]),
        (["--models", f"mla={tmp_path}"], ["no report of a conversion"]),
        ([tmp_path / "none.json"], ["none.json: no such file"]),
        ([small.with_suffix(".jsonl")], ["dev.jsonl", "not a JSON file"]),
        ([nonsense], ["nonsense.json: neither"]),
    ]
    for words, parts in cases:
        assert main([str(small), *map(str, words), "--output_dir", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert all(part in message for part in parts) and message.count("\n") == 1, message
    for files, part in (([alone], "1 arm(s)"), ([benchmark], "0 arm(s)"), ([single], "one recording")):
        assert main([*map(str, files), "--output_dir", str(tmp_path / "out")]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main([str(small), "--pairs", "mla=mha,mla=other", "--output_dir", str(tmp_path / "out")])
    assert "'mla' is there twice, with 'mha' and 'other'" in capsys.readouterr().err


def test_who_is_not_named_is_nobody_else() -> None:
    """LibriSpeech beside made speech: no label that all have, and no one cluster for those without."""
    labels: list[dict[str, str]] = [
        {"speaker": "84"},
        {"speaker": "84"},
        {"voice": "slt"},
        {"voice": "slt"},
        {},
        {},
    ]
    lines = [{"reference": f"TEXT {number}", **label} for number, label in enumerate(labels)]
    assert factors(lines)["speaker"] == ["84", "84", "slt", "slt", "utterance 4", "utterance 5"]


def test_reads_what_evaluate_writes(
    tmp_path: Path, tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tiny models on four recordings of noise, evaluated for real; the figures are those that evaluate gave."""
    torch.set_num_threads(1)
    lines = []
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.flac", noise(16_000 + 4000 * number, number), 16_000)
        lines.append({"audio_filepath": f"{number}.flac", "duration": 1 + number / 4, "text": "ONE TWO THREE",
                      "domain": "open" if number % 2 else "everyday", "voice": f"v{number % 2}"})  # fmt: skip
    (tmp_path / "four.jsonl").write_text("\n".join(map(json.dumps, lines)))
    models = ",".join(str(tiny_folder(kind)) for kind in ("mha", "mla"))
    options = ["--manifest", str(tmp_path / "four.jsonl"), "--latency_clips", "1", "--device", "cpu"]
    for name, dtype in (("single", "float32"), ("half", "bfloat16")):
        output = str(tmp_path / f"{name}.json")
        assert evaluate.main(["--model", models, *options, "--dtype", dtype, "--output_file", output]) == 0
    capsys.readouterr()
    found, _ = written(tmp_path, tmp_path / "single.json", tmp_path / "half.json")
    stated = json.loads((tmp_path / "single.json").read_text())["results"]
    for arm in list(found["arms"].values())[:2]:
        assert arm["wer"] == pytest.approx(stated[arm["model"]]["total"]["wer"], abs=1e-3)
        assert (
            arm["rtfx"]
            and arm["rtfx_model"]
            and arm["latency_ms"]
            and arm["memory_bytes"]
            and arm["parameters"]
        )
    assert len(found["null"]) == 2 and all("dtype" in row["differs"] for row in found["null"])
    cuts = {arm["kind"]: arm["cache_cut"] for arm in found["arms"].values()}
    assert cuts == {"mha": 0.0, "mla": pytest.approx(1 - (12 + 16 + 20) / (3 * 2 * 32))}


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--output_dir" in text and "non-inferior" in text.lower() and "example:" in text
    with pytest.raises(SystemExit):
        parser().parse_args(["x.json", "--output_dir", "y", "--pairs", "alone"])
    assert "'alone' is not of the form name=value" in capsys.readouterr().err


def test_an_arm_may_have_a_margin_of_its_own(small: Path, tmp_path: Path) -> None:
    report, text = written(tmp_path, small, "--margins", "mla=5")
    (pair,) = report["comparisons"]
    assert pair["margin"] == 5 and pair["verdict"] == "non-inferior"
    assert "WER no more than 5 points higher" in text and "mla: 5" in text
    assert figures(small)["comparisons"][0]["p"]["non_inferiority"] > pair["p"]["non_inferiority"]


def test_margins_are_of_arms_that_are_there(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small), "--margins", "other=1", "--output_dir", "unused"]) == 2
    assert "other" in capsys.readouterr().err
