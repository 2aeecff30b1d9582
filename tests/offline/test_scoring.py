"""Error counts by hand and against jiwer, Whisper's rules on texts with known outcomes, sclite's files read back."""

import random
import re
from pathlib import Path
from typing import Any

import jiwer
import pytest

from offline.scoring import COUNTS, figures, is_scored, normalise, score, write_trn


def row(reference: str, *texts: str, **labels: str) -> dict[str, Any]:
    """A row of models a, b, ... that heard these texts."""
    models = {name: score(reference, text) for name, text in zip("abc", texts, strict=False)}
    known = {"id": "1-2-3", "speaker": "", "voice": "", "duration_s": 2.0}
    return {**known, "words": len(reference.split()), "reference": reference, "models": models, **labels}


def test_errors_by_hand() -> None:
    found = score("the cat sat on the mat", "THE BAT ON THE OLD MAT")
    assert [found[name] for name in COUNTS] == [1, 1, 1]
    assert found["edits"] == [["substitute", "CAT", "BAT"], ["delete", "SAT", ""], ["insert", "", "OLD"]]
    assert found["text"] == "THE BAT ON THE OLD MAT"
    assert score("A B", "")["edits"] == [["delete", "A", ""], ["delete", "B", ""]]
    assert score("A B", "a b")["edits"] == []


def test_rates_by_hand() -> None:
    said, heard = (
        ["ONE TWO THREE FOUR", "FIVE SIX"],
        ["one too three", "FIVE SIX SEVEN"],
    )  # wrong, missing; too many
    result = figures([row(r, h) for r, h in zip(said, heard, strict=True)], "a")
    assert result["wer"] == 50.0 and result["words"] == 6 and result["audio_s"] == 4.0
    assert result["cer"] == pytest.approx(100 * (1 + 5 + 6) / 26, abs=1e-3)
    assert result["wer_95"] == [50.0, 50.0]
    # 1234 against "one too 3": 1 word, 3 errors; "five six" is 56, against 567
    assert normalise(said[0]) == "1234" and normalise(heard[1]) == "567"
    assert result["wer_normalised"] == 100 * (3 + 1) / 2


def test_random_texts_come_out_as_in_jiwer() -> None:
    rng = random.Random(0)
    words = "A AN THE CAT SAT COLOUR COLOR TWENTY ONE DON'T DO NOT MISTER MR UM".split()
    said = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(200)]
    heard = [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(200)]
    result = figures([row(r, h) for r, h in zip(said, heard, strict=True)], "a")
    assert result["wer"] == pytest.approx(100 * jiwer.wer(said, heard), abs=1e-3)
    assert result["cer"] == pytest.approx(100 * jiwer.cer(said, heard), abs=1e-3)
    plain = [(normalise(r), normalise(h)) for r, h in zip(said, heard, strict=True)]
    kept = [(r, h) for r, h in plain if r]
    assert len(kept) < len(plain)  # "UM" alone is nothing
    assert result["wer_normalised"] == pytest.approx(
        100 * jiwer.wer([r for r, _ in kept], [h for _, h in kept]), abs=1e-3
    )


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("MISTER SMITH'S COLOUR", "mister smith is color"),
        ("Mr. Smith won't, can't", "mister smith will not can not"),
        ("twenty one dollars and five cents", "$21.05"),
        ("THE YEAR NINETEEN EIGHTY FOUR", "the year 1984"),
        ("UM WELL [noise] (laughs) yes", "well yes"),
        ("ARCHAEOLOGY", "archeology"),
        ("CAUSE AND EFFECT", "cause and effect"),
        ("HMM", ""),
    ],
)
def test_whispers_rules(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


def test_what_normalises_to_nothing_is_left_out_there_alone() -> None:
    rows = [row("UM", "A B"), row("YES", "YES")]
    assert rows[0]["models"]["a"]["normalised"] == {"words": 0, **dict.fromkeys(COUNTS, 0)}
    result = figures(rows, "a")
    assert result["wer"] == 100.0 and result["wer_normalised"] == 0.0
    assert figures(rows[:1], "a")["wer_normalised"] is None
    assert is_scored("UM") and not is_scored(" ") and not is_scored("IGNORE_TIME_SEGMENT_IN_SCORING")


def read_trn(path: Path) -> dict[str, str]:
    """Texts by id, as sclite reads them: the last bracket of a line is the id."""
    found = [re.fullmatch(r"(.*) \(([^()\s]+)\)", line) for line in path.read_text().splitlines()]
    return {match[2]: match[1] for match in found if match}


def test_trn_files_read_back(tmp_path: Path) -> None:
    rows = [
        row("HE (UH) SAID", "he said", "", id="84-121123-0000", speaker="84"),
        row("YES", "NO", "YES", id="clip one", voice="flite-slt"),
    ]
    rows[0]["models"] = {"x/a": rows[0]["models"]["a"], "ref": rows[0]["models"]["b"]}
    rows[1]["models"] = {"x/a": rows[1]["models"]["a"], "ref": rows[1]["models"]["b"]}
    written = write_trn(rows, tmp_path / "trn")
    assert [path.name for path in written] == ["ref.trn", "x-a.trn", "ref-2.trn"]
    reference, first, second = map(read_trn, written)
    assert reference == {"84-121123-0000": "HE UH SAID", "flite.slt-clip.one": "YES"}
    assert first == {"84-121123-0000": "HE SAID", "flite.slt-clip.one": "NO"}
    assert second == {"84-121123-0000": "", "flite.slt-clip.one": "YES"}
