"""Greedy, beam and n-gram as arms of one run, on a tiny random model."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

import asr
from asr import ngram
from asr.search import Beam
from offline.evaluation.decodings import facts
from offline.evaluation.hearing import texts
from offline.evaluation.profiles import Profile
from tests.conftest import noise
from tests.offline.evaluation.runs import Options, evaluate, refused, two_models, write_manifest

ARPA = "\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<unk>\n-1\ta\n\n\\end\\\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


@pytest.fixture
def options(manifest: Path, tiny_folder) -> Options:
    return two_models(manifest, tiny_folder)


def test_every_decoding_is_an_arm_that_says_what_the_library_says(
    options: Options, manifest: Path, tiny_folder
) -> None:
    lm = manifest.parent / "lm.arpa"
    lm.write_text(ARPA)
    search = ["--lm", str(lm), "--beam", "4", "--alpha", "0.7", "--beta", "2", "--hot_words", "tea,a sea"]
    search += ["--blank_penalty", "0.2"]
    ways = ["--decoding", "greedy,beam,beam+lm", *search]
    result, rows = evaluate([*options, *ways], manifest.parent / "out.json")
    name = str(tiny_folder("mla"))
    arms = [arm for arm in result["results"] if arm.startswith(name)]
    assert arms == [name, f"{name}+beam", f"{name}+beam+lm"]
    plain = Beam(4, ("tea", "a sea"))
    beams = {
        "": None,
        "+beam": plain,
        "+beam+lm": replace(plain, lm=lm, alpha=0.7, beta=2.0, blank_penalty=0.2),
    }
    model = asr.load(name, device="cpu")
    for row in rows:
        wave, _ = soundfile.read(row["audio"], dtype="float32")
        for way, beam in beams.items():
            (wanted,) = model.transcribe([wave], decoding=beam)
            assert row["models"][name + way]["text"] == wanted.text
    assert len({tuple(row["models"][name + way]["text"] for row in rows) for way in beams}) == 3
    told = result["what"]["models"][f"{name}+beam+lm"]["decoding"]
    assert (told["width"], told["alpha"], told["hot_words"]) == (4, 0.7, ["tea", "a sea"])
    assert told["lm_hash"] == hashlib.sha256(lm.read_bytes()).hexdigest()
    assert "decoding" not in result["what"]["models"][name]
    assert result["how"]["beta"] == 2


def test_streams_are_searched_as_well(tiny_folder) -> None:
    model = asr.load(tiny_folder("mla"), device="cpu")
    beam = Beam(4)
    found = texts(model, [noise(30_000)], Profile(16, 20), beam)
    live = model.transcribe([noise(30_000)], chunk_frames=16, left_context_frames=20, decoding=beam)
    assert found == [live[0].text] != [""]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--decoding", "best"], "best"),
        (["--hot_words", "tea"], "add --decoding"),
        (["--decoding", "greedy,beam", "--lm", "x.arpa"], "--lm x.arpa is of --decoding beam+lm"),
        (["--decoding", "beam+lm", "--lm", "no.arpa"], "no.arpa"),
        (["--decoding", "beam", "--engine", "transformers"], "greedily only"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    given: list[str], said: str, options: Options, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([*options, *given], manifest.parent / "out.json", capsys)


def test_facts_of_a_search_without_an_n_gram() -> None:
    assert facts(Beam())["lm"] is None
    assert facts(Beam(lm=ngram.BUNDLED))["lm"] == "asr/bundled/words.arpa.gz"
