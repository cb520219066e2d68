"""Whose logs a process writes."""

import os
import subprocess
import sys
from pathlib import Path

import trio

from herdpy.libvirt import guests
from herdpy.libvirt.rehearsal import STAMP


def logs() -> set[str]:
    return {file.path for file in guests.open_files(os.getpid()) if file.is_log}


def test_files_that_are_appended_to_are_logs_and_others_are_not(tmp_path: Path) -> None:
    before = logs()
    (tmp_path / "read").touch()
    with (
        (tmp_path / "a.log").open("a"),
        (tmp_path / "pid").open("w"),
        (tmp_path / "read").open(),
    ):
        assert logs() - before == {f"{tmp_path}/a.log"}
        (tmp_path / "a.log").unlink()
        assert logs() - before == {f"{tmp_path}/a.log"}
    assert logs() == before


def test_a_process_that_is_gone_writes_none() -> None:
    assert guests.open_files(2**22 + 1) == []


WRITE = """
import os, sys
own = os.pipe()
files = [open(path, "a") for path in sys.argv[1:]]
print(flush=True)
os.read(own[0], 1)
"""


def test_who_writes_into_its_own_pipe_only_writes_no_guests_log_and_files_are_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    own, console = tmp_path / "linked" / "own.log", tmp_path / "console.log"

    def guests_of(stdin: int, *paths: Path) -> tuple[str, ...]:
        command = [sys.executable, "-c", WRITE, *map(str, paths)]
        with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found = trio.run(guests.Logs(own=frozenset({str(own)}), is_root=False).guests, process.pid)
            process.kill()
        return found

    assert guests_of(subprocess.DEVNULL, own) == ()
    assert guests_of(subprocess.DEVNULL, tmp_path / "renamed") == ()
    assert guests_of(subprocess.PIPE, own, console) == (str(console),)
    assert guests_of(subprocess.PIPE, own) == ()


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
