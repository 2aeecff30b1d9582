"""Whether arms that share their weights say the same, before anybody asks which is faster.

mla-lossless and stock code have to give mha's scores, and every other mla arm the same on each of its paths. Each clip
runs alone: in a batch stock code lets padding leak into its scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from offline.speed.arms import Arm, Label, Wave

LIMIT = 1e-4  # nats, in float32
Scores = list[NDArray[np.float32]]


class UnequalError(ValueError):
    """Arms that should give the same scores do not; the text names them and the difference."""


def verify(arms: Sequence[Arm], waves: list[Wave]) -> list[dict[str, Any]]:
    """Returns one row for every arm that has another to equal.

    Raises UnequalError where log-probs of float32 models differ by more than LIMIT, or any are not finite. In half
    precision every kernel rounds its own way, so there the share of frames whose best token changed is only reported.
    """
    scores: dict[Label, Scores] = {}
    for arm in tqdm(arms, f"comparing in {_name(arms[0].dtype)}"):
        scores[arm.label] = [arm.log_probs([wave])[0] for wave in waves]
    pairs = [(arm, _twin(arm.label)) for arm in arms]
    rows = [_row(arm, twin, scores) for arm, twin in pairs if twin in scores and twin != arm.label]
    refuse(rows)
    return rows


def refuse(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises UnequalError where a row's scores differ that should not."""
    failed = [_complaint(row) for row in rows if not _passes(row)]
    if failed:
        raise UnequalError(f"nothing is timed, since outputs differ that should not: {'; '.join(failed)}")


def _twin(label: Label) -> Label:
    """The arm whose scores this one has to give; itself where there is none."""
    if label.arm.startswith("stock-") or label.arm == "mla-lossless":
        return Label(label.model, "mha")
    return label._replace(path="expanded") if label.path else label


def _row(arm: Arm, twin: Label, scores: Mapping[Label, Scores]) -> dict[str, Any]:
    return {
        **arm.label._asdict(),
        "against": " ".join(part for part in twin[1:] if part),
        "dtype": _name(arm.dtype),
        **difference(scores[arm.label], scores[twin]),
    }


def difference(scores: Scores, others: Scores) -> dict[str, Any]:
    """How far two arms' log-probs [frames, V] of the same clips are apart, and how many frames have another best."""
    pairs = list(zip(scores, others, strict=True))
    differences = [float(np.abs(mine - other).max()) for mine, other in pairs]
    changed = sum(int((mine.argmax(-1) != other.argmax(-1)).sum()) for mine, other in pairs)
    frames = sum(len(mine) for mine, _ in pairs)
    finite = all(np.isfinite(mine).all() for mine, _ in pairs)
    return {
        "clips": len(pairs),
        "frames": frames,
        "max_log_prob_difference": float(f"{max(differences):.3g}") if finite else float("inf"),
        "changed_frames": round(changed / frames, 6),
    }


def _passes(row: Mapping[str, Any]) -> bool:
    exact = row["dtype"] == "float32" and row.get("cache_dtype") != "int8"
    limit = LIMIT if exact else np.finfo(np.float32).max
    return bool(row["max_log_prob_difference"] <= limit)


def _complaint(row: Mapping[str, Any]) -> str:
    arm = " ".join(part for part in (row["arm"], row["path"]) if part)
    difference, share = row["max_log_prob_difference"], row["changed_frames"]
    return (
        f"{row['model']}: {arm} against {row['against']} by {difference:.2g} nats (at most {LIMIT:g} in float32), "
        f"{share:.1%} of the frames with another best token"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
