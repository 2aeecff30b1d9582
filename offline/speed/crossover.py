"""From how many new frames on it pays to make K and V of the latents: measured on one layer, and by the cost model.

The paths differ in `attend` alone, so that is what is timed: the first layer's, with random queries and latents. By the
model the absorbed path is the cheaper one below n* = S r d / (d r + S (H r - d)) new frames over S keys.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.mla import MultiHeadLatentAttention
from offline.speed.arms import OurArm
from offline.speed.ceiling import synchronise
from offline.speed.rounds import Row
from offline.speed.twins import latent_attentions

CHUNKS = (8, 16, 32, 48, 64, 96, 128)  # frames: 0.16 to 2.56 s
STREAMS = {"cpu": 1, "cuda": 64}
LONGEST = 10_000


def measure(arms: Sequence[OurArm], contexts: Sequence[int], repeats: int) -> list[Row]:
    """Returns a row for every mla arm and left context [frames]: seconds of both paths by chunk, and where they cross.

    Args:
        arms: of one model; those of the paths absorbed and expanded are used.
        contexts: F.
        repeats: times that each is timed; the median counts.
    """
    paths = {(arm.label.arm, arm.label.path): next(latent_attentions(arm.network), None) for arm in arms}
    names = [name for name, path in paths if path == "absorbed"]
    cases = [(name, left) for name in names for left in contexts]
    rows = []
    for name, left in tqdm(cases, "absorbed against expanded"):
        both = [paths[name, "absorbed"], paths[name, "expanded"]]
        rows.append({"model": arms[0].label.model, "arm": name, **_case(both, left, repeats)})
    return rows


@torch.inference_mode()
def _case(both: Sequence[MultiHeadLatentAttention | None], left: int, repeats: int) -> Row:
    absorbed, expanded = both
    assert absorbed is not None and expanded is not None
    streams = STREAMS[absorbed.linear_q.weight.device.type]
    times = np.array([_times([absorbed, expanded], streams, n, left, repeats) for n in CHUNKS])  # [chunks, 2]
    model = crossover_by_model(absorbed, left)
    return {
        "left_context_frames": left,
        "streams": streams,
        "chunk_frames": list(CHUNKS),
        "absorbed_s": np.round(times[:, 0], 7).tolist(),
        "expanded_s": np.round(times[:, 1], 7).tolist(),
        "crossover_frames": crossing(CHUNKS, times[:, 0] / times[:, 1]),
        "crossover_frames_by_model": model,
    }


def _times(
    both: Sequence[MultiHeadLatentAttention], streams: int, queries: int, left: int, repeats: int
) -> list[float]:
    """Median seconds of each path's `attend`, taking turns; a first one of each does not count."""
    given = _inputs(both[0], streams, queries, queries + left)
    laps: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for attention, mine in zip(both, laps, strict=True):
            synchronise(given[0].device)
            started = time.perf_counter()
            attention.attend(*given)
            synchronise(given[0].device)
            mine.append(time.perf_counter() - started)
    return [float(np.median(mine[1:])) for mine in laps]


def _inputs(attention: MultiHeadLatentAttention, streams: int, queries: int, keys: int) -> list[Tensor]:
    """Queries [B, H, N, dh], memory [B, S, w] and bias [B, H, N, S]."""
    weight = attention.linear_up_k.weight
    memory = attention.rank_k if attention.joint else attention.rank_k + attention.rank_v
    shapes = [
        (streams, attention.heads, queries, attention.head_size),
        (streams, keys, memory),
        (streams, attention.heads, queries, keys),
    ]
    return [torch.randn(shape, dtype=weight.dtype, device=weight.device) for shape in shapes]


def crossover_by_model(attention: MultiHeadLatentAttention, left: int) -> int | None:
    """The fewest new frames after F old ones for which the cost model expands; None where it never does."""
    cost = MultiHeadLatentAttention.absorbs
    return next((n for n in range(1, LONGEST) if not cost(attention, n, n + left)), None)


def crossing(chunks: Sequence[int], ratios: np.ndarray) -> float | None:
    """Where absorbed / expanded goes through 1 for good, between two measured chunks on logarithmic scales.

    None where it stays on one side: below 1 absorbed wins at every chunk, above 1 expanded does.
    """
    above = ratios > 1
    if above.all() or not above[-1]:
        return None
    last = int(np.flatnonzero(~above)[-1])
    x, y = np.log(chunks[last : last + 2]), np.log(ratios[last : last + 2])
    return round(float(np.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0]))), 1)
