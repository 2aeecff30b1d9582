"""API keys: what a file may say, that changes count, and that a mistake opens nothing."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from service.errors import Overloaded, Unauthorized
from service.keys import Keys, parse

ALICE, BOB, CAROL = "a" * 32, "b" * 32, "c" * 32


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(file: Path, text: str, *, age_s: float = 60.0) -> None:
    """As a tool would that puts another file in its place, some time ago."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (new.stat().st_mtime - age_s,) * 2)
    new.rename(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    write(path, f"alice:{ALICE}\n")
    return path


def test_a_file_has_names_keys_hashes_and_comments() -> None:
    text = f"# who: may call\n\n alice : {ALICE} \nbob:sha256${hashed(BOB).upper()}\nalice:{CAROL}"
    assert parse(text) == [("alice", hashed(ALICE)), ("bob", hashed(BOB)), ("alice", hashed(CAROL))]


@pytest.mark.parametrize(
    "key", ["short", "spaces in a key of length", "padded+base64/key==", "sha256$12", ""]
)
def test_a_bad_key_is_named_by_its_line_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="line 2: the key of bob") as refused:
        parse(f"alice:{ALICE}\nbob:{key}")
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("line", [ALICE, f":{ALICE}", f"two words:{ALICE}"])
def test_a_line_without_a_name_is_refused_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match="line 1 is not name:key") as refused:
        parse(line)
    assert ALICE not in str(refused.value)


def test_no_keys_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no keys"):
        parse("# none\n")


def test_a_key_gives_its_name() -> None:
    keys = Keys(parse(f"alice:{ALICE}\nbob:{BOB}"))
    assert (keys.check(ALICE), keys.check(BOB)) == ("alice", "bob")


@pytest.mark.parametrize(
    ("key", "code"), [(None, "missing_api_key"), ("", "invalid_api_key"), (ALICE[1:], "invalid_api_key")]
)
def test_any_other_key_is_refused(key: str | None, code: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        Keys(parse(f"alice:{ALICE}\nbob:{BOB}")).check(key)
    assert refused.value.code == code
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer ")


def test_the_hash_of_a_key_is_no_key() -> None:
    with pytest.raises(Unauthorized):
        Keys(parse(f"alice:{ALICE}")).check(hashed(ALICE))


def test_no_key_is_kept_as_it_is(file: Path) -> None:
    keys = Keys(parse(f"bob:{BOB}"), file)
    keys.check(ALICE)
    assert ALICE not in str(vars(keys)) and BOB not in str(vars(keys))


def test_a_changed_file_counts_at_once_and_beside_fixed_keys(file: Path) -> None:
    keys = Keys(parse(f"carol:{CAROL}"), file)
    assert keys.check(ALICE) == "alice"
    write(file, f"bob:{BOB}\n")
    assert keys.check(BOB) == "bob"
    with pytest.raises(Unauthorized):
        keys.check(ALICE)
    assert keys.check(CAROL) == "carol"


def test_two_changes_within_a_tick_of_the_clock_both_count(file: Path) -> None:
    write(file, f"bob:{BOB}\n", age_s=0)
    keys = Keys(file=file)
    stamp = file.stat()
    file.write_text(f"bob:{CAROL}\n")
    os.utime(file, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    assert keys.check(CAROL) == "bob"


@pytest.mark.parametrize("text", ["", "# none\n", "nonsense\n", "\udcff", None])
def test_a_file_gone_bad_changes_nothing_and_is_told_once(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(file=file)
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert keys.check(ALICE) == "alice"
            with pytest.raises(Unauthorized):
                keys.check(None)
    assert keys.on
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    write(file, f"bob:{BOB}\n")
    assert keys.check(BOB) == "bob"


def test_a_file_that_is_bad_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere cannot be read"):
        Keys(file=tmp_path / "nowhere")


def test_a_name_has_so_many_requests_at_once() -> None:
    keys = Keys(parse(f"alice:{ALICE}\nalice:{BOB}\ncarol:{CAROL}"), most_at_once=2)
    with keys.admit("alice"), keys.admit("alice"):
        with pytest.raises(Overloaded, match="max_requests_per_key") as refused, keys.admit("alice"):
            pass
        assert int(refused.value.headers["Retry-After"]) >= 1
        with keys.admit("carol"):
            pass
    with keys.admit("alice"):
        assert keys.in_work["alice"] == 1


def test_without_keys_none_is_needed() -> None:
    assert not Keys().on
