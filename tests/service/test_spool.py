"""The folders for uploads: none is left behind by a process that was killed, and none is missed for long."""

import multiprocessing
import shutil
from pathlib import Path

import pytest

from service import spool
from service.errors import Unavailable


def dead_pid() -> int:
    child = multiprocessing.get_context("spawn").Process()
    child.start()
    child.join()
    assert child.pid
    return child.pid


def test_folders_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    stale = tmp_path / f"mla-asr-{dead_pid()}-abc"
    (stale / "tmp1").mkdir(parents=True)
    others = {"mla-asr-1-abc", "mla-asr-notes-abc", "unrelated"}
    for name in others:
        (tmp_path / name).mkdir()
    with spool.opened(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == others | {folder.name}
        with spool.opened(tmp_path) as second:  # the same process number, but its lock is held
            assert folder.exists() and second != folder
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_spool_folder_that_was_tidied_away_is_made_again(tmp_path: Path) -> None:
    with spool.opened(tmp_path) as folder:
        shutil.rmtree(folder)
        assert spool.request_folder(folder).parent == folder


def test_no_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as refused:
        spool.request_folder(tmp_path / "file")
    assert refused.value.code == "no_disk_space"
