"""Reading of transcripts, word by word, and what is refused."""

from pathlib import Path

import pytest

from offline.compare import main
from offline.comparison.differences import only
from offline.comparison.transcripts import align, read_arms, read_json, slot_errors
from tests.offline.comparison.results import JOINT, MHA, change, figures, hurt, said, write


def test_slots_hold_what_was_heard_for_each_word() -> None:
    (slots,) = align(["A B C D"], ["E A X C C"])
    assert slots == ["E", "A", "", "X", "", "C", "", "C", ""]
    assert slot_errors(["A", "B", "C", "D"], slots) == [1, 0, 0, 1, 0, 0, 0, 1, 0]
    (slots,) = align(["A B"], [""])
    assert slots == [""] * 5 and slot_errors(["A", "B"], slots) == [0, 1, 0, 1, 0]


def test_errors_that_one_makes_alone(tmp_path: Path) -> None:
    lines = [{**line, "reference": "THE CAT SAT", "words": 3} for line in said(2)]
    texts = {"mha": ["THE CAT SAD", "THE CAT"], "mla": ["THE BAT SAD", "OH THE CAT"]}
    path = write(tmp_path / "x.json", lines, texts, {"mha": MHA, "mla": JOINT})
    mha, mla = read_arms({path: read_json(path)})
    found = [(row["kind"], row["reference"], row["heard"], row["example"]["id"]) for row in only(mla, mha)]
    assert found == [("insertion", "", "OH", "u00001"), ("substitution", "CAT", "BAT", "u00000")]
    assert only(mha, mla) == []  # SAD, and the word that both miss


def test_files_that_do_not_belong_together_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message() -> str:
        assert main([str(small), "--output_dir", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    whole, rows = small.read_text(), small.with_suffix(".jsonl").read_text()
    change(small, "results", "mla", "total", wer=1.0)
    assert "says WER 1.0 of mla" in message()
    small.write_text(whole)
    small.with_suffix(".jsonl").write_text(rows.replace('"substitutions": 1', '"substitutions": 9', 1))
    assert "9 errors of" in message()
    small.with_suffix(".jsonl").write_text(rows[: len(rows) // 2])
    assert "not an utterance of offline.evaluate" in message()
    small.with_suffix(".jsonl").write_text(rows + rows.splitlines()[0])
    assert "u00000 is there twice" in message()
    small.with_suffix(".jsonl").unlink()
    assert "dev.jsonl: no such file" in message()
    change(small, utterances_file=None)
    small.write_text(whole.replace('"utterances_file"', '"utterances"'))
    assert "older offline.evaluate" in message()


def test_arms_of_several_profiles_are_compared_with_their_likes(tmp_path: Path) -> None:
    """Streamed mha is no rounding of mha, and streamed mla stands beside streamed mha."""
    lines = said(40)
    texts = hurt(lines, 0.1, 1)
    names = {"mha": MHA, "mla": JOINT, "mha@640ms/10s": MHA, "mla@640ms/10s": JOINT}
    path = write(tmp_path / "x.json", lines, dict.fromkeys(names, texts), names)
    for name in names:
        heard = (
            {"profile": "640ms/10s", "chunk_frames": 32, "left_context_frames": 500}
            if "@" in name
            else {"profile": "full"}
        )
        change(path, "what", "models", name, folder_hash=name.partition("@")[0], **heard)
    found = figures(path)
    assert found["null"] == []
    pairs = [(row["arm"], row["baseline"]) for row in found["comparisons"]]
    assert pairs == [("mla", "mha"), ("mha@640ms/10s", "mha"), ("mla@640ms/10s", "mha@640ms/10s")]
