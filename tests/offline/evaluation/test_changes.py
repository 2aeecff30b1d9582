"""Streams beside the chunk-masked whole forward: alike in float32, and what rounding changes is counted."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from offline.data import Utterance
from offline.evaluation.changes import changed_frames
from offline.evaluation.measure import Arm, arms_of
from offline.evaluation.profiles import FULL, Profile, parse
from tests.conftest import noise


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, noise(16_000 * (number + 1), number), 16_000)
        found.append(Utterance(path, number + 1, "WORD"))
    return found


def test_only_rounding_changes_frames(tiny_folder, utterances: list[Utterance]) -> None:
    torch.set_num_threads(1)
    ways = [FULL, Profile(8, 20), Profile(8, 20, int8=True), Profile(8, 20, naive=True)]
    arms = arms_of([asr.load(tiny_folder("mla"), device="cpu")], ways, named=True)
    found = changed_frames(arms, utterances, 4)
    assert list(found) == [arms[1].name, arms[2].name]
    exact, small = found.values()
    whole = [arms[0].model.config.frames(16_000 * (number + 1)) for number in range(4)]
    assert exact["frames"] == small["frames"] == sum(whole) and exact["clips"] == 4
    assert exact["changed"] == 0 == exact["share"] and exact["greatest_log_prob_difference"] < 1e-4
    assert small["share"] == round(small["changed"] / small["frames"], 6)
    assert small["greatest_log_prob_difference"] > exact["greatest_log_prob_difference"]
    assert changed_frames(arms, utterances, 0) == {}


def test_a_stream_that_hears_something_else_shows(
    tiny_folder, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Arm("mla", asr.load(tiny_folder("mla"), device="cpu"), parse("160x0.4"))
    wrong = [np.full((arm.model.config.frames(64_000), len(arm.model.vocabulary.tokens)), -1.0, np.float32)]
    monkeypatch.setattr("offline.evaluation.changes.streamed", lambda *_: wrong)
    ((_, found),) = changed_frames([arm], utterances[3:], 1).items()
    assert found["changed"] > 0.5 * found["frames"] and found["greatest_log_prob_difference"] > 0.1
