"""Each claim's verdict, and the sentences of the summary, on figures constructed to bring them about."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr import checkpoint
from offline.comparison import claims, gains, report
from tests.offline.comparison.results import (
    JOINT,
    MHA,
    bench,
    change,
    cut_cache,
    figures,
    hurt,
    said,
    write,
)  # fmt: skip


def verdict_of(found: dict[str, Any], word: str) -> dict[str, Any]:
    return next(claim for claim in found["claims"] if word in claim["claim"])


@pytest.mark.parametrize(
    ("ratio", "saved", "parameters", "speed", "memory"),
    [
        (1.12, 0.3, 618_000_000, claims.HOLDS, claims.HOLDS),
        (1.12, 0.3, 5_000_000, claims.CONDITIONS, claims.CONDITIONS),
        (1.02, 0.01, 618_000_000, claims.FAILS, claims.FAILS),
    ],
)
def test_speed_and_memory_claims_follow_the_benchmark(
    tmp_path: Path, ratio: float, saved: float, parameters: int, speed: str, memory: str
) -> None:
    lines = said(40)
    files = [write(tmp_path / f"{name}.json", lines, {name: hurt(lines, 0.1, 1)}, {name: attention})
             for name, attention in (("mha", MHA), ("mla", JOINT))]  # fmt: skip
    for file in files:
        change(file, "results", file.stem, memory={})
    found = figures(*files, bench(tmp_path / "b.json", ratio, saved, parameters))
    assert verdict_of(found, "faster")["verdict"] == speed
    assert f"{100 * (ratio - 1):+.1f}%" in verdict_of(found, "faster")["figures"]
    assert verdict_of(found, "memory")["verdict"] == memory
    measured = verdict_of(found, "faster")["at_618m"].startswith("measured")
    assert measured == (parameters > 500_000_000)
    assert len(found["benchmarks"][0]["ratios"]) == 2  # stock code is no mha of ours
    assert found["benchmarks"][0]["ratios"][0]["beyond_noise"] == (ratio > 1.1)
    text = report.markdown(found | {"plots": []})
    assert "stock-sdpa" in text and "p50 0.1, p95 0.2" in text


def test_a_gain_within_the_noise_decides_nothing(tmp_path: Path) -> None:
    lines = said(40)
    file = write(tmp_path / "x.json", lines, {name: hurt(lines, 0.1, 1) for name in ("mha", "mla")},
                 {"mha": MHA, "mla": JOINT})  # fmt: skip
    change(file, "results", "mla", speed={})
    noisy = bench(tmp_path / "b.json", 1.12, 0.3, 5_000_000)
    content = json.loads(noisy.read_text())
    for row in content["results"]:
        row["rtfx_quartiles"] = [0.5 * row["rtfx"], 1.5 * row["rtfx"]]
    noisy.write_text(json.dumps(content))
    assert verdict_of(figures(file, noisy), "faster")["verdict"] == claims.UNDECIDED


def test_without_a_benchmark_speed_and_memory_are_measured_only_where_they_can_be(
    small: Path, tmp_path: Path
) -> None:
    found = figures(small)
    assert (
        verdict_of(found, "faster")["verdict"] == claims.FAILS
        and "+2.0%" in verdict_of(found, "faster")["figures"]
    )
    memory = verdict_of(found, "memory")  # two models in one process: no peak of either by itself
    assert memory["verdict"] == claims.UNMEASURED and memory["at_618m"] == "*unmeasured here*"
    assert "by live streams of 30 s: mla from 1 streams on" in memory["figures"]


def test_old_benchmarks_are_read_too(small: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    rows = [
        {"model": name, "batch_size": 1, "clip_s": 10.0, "rtfx": rtfx, "batch_s_median": 10 / rtfx,
         "batch_s_quartiles": [9.9 / rtfx, 10.1 / rtfx]}
        for name, rtfx in (("mha", 80.0), ("mla", 75.0))
    ]  # fmt: skip
    models = {"mha": {"attention": MHA, "parameters": 5}, "mla": {"attention": JOINT, "parameters": 4}}
    old.write_text(json.dumps({"what": {"models": models}, "how": {}, "results": rows}))
    (ratio,) = figures(small, old)["benchmarks"][0]["ratios"]
    assert ratio["rtfx"] == 0.9375 and ratio["beyond_noise"] and ratio["memory_saved"] is None


@pytest.mark.parametrize(
    ("interval", "source", "expected"),
    [
        ((-0.1, 0.05), claims.REFERENCE, claims.HOLDS),
        ((-0.1, 0.05), "mha", claims.CONDITIONS),
        ((0.1, 0.5), "mha", claims.UNDECIDED),
        ((0.4, 0.5), "mha", claims.FAILS),
    ],
)
def test_the_wer_claim(
    small: Path, tmp_path: Path, interval: tuple[float, float], source: str, expected: str
) -> None:
    found = figures(small)
    found["comparisons"][0]["interval_95"] = list(interval)
    found["arms"]["mla"]["source"] = source
    claim = next(claim for claim in claims.judge(found) if "WER" in claim["claim"])
    assert claim["verdict"] == expected
    assert ("within 0.1" in claim["figures"]) == (interval[1] < 0.1)
    assert claim["at_618m"] == ("measured" if source == claims.REFERENCE else "*unmeasured here*")


def test_claims_about_mla_need_an_mla(small: Path, tmp_path: Path) -> None:
    change(small, "what", "models", "mla", attention=MHA)
    found = figures(small)
    assert {claim["verdict"] for claim in found["claims"]} == {claims.UNMEASURED}
    assert found["summary"] == {"bought": [], "not_bought": [], "not_shown": []}


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [((0.5, 0.75), claims.HOLDS), ((0.25, 0.75), claims.CONDITIONS), ((0.25, 0.4), claims.FAILS)],
)
def test_the_cache_claim(tmp_path: Path, cuts: tuple[float, float], expected: str) -> None:
    lines = said(40)
    texts = {name: hurt(lines, 0.1, 1) for name in ("mha", "one", "two")}
    path = write(tmp_path / "x.json", lines, texts, {"mha": MHA, "one": JOINT, "two": JOINT})
    for name, cut in zip(("one", "two"), cuts, strict=True):
        cut_cache(path, name, cut)
    found = figures(path)
    assert verdict_of(found, "KV cache")["verdict"] == expected
    assert f"one: {100 * cuts[0]:.1f}% less" in verdict_of(found, "KV cache")["figures"]


@pytest.mark.parametrize(
    ("errors", "source", "expected"),
    [
        ((0.062, 0.19), f"facebook/{claims.REFERENCE}", claims.HOLDS),
        ((0.05, 0.1), "mha", claims.CONDITIONS),
        ((0.05, 0.3), "mha", claims.FAILS),
    ],
)
def test_the_claim_of_reconstruction(
    small: Path, tmp_path: Path, errors: tuple[float, float], source: str, expected: str
) -> None:
    found = figures(small)
    row = {"latent": "separate", "method": "weight", "width": 32, "ranks": {"rank_k": [16, 16], "rank_v": [16, 16]},
           "mean_k_relative_error": errors[0], "mean_v_relative_error": errors[1], "source": source}  # fmt: skip
    found["conversions"] = {"simple": row}
    claim = claims.judge(found)[0]
    assert claim["verdict"] == expected and f"K {100 * errors[0]:.1f}%" in claim["figures"]
    for other in (
        {"method": "attention"},
        {"ranks": {"rank_k": [8, 16], "rank_v": [16, 16]}},
        {"latent": "joint"},
    ):
        found["conversions"] = {"simple": row | other}
        assert claims.judge(found)[0]["verdict"] == claims.UNMEASURED


def test_verdicts_of_mixed_cases() -> None:
    assert claims.verdict([True, None], general=True) == claims.CONDITIONS
    assert claims.verdict([False, None], general=True) == claims.UNDECIDED
    assert (
        claims.verdict([False], general=True) == claims.FAILS
        and claims.verdict([], True) == claims.UNMEASURED
    )


def test_what_mla_bought_is_said_in_words(small: Path, tmp_path: Path) -> None:
    change(small, "what", "models", "mla", parameters=4_900_000)
    said_of = figures(small)["summary"]
    assert any("cache 75.0% smaller (128 kB a second" in sentence for sentence in said_of["bought"])
    lost = " / ".join(said_of["not_bought"])
    assert (
        "WER rises by more than 0.1 points" in lost
        and "2.0% fewer parameters" in lost
        and "+2.0% RTFx" in lost
    )
    assert any("memory: not measured" in sentence for sentence in said_of["not_shown"])


def test_words_change_with_the_figures(small: Path, tmp_path: Path) -> None:
    found = figures(small, "--margin", "5")
    found["arms"]["mla"] |= {
        "rtfx": 130.0,
        "parameters": 4_000_000,
        "alone_in_its_process": True,
        "memory_bytes": 3e6,
    }
    found["arms"]["mha"]["alone_in_its_process"] = True
    found["null"] = [{"identical": 0.1, "differs": {"dtype": ["float32", "bfloat16"]}}]
    bought = " / ".join(gains.summarise(found)["bought"])
    for part in (
        "no more than 5 points",
        "20.0% fewer",
        "+30.0% RTFx",
        "no more than by rounding alone (rounding alone changes up to 90.0%)",
        "memory (-25.0%",
    ):
        assert part in bought, bought
    found["comparisons"][0] |= {"verdict": "undecided", "identical": 1.0}
    found["arms"]["mla"] |= {"rtfx": 80.0, "cache_cut": 0.0}
    said_of = gains.summarise(found)
    assert any("whether WER stays" in sentence for sentence in said_of["not_shown"])
    assert any("not one transcript changed" in sentence for sentence in said_of["bought"])
    lost = " / ".join(said_of["not_bought"])
    assert "slower (-20.0% RTFx" in lost and "no smaller cache" in lost


def test_a_conversion_is_reported(small: Path, tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    """A folder with an mla model and a report as offline.convert writes it, its own ranks in it."""
    torch.set_num_threads(1)
    model, vocabulary = checkpoint.load(tiny_folder("mla"))
    rows = [{"layer": n, "k_relative_error": 0.1 * (n + 1), "v_relative_error": 0.2} for n in range(3)]
    agreement = {"frames": 100, "argmax_agreement": 0.998, "ctc_kl": 4.2e-5}
    told = {"source": "mha", "method": "weight", "layers": rows, "agreement": agreement}
    checkpoint.save(model, vocabulary, tmp_path / "converted", told, dtype=torch.float32)
    found = figures(small, "--models", f"mla={tmp_path / 'converted'}")
    conversion = found["conversions"]["mla"]
    assert conversion["ctc_kl"] == 4.2e-5 and conversion["ranks"] == {"rank": [12, 16, 20]}
    assert conversion["mean_k_relative_error"] == 0.2 and conversion["mean_output_relative_error"] is None
    text = report.markdown(found | {"plots": []})
    assert "4.20e-05" in text and "99.800%" in text and "12-20" in text
