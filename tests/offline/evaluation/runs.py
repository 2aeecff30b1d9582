"""Runs of offline.evaluate as a user starts them, on six short recordings of noise."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from offline.evaluate import main
from tests.conftest import noise

TEXTS = ["one two", "it's the twenty first", "Colour", "", "um", "a b c d"]
Options = list[str]


def write_manifest(folder: Path) -> Path:
    """Six recordings of two domains, the first the shortest; one says nothing."""
    lines = []
    for number, text in enumerate(TEXTS):
        seconds = 0.5 + 0.25 * number
        soundfile.write(folder / f"{number}.flac", noise(int(seconds * 16_000), number), 16_000)
        labels = {"domain": "open" if number % 2 else "everyday", "voice": f"v{number}", "speaker": "s"}
        lines.append({"audio_filepath": f"{number}.flac", "duration": seconds, "text": text} | labels)
    (folder / "six.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "six.jsonl"


def two_models(manifest: Path, tiny_folder: Any) -> Options:
    """Two models on the six recordings, in batches of two."""
    models = f"{tiny_folder('mha')},{tiny_folder('mla')}"
    rest = ["--batch_size", "2", "--latency_clips", "0", "--device", "cpu"]
    return ["--model", models, "--manifest", str(manifest), *rest]


def evaluate(options: Options, output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result and its rows."""
    assert main([*options, "--output_file", str(output)]) == 0
    lines = output.with_suffix(".jsonl").read_text().splitlines()
    return json.loads(output.read_text()), [json.loads(line) for line in lines]


def refused(options: Options, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that says why."""
    assert main([*options, "--output_file", str(output)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("offline.evaluate: ")
    return error
