"""The benchmark of live streams: full rings at mixed phases, equal arms alone, honest limits."""

import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asr
from asr import stream
from asr.cache import Ring
from asr.ctc import Vocabulary
from offline.benchmark import main
from offline.flops import step_flops
from offline.speed import ceiling, crossover, live, stream_equality
from offline.speed.arms import OurArm, build
from offline.speed.equality import UnequalError
from offline.speed.limits import limits
from offline.speed.placed import Placed, Profile, fill, new_cache, profile, sound_for, tables
from offline.speed.twins import PATHS, latent_attentions, on_path
from tests.conftest import LAYERS, noise, tiny_model
from tests.offline.test_speed import change, counted

SHORT = ["--profile", "80x0.2", "--repeats", "2", "--steps", "2", "--device", "cpu"]
SIZES = Profile(80, 0.2)  # 4 frames after 10
ARMS = ["mha", "mla-lossless", "mla-75", "mla-87.5"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "CPU_SHAPES", [(64, 64, 64)])
    monkeypatch.setattr(crossover, "CHUNKS", (2, 8))


@pytest.fixture
def arms(vocabulary: Vocabulary) -> list[OurArm]:
    made = build(asr.Transcriber("tiny", tiny_model(), vocabulary), ARMS, list(PATHS))
    return [arm for arm in made if isinstance(arm, OurArm)]


def run(output: Path, *options: object) -> dict[str, Any]:
    assert main(["stream", *map(str, options), "--output_file", str(output)]) == 0
    return json.loads(output.read_text())


