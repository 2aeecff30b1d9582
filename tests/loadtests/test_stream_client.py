"""The command against a real server, on a model that hears what it is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from loadtests import stream_client
from loadtests.stream_client import Client, Sound, StreamError, main
from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import Served, serving
from tests.service.live import stream_settings

KEY = "a-key-of-the-tests-own-client"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(stream_settings(api_keys=f"client:{KEY}"), {"mha": FakeTranscriber()}) as served:
        yield served


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "talk.flac", spoken("HELLO WORLD " + "_" * 20 + "AGAIN"), 16_000)
    return tmp_path / "talk.flac"


def command(server: Served, file: Path, *options: str) -> int:
    return main(
        [str(file), "--model", "mha", "--url", server.url.replace("http", "ws"), "--key", KEY, *options]
    )


def test_it_prints_partials_and_finals(
    server: Served, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(server, file) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "… hell",
        "… hello worl",
        "… hello world",
        "[   0.00 -    0.86] hello world",
        "… ag",
        "[   2.56 -    2.94] again",
    ]
    assert err.startswith("2.96 s of sound, 7 steps, ") or err.startswith("2.97 s of sound, 7 steps, ")
    assert "first text" in err and "last final" in err


def test_words_and_profile(server: Served, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(server, file, "--words", "--profile", "fast", "--piece_ms", "33") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "… h"
    at = out.index("[   0.00 -    0.86] hello world")
    assert out[at + 1] == "       0.00 -    0.38  hello  (90%)"


def test_a_search_with_hot_words(server: Served, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--decoding", "beam", "--hot_words", "Hello, New York", "--hot-words-boost", "2"]
    assert command(server, file, *search) == 0
    assert "] hello world" in capsys.readouterr().out
    assert command(server, file, "--hot_words", "Hello") == 1  # without a beam the server refuses them
    assert "hot_words" in capsys.readouterr().err


def test_json_is_what_the_server_says(server: Served, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(server, file, "--json") == 0
    kinds = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert kinds[0] == "ready" and kinds[-1] == "done" and kinds.count("final") == 2


def test_in_real_time_it_takes_as_long_as_it_was_spoken(server: Served, file: Path) -> None:
    """A lower bound only: nothing is sent before its time."""
    import time

    started = time.monotonic()
    assert command(server, file, "--realtime") == 0
    assert time.monotonic() - started >= 2.9


async def test_a_server_that_is_slow_makes_the_sound_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece goes out when its last sample has been spoken, or at once when the server held up one before it."""
    now, sent_at = 100.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def send(message: bytes | str) -> None:
        nonlocal now
        sent_at.append(now)
        now += {2: 0.15, 5: 2.0}.get(len(sent_at), 0.0)  # the second piece, and the last

    monkeypatch.setattr(stream_client, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(stream_client, "asyncio", SimpleNamespace(sleep=sleep))
    socket: Any = SimpleNamespace(send=send)
    client, rate = Client(socket, {}), 11_025  # of which 100 ms are no whole samples
    client.times.started = now
    await client._play(Sound(np.zeros(5_000, np.float32), rate), 100, realtime=True)
    assert client.times.audio_ended is not None
    assert client.times.audio_ended - client.times.started == pytest.approx(5_000 / rate, abs=1e-9)
    due = [samples / rate for samples in (1_102, 2_204, 3_306, 4_408, 5_000)]
    due[2] = due[1] + 0.15  # later than its own time
    assert [at - 100.0 for at in sent_at] == pytest.approx([*due, due[-1] + 2.0], abs=1e-9)


def test_stereo_at_another_rate_is_mixed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((4_800, 2), [0.5, 0.0]), 48_000)
    sound = Sound.read(tmp_path / "a.wav")
    assert sound.rate == 48_000 and sound.samples == pytest.approx(np.full(4_800, 0.25), abs=1e-4)
    assert b"".join(sound.pieces(7)) == np.full(4_800, 8_192, "<i2").tobytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--profile", "slow"], "profile_not_found: no profile 'slow'; choices: balanced, fast, long"),
        (["--model", "nobody"], "model_not_found: no model 'nobody'; choices: "),
        (["--key", "another"], "invalid_api_key"),
        (["--url", "ftp://localhost:1"], "scheme"),
        (["--url", "localhost:1"], "no server at localhost:1, --url names another"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: Served, file: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(server, file, *options) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


def test_files_that_are_no_sound(server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(server, tmp_path / "none.wav") == 1
    assert "none.wav" in capsys.readouterr().err
    soundfile.write(tmp_path / "high.wav", np.zeros(100), 96_000)
    with pytest.raises(StreamError, match="96000 Hz"):
        Sound.read(tmp_path / "high.wav")
    with pytest.raises(SystemExit):
        command(server, tmp_path / "high.wav", "--piece_ms", "0")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "Example:" in capsys.readouterr().out
