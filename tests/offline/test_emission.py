"""When a stream shows a word: after the chunk that ends it, against where the whole recording has its end."""

import json
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.ctc import Word
from offline import emission
from offline.emission import delays_s, main, shown, summary

SPEECH = Path(__file__).parents[1] / "speech" / "test-seen-voices.jsonl"
SIZE = 8  # frames a chunk


def scores(model: asr.Transcriber, letters: dict[int, str], frames: int) -> np.ndarray:
    """Log-probabilities whose best token is a blank, but for the letters at their frames."""
    best = np.full(frames, model.vocabulary.blank)
    for frame, letter in letters.items():
        best[frame] = model.vocabulary.tokens.index(letter)
    found = np.full((frames, len(model.vocabulary)), -20.0, np.float32)
    found[np.arange(frames), best] = 0.0
    return found


def test_a_word_is_shown_after_the_chunk_that_ends_it() -> None:
    model = asr.load("mha", device="cpu")
    # HIT grows over two chunks' edges; A ends in the last frame of the third; the fourth is short
    letters = {6: "H", 9: "I", 16: "T", 17: "T", 18: "|", 23: "A", 25: "|", 26: "I"}
    wave = np.zeros(27 * 320 + 80, np.float32)
    found = shown(model, wave, scores(model, letters, 27), SIZE)
    third = (24 * 320 + 80) / 16_000
    assert found == [("HIT", third), ("A", third), ("I", len(wave) / 16_000)]


@pytest.mark.parametrize(("ahead", "turns"), [(2, (2, 3)), (8, (3, 4)), (10, (3, 4))])
def test_with_look_ahead_a_word_is_shown_when_that_is_heard(ahead: int, turns: tuple[int, int]) -> None:
    """I is in frame 9, A in 18; 8, 16, 24 frames have been heard after the turns, and 27 at the end."""
    model = asr.load("mha", device="cpu")
    wave = np.zeros(27 * 320 + 80, np.float32)
    at = [(frames * 320 + 80) / 16_000 for frames in (0, 8, 16, 24, 27)]
    found = shown(model, wave, scores(model, {9: "I", 10: "|", 18: "A", 19: "|"}, 27), SIZE, ahead)
    assert found == [("I", at[turns[0]]), ("A", at[turns[1]])]


class Revising:
    """A decoder whose text changes at every push."""

    def __init__(self, *_: object) -> None:
        self._texts = iter(["A B C", "A X C", "A X C D"])
        self.words: list[Word] = []

    def push(self, _: np.ndarray) -> None:
        self.words = [Word(word, 0.0, 0.0, 1.0) for word in next(self._texts)[::2]]


def test_from_a_revised_word_on_the_text_stands_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, wave = asr.load("mha", device="cpu"), np.zeros(24 * 320, np.float32)
    monkeypatch.setattr(emission, "StreamDecoder", Revising)
    first, second, third = np.cumsum([len(one) for one in model.chunks(wave, chunk_frames=SIZE)]) / 16_000
    found = shown(model, wave, scores(model, {}, 24), SIZE)
    assert found == [("A", first), ("X", second), ("C", second), ("D", third)]


def test_delays_are_of_words_that_both_hear_alike() -> None:
    spoken = [Word("LOOK", 0.0, 0.3, 1.0), Word("AT", 0.4, 0.5, 1.0), Word("SHEEP", 0.6, 1.0, 1.0)]
    stream = [("LOOK", 0.645), ("THE", 0.645), ("AT", 0.645), ("SHIP", 1.285)]
    assert delays_s(spoken, stream) == pytest.approx([0.345, 0.145])
    assert delays_s(spoken, []) == delays_s([], stream) == []
    assert summary(3, [0.345, 0.145]) == {
        "words": 3,
        "shown": 2,
        "delay_ms": {"mean": 245.0, "p50": 245.0, "p95": 335.0},
    }
    assert summary(3, []) == {"words": 3, "shown": 0, "delay_ms": None}


def test_longer_chunks_show_words_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "x.json"
    command = ["--model", "mha", "--dataset", str(SPEECH), "--max_samples", "6", "--device", "cpu"]
    assert main([*command, "--profile", "160x2,1280x2", "--output_file", str(output)]) == 0
    rows = json.loads(output.read_text())["results"]["mha"]
    short, long = rows["160ms/2s"], rows["1280ms/2s"]
    assert 0 < short["delay_ms"]["mean"] < long["delay_ms"]["mean"] and long["shown"] <= long["words"]
    assert "1280ms/2s" in capsys.readouterr().out
    assert main([*command, "--profile", "full", "--output_file", str(output)]) == 2
    assert "--profile full is no stream" in capsys.readouterr().err
