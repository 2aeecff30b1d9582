"""Clips longer than a window: every frame once, from a window that sees around it, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from asr import load, windows
from asr.normalise import moments, normalise
from tests.conftest import noise

HOP, TAIL = 320, 80
WINDOW, MARGIN = 60, 10


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LONG_FRAMES", WINDOW)
    monkeypatch.setattr(windows, "WINDOW_FRAMES", WINDOW)
    monkeypatch.setattr(windows, "MARGIN_FRAMES", MARGIN)


@pytest.mark.parametrize("frames", [59, 60, 61, 80, 99, 100, 101, 140, 205])
def test_every_frame_comes_once_from_its_window(frames: int, tiny_folder) -> None:
    model = load(tiny_folder("mla"), device="cpu")
    clip = noise(HOP * frames + TAIL + 7)
    whole = model.log_probs([clip])[0]
    assert whole.shape == (frames, 32)
    if frames <= WINDOW:
        return
    step = WINDOW - 2 * MARGIN
    normed = normalise(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
    for first in range(0, frames, step):
        end = min(first + step + MARGIN, frames)
        begin = max(min(first - MARGIN, end - WINDOW), 0)
        window = normed[:, HOP * begin : HOP * end + TAIL]
        with torch.inference_mode():
            logits, _ = model.model(window, torch.tensor([window.shape[1]]), normalised=True)
        kept = logits[0].log_softmax(-1).numpy()[first - begin : first - begin + step]
        assert np.abs(whole[first : first + step] - kept[: frames - first]).max() < 1e-4


def test_far_from_the_cuts_a_window_says_what_the_whole_says(tiny_folder) -> None:
    """A loud half and a quiet one: normalised window by window, the quiet one would be as loud as the other."""
    model = load(tiny_folder("mha"), device="cpu")
    clip = noise(HOP * 200 + TAIL)
    clip[len(clip) // 2 :] *= 0.01
    with torch.inference_mode():
        x = model.model.features(torch.from_numpy(clip)[None], torch.tensor([len(clip)]), None)
    seen: list[torch.Tensor] = []
    model.model.feature_extractor.register_forward_hook(lambda _, __, output: seen.append(output))
    model.log_probs([clip])
    assert (seen[-1][0] - x[0, -WINDOW:]).abs().max() < 1e-4


def test_no_forward_is_longer_than_a_window(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    lengths: list[int] = []
    model.model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    model.log_probs([noise(HOP * 1_000 + TAIL)])
    assert len(lengths) == 25 and max(lengths) <= HOP * WINDOW + TAIL


def test_a_long_clip_leaves_its_company_alone(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    clips = [noise(9_000, 1), noise(HOP * 150 + TAIL, 2), noise(5_000, 3)]
    together = model.log_probs(clips)
    for clip, scores in zip(clips, together, strict=True):
        assert np.abs(scores - model.log_probs([clip])[0]).max() < 1e-4


def test_word_times_go_on_past_the_windows(tiny_folder) -> None:
    model = load(tiny_folder("mha"), device="cpu")
    transcript = model.transcribe([noise(HOP * 300 + TAIL)])[0]
    ends = [word.end for word in transcript.words]
    assert ends == sorted(ends) and ends[-1] > 3.0
    assert transcript.in_case("lower").text == transcript.text.lower()


def test_moments_are_those_of_the_whole() -> None:
    clip = noise(2**21 + 12_345) + 0.25  # three blocks
    mean, deviation = moments(clip)
    whole = normalise(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))[0].numpy()
    assert np.abs((clip - mean) / deviation - whole).max() < 1e-6


HOUR = """
import resource, sys
import numpy as np
import asr

model = asr.load(sys.argv[1], device="cpu")
peaks = []
for minutes in (2, 60):
    wave = np.random.default_rng(0).standard_normal(minutes * 960_000, np.float32)
    next(model.windows(wave))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(peaks[1] - peaks[0], wave.nbytes)
"""


def test_windows_of_an_hour_need_no_second_copy_of_it(tiny_folder) -> None:
    script = [sys.executable, "-c", HOUR, str(tiny_folder("mla"))]
    done = subprocess.run(script, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    more, samples = map(int, done.stdout.split())
    assert more < 1.2 * samples
