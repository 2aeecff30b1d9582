"""The table and the picture of many arms, from figures that can be checked by hand."""

from pathlib import Path
from typing import Any

import pytest

from offline.evaluation import overview, picture
from offline.evaluation.profiles import parse

WERS = {
    "mha": 20.0, "mla": 25.0, "mha@640ms/10s": 22.0, "mla@640ms/10s": 25.0, "mha@640ms/2s": 23.0,
    "mha@640ms/2s/int8": 24.0, "mla@naive-320ms/0s": 50.0,
}  # fmt: skip
PROFILES = ("full", "full", "640x10", "640x10", "640x2", "640x2/int8", "naive-320x0")


@pytest.fixture
def result() -> dict[str, Any]:
    arms = {}
    for name, text in zip(WERS, PROFILES, strict=True):
        profile = parse(text)
        left = None if profile.chunk_frames is None else profile.left_context_frames
        arms[name] = {"model": name[:3], "profile": str(profile), "chunk_frames": profile.chunk_frames}
        arms[name] |= {
            "left_context_frames": left,
            **({"bytes_per_stream": 2048} if profile.streamed else {}),
        }
    total = {"utterances": 8, "words": 90, "audio_s": 120.0, "wer_95": [1.0, 99.5], "wer_normalised": None}
    results = {
        name: {
            "total": {**total, "wer": wer, "cer": 5.0},
            "by_domain": {"everyday": {"wer": wer - 1}, "open": {"wer": wer + 1}},
            "speed": {"rtfx": 31.25},
        }
        for name, wer in WERS.items()
    }
    how = {"dtype": "float32", "join_s": 180.0}
    return {"what": {"device": "cpu", "models": arms}, "how": how, "results": results}


def test_each_arm_stands_beside_its_own_whole_recordings(result: dict[str, Any]) -> None:
    heading, *lines = overview.table(result)
    assert [line[0] for line in lines] == sorted(WERS, key=lambda name: name[:3])
    cells = {line[0]: dict(zip(heading, line, strict=True)) for line in lines}
    assert {name: line["to full"] for name, line in cells.items()} == {
        "mha": "-", "mha@640ms/10s": "+10.0 %", "mha@640ms/2s": "+15.0 %", "mha@640ms/2s/int8": "+20.0 %",
        "mla": "-", "mla@640ms/10s": "+0.0 %", "mla@naive-320ms/0s": "+100.0 %",
    }  # fmt: skip
    naive, live = cells["mla@naive-320ms/0s"], cells["mha@640ms/2s"]
    assert (naive["KiB a stream"], live["KiB a stream"]) == ("-", "2")
    assert (live["everyday WER"], live["open WER"], live["95 %"]) == ("22.00", "24.00", "1.00-99.50")
    assert "frames changed" not in heading
    for name in ("mha", "mla"):
        del result["results"][name]
    assert {line[3] for line in overview.table(result)[1:]} == {"-"}, "nothing to compare with"


def test_a_search_stands_beside_the_same_search(result: dict[str, Any]) -> None:
    models, results = result["what"]["models"], result["results"]
    for name, wer in (("mla", 10.0), ("mla@640ms/10s", 12.0)):
        models[f"{name}+beam"] = models[name] | {"decoding": {"width": 32}}
        results[f"{name}+beam"] = {**results[name], "total": {**results[name]["total"], "wer": wer}}
    shown = {line[0]: line[3] for line in overview.table(result)[1:]}
    assert (shown["mla+beam"], shown["mla@640ms/10s+beam"], shown["mla@640ms/10s"]) == (
        "-",
        "+20.0 %",
        "+0.0 %",
    )
    drawn = picture.curves(result)
    assert drawn["mla", "640 ms"] == [(10.0, 25.0)] and drawn["mla", "640 ms, beam"] == [(10.0, 12.0)]


def test_what_a_stream_changed_has_a_column(result: dict[str, Any]) -> None:
    result["results"]["mla@640ms/10s"]["changed_frames"] = {"changed": 3, "frames": 1000}
    heading, *lines = overview.table(result)
    assert heading[-1] == "frames changed"
    assert {line[0]: line[-1] for line in lines if line[-1] != "-"} == {"mla@640ms/10s": "3 of 1000"}


def test_screen_and_markdown_hold_the_same_cells(result: dict[str, Any]) -> None:
    lines = overview.table(result)
    counts, *shown = overview.text(result).splitlines()
    assert counts == ("8 recordings, 90 words, 2.0 minutes, joined to at least 180 s each; float32, cpu.")
    assert len({len(line) for line in shown}) == 1 and len(shown) == len(lines) == 8
    marked = overview.markdown(result).splitlines()
    assert marked[-1] == counts and not marked[-2]
    assert [line.strip("| ").split(" | ") for line in marked[:1] + marked[2:-2]] == lines
    assert overview.several(result)
    result["what"]["models"] = {"mha": {"profile": "full"}, "mla": {"profile": "full"}}
    assert not overview.several(result) and not overview.several({"what": {"models": {"mha": {}}}})


def test_a_line_for_each_model_chunk_and_cache(result: dict[str, Any], tmp_path: Path) -> None:
    assert picture.curves(result) == {
        ("mha", "640 ms"): [(2.0, 23.0), (10.0, 22.0)],
        ("mha", "640 ms int8"): [(2.0, 24.0)],
        ("mla", "640 ms"): [(10.0, 25.0)],
        ("mla", "naive-320 ms"): [(0.0, 50.0)],
    }
    arms, results = result["what"]["models"], result["results"]
    for left_s in (5, 30):
        name = f"mla@480+160ms/{left_s}s"
        sizes = {"model": "mla", "profile": name[4:], "chunk_frames": 24, "left_context_frames": 50 * left_s}
        arms[name], arms[f"{name}+beam"] = sizes, {**sizes, "decoding": {}}
        results[name] = results[f"{name}+beam"] = results["mla"]
    drawn = picture.curves(result)
    assert drawn["mla", "480+160 ms"] == drawn["mla", "480+160 ms, beam"] == [(5.0, 25.0), (30.0, 25.0)]
    for name in ("a.svg", "b.svg", "c.png"):
        picture.draw(result, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
