"""Whether streams say what they should, before anybody asks how fast: streamed = whole, absorbed = expanded.

The chunks are short, and so is the context: the ring has to wrap several times in a second of sound.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from asr.transcriber import Transcriber
from offline.speed.arms import Label, OurArm, Wave
from offline.speed.equality import Scores, difference, refuse
from offline.speed.rounds import Row

SIZES = {"chunk_frames": 16, "left_context_frames": 24}
AHEAD = {**SIZES, "lookahead_frames": 8}
SAMPLES = 16_960  # 52 frames: three chunks, and a last one of four frames
MHA_ONLY = "mla-lossless"


def verify(arms: Sequence[OurArm], dtypes: Sequence[str], wave: Wave) -> list[Row]:
    """Returns one row for each thing that an arm's streamed log-probs have to equal, in its weights' dtype.

    With the cache in the model's dtype: the whole forward in the same chunks, without and with look-ahead; the expanded
    path for the others of its arm; mha for mla-lossless. An int8 cache rounds, so what it differs from the model's own
    is only told. Raises UnequalError where float32 models differ by more than 1e-4, or anything is not finite.
    """
    heard: dict[Label, Scores] = {}
    rows: list[Row] = []
    for arm in tqdm(arms, f"comparing streams in {_name(arms[0])}"):
        heard[arm.label] = [streamed(arm.transcriber, wave[:SAMPLES], None, SIZES)]
        whole = arm.transcriber.log_probs([wave[:SAMPLES]], **SIZES)
        rows.append(_row(arm, "model", "the whole forward", heard[arm.label], whole))
        ahead = [streamed(arm.transcriber, wave[:SAMPLES], None, AHEAD)]
        whole = arm.transcriber.log_probs([wave[:SAMPLES]], **AHEAD)
        rows.append(_row(arm, "model", "the whole forward with look-ahead", ahead, whole))
        if "int8" in dtypes:
            rounded = [streamed(arm.transcriber, wave[:SAMPLES], "int8", SIZES)]
            rows.append(_row(arm, "int8", "a cache in the model's dtype", rounded, heard[arm.label]))
    for arm in arms:
        other = _twin(arm.label)
        if other in heard and other != arm.label:
            against = " ".join(part for part in other[1:] if part)
            rows.append(_row(arm, "model", against, heard[arm.label], heard[other]))
    refuse(rows)
    return rows


def streamed(model: Transcriber, wave: Wave, dtype: str | None, sizes: dict[str, int]) -> np.ndarray:
    """Log-probs [frames, V] of a clip, chunk by chunk."""
    cache = model.new_cache(1, dtype=dtype, **sizes)
    chunks = model.chunks(wave, chunk_frames=sizes["chunk_frames"])
    return np.concatenate([model.step(cache, [0], [chunk])[0] for chunk in chunks])


def _twin(label: Label) -> Label:
    """The arm whose streams have to say the same; itself where there is none."""
    if label.arm == MHA_ONLY and label.path == "expanded":
        return Label(label.model, "mha")
    return label._replace(path="expanded") if label.path else label


def _row(arm: OurArm, cache_dtype: str, against: str, scores: Scores, others: Scores) -> Row:
    names = {"dtype": _name(arm), "cache_dtype": cache_dtype, "against": against}
    return arm.label._asdict() | names | difference(scores, others)


def _name(arm: OurArm) -> str:
    return str(arm.dtype).removeprefix("torch.")
