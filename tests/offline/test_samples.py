"""The samples are an even choice, readable as a manifest of their own."""

from pathlib import Path

import pytest

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


def test_the_copy_is_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = manifest(tmp_path, ["ONE", "TWO", "THREE"])
    monkeypatch.setattr(
        "sys.argv",
        ["samples", "--manifest", str(source), "--output_dir", str(tmp_path / "out"), "--clips", "2"],
    )
    main()
    copied = read_manifest(tmp_path / "out" / "some.jsonl")
    assert [u.text for u in copied] == ["ONE", "TWO"]
    assert all(u.audio.parent == tmp_path / "out" / "some" for u in copied)
