"""What command lines share: both spellings, switches, values that are refused by name, and how a command ends."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from offline import cli


def options() -> cli.Parser:
    made = cli.parser("Measures.", "python -m offline.measure")
    made.add_argument("--batch_size", type=cli.count, default=8, help="clips")
    made.flag("--resume", default=True, help="go on", group=made.add_argument_group("schedule"))
    made.flag("--dry_run", default=False, help="write nothing")
    return made


@pytest.mark.parametrize("words", [["--batch_size", "3"], ["--batch-size", "3"], ["--batch-size=3"]])
def test_options_have_two_spellings(words: list[str]) -> None:
    assert options().parse_args(words).batch_size == 3


def test_switches_turn_on_and_off_in_both_spellings_and_not_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = options().parse_args([])
    assert (plain.resume, plain.dry_run) == (True, False)
    changed = options().parse_args(["--no-resume", "--dry-run"])
    assert (changed.resume, changed.dry_run) == (False, True)
    with pytest.raises(SystemExit):
        options().parse_args(["--resume", "--no_resume"])
    assert "not allowed with" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options().parse_args(["--help"])
    said = capsys.readouterr().out
    assert "Measures." in said and "example:\n  python -m offline.measure" in said
    assert "clips (default: 8)" in said and "go on (turn off: --no_resume)" in said
    assert "True" not in said and "--no_dry_run" not in said


def test_an_unknown_or_shortened_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options().parse_args(["--batch", "3"])
    assert "--batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "good", "bad", "wanted"),
    [
        (cli.count, "1", "0", "a whole number of at least 1"),
        (cli.natural, "0", "1.5", "a whole number of at least 0"),
        (cli.positive, "0.5", "inf", "a number above 0"),
        (cli.weight, "0", "nan", "a number of at least 0"),
        (cli.share, "1", "1.01", "a number from 0 to 1"),
        (cli.names, "a,b", " , ", "names nothing"),
        (cli.paths, str(Path(__file__)), "gone.jsonl", "no such file: gone.jsonl"),
    ],
)
def test_values_are_refused_by_name(parse: Callable[[str], object], good: str, bad: str, wanted: str) -> None:
    assert parse(good) is not None
    with pytest.raises(ArgumentTypeError, match=wanted) as refused:
        parse(bad)
    assert bad.strip(" ,") in str(refused.value)


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: BaseException) -> Callable[[], object]:
        def work() -> None:
            raise error

        return work

    assert cli.run("offline.x", lambda: None) == 0 and capsys.readouterr().err == ""
    assert cli.run("offline.x", fails(ValueError("no such thing"))) == 2
    assert capsys.readouterr().err == "offline.x: no such thing\n"
    assert cli.run("offline.x", fails(FileNotFoundError(2, "No such file", "a.json"))) == 2
    assert "a.json" in capsys.readouterr().err
    in_a_worker = (
        "Caught ValueError\nOriginal Traceback (most recent call last):\n  x\nManifestError: a.flac: damaged"
    )
    assert cli.run("offline.x", fails(ValueError(in_a_worker))) == 2
    assert capsys.readouterr().err == "offline.x: ManifestError: a.flac: damaged\n"
    assert cli.run("offline.x", fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\noffline.x: stopped\n"
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        cli.run("offline.x", fails(ZeroDivisionError()))
