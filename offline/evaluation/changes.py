"""What a live stream's rounding changes: its scores beside those of the chunk-masked whole forward."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from offline import corpora
from offline.data import Utterance
from offline.evaluation.hearing import streamed
from offline.evaluation.measure import Arm

LONGEST_S = 30.0  # of a clip that is checked: the whole forward is quadratic


def changed_frames(
    arms: Sequence[Arm], utterances: Sequence[Utterance], clips: int
) -> dict[str, dict[str, Any]]:
    """Returns frames, changed, share and greatest_log_prob_difference of each streamed arm.

    Of that many clips, evenly spaced over their lengths: `changed` counts the frames whose likeliest token differs.
    Both are in the run's dtype, the stream's cache in the arm's.
    """
    rising = sorted(utterances, key=lambda utterance: utterance.duration_s)
    waves = [one.wave()[: round(LONGEST_S * SAMPLE_RATE)] for one in corpora.evenly(rising, clips)]
    if not waves:
        return {}
    checked = [arm for arm in arms if arm.profile.streamed]
    return {arm.name: _changed(arm, waves) for arm in tqdm(checked, "streams against the whole", unit="arm")}


def _changed(arm: Arm, waves: list[Any]) -> dict[str, Any]:
    sizes = {
        "chunk_frames": arm.profile.chunk_frames,
        "left_context_frames": arm.profile.left_context_frames,
        "lookahead_frames": arm.profile.lookahead_frames,
    }
    whole = np.concatenate([arm.model.log_probs([wave], **sizes)[0] for wave in waves])  # type: ignore[arg-type]
    stream = np.concatenate(streamed(arm.model, waves, arm.profile))
    changed = int((whole.argmax(-1) != stream.argmax(-1)).sum())
    return {
        "clips": len(waves),
        "frames": len(whole),
        "changed": changed,
        "share": round(changed / max(len(whole), 1), 6),
        "greatest_log_prob_difference": float(np.abs(whole - stream).max(initial=0)),
    }
