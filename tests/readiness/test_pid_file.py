"""PID files, whole, half-written, wrong and stale."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy.readiness import pid_file
from herdpy.readiness.pid_file import Found, PidFile, RemoveStalePidFile, parse
from herdpy.service import StartFailure

CONTEXT: Any = None
"""The step asks nothing of it."""


@pytest.mark.parametrize(
    ("text", "number", "problem"),
    [
        (b"123\n", 123, ""),
        (b"123", 123, ""),
        (b"  123 \r\n", 123, ""),
        (b"123\n/var/lib/postgresql\n5432\n", 123, ""),
        (b"4194304\n", 4194304, ""),
        (b"", None, "is empty"),
        (b"\n", None, "holds no process's number"),
        (b"\n123\n", None, "holds no process's number"),
        (b"12 34\n", None, "holds no process's number"),
        (b"secret\n", None, "holds no process's number"),
        (b"\xff\x00", None, "holds no process's number"),
        (b"1.5", None, "holds no process's number"),
        (b"9" * 4096, None, "holds no process's number"),
        (b"0\n", 0, "holds 0, which is no process of a service"),
        (b"1\n", 1, "holds 1, which is no process of a service"),
        (b"-5\n", -5, "holds -5, which is no process of a service"),
        (b"4194305\n", 4194305, "holds 4194305, which is no process of a service"),
    ],
)
def test_what_a_file_says(text: bytes, number: int | None, problem: str) -> None:
    assert parse(text) == Found(number, problem, is_begun=text != b"")


@given(st.binary(max_size=5000) | st.from_regex(rb"\s*[+-]?\d{1,30}\s*"))
def test_whatever_is_in_it_makes_sense_or_is_said_to_make_none(text: bytes) -> None:
    found = parse(text)
    assert found.problem or found.number in range(2, pid_file.LARGEST_PID + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "a.pid"


async def test_it_waits_for_the_directory_the_file_and_the_number(
    path: Path, beside: Any, begin: Callable[..., Any]
) -> None:
    waiting = begin(lambda: PidFile(path=str(path)).run(beside))
    await beside.until_told("is not there")
    path.parent.mkdir()
    path.touch()
    await beside.until_told("is empty")
    beside.own.add(1234)
    path.write_text("12")
    await beside.until_told("holds 12: PID 12 is not one of its processes")
    path.write_text("1234\n")
    await waiting.done()
    assert beside.adopted == [1234]
    assert beside.stages[0] == f"waiting for its PID file: {path} is not there"


async def test_a_process_that_is_seen_to_be_the_services_only_at_the_next_look(
    path: Path, beside: Any, begin: Callable[..., Any]
) -> None:
    path.parent.mkdir()
    path.write_text("1234\n")
    waiting = begin(lambda: PidFile(path=str(path)).run(beside))
    await beside.until_told("holds 1234: PID 1234 is not one of its processes")
    beside.own.add(1234)
    await waiting.done()
    assert beside.adopted == [1234]


@pytest.mark.parametrize("act", ["rename", "link"])
async def test_a_file_that_is_put_in_place_whole(path: Path, beside: Any, begin: Callable[..., Any], act: str) -> None:
    path.parent.mkdir()
    path.write_text("0\n")
    beside.own.add(1234)
    waiting = begin(lambda: PidFile(path=str(path)).run(beside))
    await beside.until_told("holds 0, which is no process")
    new = path.with_name("new")
    new.write_text("1234\n")
    if act == "rename":
        new.rename(path)
    else:
        path.unlink()
        path.symlink_to(new)
    await waiting.done()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("77\n", "holds 77: PID 77 is not one of its processes"),
        ("1\n", "holds 1, which is no process of a service"),
        ("garbage\n", "holds no process's number"),
        (None, "is no regular file"),
    ],
)
async def test_what_stays_wrong_is_a_failure_that_says_what(
    path: Path, beside: Any, begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    monkeypatch.setattr(pid_file, "PATIENCE", 0.05)
    path.parent.mkdir()
    os.mkfifo(path) if text is None else path.write_text(text)
    waiting = begin(lambda: PidFile(path=str(path)).run(beside))
    assert await waiting.failed() == f"its PID file {path} {said}"


async def test_a_file_that_is_not_written_yet_is_waited_for(
    path: Path, beside: Any, begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some daemons make it, empty and locked, long before they are done."""
    monkeypatch.setattr(pid_file, "PATIENCE", 0.01)
    path.parent.mkdir()
    path.touch()
    waiting = begin(lambda: PidFile(path=str(path)).run(beside))
    await trio.sleep(0.1)  # ten times the patience with one that is wrong
    beside.own.add(1234)
    path.write_text("1234")
    await waiting.done()


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


async def remove(path: Path) -> None:
    await RemoveStalePidFile(path=str(path)).run(CONTEXT)


async def test_what_a_dead_process_left_is_removed(path: Path) -> None:
    await remove(path)
    path.parent.mkdir()
    await remove(path)
    with subprocess.Popen(["true"]) as process:
        process.wait()
    for left in (f"{process.pid}\n", "1\n", "-1\n"):
        path.write_text(left)
        await remove(path)
        assert not path.exists()


async def test_what_a_running_process_has_written_stays(path: Path, sleeper: int) -> None:
    path.parent.mkdir()
    path.write_text(f"{sleeper}\n")
    with pytest.raises(StartFailure) as failure:
        await remove(path)
    said = f"{path} is the PID file of PID {sleeper} (sleep), which herdpy did not start; stop that first"
    assert str(failure.value) == said
    assert path.exists()
    await RemoveStalePidFile(path=str(path), insists=False).run(CONTEXT)
    assert path.exists()


async def test_a_number_that_another_process_has_by_now_is_stale(path: Path, sleeper: int) -> None:
    path.parent.mkdir()
    path.write_text(f"{sleeper}\n")
    os.utime(path, (time.time() - 3600,) * 2)
    await remove(path)
    assert not path.exists()


async def test_a_zombie_has_no_pid_file(path: Path) -> None:
    path.parent.mkdir()
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    path.write_text(f"{process.pid}\n")
    await remove(path)
    process.wait()
    assert not path.exists()


async def test_an_empty_one_stays(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    await remove(path)
    assert path.exists()


@pytest.mark.parametrize("text", ["root:x:0:0\n", None])
async def test_what_is_no_pid_file_stays(path: Path, text: str | None) -> None:
    path.mkdir(parents=True) if text is None else (path.parent.mkdir(), path.write_text(text))
    with pytest.raises(StartFailure, match="so it is no stale PID file that herdpy might remove; name another"):
        await remove(path)
    assert path.exists()


async def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "other").write_text("4194300\n")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(StartFailure, match="is no regular file"):
        await remove(path)
    assert (tmp_path / "other").exists()
