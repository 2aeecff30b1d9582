"""Probabilities by hand, sums that must be 1, and sentences that must not be in."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr.ngram import read
from offline import web_counts
from offline.ngram import arpa, backoffs, main, witten_bell
from offline.sentences import everyday_sentence, normalise, split_of

NO_OTHERS = ["--sources", "none", "--everyday", "0", "--web", "0"]  # sentences than those of the manifests


def test_probabilities_are_those_worked_out_by_hand() -> None:
    single, double = witten_bell([["A", "B"], ["A", "A"]], order=2, least=1)
    # Said: A 3, B 1, </s> 2; three different words, so a share of 3 of 6 + 3 is for those never seen.
    assert single == pytest.approx({("A",): 3 / 9, ("B",): 1 / 9, ("</s>",): 2 / 9, ("<unk>",): 3 / 9})
    assert double == pytest.approx(
        {
            ("<s>", "A"): (2 + 1 * 3 / 9) / 3,
            ("A", "A"): (1 + 3 * 3 / 9) / 6,
            ("A", "B"): (1 + 3 * 1 / 9) / 6,
            ("A", "</s>"): (1 + 3 * 2 / 9) / 6,
            ("B", "</s>"): (1 + 1 * 2 / 9) / 2,
        }
    )
    weights = backoffs([single, double])
    assert weights == pytest.approx({("<s>",): 1 / 3, ("A",): 3 / 6, ("B",): 1 / 2})


def test_unknown_words_are_counted_where_they_stand() -> None:
    single, _ = witten_bell([["A", "<unk>"], ["A", "A"]], order=2, least=1)
    assert single[("<unk>",)] == pytest.approx(4 / 9)
    assert sum(single.values()) == pytest.approx(1)


@pytest.mark.parametrize("least", [1, 2])
def test_after_every_context_the_probabilities_sum_to_one(tmp_path: Path, least: int) -> None:
    rng = np.random.default_rng(0)
    lines = [list(rng.choice(list("ABCDEFG"), rng.integers(1, 6), p=np.arange(1, 8) / 28)) for _ in range(60)]
    models = witten_bell(lines, order=3, least=least)
    (tmp_path / "lm.arpa").write_text("".join(arpa(models)))
    lm = read(tmp_path / "lm.arpa")
    vocabulary = [gram[0] for gram in models[0]]
    contexts = {()} | {gram[:-1] for model in models[1:] for gram in model}
    assert len(contexts) > 20
    for context in contexts:
        total = sum(math.exp(lm.score(context, word)[0]) for word in vocabulary)
        assert total == pytest.approx(1, abs=0.01), context  # four digits are written
    assert all(set(gram[1:] for gram in longer) <= set(shorter) for shorter, longer in pairwise(models))


def manifest(file: Path, texts: Iterable[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"audio_filepath": "x.flac", "duration": 1.0, "text": text}) for text in texts]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_sentences_for_measuring_are_never_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = list(dict.fromkeys(normalise(everyday_sentence(rng)) for _ in range(400)))
    trained = [text for text in texts if split_of(text) == "train"]
    held, kept = trained[:1], trained[1:]
    strays = [text for text in texts if split_of(text) != "train"]
    assert strays
    marked = ["ZYGOTE " + held[0].split(maxsplit=1)[1]]
    train = manifest(tmp_path / "one" / "train.jsonl", kept + held + marked * 1 + strays)
    manifest(tmp_path / "two" / "test-unseen-voice.jsonl", held + marked)
    options = ["--manifest", str(train), *NO_OTHERS, "--telephone", "0", "--least", "1"]
    output = tmp_path / "words.arpa.gz"
    assert main([*options, "--least_word", "1", "--output_file", str(output)]) == 0
    only = tmp_path / "three" / "train.jsonl"
    manifest(only, [text for text in kept if text not in held])
    options[1] = str(only)
    alone = tmp_path / "alone.arpa.gz"
    assert main([*options, "--least_word", "1", "--output_file", str(alone)]) == 0
    assert output.read_bytes() == alone.read_bytes()  # as if they had never been there
    options[1] = str(only.rename(only.with_name("mine.jsonl")))
    assert main([*options, "--least_word", "1", "--output_file", str(alone)]) == 0
    assert output.read_bytes() == alone.read_bytes()  # whatever a manifest that is given is called


def test_the_telephones_sentences_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT", "A DOG"])
    said = {}
    for count in ("0", "200"):
        output = tmp_path / f"{count}.arpa.gz"
        options = [*NO_OTHERS, "--telephone", count, "--least", "1", "--least_word", "1"]
        assert main(["--manifest", str(train), *options, "--output_file", str(output)]) == 0
        said[count] = gzip.decompress(output.read_bytes()).decode()
    assert "PRESS" not in said["0"] and "TO\t" not in said["0"]
    assert "PRESS" in said["200"] and "A CAT" in said["200"]


def test_what_is_no_manifest_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "a" / "train.jsonl"
    train.parent.mkdir()
    train.write_text('{"words": "A"}\n')
    options = [*NO_OTHERS, "--telephone", "0", "--output_file", str(tmp_path / "x.gz")]
    assert main(["--manifest", str(train), *options]) == 2
    assert "line 1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--manifest", str(train), "--sources", "papers", "--output_file", "x.gz"])
    assert ended.value.code == 2


def test_the_webs_counts_are_of_words_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unigrams.txt").write_text("the\t600\ncat\t300\npdf\t90\nzyx\t10\n")
    (tmp_path / "bigrams.txt").write_text(
        "<s> the\t500\nthe cat\t400\nthe zyx\t99\nthe pdf\t99\ncat the\t1\n"
    )
    monkeypatch.setattr(web_counts, "_folder", lambda: tmp_path)
    monkeypatch.setattr(web_counts, "_listed", lambda: {"THE", "CAT"})
    singles, pairs = web_counts.web_counts(100, {"ZYX"})
    assert singles == {("THE",): 65, ("CAT",): 32, ("ZYX",): 1}
    assert pairs == {("<s>", "THE"): 50, ("THE", "CAT"): 40, ("THE", "ZYX"): 9}  # the last pair is too rare
    assert web_counts.web_counts(0, set()) == (Counter(), Counter())

    models = witten_bell([["A", "CAT"], ["A", "CAT"]], order=3, least=2, more=[singles, pairs])
    assert ("THE", "ZYX") in models[1] and ("A", "CAT") in models[1] and ("A", "CAT", "</s>") in models[2]
    (tmp_path / "lm.arpa").write_text("".join(arpa(models)))
    lm = read(tmp_path / "lm.arpa")
    for context in {()} | {gram[:-1] for model in models[1:] for gram in model}:
        total = sum(math.exp(lm.score(context, word)[0]) for (word,) in models[0])
        assert total == pytest.approx(1, abs=0.01), context


def test_open_sentences_weigh_more(tmp_path: Path) -> None:
    """So that what only one of them holds is kept where --least is 2."""
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT", "A CAT SAT"])
    sizes = []
    for weight in ("1", "2"):
        output = tmp_path / f"{weight}.arpa.gz"
        options = [
            "--sources",
            "open",
            "--everyday",
            "0",
            "--telephone",
            "0",
            "--web",
            "0",
            "--open_weight",
            weight,
        ]
        assert main(["--manifest", str(train), *options, "--output_file", str(output)]) == 0
        text = gzip.decompress(output.read_bytes()).decode()
        assert "A CAT SAT" not in text
        sizes.append(len(text))
    assert sizes[1] > 2 * sizes[0]
