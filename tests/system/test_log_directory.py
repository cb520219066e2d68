"""The log directory is full, read-only or gone: services go on, and what becomes of their lines is told."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_state_directory import Disk

COUNTING = ["sh", "-c", "i=0; while :; do echo $((i += 1)); sleep 0.02; done"]
PATIENCE = 60


@pytest.fixture
def disk(herdpy: Any) -> Iterator[Disk]:
    found = Disk(herdpy, herdpy.log)
    yield found
    found.end()


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\S+ \S+ (\d+)$", text, re.MULTILINE)]


@pytest.mark.parametrize("how", ["full", "read-only", "gone"])
def test_services_go_on_and_it_is_told_once_how_many_lines_are_missing(
    disk: Disk, herdpy: Any, eventually: Callable[..., None], how: str
) -> None:
    for name in ("counting", "later"):
        herdpy.declare(name, f"command = {json.dumps(COUNTING)}")
    herdpy.start()
    herdpy.ok("start", "counting")
    log = disk.seen / "counting.log"
    eventually(lambda: log.exists() and len(numbers(log.read_text())) > 5)
    errors = herdpy.directory / "errors"
    disk.spoil(how)
    if how == "read-only":  # it has its files open already
        logger = next(iter(herdpy.children("logger/__main__.py")))
        os.kill(logger, signal.SIGKILL)
    herdpy.ok("start", "later")
    why = {"full": "No space left on device", "read-only": "Read-only file system"}.get(how)
    if why is not None:
        for name in ("counting", "later"):
            path = herdpy.log / f"{name}.log"
            told = f"logger: cannot write {path}: {why}; its lines are lost until that is mended\n"
            eventually(lambda told=told: told in errors.read_text())
    herdpy.ok("restart", "later")
    herdpy.ok("stop", "later")
    assert herdpy.status("counting")["status"] == "running"
    disk.mend(how)
    herdpy.ok("start", "later")
    for name in ("counting", "later"):
        path = disk.seen / f"{name}.log"
        eventually(lambda path=path: path.exists() and len(numbers(path.read_text())) > 10)
    said = errors.read_text()
    if why is not None:
        text = log.read_text()
        (missing,) = re.findall(r"(\d+) lines were lost here: (.*)", text)
        assert missing[1] == why
        counted = numbers(text)
        gaps = [after - before - 1 for before, after in pairwise(counted) if after != before + 1]
        assert gaps in ([int(missing[0])], [int(missing[0]) - 1]), missing  # a part of the first may be there
        assert said.count(f"cannot write {herdpy.log / 'counting.log'}: ") == 1
        assert said.count(f"can write {herdpy.log / 'counting.log'} again") == 1
    assert herdpy.stop() == 0


def test_without_a_log_directory_herdpy_does_not_begin(herdpy: Any) -> None:
    herdpy.log.write_text("")
    begun = subprocess.run(
        herdpy.command(), capture_output=True, text=True, env=herdpy.environment, timeout=60, stdin=subprocess.DEVNULL
    )
    assert begun.returncode == 1
    assert begun.stderr == f"herdpy: cannot make the directory {herdpy.log}: it is there and is none\n"
    herdpy.log.unlink()


def test_a_log_that_is_no_file_any_more(herdpy: Any, tmp_path: Path, eventually: Callable[..., None]) -> None:
    """A directory, or a symbolic link, in its place: nothing is written through it."""
    herdpy.declare("counting", f"command = {json.dumps(COUNTING)}")
    herdpy.start()
    herdpy.ok("start", "counting")
    log, errors = herdpy.log / "counting.log", herdpy.directory / "errors"
    eventually(log.exists)
    aside = tmp_path / "aside"
    for number, (spoil, mend, why) in enumerate(
        [
            (log.mkdir, log.rmdir, "Is a directory"),
            (lambda: log.symlink_to(aside), log.unlink, "it is a symbolic link"),
        ],
        1,
    ):
        log.unlink()
        spoil()
        eventually(lambda why=why: f"cannot write {log}: {why}; its lines are lost" in errors.read_text())
        assert "lost" not in herdpy.ok("status", "counting")
        mend()
        eventually(lambda number=number: errors.read_text().count(f"can write {log} again") == number)
        assert not aside.exists()
        eventually(lambda: numbers(log.read_text()))
