"""A bundled model over HTTP: what a clip says does not depend on what runs beside it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from service.batch_cost import FIRST, LEAST
from service.settings import Settings
from tests.service.conftest import Served, serving, sound

SPEECH = Path(__file__).parents[1] / "speech"
CLIPS, USERS = 8, 16


def speech() -> list[bytes]:
    """Recordings from short to long."""
    lines = (SPEECH / "test-seen-voices.jsonl").read_text().splitlines()
    entries = sorted(map(json.loads, lines), key=lambda entry: entry["duration"])
    return [
        (SPEECH / entry["audio_filepath"]).read_bytes() for entry in entries[:: len(entries) // CLIPS][:CLIPS]
    ]


def heard(answer: httpx.Response) -> tuple[str, list[tuple[str, float, float]]]:
    """The text, and the words with their times."""
    words = [(word["word"], word["start"], word["end"]) for word in answer.json()["words"]]
    return answer.json()["text"], words


def test_speech_gives_the_same_words_alone_and_under_load() -> None:
    settings = Settings(models={"mha": "mha"}, dtype="float32", device="cpu", threads=1, stream_memory="0")
    clips = speech()
    with serving(settings) as served:
        tiny = [
            served.post(sound(1)) for _ in range(FIRST + LEAST)
        ]  # too short for a frame: no cost to learn from
        assert [(answer.status_code, answer.json()["text"]) for answer in tiny] == [(200, "")] * len(tiny)
        alone = [send(served, clip) for clip in clips]
        with ThreadPoolExecutor(USERS) as users:
            loaded = list(users.map(lambda n: send(served, clips[n % len(clips)]), range(USERS)))
    assert all(answer.json()["text"] for answer in alone)
    assert max(answer.json()["timing"]["batch_size"] for answer in loaded) > 2
    assert [heard(answer) for answer in loaded] == [heard(alone[n % len(alone)]) for n in range(USERS)]


def send(served: Served, clip: bytes) -> httpx.Response:
    return served.post(clip, **{"timestamp_granularities[]": "word"})
