"""The measurement of batching: what it makes of answers."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests import batching
from loadtests.batching import (
    compared,
    first_seconds,
    in_turns,
    main,
    over_passes,
    padding_ratio,
    server_timing,
)
from loadtests.clips import SPEECH, ClipsError, read
from loadtests.http_client import Sample, Target
from loadtests.scrape import parse


def sample(text: str, status: int = 200) -> Sample:
    return Sample("a", 1.0, 0.0, status=status, text=text)


def test_texts_that_changed_and_requests_without_an_answer_are_found() -> None:
    single = [sample("a b"), sample(""), sample("c")]
    loaded = [sample("a b"), sample("x"), sample("", 500)]
    found = compared(single, [single, loaded])
    assert (found["different"], found["unanswered"], found["empty"]) == (["a"], 1, 1)


def test_both_ways_are_warmed_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed, passed = [], []

    async def send_all(target: Target, *_: Any) -> list[Sample]:
        assert not passed
        warmed.append(target.url)
        return []

    def load(target: Target, *_: Any) -> tuple[list[Sample], dict[str, float]]:
        passed.append(target.url)
        return [sample("a")], {"wall_s": float(len(passed))}

    monkeypatch.setattr(batching, "send_all", send_all)
    monkeypatch.setattr(batching, "load", load)
    made = in_turns({name: Target(name, "mha") for name in "ab"}, [], users=1, passes=4)
    assert warmed == ["a", "b"] and "".join(passed) == "abbaabba"
    found = over_passes(made["a"])
    assert found["passes"] == found["answered"] == 4 == found["sent_to_answered_s"]["count"]
    assert found["wall_s"] == {"median": 4.5, "low": 1.0, "high": 8.0}


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
    with pytest.raises(SystemExit):
        main(["--passes", "5"])
    assert "it must be even" in capsys.readouterr().err
