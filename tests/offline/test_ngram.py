"""Which sentences the n-gram is of, how much each kind of them counts, and what it is told when it cannot be made."""

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from asr.ngram import UNKNOWN, read
from offline.language import kneser_ney
from offline.ngram import main
from offline.sentences import everyday_sentence, normalise, open_sentences, split_of

NO_OTHERS = ["--everyday", "0", "--weights", "rest=1", "--least_word", "1"]


def manifest(file: Path, texts: Iterable[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"audio_filepath": "x.flac", "duration": 1.0, "text": text}) for text in texts]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_sentences_for_measuring_are_never_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    texts = list(dict.fromkeys(normalise(everyday_sentence(rng)) for _ in range(400)))
    trained = [text for text in texts if split_of(text) == "train"]
    held, kept = trained[:1], trained[1:]
    strays = [text for text in texts if split_of(text) != "train"]
    assert strays
    marked = ["ZYGOTE " + held[0].split(maxsplit=1)[1]]
    train = manifest(tmp_path / "one" / "train.jsonl", kept + held + marked + strays)
    manifest(tmp_path / "two" / "test-unseen-voice.jsonl", held + marked)
    options = ["--manifest", str(train), *NO_OTHERS, "--telephone", "0", "--prune", "0"]
    output = tmp_path / "words.arpa.gz"
    assert main([*options, "--output_file", str(output)]) == 0
    assert f"left out: {len(strays)} sentences that fall on" in capsys.readouterr().out
    assert main([*options, "--keep_all", "--output_file", str(tmp_path / "all.gz")]) == 0
    assert f"rest: {len(kept) + len(strays)} sentences" in capsys.readouterr().out
    only = tmp_path / "three" / "train.jsonl"
    manifest(only, kept)
    options[1] = str(only)
    alone = tmp_path / "alone.arpa.gz"
    assert main([*options, "--output_file", str(alone)]) == 0
    assert output.read_bytes() == alone.read_bytes()  # as if they had never been there
    options[1] = str(only.rename(only.with_name("mine.jsonl")))
    assert main([*options, "--output_file", str(alone)]) == 0
    assert output.read_bytes() == alone.read_bytes()  # whatever a manifest that is given is called


def test_the_telephones_sentences_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT", "A DOG"])
    said = {}
    for count in ("0", "200"):
        output = tmp_path / f"{count}.arpa.gz"
        options = [*NO_OTHERS, "--telephone", count, "--prune", "0"]
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


def test_a_source_counts_as_much_as_it_weighs(tmp_path: Path) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT SAT", "THE CAT SAT"])
    scores = []
    for weights in ("open=1,rest=9", "open=9,rest=1"):
        output = tmp_path / f"{weights}.arpa.gz"
        options = ["--everyday", "0", "--telephone", "0", "--order", "2", "--weights", weights]
        assert main(["--manifest", str(train), *options, "--output_file", str(output)]) == 0
        scores.append(read(output).score(("CAT",), "SAT")[0])
    assert scores[0] > scores[1]  # hardly any open sentence says that


def test_what_a_source_has_is_not_of_the_rest_unless_it_has_no_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [normalise(sentence) for sentence in open_sentences()["train"][:50]]
    train = manifest(tmp_path / "one" / "train.jsonl", [*held, "A CAT SAT THERE"])
    for weights, said in (
        ("open=1,rest=1", "rest: 1 sentences"),
        ("rest=1", f"rest: {len(set(held)) + 1} s"),
    ):
        options = ["--everyday", "0", "--telephone", "0", "--order", "1", "--weights", weights]
        assert main(["--manifest", str(train), *options, "--output_file", str(tmp_path / "lm.gz")]) == 0
        assert said in capsys.readouterr().out


def test_general_english_is_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are known, and what it lacks of them has still a share of 1."""
    english = kneser_ney([["THE", "DOG", "SAT"], ["THE", "DOG", "RAN"]], 3, {"THE", "DOG", "SAT", "RAN"})
    del english.probs[0][UNKNOWN,]  # as in a file of Sphinx
    monkeypatch.setattr("offline.sphinx.english", lambda least: english)
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT SAT", "A CAT SAT THERE"])
    options = ["--everyday", "0", "--telephone", "0", "--prune", "0", "--weights", "rest=1,english=3"]
    assert main(["--manifest", str(train), *options, "--output_file", str(tmp_path / "lm.gz")]) == 0
    lm = read(tmp_path / "lm.gz")
    words = ["A", "CAT", "SAT", "THE", "DOG", "RAN", "</s>", UNKNOWN]
    for context in ((), ("<s>",), ("THE", "DOG"), ("A", "CAT")):
        assert sum(math.exp(lm.score(context, word)[0]) for word in words) == pytest.approx(1, abs=0.03)
    assert lm.score(("THE", "DOG"), "RAN")[0] > lm.score(("A", "CAT"), "RAN")[0]
    assert "THERE" not in gzip.decompress((tmp_path / "lm.gz").read_bytes()).decode()  # seen once


def test_the_same_sentences_give_the_same_bytes(tmp_path: Path) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT SAT", "THE DOG SAT", "A DOG RAN HOME"])
    written = []
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.gz"
        command = [
            sys.executable,
            "-m",
            "offline.ngram",
            "--manifest",
            str(train),
            "--output_file",
            str(output),
        ]
        options = [*NO_OTHERS, "--telephone", "50", "--prune", "1e-5"]
        subprocess.run([*command, *options], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_nothing_to_count_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT"])
    for weights in ("english=1", "rest=1"):
        manifest(tmp_path / "two" / "test.jsonl", ["A CAT"] if weights == "rest=1" else ["A DOG"])
        options = ["--everyday", "0", "--telephone", "0", "--weights", weights]
        assert main(["--manifest", str(train), *options, "--output_file", str(tmp_path / "lm.gz")]) == 2
        assert "no training sentence is left of what has a weight" in capsys.readouterr().err


def test_words_seen_too_seldom_are_unknown(tmp_path: Path) -> None:
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT", "A DOG SAT", "A CAT SAT"])
    options = [*NO_OTHERS, "--telephone", "0", "--prune", "0", "--output_file", str(tmp_path / "lm.gz")]
    assert main(["--manifest", str(train), *options, "--least_word", "2"]) == 0
    text = gzip.decompress((tmp_path / "lm.gz").read_bytes()).decode()
    assert "CAT" in text and "A <unk>" in text and "DOG" not in text


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("prose=1", "prose: nothing to weigh; choices: open, dictionary, rest, english"),
        ("open=much", "'much' is not a number of at least 0"),
        ("open=-1", "'-1' is not"),
        ("open", "'' is not"),
        ("open=0,rest=0", "one of the weights must be more than 0"),
    ],
)
def test_weights_that_are_none_are_refused(
    weights: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--weights", weights])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_for_english_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("offline.sphinx.find_spec", lambda name: None)
    train = manifest(tmp_path / "one" / "train.jsonl", ["A CAT"])
    options = ["--everyday", "0", "--telephone", "0", "--weights", "rest=1,english=1"]
    assert main(["--manifest", str(train), *options, "--output_file", str(tmp_path / "lm.gz")]) == 2
    assert "pip install '.[synthesis]', or leave english out of --weights" in capsys.readouterr().err
