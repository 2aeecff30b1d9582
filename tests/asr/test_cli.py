import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr import checkpoint, ngram
from asr.__main__ import main
from asr.audio import read
from asr.ctc import Vocabulary
from asr.search import Beam
from tests.conftest import noise, tiny_model


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.flac"
    soundfile.write(path, noise(24_000), 16_000)
    return path


@pytest.fixture
def model(tiny_folder: Callable[..., Path]) -> str:
    return str(tiny_folder("mha"))


@pytest.fixture
def both(tiny_folder: Callable[..., Path]) -> str:
    return f"{tiny_folder('mha')},{tiny_folder('mla')}"


def test_one_file_is_one_line_of_text(clip: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (wanted,) = asr.load(model, device="cpu").transcribe([read(clip)])
    assert wanted.text  # the seeded random model babbles, so that there is something to compare
    assert main([str(clip), "--model", model, "--device", "cpu"]) == 0
    assert capsys.readouterr() == (wanted.text.lower() + "\n", "")
    assert main([str(clip), "--model", model, "--device", "cpu", "--case", "upper"]) == 0
    assert capsys.readouterr().out == wanted.text.upper() + "\n"


def test_json_says_which_file_and_model(clip: Path, both: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--model", both, "--format", "json", "--device", "cpu"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["model"] for result in results] == both.split(",")
    assert {result["file"] for result in results} == {str(clip)}
    for result in results:
        assert result["duration"] == 1.5
        assert " ".join(word["word"] for word in result["words"]) == result["text"]
        assert set(result["words"][0]) == {"word", "start", "end", "confidence"}


def test_text_of_several_files_and_models_is_labelled(
    clip: Path, both: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = clip.with_name("other.wav")
    soundfile.write(other, noise(16_000, seed=1), 16_000)
    assert main([str(clip), str(other), "--model", both, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    labels = [line.split("\t")[:2] for line in captured.out.splitlines()]
    assert labels == [[str(file), name] for file in (clip, other) for name in both.split(",")]
    assert captured.err == ""  # no progress bar where nobody looks


def test_a_bad_file_is_reported_and_the_others_go_on(
    clip: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage, missing = clip.with_name("garbage.wav"), clip.with_name("missing.wav")
    garbage.write_bytes(b"garbage")
    files = [str(garbage), str(missing), str(clip), str(clip.parent)]
    assert main([*files, "--model", model, "--format", "json", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    (result,) = map(json.loads, captured.out.splitlines())
    assert result["file"] == str(clip)
    assert f"error: {garbage}: not a sound file" in captured.err
    assert f"error: {missing}: No such file" in captured.err
    assert f"error: {clip.parent}: Is a directory" in captured.err


def test_a_model_whose_scores_are_no_numbers_fails_file_by_file(
    clip: Path, vocabulary: Vocabulary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, other = tiny_model("mha"), clip.with_name("other.wav")
    broken.lm_head.bias.data[:] = torch.nan
    checkpoint.save(broken, vocabulary, tmp_path / "nan", dtype=torch.float32)
    soundfile.write(other, noise(16_000, seed=1), 16_000)
    assert main([str(clip), str(other), "--model", str(tmp_path / "nan"), "--device", "cpu"]) == 1
    failed = [f"error: {file}: {tmp_path / 'nan'} failed: log-probs hold NaN" for file in (clip, other)]
    assert capsys.readouterr() == ("", "\n".join([*failed, ""]))


LIMITED = """
import resource, sys
from pathlib import Path
from asr.__main__ import main
main([sys.argv[2], *sys.argv[3:]])  # whatever is loaded when it is first needed
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


def test_a_file_too_long_for_the_memory_is_reported_and_the_others_go_on(clip: Path, model: str) -> None:
    long = clip.with_name("long.flac")
    with soundfile.SoundFile(long, "w", 16_000, 1) as file:
        for _ in range(50):  # minutes, of 3.84 MB: there is room for them, but not for twice as much
            file.write(np.zeros(60 * 16_000, np.int16))
    given = [str(long), str(clip), "--model", model, "--device", "cpu"]
    command = [sys.executable, "-c", LIMITED, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"error: {long}: too little memory for its samples\n"
    first, last = done.stdout.splitlines()
    assert last == f"{clip}\t{first}"


@pytest.mark.parametrize(
    ("format", "suffix"), [("text", "txt"), ("srt", "srt"), ("vtt", "vtt"), ("json", "json")]
)
def test_results_go_to_files(clip: Path, both: str, format: str, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert (
        main([str(clip), "--model", both, "--format", format, "--output-dir", str(folder), "--device", "cpu"])
        == 0
    )
    names = [f"clip.{Path(name).name}.{suffix}" for name in both.split(",")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all((folder / name).read_text().endswith("\n") for name in names)


def test_subtitles_of_one_file_go_to_standard_output(
    clip: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), "--model", model, "--format", "srt", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("1\n00:00:0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.wav", "--format", "doc"], "invalid choice: 'doc'"),
        (["a.wav", "--model", "mha,mha"], "'mha,mha': one or more, all different"),
        (["a.wav", "b.wav", "--format", "srt"], "needs --output_dir"),
        (["x/a.wav", "y/a.mp3", "--output_dir", "out"], "several results would be written to out/a.txt"),
        (["a.wav", "--dtype", "int3"], "invalid choice: 'int3'"),
        ([], "FILE"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--model", "no-such-model"], "no-such-model"), (["--device", "abacus"], "abacus")],
)
def test_what_cannot_start_says_why(
    options: list[str], reason: str, clip: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), "--model", model, *options]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.startswith("error: ")) == ("", True)
    assert reason in captured.err


def test_run_as_a_module(clip: Path, model: str) -> None:
    command = [sys.executable, "-m", "asr", str(clip), "--model", model, "--device", "cpu", "--format", "vtt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith("WEBVTT\n")
    assert done.stderr == ""


def test_a_search_may_be_asked_for(clip: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(clip), "--model", model, "--device", "cpu"]
    beam = Beam(hot_words=("tea",), lm=ngram.BUNDLED)
    (wanted,) = asr.load(model, device="cpu").transcribe([read(clip)], decoding=beam)
    assert main([*given, "--decoding", "beam", "--hot_words", "tea", "--lm"]) == 0
    assert capsys.readouterr().out == wanted.text.lower() + "\n"
    assert main([*given, "--decoding", "beam", "--hot_words", "R2D2"]) == 2
    assert "'R2D2'" in capsys.readouterr().err
    assert main([*given, "--decoding", "beam", "--boost", "11"]) == 2
    assert "boost is 11.0; from 0 to 10" in capsys.readouterr().err
    assert main([*given, "--decoding", "beam", "--lm", str(clip)]) == 2
    assert "no ARPA file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*given, "--hot_words", "tea"])
    assert ended.value.code == 2
