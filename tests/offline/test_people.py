"""Which prompts are taken, with which words, and that they can be evaluated; the packages are made here."""

import gzip
import io
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from offline import people
from offline.data import read_manifest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello world.", "HELLO WORLD"),
        ("Please press 1 to mute, or 12; it's #", None),
        ("Please press 1 to mute, or 12; it's on...", "PLEASE PRESS ONE TO MUTE OR TWELVE IT'S ON"),
        ("dial 500 now", None),
        ("3D audio", None),
        ("A PBX here", None),
        ("Thank you for A.M. calls", None),
        ("visit www.asterisk.org", None),
        ("[ascending tones]", None),
        ("b", None),
        ("...", None),
    ],
)
def test_a_prompt_is_its_plain_words_or_left_out(text: str, words: str | None) -> None:
    assert people.plain(text) == words


def tree(root: Path) -> Path:
    """The packages as they unpack, with tones for speech."""
    sounds, texts, readers = root / people.PROMPTS, root / people.PROMPT_TEXTS, root / people.READERS
    for folder in (sounds / "dir", texts.parent, readers / "librivox", readers / "cards"):
        folder.mkdir(parents=True)
    listed = "; comment\nhello: Hello there.\ndir/bye: Goodbye, caller!\nmissing: Not here.\nbeep: [beep]\n"
    texts.write_bytes(gzip.compress(listed.encode()))
    wave = (8_000 * np.sin(np.arange(16_000) / 10)).astype("<i2")
    for name in ("hello", "dir/bye", "beep"):
        file = io.BytesIO()
        with av.open(file, "w", format="g722") as container:
            stream = container.add_stream("g722", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        (sounds / f"{name}.g722").write_bytes(file.getvalue())
    for folder, line in (("librivox", "<s> a novel </s> (one)"), ("cards", "<s> ten of clubs  </s> (one)")):
        name = "transcription" if folder == "librivox" else "cards.transcription"
        (readers / folder / name).write_text(line + "\n")
        soundfile.write(readers / folder / "one.wav", wave, 16_000)
    wave.tofile(readers / people.COMMAND[0])
    return root


def test_manifests_are_written_from_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tree(tmp_path / "packages")

    def unpacked(folder: Path) -> list[str]:
        (folder / "usr").symlink_to(packages / "usr")
        return ["made.deb"]

    monkeypatch.setattr(people, "fetch", unpacked)
    assert people.main(["--output_dir", str(tmp_path / "out")]) == 0
    splits = {name: read_manifest(tmp_path / "out" / f"{name}.jsonl") for name in ("readers",)}
    rows = [
        (utterance.text, split)
        for split in ("dev", "test")
        if (file := tmp_path / "out" / f"prompts-{split}.jsonl").read_text()
        for utterance in read_manifest(file)
    ]
    assert sorted(rows) == sorted((text, people.side(text)) for text in ("HELLO THERE", "GOODBYE CALLER"))
    assert [u.text for u in splits["readers"]] == ["A NOVEL", "TEN OF CLUBS", "GO FORWARD TEN METERS"]
    for utterance in splits["readers"]:
        assert abs(len(utterance.wave()) - 16_000) < 2 and np.abs(utterance.wave()).max() > 0.2


def test_what_cannot_be_fetched_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(100, ["apt-get", "download"], stderr=b"E: No packages found")

    monkeypatch.setattr(subprocess, "run", missing)
    assert people.main(["--output_dir", str(tmp_path)]) == 2
    assert "E: No packages found (apt-get update may help)" in capsys.readouterr().err
