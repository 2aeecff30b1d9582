"""What fine-tuning hears: texts repaired or refused, recordings left out and counted, every clip once an epoch."""

import json
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from asr.config import ModelConfig
from asr.ctc import Vocabulary
from offline.data import ManifestError, Utterance
from offline.finetuning.data import Chosen, choose, digest, plan, sources, spell
from offline.objective import ctc_loss
from tests.offline.tones import LETTER_S, TINY, tone, write_tones

CONFIG = ModelConfig.from_dict(TINY)


def chosen(manifest: Path, vocabulary: Vocabulary, *, drop: bool = False, limit: int | None = None) -> Chosen:
    names = [str(manifest)]
    return choose(names, CONFIG, vocabulary, limit=limit, max_duration_s=0.5, drop_unknown=drop)


def said(*texts: str) -> list[Utterance]:
    return [Utterance(Path(f"{number}.flac"), 1.0, text) for number, text in enumerate(texts)]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    return write_tones(tmp_path)


def test_lower_case_and_trailing_spaces_are_the_same_labels(tones: Path, vocabulary: Vocabulary) -> None:
    plain = [vocabulary.encode(u.text) for u in chosen(tones / "tones.jsonl", vocabulary).utterances]
    lines = [json.loads(line) for line in (tones / "tones.jsonl").read_text().splitlines()]
    spaced = [line | {"text": f" {line['text'].lower().replace(' ', '  ')} "} for line in lines]
    (tones / "spaced.jsonl").write_text("\n".join(map(json.dumps, spaced)))
    again = [vocabulary.encode(u.text) for u in chosen(tones / "spaced.jsonl", vocabulary).utterances]
    unknown = vocabulary.tokens.index("<unk>")
    assert again == plain and plain[0] == vocabulary.encode("AB") and not any(unknown in ids for ids in plain)


def test_unknown_characters_are_named_or_dropped(vocabulary: Vocabulary) -> None:
    utterances = said("WELL-KNOWN, YES", "IT\u2019S 7 O'CLOCK", "PLAIN")
    with pytest.raises(
        ManifestError, match=r"vocabulary: '-' \(1\), ',' \(1\), '7' \(1\); first in 'WELL-KNOWN, YES'"
    ):
        spell(utterances, vocabulary, drop=False)
    kept, dropped = spell(utterances, vocabulary, drop=True)
    assert [vocabulary.decode(vocabulary.encode(u.text)) for u in kept] == [
        "WELL KNOWN YES",
        "IT'S O'CLOCK",
        "PLAIN",
    ]
    assert dropped == {"-": 1, ",": 1, "7": 1}
    lower = Vocabulary([token.lower() for token in vocabulary.tokens])
    assert spell(said("SHOUTED"), lower, drop=False)[1] == {}


def test_what_ctc_cannot_learn_is_left_out_and_counted(tones: Path, vocabulary: Vocabulary) -> None:
    more = [("AAAAAAAAAAAA", 0.24), ("7", 0.24), ("A" * 5, 0.6)]
    with (tones / "tones.jsonl").open("a") as lines:
        for text, duration_s in more:
            print(json.dumps({"audio_filepath": "0.flac", "duration": duration_s, "text": text}), file=lines)
    found = chosen(tones / "tones.jsonl", vocabulary, drop=True)
    assert [u.text for u in found.utterances] == ["AB", "BA", "CAB"]
    assert found.left_out == {"longer than 0.5 s": 2, "too few frames for their text": 1, "without text": 1}
    assert found.dropped == {"7": 1}
    report = found.report()
    assert report["utterances"] == 3 and report["hours"] == pytest.approx(7 * LETTER_S / 3600, abs=1e-4)
    assert report["sha256"] == digest(found.utterances) != digest(found.utterances[1:])
    with pytest.raises(ManifestError, match="no usable recording; left out"):
        choose(
            [str(tones / "tones.jsonl")],
            CONFIG,
            vocabulary,
            limit=None,
            max_duration_s=0.1,
            drop_unknown=True,
        )


