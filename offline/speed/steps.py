"""Rounds of a benchmark of live streams: who takes part, the turns, the figures of each number of streams."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.cache import StreamCache
from offline.flops import step_flops
from offline.speed.arms import OurArm, reset_peak
from offline.speed.placed import Placed, Profile, Step, fill, new_cache, sound_for
from offline.speed.rounds import Row
from offline.speed.twins import latent_attentions
from offline.turns import turns

FIRST_STEPS = {"cpu": 1, "cuda": 2}  # of a number of streams, not measured: kernels are picked
WARM_STEPS = {"cpu": 0, "cuda": 1}  # of every later turn, on memory that has just been taken
AUTO_FROM = {"cpu": 1, "cuda": 16}
CACHE_DTYPES = ("model", "int8")


class Runner(NamedTuple):
    """An arm with a type of cache."""

    arm: OurArm
    int8: bool

    @property
    def key(self) -> Row:
        return {**self.arm.label._asdict(), "cache_dtype": CACHE_DTYPES[self.int8]}

    def __str__(self) -> str:
        return " ".join(filter(None, (*self.arm.label[1:], "int8" if self.int8 else "")))


class Plan(NamedTuple):
    """What to measure of one profile. `streams` None: double until a step takes too long, or memory is full."""

    sizes: Profile
    streams: list[int] | None
    batch: int
    repeats: int
    steps: int
    memory_bytes: int


class Turn(NamedTuple):
    """The steps of one runner in one round, and on a GPU the bytes that came and went in them."""

    steps: list[Step]
    transient_bytes: int


class OutOfMemory(Exception):
    """So many streams do not fit."""


def measure(runners: Sequence[Runner], plan: Plan, tables: list[Tensor]) -> Iterator[list[Row]]:
    """Yields the rows of one number of streams after another, in each all runners in turns.

    A row with `out_of_memory` has no times: that many did not fit. Its runner is left out from there on, as is without
    a list of numbers one whose p95 is over the chunk.
    """
    taking_part = list(runners)
    for streams in _numbers(plan, runners[0].arm.device.type):
        if not taking_part:
            return
        rows = _measure_number(taking_part, plan, tables, streams)
        left = [row["out_of_memory"] or (plan.streams is None and not row["realtime"]) for row in rows]
        taking_part = [runner for runner, out in zip(taking_part, left, strict=True) if not out]
        yield rows


def _numbers(plan: Plan, kind: str) -> Iterator[int]:
    if plan.streams is not None:
        yield from sorted(set(plan.streams))
        return
    streams = AUTO_FROM[kind]
    while True:
        yield streams
        streams *= 2


def _measure_number(runners: Sequence[Runner], plan: Plan, tables: list[Tensor], streams: int) -> list[Row]:
    rounds: dict[int, list[Turn]] = {number: [] for number in range(len(runners))}
    full: set[int] = set()
    total = plan.repeats * len(runners)
    with tqdm(total=total, desc=f"{plan.sizes}, {streams} streams") as bar:
        for number in range(plan.repeats):
            for index in turns(range(len(runners)), number):
                bar.set_postfix_str(str(runners[index]), refresh=False)
                try:
                    if index not in full:
                        turn = take_turn(runners[index], plan, tables, streams, first=number == 0)
                        rounds[index].append(turn)
                except OutOfMemory:
                    full.add(index)
                bar.update()
    return [
        out_of_memory(runner, plan, streams) if index in full else row(runner, plan, streams, rounds[index])
        for index, runner in enumerate(runners)
    ]


def take_turn(runner: Runner, plan: Plan, tables: list[Tensor], streams: int, first: bool) -> Turn:
    """Takes memory for the streams, steps, and gives it back: only then another runner may have it.

    Raises OutOfMemory.
    """
    device = runner.arm.device
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the turn before has left is in other pieces than are needed now
    try:
        _check_room(runner, plan, streams)
        cache = new_cache(runner.arm.transcriber, plan.sizes, streams, runner.int8, tables)
        fill(cache)
        placed = Placed(runner.arm.transcriber, cache, sound_for(plan.sizes), plan.batch)
        for _ in range((FIRST_STEPS if first else WARM_STEPS)[device.type]):
            placed.step()
        before_bytes = reset_peak(device)
        steps = [placed.step() for _ in range(plan.steps)]
        return Turn(steps, _peak(device) - before_bytes)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory from error
    except RuntimeError as error:
        if "allocate memory" in str(error):  # what the CPU's allocator says
            raise OutOfMemory from error
        raise


def _check_room(runner: Runner, plan: Plan, streams: int) -> None:
    """Raises OutOfMemory where weights and caches alone are over the budget."""
    one = one_cache(runner, plan.sizes)
    if runner.arm.weight_bytes + streams * one.nbytes > plan.memory_bytes:
        raise OutOfMemory


def one_cache(runner: Runner, sizes: Profile) -> StreamCache:
    """The cache of a single stream, without tables: what it takes is what every further one takes."""
    return new_cache(runner.arm.transcriber, sizes, 1, runner.int8, [])


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def device_memory_bytes(device: torch.device) -> int:
    """All that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _which(runner: Runner, plan: Plan, streams: int) -> Row:
    return {**runner.key, **plan.sizes._asdict(), "streams": streams}


def out_of_memory(runner: Runner, plan: Plan, streams: int) -> Row:
    """The row of a number of streams that did not fit."""
    return {**_which(runner, plan, streams), "out_of_memory": True, "realtime": False}


def row(runner: Runner, plan: Plan, streams: int, rounds: Sequence[Turn]) -> Row:
    """The figures of one runner with so many streams; step_s_median is the median of the rounds' means."""
    arm, sizes = runner.arm, plan.sizes
    whole_s = np.array([[step.whole_s for step in turn.steps] for turn in rounds])
    network_s = float(np.median([step.network_s for turn in rounds for step in turn.steps]))
    half, most = np.quantile(whole_s, [0.5, 0.95]).tolist()
    low, median, high = np.quantile(whole_s.mean(1), [0.25, 0.5, 0.75]).tolist()
    absorbed = absorbed_layers(arm, sizes)
    frames = sizes.chunk_frames, sizes.left_context_frames, sizes.lookahead_frames
    flops = streams * step_flops(arm.config, *frames, absorbed)
    cache = one_cache(runner, sizes)
    figures = {
        **_which(runner, plan, streams),
        "out_of_memory": False,
        "realtime": 1000 * most < sizes.chunk_ms,
        "steps": whole_s.size,
        "step_s": {"p50": round(half, 6), "p95": round(most, 6)},
        "step_s_median": round(median, 6),
        "step_s_quartiles": [round(low, 6), round(high, 6)],
        "network_s_median": round(network_s, 6),
        "absorbed_layers": sum(absorbed) if arm.label.path else None,
        "gflop_per_step": round(flops / 1e9, 3),
        "gflops": round(flops / network_s / 1e9, 2),
        "bytes_per_stream": cache.bytes_by_part,
        "cache_bytes": streams * cache.nbytes,
    }
    if arm.device.type == "cuda":
        figures["transient_bytes"] = max(turn.transient_bytes for turn in rounds)
    return figures


def absorbed_layers(arm: OurArm, sizes: Profile) -> list[bool]:
    """Of each mla layer, whether its steps attend on the latents."""
    block = sizes.chunk_frames + sizes.lookahead_frames
    keys = sizes.left_context_frames + block
    return [attention.absorbs(block, keys) for attention in latent_attentions(arm.network)]
