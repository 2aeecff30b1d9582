"""The samples are an even choice, readable as a manifest of their own."""

import json
from pathlib import Path

import numpy as np
import soundfile

from offline.data import Utterance, read_manifest
from offline.samples import choose, main
from tests.offline.test_data import manifest


def utterance(number: int, domain: str, engine: str, text: str = "HELLO") -> Utterance:
    return Utterance(Path(f"{number}.flac"), 1.0, text, domain, engine)


def test_every_kind_is_heard_before_any_is_heard_twice() -> None:
    many = [utterance(i, "everyday", "espeak") for i in range(9)]
    few = [utterance(10, "open", "espeak"), utterance(11, "open", "flite")]
    chosen = choose(many + few, clips=4)
    assert [u.audio.stem for u in chosen] == ["0", "1", "10", "11"]


def test_what_is_unsuitable_for_a_public_sample_is_left_out() -> None:
    assert (
        choose([utterance(0, "open", "flite", "WHO KILLED HIM"), utterance(1, "open", "flite")], 2)[
            0
        ].audio.stem
        == "1"
    )


def test_the_copy_is_a_manifest(tmp_path: Path) -> None:
    source = manifest(tmp_path, ["ONE", "TWO", "THREE"])
    assert main(["--manifest", str(source), "--output_dir", str(tmp_path / "out"), "--clips", "2"]) == 0
    copied = read_manifest(tmp_path / "out" / "some.jsonl")
    assert [u.text for u in copied] == ["ONE", "TWO"]
    assert all(u.audio.parent == tmp_path / "out" / "some" for u in copied)


def test_recordings_of_one_name_are_copied_each(tmp_path: Path) -> None:
    for folder, level in (("a", 0.1), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "1.wav", np.full(800, level, np.float32), 16_000)
    lines = [
        {"audio_filepath": f"{folder}/1.wav", "duration": 0.05, "text": folder.upper(), "speaker": folder}
        for folder in "ab"
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["--manifest", str(tmp_path / "some.jsonl"), "--output_dir", str(tmp_path / "out")]) == 0
    copied = read_manifest(tmp_path / "out" / "some.jsonl")
    assert [(u.text, u.speaker, round(float(u.wave()[0]), 1)) for u in copied] == [
        ("A", "a", 0.1),
        ("B", "b", 0.5),
    ]


def test_a_part_of_a_file_stays_that_part(tmp_path: Path) -> None:
    source = manifest(tmp_path, ["ONE"], duration_s=2.0)
    line = json.loads(source.read_text())
    parts = [line | {"offset": at, "duration": 0.5, "text": text} for at, text in ((0, "A"), (1.0, "B"))]
    source.write_text("\n".join(map(json.dumps, parts)))
    assert main(["--manifest", str(source), "--output_dir", str(tmp_path / "out"), "--clips", "1"]) == 0
    (copied,) = read_manifest(tmp_path / "out" / "some.jsonl")
    assert (copied.text, copied.start_s, copied.end_s) == ("A", 0.0, 0.5) and len(copied.wave()) == 8_000