def test_padded_labels_count_nothing_and_the_blank_may_be_any_token() -> None:
    torch.manual_seed(0)
    logits, frames = torch.randn(2, 9, 5), torch.tensor([9, 6])
    lengths = torch.tensor([3, 1])
    for blank, labels in (
        (0, [[1, 2, 2], [3, 0, 0]]),
        (4, [[1, 2, 2], [3, 4, 4]]),
        (0, [[1, 2, 2], [3, -100, -100]]),
    ):
        labels_of = torch.tensor(labels)
        total = 0.0
        for row, (most, count) in enumerate(((9, 3), (6, 1))):
            one = logits[row : row + 1, :most], frames[row : row + 1], labels_of[row : row + 1, :count]
            total += count * float(ctc_loss(*one, lengths[row : row + 1], blank))
        together = ctc_loss(logits, frames, labels_of, lengths, blank)
        assert float(together) == pytest.approx(total / 4, rel=1e-5)


def test_limits_are_spread_over_the_corpora(tones: Path, vocabulary: Vocabulary) -> None:
    names = [str(tones / "tones.jsonl")] * 2
    found = choose(names, CONFIG, vocabulary, limit=4, max_duration_s=1, drop_unknown=False)
    assert [u.text for u in found.utterances] == ["AB", "CAB", "AB", "CAB"]


def test_every_clip_is_heard_once_an_epoch_in_batches_within_both_limits() -> None:
    durations_s = [0.3 + 0.1 * (number % 37) for number in range(101)]
    how = {"batch_size": 4, "batch_seconds": 9.0, "seed": 3, "together": 2}
    epochs = plan(durations_s, 3, None, **how)
    assert len(epochs) == 3 and epochs[0] != epochs[1]
    for steps in epochs:
        batches = [batch for step in steps for batch in step]
        heard = Counter(index for batch in batches for index in batch)
        assert (
            set(heard) == set(range(101))
            and max(heard.values()) <= 2
            and all(len(step) == 2 for step in steps)
        )
        assert max(map(len, batches)) == 4
        assert all(len(b) == 1 or len(b) * max(durations_s[i] for i in b) <= 9.0 for b in batches)
    assert plan(durations_s, 3, None, **how) == epochs
    stopped = plan(durations_s, 9, len(epochs[0]) + 2, **how)
    assert stopped == [epochs[0], epochs[1][:2]]
    assert plan(durations_s, 3, None, **how | {"seed": 4}) != epochs


def test_where_speech_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIBRISPEECH_ROOT", raising=False)
    with pytest.raises(ManifestError, match=r"no training data: give --train_manifest .* `make speech`"):
        sources(None, None, None, False)
    with pytest.raises(ManifestError, match="is given without --"):
        sources(["a.jsonl"], None, None, False)
    assert sources(["a"], ["b"], tmp_path, True) == (["a"], ["b"])
    assert sources(None, None, None, True) == (["train-clean-100"], ["dev-clean"])
    (tmp_path / "data/speech").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / f"data/speech/{split}.jsonl").touch()
    assert sources(None, None, None, False) == (["data/speech/train.jsonl"], ["data/speech/dev.jsonl"])
    for split in ("train-clean-100", "dev-clean"):
        chapter = tmp_path / f"data/LibriSpeech/{split}/7/8"
        chapter.mkdir(parents=True)
        soundfile.write(chapter / "7-8-0.flac", tone("CAB"), 16_000)
        (chapter / "7-8.trans.txt").write_text("7-8-0 CAB\n")
    names, _ = sources(None, None, None, False)
    assert names == ["train-clean-100"]
    for root in (None, tmp_path / "data/LibriSpeech"):
        (found,) = choose(
            names, CONFIG, vocabulary, limit=None, max_duration_s=1, drop_unknown=False, root=root
        ).utterances
        assert found.text == "CAB" and found.duration_s == pytest.approx(3 * LETTER_S)
