"""Whose logs a process writes."""

import os
from pathlib import Path

from herdpy.libvirt import guests
from herdpy.libvirt.rehearsal import STAMP


def test_files_that_are_appended_to_are_logs_and_others_are_not(tmp_path: Path) -> None:
    before = guests.logs_of(os.getpid())
    (tmp_path / "read").touch()
    with (
        (tmp_path / "a.log").open("a"),
        (tmp_path / "pid").open("w"),
        (tmp_path / "read").open(),
    ):
        assert guests.logs_of(os.getpid()) - before == {f"{tmp_path}/a.log"}
        (tmp_path / "a.log").unlink()
        assert guests.logs_of(os.getpid()) - before == {f"{tmp_path}/a.log"}
    assert guests.logs_of(os.getpid()) == before


def test_a_process_that_is_gone_writes_none() -> None:
    assert guests.logs_of(2**22 + 1) == set()


def test_guests_run_that_have_a_pid_file(tmp_path: Path) -> None:
    for name in ("a.pid", "a.xml", "b.c.pid", "b.c.xml", "driver.pid", "gone.xml"):
        (tmp_path / name).touch()
    assert guests.running(str(tmp_path)) == {"a", "b.c"}
    assert guests.running(str(tmp_path / "gone")) == set()


def test_what_libvirts_daemons_write_before_a_message_is_left_out() -> None:
    said = "2026-11-22 12:10:13.181+0000: 26867: error : virLogParseOutput:1234 : invalid argument: Malformed"
    assert STAMP.sub("", said) == "invalid argument: Malformed"
    assert STAMP.sub("", "libvirt:  error : failed to open /x: No such file") == "failed to open /x: No such file"
    assert STAMP.sub("", "cannot run") == "cannot run"
