"""The program of a service is replaced, spoilt or removed while it runs, or its directory is."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def declare(herdpy: Any, program: Path, *lines: str) -> None:
    command = json.dumps([str(program), "1000"])
    herdpy.declare("service", "\n".join([f"command = {command}", "respawn-delay = 0.1", "respawn-limit = 3", *lines]))


def start(herdpy: Any) -> int:
    herdpy.start()
    herdpy.ok("start", "service")
    pid: int = herdpy.status("service")["pid"]
    return pid


def test_one_that_is_replaced_runs_from_the_next_start_on(
    herdpy: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    declare(herdpy, program)
    pid = start(herdpy)
    beside = tmp_path / "beside"
    beside.write_text("#!/bin/sh\necho new\nexec sleep 1000\n")
    beside.chmod(0o755)
    beside.rename(program)
    assert herdpy.status("service")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    log = herdpy.log / "service.log"
    eventually(lambda: log.exists() and log.read_text().endswith(" new\n"))
    assert herdpy.status("service")["status"] == "running"


def test_one_that_is_removed_fails_with_a_reason_and_is_given_up(
    herdpy: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    declare(herdpy, program)
    pid = start(herdpy)
    program.unlink()
    assert herdpy.status("service")["pid"] == pid
    os.kill(herdpy.supervisor(), signal.SIGKILL)  # nor does the next one need it for what runs
    assert herdpy.status("service")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not herdpy.status("service")["enabled"])
    status = herdpy.status("service")
    why = f"{program} cannot be executed: No such file or directory"
    assert status["status"] == "stopped"
    assert status["reason"] == f"respawning too fast: it ended 3 times in 7 s, the last time because {why}"
    shutil.copy("/bin/sleep", program)
    herdpy.ok("enable", "service")
    herdpy.ok("start", "service")


def test_one_that_is_spoilt_says_what_is_wrong_with_it(herdpy: Any, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    declare(herdpy, program, f'directory = "{tmp_path}/in"')
    (tmp_path / "in").mkdir()
    start(herdpy)
    spoilt: list[tuple[Callable[[], object], str]] = [
        (lambda: program.chmod(0o644), f"{program} cannot be executed: Permission denied"),
        (lambda: (program.unlink(), program.write_bytes(b"\x7fELF"), program.chmod(0o755)), "Exec format error"),
        (lambda: program.write_text("#!/no/such/interpreter\n"), "interpreter /no/such/interpreter"),
        (lambda: (program.unlink(), program.mkdir()), f"{program} cannot be executed: Permission denied"),
        ((tmp_path / "in").rmdir, f"directory {tmp_path}/in: No such file or directory"),
    ]
    for spoil, why in spoilt:
        spoil()
        refused = herdpy.herd("restart", "service")
        assert refused.returncode == 1
        assert refused.stdout.startswith("cannot start service: ")
        assert why in refused.stdout.splitlines()[0]
        assert refused.stdout.count("\n") == 2, refused.stdout
