"""The page at /, in a real browser: Debian's Chromium, which takes a recording for its microphone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import asr
from asr import audio, ngram
from asr.search import Beam
from service.settings import Settings
from tests.service.conftest import Served, serving

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
CLIP = Path(__file__).parents[1] / "speech" / "test-seen-voices" / "000005-7065f1ca.flac"
SAID = "look at the crazy sheep"
KEY = "a" * 32
RATE = 48_000
TRACKS = """
window.tracks = [];
const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
media.getUserMedia = async options => {
  const stream = await open(options);
  tracks.push(...stream.getTracks());
  return stream;
};
"""  # every microphone that was ever opened

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def model() -> asr.Transcriber:
    return asr.load("mla", device="cpu")


@pytest.fixture(scope="module")
def served(model: asr.Transcriber) -> Iterator[Served]:
    options = {"decode_workers": 1, "stream_memory": "48MiB", "api_keys": f"alice:{KEY}"}
    with serving(Settings.model_validate(options), {"mla": model}) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["sync_api.Browser"]:
    microphone = tmp_path_factory.mktemp("microphone") / "speech.wav"
    speech = soxr.resample(audio.read(CLIP), audio.SAMPLE_RATE, RATE)
    soundfile.write(microphone, np.concatenate([speech, np.zeros(2 * RATE, np.float32)]), RATE)
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    with sync_api.sync_playwright() as programs:
        chromium = programs.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: "sync_api.Browser", served: Served) -> Iterator["sync_api.Page"]:
    """With its key given. Nothing in it may fail unseen."""
    opened = browser.new_page()
    failed: list[str] = []
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.add_init_script(TRACKS)
    opened.goto(served.url)
    sync_api.expect(opened.locator("#facts")).to_have_text("401 missing_api_key")
    opened.fill("#key", KEY)
    opened.press("#key", "Tab")
    sync_api.expect(opened.locator("#model option")).to_have_text(["mla"])
    yield opened
    opened.close()
    assert not failed


def test_a_file_is_transcribed(page: "sync_api.Page", model: asr.Transcriber) -> None:
    page.set_input_files("#file", CLIP)
    for search, beam in ((True, Beam(lm=ngram.BUNDLED)), (False, None)):
        (wanted,) = model.transcribe([audio.read(CLIP)], decoding=beam)
        page.set_checked("#search", search)
        page.click("#send")
        sync_api.expect(page.locator("#facts")).to_contain_text("1.5 s of sound")
        sync_api.expect(page.locator("#text")).to_have_text(wanted.text.lower())
        assert wanted.text.lower() == SAID
    page.check("#words")
    page.click("#send")
    sync_api.expect(page.locator("#text")).to_contain_text("crazy  (")


def test_what_cannot_be_done_is_said(page: "sync_api.Page") -> None:
    page.click("#send")
    sync_api.expect(page.locator("#text")).to_have_text("Choose a file or record something first.")
    page.set_input_files("#file", CLIP)
    page.fill("#names", "Hanna, R2D2")
    page.click("#send")
    sync_api.expect(page.locator("#facts")).to_have_text("400 invalid_option")
    sync_api.expect(page.locator("#text")).to_contain_text("'2'")
    page.uncheck("#search")  # there is nothing to prefer names in
    page.click("#send")
    sync_api.expect(page.locator("#text")).to_have_text(SAID)


def test_speech_is_recorded(page: "sync_api.Page") -> None:
    page.click("#record")
    sync_api.expect(page.locator("#state")).to_have_text("Recording…")
    page.wait_for_timeout(4_000)  # the recording, and what lies between it and itself
    page.click("#record")
    sync_api.expect(page.locator("#state")).to_have_text("Recorded.")
    page.click("#send")
    sync_api.expect(page.locator("#text")).to_contain_text("sheep", timeout=30_000)


def test_speech_is_read_along(page: "sync_api.Page") -> None:
    page.click("#live")
    sync_api.expect(page.locator("#text")).to_contain_text("sheep", timeout=60_000)
    page.click("#live")
    sync_api.expect(page.locator("#live-state")).to_have_text(re.compile(r"[1-9]\d*\.\d s heard\."))
    assert page.locator("#text i").inner_text() == ""  # all of it is final
    assert page.evaluate("document.activeElement.id") == "live" and open_microphones(page) == 0


def test_stop_stops_the_microphone_at_once(page: "sync_api.Page") -> None:
    """Whatever the server does: here it never gets ready, and then it never says the last words."""
    answers: list[str] = []

    def silent(socket: "sync_api.WebSocketRoute") -> None:
        def heard(message: str | bytes) -> None:
            if isinstance(message, bytes):
                answers.append("audio")
            elif '"end"' in message:
                answers.append("end")
            elif answers:
                socket.send('{"type": "ready", "profile": "balanced", "latency_ms": 645}')

        socket.on_message(heard)

    page.route_web_socket(re.compile("/stream"), silent)
    page.click("#live")
    sync_api.expect(page.locator("#live")).to_have_text("Stop")
    page.click("#live")
    sync_api.expect(page.locator("#live-state")).to_have_text("Stopped.")
    assert open_microphones(page) == 0
    answers.append("begin")
    page.click("#live")
    sync_api.expect(page.locator("#live-state")).to_contain_text("Listening")
    page.click("#live")
    sync_api.expect(page.locator("#live-state")).to_have_text("The last words…")
    page.wait_for_function("tracks.every(track => track.readyState === 'ended')")
    page.wait_for_timeout(300)
    assert answers[-1] == "end" and "audio" in answers


def test_a_second_click_opens_no_second_microphone(page: "sync_api.Page") -> None:
    page.evaluate("document.getElementById('record').click(); document.getElementById('record').click()")
    sync_api.expect(page.locator("#state")).to_have_text("Recording…")
    page.click("#record")
    sync_api.expect(page.locator("#state")).to_have_text("Recorded.")
    assert page.evaluate("tracks.length") == 1 and open_microphones(page) == 0


def test_a_microphone_that_cannot_be_heard_is_closed(page: "sync_api.Page") -> None:
    page.evaluate(
        "void (AudioContext.prototype.createMediaStreamSource = () => { throw new Error('another rate') })"
    )
    page.click("#live")
    sync_api.expect(page.locator("#live-state")).to_have_text("No microphone: another rate")
    assert open_microphones(page) == 0


def test_a_proxys_refusal_is_shown_with_its_status(page: "sync_api.Page") -> None:
    page.route(
        "**/transcribe", lambda route: route.fulfill(status=413, content_type="text/html", body="<html>")
    )
    page.set_input_files("#file", CLIP)
    page.click("#send")
    sync_api.expect(page.locator("#facts")).to_have_text("413")
    sync_api.expect(page.locator("#text")).to_contain_text("The server answered")


def open_microphones(page: "sync_api.Page") -> int:
    return int(page.evaluate("tracks.filter(track => track.readyState === 'live').length"))
