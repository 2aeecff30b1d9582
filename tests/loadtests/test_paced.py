"""Paced clients against a real server, and their clock against messages that were made by hand."""

import asyncio
import json
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from loadtests import paced_client
from loadtests.paced import chunk_s, figures, main
from loadtests.paced_client import Client, Sound, SoundError
from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import Served, serving
from tests.service.live import at_rest, stream_settings


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(stream_settings(), {"mha": FakeTranscriber()}) as served:
        yield served


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "talk.flac", spoken("HELLO WORLD AGAIN"), 16_000)
    return tmp_path / "talk.flac"


def command(server: Served, file: Path, *options: str) -> int:
    url = server.url.replace("http", "ws")
    return main([str(file), "--model", "mha", "--url", url, "--seconds", "2", *options])


def test_clients_of_every_number_have_a_row(
    server: Served, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, started = tmp_path / "new" / "paced.json", time.monotonic()
    assert command(server, file, "--clients", "1,3", "--output_file", str(output)) == 0
    assert time.monotonic() - started >= 2 * 2  # in real time
    result = json.loads(output.read_text())
    assert [row["clients"] for row in result["results"]] == [1, 3]
    for row in result["results"]:
        assert row["lost"] == 0 and row["errors"] == [] and row["chunk_ms"] == 480
        assert row["audio_s"] == pytest.approx(2.0 * row["clients"])
        assert row["last_s"]["count"] == row["clients"] and row["words"] >= 2 * row["clients"]
        assert row["partial_s"]["count"] >= row["clients"]
        assert 0 <= row["partial_s"]["p50"] <= row["partial_s"]["p95"] <= row["partial_s"]["p99"]
    assert result["how"]["spread_s"] == 0.48
    assert result["how"]["seconds"] == 2 and result["how"]["files"] == ["talk.flac"]
    assert [model["id"] for model in result["what"]["models"]] == ["mha"]
    assert capsys.readouterr().out.startswith("1 clients: p50/p95/p99 ms: partial ")
    assert at_rest(server)


@pytest.mark.parametrize(
    ("model", "profile", "seconds"),
    [("mla", None, 0.64), ("mla", "fast", 0.2), ("mla", "other", 0.48), ("mha", None, 0.48)],
)
def test_clients_begin_spread_over_a_chunk_of_what_is_measured(
    model: str, profile: str | None, seconds: float
) -> None:
    profiles = [{"name": "wide", "chunk_ms": 640}, {"name": "fast", "chunk_ms": 200}]
    models = [{"id": "mha"}, {"id": "mla", "profiles": profiles}]
    assert chunk_s(models, Namespace(model=model, profile=profile)) == seconds
    assert chunk_s(None, Namespace(model=model, profile=profile)) == 0.48


def test_pauses_end_segments(server: Served, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "paced.json"
    options = ["--seconds", "3.5", "--pause_s", "3", "--output_file", str(output)]
    assert command(server, file, *options, "--clients", "1") == 0
    row = json.loads(output.read_text())["results"][0]
    assert row["final_s"]["count"] == 1 and row["final_s"]["p50"] >= 0


def test_clients_without_a_place_are_lost_and_said_so(
    server: Served, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "paced.json"
    slots = next(iter(server.service.engine.slots.values())).total
    options = ["--clients", str(slots + 2), "--seconds", "1.5", "--output_file", str(output)]
    assert command(server, file, *options) == 1
    row = json.loads(output.read_text())["results"][0]
    assert row["lost"] == 2 and row["last_s"]["count"] == slots
    assert row["errors"][0].startswith(f"full: all {slots} streams")
    assert "2 lost" in capsys.readouterr().out


def paced(late_s: float = 0.0) -> Client:
    """Pieces of 0.1 s, due at 100.1, 100.2, ...; chunks end 5 ms after the grid of 0.2 s."""
    client = Client(rate=16_000, first_s=0.205, chunk_s=0.2)
    for _, samples, due in client.schedule(iter([b"0" * 3_200] * 7), started=100.0):
        client.sent(samples, due, due + late_s)
    return client


def test_latency_counts_from_the_piece_that_holds_the_last_sample() -> None:
    client = paced()
    client.note({"type": "partial", "text": "a", "audio_s": 0.2}, 100.35)  # its last sample: 0.205 s
    client.note({"type": "partial", "text": "a b", "audio_s": 0.4}, 100.6)
    client.note({"type": "final", "text": "a b"}, 100.75)  # of 0.7 s sent, the grid ends at 0.605
    client.ended = True
    client.note({"type": "partial", "text": "c", "audio_s": 0.6}, 100.85)  # of what was sent before it
    client.note({"type": "final", "text": "c"}, 101.0)  # answers the end
    client.done({"usage": {}}, 101.2)
    assert client.last_s == pytest.approx(0.5)  # the sound ended at 100.7
    assert client.partial_s == pytest.approx([0.05, 0.1, 0.15])
    assert client.final_s == pytest.approx([0.05])
    found = figures([client, Client(rate=16_000, error="refused")])
    assert (found["lost"], found["errors"], found["words"]) == (1, ["refused"], 3)
    client.partial_s.append(0.25)
    assert found["late"] == 0 and figures([client])["late"] == 1


def test_what_was_sent_late_has_waited_since_it_was_due() -> None:
    """All went out half a second late: the texts are as late as that, and the lag says so."""
    client = paced(late_s=0.5)
    client.note({"type": "partial", "text": "a", "audio_s": 0.2}, 100.85)
    client.note({"type": "final", "text": "a"}, 101.25)
    client.ended = True
    client.done({"usage": {}}, 101.7)
    assert client.partial_s == pytest.approx([0.55]) and client.final_s == pytest.approx([0.55])
    assert client.last_s == pytest.approx(1.0)
    assert figures([client])["late_send_s"]["p50"] == pytest.approx(0.5) and figures([client])["late"] == 2


class SilentServer:
    """Says nothing twice, while audio goes out or not; then it says something."""

    def __init__(self, client: Client, audio_goes_out: bool) -> None:
        self._client, self._audio_goes_out, self.calls = client, audio_goes_out, 0

    async def recv(self) -> str:
        self.calls += 1
        if self.calls > 2:
            return json.dumps({"type": "partial", "text": "a"})
        if self._audio_goes_out:
            self._client.sent(1_600 * self.calls, 0.0, 0.0)
        await asyncio.Event().wait()
        raise AssertionError("the event never comes")


async def test_silence_is_heard_out_while_audio_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced_client, "GIVE_UP_S", 0.05)
    client = Client(rate=16_000)
    server: Any = SilentServer(client, audio_goes_out=True)
    assert await client._listen(server) == {"type": "partial", "text": "a"} and server.calls == 3


async def test_silence_is_the_end_when_no_audio_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced_client, "GIVE_UP_S", 0.05)
    client = paced()  # what went out before does not count
    server: Any = SilentServer(client, audio_goes_out=False)
    with pytest.raises(TimeoutError):
        await client._listen(server)
    assert server.calls == 1


def test_sound_goes_round(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.arange(800, dtype=np.int16), 8_000)
    sound = Sound.read([tmp_path / "a.wav"], pause_s=0.1)
    assert len(sound.samples) == 1_600
    pieces = list(sound.pieces(0.05, 0.3, 100))
    heard = np.frombuffer(b"".join(pieces), "<i2")
    assert [len(piece) for piece in pieces] == [1_600] * 3
    assert heard[0] == 400 and not heard[400:1_200].any() and heard[1_201] == 1


def test_what_cannot_be_played_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.wav")]) == 2
    assert capsys.readouterr().err.startswith("paced: ")
    for name, rate in (("a.wav", 8_000), ("b.wav", 16_000)):
        soundfile.write(tmp_path / name, np.zeros(100), rate)
    with pytest.raises(SoundError, match="16000 Hz"):
        Sound.read([tmp_path / "a.wav", tmp_path / "b.wav"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Lost is a client" in capsys.readouterr().out


@pytest.mark.parametrize("clients", ["none", "0.5", "4.7", "4,0.5", "4,", "0", "-1"])
def test_clients_are_whole_numbers_above_0(clients: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["a.wav", "--clients", clients])
    assert "--clients" in capsys.readouterr().err


def test_what_waits_for_its_look_ahead_is_not_late() -> None:
    """After two chunks of 0.2 s at 0.405 s the text covers 0.36."""
    client = paced()
    client.begin({"latency_ms": 245, "chunk_ms": 200, "lookahead_ms": 40})
    assert (client.first_s, client.chunk_s) == pytest.approx((0.205, 0.2))
    client.note({"type": "partial", "text": "a", "audio_s": 0.36}, 100.6)
    assert client.partial_s == pytest.approx([0.1])


def test_a_key_opens_streams_and_stays_out_of_the_file(file: Path, tmp_path: Path) -> None:
    key, output = "k" * 32, tmp_path / "paced.json"
    with serving(stream_settings(api_keys=f"alice:{key}"), {"mha": FakeTranscriber()}) as guarded:
        options = ["--clients", "1", "--seconds", "1", "--output_file", str(output)]
        assert command(guarded, file, *options) == 1
        assert command(guarded, file, *options, "--key", key) == 0
    assert json.loads(output.read_text())["what"]["models"] and key not in output.read_text()