def test_every_arm_cache_profile_and_number_has_its_row(tiny_folder, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "a.png"
    options = ["--streams", "1,3", "--step_streams", "2", "--dtype", "bfloat16", "--plot", picture]
    given = [*SHORT, "--profile", "80x0.2,40x0"]
    result = run(tmp_path / "new" / "a.json", "--model", tiny_folder("mha"), *given, *options)
    rows = result["results"]
    assert [(row["arm"], row["cache_dtype"]) for row in rows[:8]] == [
        (arm, dtype) for arm in ARMS for dtype in ("model", "int8")
    ]
    assert [(row["chunk_ms"], row["streams"]) for row in rows[::8]] == [(80, 1), (80, 3), (40, 1), (40, 3)]
    for row in rows:
        low, high = row["step_s_quartiles"]
        assert 0 < low <= row["step_s_median"] <= high and row["steps"] == 4
        assert row["step_s"]["p50"] <= row["step_s"]["p95"]
        assert row["network_s_median"] < row["step_s"]["p95"]
        assert row["realtime"] == (row["step_s"]["p95"] < row["chunk_ms"] / 1000)
        assert row["cache_bytes"] == row["streams"] * sum(row["bytes_per_stream"].values())
        share = row["gflops"] / result["ceiling_gflops"]["bfloat16"]
        assert row["share_of_ceiling"] == pytest.approx(share, abs=1e-4)
    attention = {(row["arm"], row["cache_dtype"]): row["bytes_per_stream"]["attention"] for row in rows[:8]}
    frame_bytes = LAYERS * 10
    assert attention["mha", "model"] == frame_bytes * 64 * 2
    assert attention["mla-75", "model"] == frame_bytes * 16 * 2
    assert attention["mha", "int8"] == frame_bytes * (64 + 2 * 4)  # a scale for K, one for V
    assert attention["mla-75", "int8"] == frame_bytes * (16 + 4)
    assert result["table_bytes"] == {"80x0.2": LAYERS * 18 * 32 * 2, "40x0": LAYERS * 4 * 32 * 2}
    assert {check["dtype"] for check in result["checks"]} == {"float32", "bfloat16"}
    assert [(row["arm"], row["left_context_frames"]) for row in result["crossover"]][:2] == [
        ("mla-lossless", 0),
        ("mla-lossless", 10),
    ]
    assert len(result["limits"]) == 2 * 8
    assert "| mla-75 auto | int8 | 80x0.2 | 3 |" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_auto_doubles_until_memory_is_full(tiny_folder, tmp_path: Path) -> None:
    """The weights and four streams fit, eight do not."""
    folder = tiny_folder("mha")
    model = asr.load(folder, device="cpu", dtype="float32")
    cache = model.new_cache(1, chunk_frames=50, left_context_frames=50)
    budget = (model.weight_bytes + cache.table_bytes + 6 * cache.nbytes) / 2**30
    options = ["--arms", "mha", "--cache_dtype", "model", "--streams", "auto", "--memory_gib", budget]
    result = run(tmp_path / "a.json", "--model", folder, *SHORT, "--profile", "1000x1", *options)
    rows = result["results"]
    assert [(row["streams"], row["out_of_memory"]) for row in rows] == [
        (1, False), (2, False), (4, False), (8, True)
    ]  # fmt: skip
    (limit,) = result["limits"]
    assert (limit["streams_in_memory"], limit["out_of_memory_at"], limit["binds"]) == (6, 8, "memory")


def test_paths_can_be_forced(tiny_folder, tmp_path: Path) -> None:
    options = ["--arms", "mla-75", "--paths", "absorbed,expanded", "--cache_dtype", "int8", "--streams", "2"]
    result = run(tmp_path / "a.json", "--model", tiny_folder("mha"), *SHORT, *options)
    assert [(row["path"], row["absorbed_layers"]) for row in result["results"]] == [
        ("absorbed", LAYERS), ("expanded", 0)
    ]  # fmt: skip
    assert [name.split(": ")[1] for name in result["what"]["models"]] == ["mla-75"]


def test_streams_of_equal_arms_say_the_same(arms: list[OurArm]) -> None:
    rows = stream_equality.verify(arms, ["model", "int8"], noise(20_000))
    against = [(row["arm"], row["path"], row["against"]) for row in rows if row["cache_dtype"] == "model"]
    whole = ("the whole forward", "the whole forward with look-ahead")
    assert against[: 2 * len(arms)] == [(*arm.label[1:], other) for arm in arms for other in whole]
    assert against[2 * len(arms) :] == [
        ("mla-lossless", "auto", "mla-lossless expanded"),
        ("mla-lossless", "absorbed", "mla-lossless expanded"),
        ("mla-lossless", "expanded", "mha"),
        ("mla-75", "auto", "mla-75 expanded"),
        ("mla-75", "absorbed", "mla-75 expanded"),
        ("mla-87.5", "auto", "mla-87.5 expanded"),
        ("mla-87.5", "absorbed", "mla-87.5 expanded"),
    ]
    rounded = [row for row in rows if row["cache_dtype"] == "int8"]
    assert len(rounded) == len(arms)
    assert all(1e-4 < row["max_log_prob_difference"] < 1 for row in rounded)  # told, not refused


@pytest.mark.parametrize("path", ["absorbed", "expanded"])
def test_a_changed_weight_is_found_before_anything_is_timed(arms: list[OurArm], path: str) -> None:
    arm = next(arm for arm in arms if arm.label[1:] == ("mla-lossless", path))
    change(arm.network, "encoder.layers.1.self_attn.linear_up_v.weight")
    with pytest.raises(UnequalError, match=r"nothing is timed.*mla-lossless"):
        stream_equality.verify(arms, ["model"], noise(20_000))


def test_a_ring_that_writes_elsewhere_is_found(arms: list[OurArm], monkeypatch: pytest.MonkeyPatch) -> None:
    write = Ring.write
    monkeypatch.setattr(Ring, "write", lambda ring, slots, at, values: write(ring, slots, at.flip(1), values))
    with pytest.raises(UnequalError, match="mha against the whole forward"):
        stream_equality.verify(arms[:1], ["model"], noise(20_000))


@pytest.mark.parametrize("int8", [False, True])
def test_placed_streams_are_full_and_at_mixed_phases(vocabulary: Vocabulary, int8: bool) -> None:
    model = asr.Transcriber("tiny", tiny_model("mla"), vocabulary)
    cache = new_cache(model, SIZES, 5, int8, tables(model, SIZES))
    fill(cache)
    assert (cache.frames >= SIZES.left_context_frames).all() and not cache.ended.any()
    assert len(set((cache.frames % SIZES.left_context_frames).tolist())) > 2
    for ring in cache.rings:
        values = ring.read(torch.arange(5))
        assert (values != 0).float().mean() > 0.8 and 0.5 < values.std() < 2
    before = cache.frames.copy()
    lap = Placed(model, cache, sound_for(SIZES), batch=2).step()
    assert (cache.frames == before + SIZES.chunk_frames).all()
    assert 0 < lap.network_s < lap.whole_s
    same = model.new_cache(5, chunk_frames=4, left_context_frames=10, dtype="int8" if int8 else None)
    assert (cache.nbytes, cache.table_bytes) == (same.nbytes, same.table_bytes)


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize(
    ("kind", "positions", "path"),
    [
        ("mha", "relative", None),
        ("mha", "rotary", None),
        ("mla", "relative", "absorbed"),
        ("mla", "relative", "expanded"),
        ("mla-separate", "rotary", "absorbed"),
    ],
)
def test_operations_of_a_step_are_those_that_torch_counts(
    kind: str, positions: str, path: str | None, ahead: int, vocabulary: Vocabulary
) -> None:
    """Without inference mode torch has no fused attention, which it cannot count; no weight wants a gradient."""
    model = tiny_model(kind, positions).requires_grad_(False)
    model = on_path(model, path).requires_grad_(False) if path else model
    door = asr.Transcriber("tiny", model, vocabulary)
    sizes = SIZES._replace(lookahead_ms=20 * ahead)
    cache = new_cache(door, sizes, 3, False, tables(door, sizes))
    fill(cache)
    chunks = [torch.from_numpy(noise(cache.chunk_samples, seed)) for seed in range(3)]
    formula = step_flops(model.config, 4, 10, ahead, [path == "absorbed"] * LAYERS)
    assert counted(model, lambda: stream.step(model, cache, [2, 0, 1], chunks)) == 3 * formula


def test_the_crossover_by_model_is_where_it_changes_its_mind(arms: list[OurArm]) -> None:
    arm = next(arm for arm in arms if arm.label[1:] == ("mla-lossless", "absorbed"))
    attention = next(latent_attentions(arm.network))
    found = crossover.crossover_by_model(attention, 100)
    assert found is not None
    # n* = S r d / (d r + S (H r - d)), S = F + n
    width, heads, rank = 32, 4, 32
    keys = 100 + found
    exact = keys * rank * width / (width * rank + keys * (heads * rank - width))
    assert found - 1 <= exact <= found
    (row, *_) = crossover.measure(arms, [100], 1)
    assert len(row["absorbed_s"]) == len(row["expanded_s"]) == 2 and min(row["absorbed_s"]) > 0


def test_where_measured_paths_cross() -> None:
    chunks = (8, 16, 32, 64)
    assert crossover.crossing(chunks, np.array([0.5, 0.5, 0.5, 2.0])) == pytest.approx(45.3, abs=0.1)
    assert crossover.crossing(chunks, np.array([0.5, 1.1, 0.9, 1.1])) == pytest.approx(46, abs=1)
    assert crossover.crossing(chunks, np.array([0.5, 0.6, 0.7, 0.8])) is None
    assert crossover.crossing(chunks, np.array([1.5, 1.6, 1.7, 1.8])) is None


def row(streams: int, p95_s: float | None, stream_bytes: int = 100, transient: int = 0) -> dict[str, Any]:
    which = {"model": "m", "arm": "mha", "path": None, "cache_dtype": "model", "chunk_ms": 640}
    which |= {"left_context_s": 10.0, "streams": streams}
    if p95_s is None:
        return which | {"out_of_memory": True, "realtime": False}
    figures = {"step_s": {"p95": p95_s}, "bytes_per_stream": {"attention": stream_bytes, "rest": 0}}
    return which | figures | {"out_of_memory": False, "realtime": p95_s < 0.64, "transient_bytes": transient}


@pytest.mark.parametrize(
    ("rows", "memory_bytes", "measured", "interpolated", "fit", "binds"),
    [
        ([row(1, 0.1), row(2, 0.2), row(4, 0.4), row(8, 1.0)], 10**6, 4, 5.6, 9999, "arithmetic"),
        ([row(1, 0.1), row(4, 0.4), row(8, 1.0)], 511, 4, 5.6, 5, "memory"),
        ([row(1, 0.1), row(4, 0.4), row(8, None)], 600, 4, None, 5, "memory"),
        ([row(1, 0.1), row(4, 0.4)], 10**6, 4, None, 9999, None),
        ([row(1, 1.28), row(2, 2.0)], 10**6, 0, 0.5, 9999, "arithmetic"),
        ([row(4, 0.4, transient=9_000), row(8, 1.0)], 10_010, 4, 5.6, 9, "arithmetic"),
        ([row(1, None)], 10, 0, None, None, "memory"),
    ],
)  # fmt: skip
def test_limits(
    rows: list[dict], memory_bytes: int, measured: int, interpolated: float, fit: int, binds: str | None
) -> None:
    (found,) = limits(rows, {"mha": 10}, {"640x10": 1}, memory_bytes)
    keys = ("streams_measured", "streams_interpolated", "streams_in_memory", "binds")
    assert tuple(found[key] for key in keys) == (measured, interpolated, fit, binds)


def test_profiles() -> None:
    assert profile("640x10") == Profile(640, 10.0) and str(profile("320x2.50")) == "320x2.5"
    assert profile("fast") == Profile(200, 5.0, 120) and str(profile("480+160x10")) == "480+160x10"
    assert profile("480+160x10").lookahead_frames == 8
    assert (profile("640x30").chunk_frames, profile("640x30").left_context_frames) == (32, 1500)
    for wrong in (
        "full",
        "640",
        "630x10",
        "0x10",
        "640x-1",
        "640xinf",
        "640x0.01",
        "axb",
        "640+10x1",
        "640+-20x1",
        "640+x1",
        "6_40x1",
    ):
        with pytest.raises(ArgumentTypeError, match="640x10"):
            profile(wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "mha,stock-sdpa"], "'stock-sdpa' has no streams; choices: mha, mla-lossless"),
        (["--arms", "mla-30"], "'mla-30' is no arm"),
        (["--paths", "expand"], "choices: auto, absorbed, expanded"),
        (["--model", "mhha"], "mha, mla"),
        (["--device", "tpu"], "--device is 'tpu'"),
    ],
)
def test_what_cannot_be_used_is_named(options: list[str], words: str, tmp_path: Path, capsys) -> None:
    output = tmp_path / "never.json"
    assert main(["stream", *options, "--output_file", str(output)]) == 2
    assert words in capsys.readouterr().err and not output.exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        live.stream(["--help"])
    assert "example:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        live.stream(["--cache_dtype", "int4", "--output_file", "x"])
    assert "'int4' is no type of cache; choices: model, int8" in capsys.readouterr().err
