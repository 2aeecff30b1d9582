"""The bundled n-gram on speech: the bundled model's scores of some clips, each alone and all joined."""

import jiwer
import numpy as np
import pytest

import asr
from asr import ngram
from asr.search import Beam
from tests.asr import test_bundled

LM = Beam(lm=ngram.BUNDLED)


@pytest.fixture(scope="module")
def model() -> asr.Transcriber:
    return test_bundled.model("mla")


@pytest.fixture(scope="module")
def clips(model: asr.Transcriber) -> list[tuple[str, np.ndarray]]:
    """Text and scores [frames, vocabulary] of every third clip, some 25 s of speech."""
    chosen = test_bundled.clips("test-seen-voices")[::3]
    return list(
        zip([one.text for one in chosen], model.log_probs([one.wave() for one in chosen]), strict=True)
    )


def said(model: asr.Transcriber, log_probs: np.ndarray, beam: Beam | None) -> str:
    return model.transcript(log_probs, len(log_probs) * model.seconds_per_frame, beam).text


def test_it_is_right_more_often(model: asr.Transcriber, clips: list[tuple[str, np.ndarray]]) -> None:
    texts = [text for text, _ in clips]
    greedy, searched = (
        jiwer.wer(texts, [said(model, scores, beam) for _, scores in clips]) for beam in (None, LM)
    )
    assert searched < greedy


def test_joined_clips_keep_their_words_apart(
    model: asr.Transcriber, clips: list[tuple[str, np.ndarray]]
) -> None:
    """Minutes of it say what the clips say, but for what depends on the sentence before."""
    pause = np.full((15, len(model.vocabulary)), -20.0, np.float32)
    pause[:, model.vocabulary.blank] = 0.0
    pause[7, [model.vocabulary.blank, model.vocabulary.delimiter]] = -20.0, 0.0
    joined = np.concatenate([part for _, scores in clips for part in (scores, pause)] * 4)
    alone = " ".join(said(model, scores, LM) for _, scores in clips)
    text = said(model, joined, LM)
    assert jiwer.wer(" ".join([alone] * 4), text) < 0.1
    assert max(map(len, text.split())) < 20
