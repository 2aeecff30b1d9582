"""Reading of transcripts, word by word, and what is refused."""

from pathlib import Path

import pytest

from offline.compare import main
from offline.comparison import report, tables
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


def test_arms_of_several_decodings_are_compared_with_their_likes(tmp_path: Path) -> None:
    """A beam search over mha is no rounding of mha, and that over mla stands beside it."""
    lines = said(40)
    names = {"mha": MHA, "mla": JOINT, "mha+beam+lm": MHA, "mla+beam+lm": JOINT}
    texts = {name: hurt(lines, 0.1, "beam" in name) for name in names}
    path = write(tmp_path / "x.json", lines, texts, names, {"decoding": ["greedy", "beam+lm"]})
    beam = {"width": 32, "hot_words": [], "lm": "lm.arpa", "lm_hash": "abc", "alpha": 0.5}
    for name in ("mha", "mla"):
        change(path, "what", "models", f"{name}+beam+lm", decoding=beam, folder_hash=f"hash of {name}")
    found = figures(path)
    assert found["null"] == []
    rows = {row["arm"]: row for row in found["comparisons"]}
    assert {arm: row["baseline"] for arm, row in rows.items()} == {
        "mla": "mha", "mha+beam+lm": "mha", "mla+beam+lm": "mha+beam+lm"
    }  # fmt: skip
    searched = rows["mha+beam+lm"]
    assert not searched["same_model"] and "mapsswe_holm" in searched["p"]
    assert searched["settings_that_differ"] == {"decoding": [beam, None]}
    assert rows["mla"]["settings_that_differ"] == rows["mla+beam+lm"]["settings_that_differ"] == {}
    text = report.markdown(found | {"plots": []})
    assert "decoding (beam+lm: width 32, lm lm.arpa, lm_hash abc, alpha 0.5 / greedy)" in text
    assert "| same model" not in text
    labels = [line.split("|")[4].strip() for line in tables.identical(found).splitlines()[2:5]]
    assert labels == ["another model", "the same weights, heard otherwise: decoding", "another model"]


def test_results_of_other_commands_are_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_text(small.read_text().replace('"utterances_file"', '"utterances"'))
    change(small, "how", command="python -m offline.agreement --dataset dev.jsonl")
    assert main([str(small), "--output_dir", "unused"]) == 2
    message = capsys.readouterr().err
    assert "a result of offline.agreement; give results of offline.evaluate" in message
    assert "older" not in message


def test_what_would_decide_is_said_once(tmp_path: Path) -> None:
    lines = said(40)
    path = write(tmp_path / "x.json", lines, dict.fromkeys(("mha", "mla"), hurt(lines, 0.1, 1)),
                 {"mha": MHA, "mla": JOINT})  # fmt: skip
    text = report.markdown(figures(path) | {"plots": []})
    assert "with 0 discordant errors: about" in text and "words would show it non-inferior if the two" in text
    assert "if they differ as seen" not in text
