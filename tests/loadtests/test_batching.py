"""The measurement of batching: what it makes of answers."""

from pathlib import Path

import httpx
import pytest

from loadtests.batching import compared, first_seconds, main, padding_ratio, server_timing
from loadtests.clips import SPEECH, ClipsError, read
from loadtests.http_client import Sample
from loadtests.scrape import parse


def sample(text: str, status: int = 200) -> Sample:
    return Sample("a", 1.0, 0.0, status=status, text=text)


def test_texts_that_changed_and_requests_without_an_answer_are_found() -> None:
    single = [sample("a b"), sample(""), sample("c")]
    loaded = [sample("a b"), sample("x"), sample("", 500)]
    found = compared(single, loaded)
    assert (found["different"], found["unanswered"], found["empty"]) == (["a"], 1, 1)


def test_padding_is_what_was_added_between_two_looks() -> None:
    before = parse('asr_padding_frames_total{model="mha"} 10\nasr_frames_total{model="mha"} 90\n')
    after = parse('asr_padding_frames_total{model="mha"} 30\nasr_frames_total{model="mha"} 150\n')
    assert padding_ratio(before, after) == 0.25
    assert padding_ratio(before, before) == 0.0


def test_the_header_is_read_as_seconds() -> None:
    answer = httpx.Response(200, headers={"server-timing": "upload;dur=1.5, inference;dur=20.0"})
    assert server_timing(answer) == {"upload": 0.0015, "inference": 0.02}


def test_the_lone_clip_has_its_length() -> None:
    clip = first_seconds(read(SPEECH), 5.0)
    samples, rate = clip.decoded
    assert len(samples) == 5 * rate
    with pytest.raises(ClipsError, match="are needed"):
        first_seconds(read(SPEECH)[:1], 60.0)


def test_a_folder_without_clips_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--manifest", str(tmp_path)])
    assert ended.value.code == 2
    assert "no clips" in capsys.readouterr().err
