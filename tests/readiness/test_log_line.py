"""Lines of a log, as they come."""

import gzip
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from herdpy.readiness.log_line import LogLine

STAMP = b"2026-11-22 11:22:33 "


async def has_looked() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


@pytest.fixture
def log(beside: Any) -> Path:
    return Path(beside.log_file)


def append(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


async def test_a_line_that_comes_in_parts(log: Path, beside: Any, begin: Callable[..., Any]) -> None:
    waiting = begin(lambda: LogLine(pattern="^ready now$").run(beside))
    await has_looked()
    for part in (b"booting\n" + STAMP + b"rea", b"dy", b" now"):
        append(log, part)
        await has_looked()
        assert not waiting.is_done.is_set()
    append(log, b"\n")
    await waiting.done()


async def test_lines_of_an_earlier_process_do_not_count(log: Path, beside: Any, begin: Callable[..., Any]) -> None:
    append(log, STAMP + b"ready\n")
    beside.log_begin = log.stat().st_size
    waiting = begin(lambda: LogLine(pattern="ready").run(beside))
    await has_looked()
    assert not waiting.is_done.is_set()
    append(log, STAMP + b"ready\n")
    await waiting.done()


async def test_what_was_written_before_one_looked(log: Path, beside: Any, begin: Callable[..., Any]) -> None:
    """As it is when the supervisor was replaced."""
    append(log, b"".join(STAMP + b"line %d\n" % number for number in range(10000)) + STAMP + b"ready\n")
    await begin(lambda: LogLine(pattern="ready").run(beside)).done()


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe ready \x00", b"x" * 60000 + b"ready", "prêt: ready".encode(), b"ready\r"],
    ids=["bytes", "long", "UTF-8", "CR"],
)
async def test_any_bytes(log: Path, beside: Any, begin: Callable[..., Any], line: bytes) -> None:
    waiting = begin(lambda: LogLine(pattern=r"ready\W*$").run(beside))
    await has_looked()
    append(log, STAMP + line + b"\n")
    await waiting.done()


async def test_the_stamp_is_no_part_of_the_line(log: Path, beside: Any, begin: Callable[..., Any]) -> None:
    waiting = begin(lambda: LogLine(pattern="2026|^ready").run(beside))
    append(log, STAMP + b"x\n")
    await has_looked()
    assert not waiting.is_done.is_set()
    append(log, STAMP + b"ready\n")
    await waiting.done()


def put_aside(log: Path, number: int) -> Path:
    rotated = log.with_name(f"{log.name}.20261122T1122{number:02d}Z")
    log.rename(rotated)
    return rotated


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_rotation_hides_no_line(log: Path, beside: Any, begin: Callable[..., Any], after: int) -> None:
    """The line comes before, between or after rotations that all happen before one looks again."""
    append(log, STAMP + b"booting\n")
    put_aside(log, 1)
    append(log, STAMP + b"booting\n")
    waiting = begin(lambda: LogLine(pattern="^ready").run(beside))
    await has_looked()
    for number in range(4):
        append(log, STAMP + (b"ready\n" if number == after else b"still booting\n"))
        if number < 3:
            put_aside(log, 2 + number)
    await waiting.done()


def compress(rotated: Path) -> None:
    with gzip.open(f"{rotated}.gz", "wb") as file:
        file.write(rotated.read_bytes())
    shutil.copystat(rotated, f"{rotated}.gz")
    rotated.unlink()


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_rotated_files_that_are_compressed_already(
    log: Path, beside: Any, begin: Callable[..., Any], after: int
) -> None:
    append(log, STAMP + b"ready before it was spawned\n")
    os.utime(log, (beside.log_since - 1, beside.log_since - 1))
    compress(put_aside(log, 0))
    append(log, STAMP + b"booting\n")
    waiting = begin(lambda: LogLine(pattern="^ready").run(beside))
    await has_looked()
    for number in range(3):
        append(log, STAMP + (b"ready\n" if number == after else b"still booting\n"))
        if number < 2:
            compress(put_aside(log, 1 + number))
    await waiting.done()


async def test_a_rotation_before_one_looked_for_the_first_time(
    log: Path, beside: Any, begin: Callable[..., Any]
) -> None:
    """As it may be when the supervisor was replaced."""
    append(log, STAMP + b"ready, says an earlier process\n")
    beside.log_begin = log.stat().st_size
    append(log, STAMP + b"ready now\n")
    put_aside(log, 1)
    append(log, STAMP + b"more\n")
    waiting = begin(lambda: LogLine(pattern="^ready, says").run(beside))
    await has_looked()
    assert not waiting.is_done.is_set()
    await begin(lambda: LogLine(pattern="^ready now").run(beside)).done()


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("after", range(4))
async def test_many_rotations_before_one_looked_for_the_first_time(
    log: Path, beside: Any, begin: Callable[..., Any], after: int, is_compressed: bool
) -> None:
    append(log, STAMP + b"ready, says one of long ago\n")
    os.utime(log, (beside.log_since - 1, beside.log_since - 1))
    put_aside(log, 1)
    append(log, STAMP + b"ready, says an earlier process\n")
    beside.log_begin = log.stat().st_size
    for number in range(4):
        append(log, STAMP + (b"ready now\n" if number == after else b"still booting, and in many more words\n"))
        if number < 3:
            rotated = put_aside(log, 2 + number)
            if is_compressed:
                compress(rotated)
    waiting = begin(lambda: LogLine(pattern="^ready, says").run(beside))
    await begin(lambda: LogLine(pattern="^ready now").run(beside)).done()
    assert not waiting.is_done.is_set()


async def test_a_log_that_was_full_when_the_process_was_spawned(
    log: Path, beside: Any, begin: Callable[..., Any]
) -> None:
    """Its first line is the first of the next file, which is longer by now."""
    append(log, STAMP + b"ready, says an earlier process\n")
    beside.log_begin = log.stat().st_size
    os.utime(log, (beside.log_since - 1, beside.log_since - 1))
    log.rename(log.with_name(time.strftime(f"{log.name}.%Y%m%dT%H%M%SZ", time.gmtime())))
    append(log, STAMP + b"ready now\n" + STAMP + b"and some more words that make it long\n")
    waiting = begin(lambda: LogLine(pattern="^ready, says").run(beside))
    await begin(lambda: LogLine(pattern="^ready now").run(beside)).done()
    assert not waiting.is_done.is_set()


async def test_a_log_that_is_made_anew_is_read_from_its_beginning(
    log: Path, beside: Any, begin: Callable[..., Any]
) -> None:
    append(log, STAMP + b"old\n" * 100)
    beside.log_begin = log.stat().st_size
    log.unlink()
    append(log, STAMP + b"ready\n")
    await begin(lambda: LogLine(pattern="^ready").run(beside)).done()


async def test_a_pattern_is_searched_for(log: Path, beside: Any, begin: Callable[..., Any]) -> None:
    pattern = r"listening on \S+:(\d+)"
    append(log, STAMP + b"INFO: listening on 127.0.0.1:80, all is well\n")
    await begin(lambda: LogLine(pattern=pattern).run(beside)).done()
    assert beside.stages == [f"waiting until it writes a line that matches {pattern}"]
