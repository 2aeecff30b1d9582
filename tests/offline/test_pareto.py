"""The iso-memory report: points that meet by what a cache keeps, fronts, and verdicts that follow from the figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline.isomemory.points import Costs, InputError, Point, family, points
from offline.isomemory.report import conclusion
from offline.isomemory.verdicts import (
    ALONE,
    SHORTER,
    UNDECIDED,
    WORTH,
    at_equal_context,
    difference,
    front,
    verdicts,
    what_context_buys,
)
from offline.pareto import main

VALUES = {"mha": 2048, "mla-lossless": 1024, "mla-75": 512, "mla-87.5": 256}
HEARD = {"mha": 2560, "wide": 1280, "mla": 640}
UTTERANCES, WORDS = 40, 10


def cost_row(arm: str, dtype: str, left_s: float, streams: int, path: str | None = None) -> dict[str, Any]:
    value_bytes = VALUES[arm] * (1 if dtype == "int8" else 2)
    return {
        **{
            "model": "big",
            "arm": arm,
            "path": path or (None if arm == "mha" else "auto"),
            "cache_dtype": dtype,
        },
        **{"chunk_ms": 640, "left_context_s": left_s, "streams": streams, "out_of_memory": False},
        "bytes_per_stream": {"attention": round(50 * left_s) * value_bytes, "convolution": 900, "rest": 100},
        "step_s": {"p50": streams * (0.1 + 0.01 * left_s), "p95": 1.0},
    }


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    rows = [
        cost_row(arm, dtype, left_s, streams)
        for arm in VALUES
        for dtype in ("model", "int8")
        for left_s in (2, 10, 30)
        for streams in (1, 4)
    ]
    rows += [cost_row("mla-75", "model", 10, 8), cost_row("mla-75", "model", 10, 4, "expanded")]
    kinds = {arm: {"attention": {"kind": arm[:3]}, "cached_values_per_frame": n} for arm, n in VALUES.items()}
    what = {"models": {f"big: {arm}": facts for arm, facts in kinds.items()}, "device": "cpu"}
    what |= {"machine": {"cpu": "a processor"}, "threads": 1}
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps({"what": what, "how": {"dtype": "bfloat16"}, "results": rows, "limits": []}))
    return file


def evaluation(folder: Path, errors: dict[str, float], lines: bool = True) -> Path:
    """A file of arms with so many errors in each utterance on average, the same utterances wrong in all."""
    rng = np.random.default_rng(0)
    places = rng.permutation(UTTERANCES * WORDS) % UTTERANCES
    counts = {
        arm: np.bincount(places[: round(mean * UTTERANCES)], minlength=UTTERANCES)
        for arm, mean in errors.items()
    }
    names = sorted({arm.partition("@")[0] for arm in errors})
    models = {
        name: {"attention": {"kind": name[:3]}, "cached_values_per_frame": HEARD[name]} for name in names
    }
    results = {
        arm: {"total": {"wer": 100 * float(count.sum()) / (UTTERANCES * WORDS)}}
        for arm, count in counts.items()
    }
    content = {"what": {"models": models}, "how": {"manifests": {"a.jsonl": "0" * 64}}, "results": results}
    if lines:
        content["utterances_file"] = "heard.jsonl"
        rows = [
            {"id": f"{n:03}", "manifest": "a", "words": WORDS, "reference": f"TEXT {n}", "models": {
                arm: {"substitutions": int(count[n]), "deletions": 0, "insertions": 0} for arm, count in counts.items()
            }}
            for n in range(UTTERANCES)
        ]  # fmt: skip
        (folder / "heard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "heard.json").write_text(json.dumps(content))
    return folder / "heard.json"


def errors(short: float, long: float, compressed: float) -> dict[str, float]:
    """K/V after 2 s, K/V after 10 and 30 s, and MLA after 10 and 30 s; whole recordings are no stream."""
    return {
        "mha": 1.0,
        "mha@640ms/2s": short,
        "mha@640ms/10s": long,
        "mha@640ms/30s": long,
        "mha@640ms/2s/int8": short,
        "mla@640ms/10s": compressed,
        "mla@640ms/30s": compressed,
        "mla@640ms/10s/int8": compressed,
    }


def found_points(benchmark: Path, file: Path) -> list[Point]:
    return points([file], Costs(benchmark, None))[0]


def test_arms_meet_by_the_share_of_the_cache_that_they_keep(benchmark: Path, tmp_path: Path) -> None:
    found = found_points(benchmark, evaluation(tmp_path, errors(3, 2, 2)))
    assert [point.label for point in found] == [
        "K/V, 2 s", "K/V, 10 s", "K/V, 30 s", "K/V, int8, 2 s",
        "MLA 75 %, 10 s", "MLA 75 %, 30 s", "MLA 75 %, int8, 10 s",
    ]  # fmt: skip
    by_label = {point.label: point for point in found}
    assert by_label["K/V, 10 s"].bytes_per_stream == 500 * 4096 + 1000
    assert by_label["MLA 75 %, int8, 10 s"].attention_bytes == 500 * 512
    assert by_label["MLA 75 %, 10 s"].step_s == pytest.approx(0.2)  # of 4 streams, which all arms have, one
    assert by_label["K/V, 2 s"].wer == 30


def test_only_the_same_utterances_make_one_front(benchmark: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, second = (evaluation(tmp_path / name, errors(3, 2, 2)) for name in "ab")
    costs = Costs(benchmark, None)
    assert len(points([first, second], costs)[0]) == 14
    lines = second.with_suffix(".jsonl")
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    without = evaluation(tmp_path / "c", errors(3, 2, 2), lines=False)
    for other in (second, without):
        with pytest.raises(InputError, match="not over the same utterances"):
            points([first, other], costs)


def test_what_a_search_costs_a_stream_is_not_known(benchmark: Path, tmp_path: Path) -> None:
    found, left_out = points(
        [evaluation(tmp_path, {"mha@640ms/10s": 2, "mha@640ms/10s+beam+lm": 1, "mha": 1})],
        Costs(benchmark, None),
    )
    assert [point.arm for point in found] == ["mha@640ms/10s"] and left_out == ["mha@640ms/10s+beam+lm"]


@pytest.mark.parametrize(
    ("figures", "said"),
    [((4, 2, 2), WORTH), ((2, 2, 4), SHORTER), ((2, 2, 2), UNDECIDED)],
)
def test_a_verdict_follows_from_the_figures(
    benchmark: Path, tmp_path: Path, figures: tuple[float, float, float], said: str
) -> None:
    """K/V after 10 s takes more bytes than MLA after 30 s, so that the rivals are those after 2 s."""
    found = verdicts(found_points(benchmark, evaluation(tmp_path, errors(*figures))))
    assert [each.point.label for each in found] == [
        "MLA 75 %, 10 s",
        "MLA 75 %, 30 s",
        "MLA 75 %, int8, 10 s",
    ]
    assert {each.text for each in found} == {said}
    assert {each.rival.label for each in found if each.rival} <= {"K/V, 2 s", "K/V, int8, 2 s"}


def test_the_rival_is_the_best_that_is_as_small(benchmark: Path, tmp_path: Path) -> None:
    heard = {"mha@640ms/2s": 4, "mha@640ms/10s": 3, "wide@640ms/10s/int8": 2, "mla@640ms/30s": 1}
    (found,) = verdicts(found_points(benchmark, evaluation(tmp_path, heard)))
    assert (
        found.rival and found.rival.label == "lossless latent, int8, 10 s"
    )  # K/V after 10 s takes more bytes
    assert found.text == WORTH
    alone = {"mha@640ms/10s": 3, "mla@640ms/2s": 1}
    (found,) = verdicts(found_points(benchmark, evaluation(tmp_path, alone)))
    assert (found.rival, found.text) == (None, ALONE)


def test_without_transcripts_nothing_is_decided(benchmark: Path, tmp_path: Path) -> None:
    found = verdicts(found_points(benchmark, evaluation(tmp_path, errors(4, 2, 2), lines=False)))
    assert {each.text for each in found} == {UNDECIDED}
    gap = found[0].difference
    assert gap and gap.interval is None and str(gap) == "-20.00"


def test_a_front_holds_what_nothing_else_beats(benchmark: Path, tmp_path: Path) -> None:
    found = found_points(benchmark, evaluation(tmp_path, errors(3, 2, 2)))
    assert [point.label for point in front(found, time=False)] == [
        "K/V, int8, 2 s", "MLA 75 %, int8, 10 s"
    ]  # fmt: skip
    for point in found:
        for other in front(found):
            better = (point.wer, point.bytes_per_stream, point.step_s)
            mine = (other.wer, other.bytes_per_stream, other.step_s)
            assert not (all(a < b for a, b in zip(better, mine, strict=True)))
    assert set(map(id, front(found, time=False))) <= set(map(id, front(found)))


def test_context_and_equal_context(benchmark: Path, tmp_path: Path) -> None:
    found = found_points(benchmark, evaluation(tmp_path, errors(3, 2, 2.5)))
    row = what_context_buys(found)[0]
    assert (row["from"], row["to"], row["gap"].wer, row["gap"].better) == ("K/V, 2 s", "K/V, 30 s", -10, True)
    equal = {row["label"]: row for row in at_equal_context(found)}
    assert set(equal) == {"MLA 75 %, 10 s", "MLA 75 %, 30 s"}  # there is no K/V int8 after 10 s
    assert equal["MLA 75 %, 10 s"]["bytes_ratio"] == pytest.approx(0.25, abs=0.01)
    assert equal["MLA 75 %, 10 s"]["gap"].wer == 5


def test_an_interval_holds_the_difference_and_none_of_a_point_with_itself(
    benchmark: Path, tmp_path: Path
) -> None:
    found = found_points(benchmark, evaluation(tmp_path, errors(3, 2, 2.5)))
    gap = difference(found[0], found[1])
    assert gap.low is not None and gap.high is not None and gap.low < gap.wer < gap.high
    same = difference(found[0], found[0])
    assert same.wer == 0 and same.better is None


@pytest.mark.parametrize(
    ("worth", "shorter", "words"),
    [(1, 0, "is worth it"), (0, 1, "a shorter window"), (1, 1, "depends"), (0, 0, "neither is better")],
)
def test_the_conclusion(worth: int, shorter: int, words: str) -> None:
    lists: dict[str, list] = {WORTH: [0] * worth, SHORTER: [0] * shorter, UNDECIDED: [], ALONE: []}
    assert words in conclusion(lists)


def test_the_command_writes_report_data_and_pictures(benchmark: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    heard = errors(4, 2, 2) | {"mha@320ms/10s": 2}
    file, folder = evaluation(tmp_path, heard), tmp_path / "new" / "report"
    assert main([str(file), "--benchmark", str(benchmark), "--output_dir", str(folder)]) == 0
    text, data = (folder / "report.md").read_text(), json.loads((folder / "report.json").read_text())
    assert "at equal memory it is worth it here" in text
    assert "K/V, 30 s beside K/V, 2 s: WER -20.00" in text
    assert "Without a cost in the benchmark: mha@320ms/10s." in text
    assert "a paired bootstrap over 40 recordings of 400 words together." in text
    assert data["left_out"] == ["mha@320ms/10s"] and data["how"]["streams"] == 4
    assert len(data["points"]) == 7 and {row["verdict"] for row in data["verdicts"]} == {WORTH}
    assert len(data["what"]["inputs"]) == 2
    for name in ("wer_by_bytes.png", "wer_by_step_time.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG") and f"({name})" in text
    assert "at equal memory it is worth it here" in capsys.readouterr().out


def test_what_cannot_be_used_is_named(benchmark: Path, tmp_path: Path, capsys) -> None:
    file = evaluation(tmp_path, {"mha": 1.0, "mla": 2.0})
    with pytest.raises(InputError, match="no streamed arm"):
        found_points(benchmark, file)
    with pytest.raises(InputError, match="no mha arm"):
        found_points(benchmark, evaluation(tmp_path, {"mla@640ms/2s": 1.0}))
    with pytest.raises(InputError, match="no steps of 3 streams; choices: 1, 4, 8"):
        Costs(benchmark, 3)
    other = json.loads(file.read_text())
    del other["how"]["manifests"]
    (tmp_path / "agreement.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"agreement\.json: no result of offline\.evaluate"):
        found_points(benchmark, tmp_path / "agreement.json")
    folder = tmp_path / "never"
    assert main([str(file), "--benchmark", str(file), "--output_dir", str(folder)]) == 2
    assert "has no limits: is it the right file?" in capsys.readouterr().err and not folder.exists()
    other = json.loads(file.read_text())
    other["how"]["manifests"] = {"b.jsonl": "1" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="not over the same utterances"):
        points([file, tmp_path / "other.json"], Costs(benchmark, None))


def test_names_of_shares() -> None:
    assert [family(share) for share in (1.0, 0.5, 0.25, 0.1225, 0.0625)] == [
        "K/V", "lossless latent", "MLA 75 %", "MLA 87.8 %", "MLA 93.8 %"
    ]  # fmt: skip
