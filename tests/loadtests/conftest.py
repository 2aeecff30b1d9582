"""A small set of recordings in which a fake hears what their texts say, and servers of fakes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import Served, serving
from tests.service.live import stream_settings

TEXTS = ("HELLO WORLD", "GOOD DAY TO ALL", "ONE TWO")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest in JSON lines."""
    folder = tmp_path_factory.mktemp("speech")
    lines = []
    for number, text in enumerate(TEXTS):
        wave = spoken(text)
        soundfile.write(folder / f"{number}.flac", wave, 16_000)
        lines.append({"audio_filepath": f"{number}.flac", "duration": len(wave) / 16_000, "text": text})
    (folder / "speech.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def fakes() -> Iterator[Served]:
    """Two fakes with room for eight streams each, in one profile."""
    options = stream_settings(stream_memory="16KB", stream_profiles="load=640/10")
    with serving(options, {"mha": FakeTranscriber(), "mla": FakeTranscriber()}) as served:
        yield served
