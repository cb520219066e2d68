"""Lines come out as they went in, however they were cut into chunks."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from herdpy.keeper.table import make_ledger
from herdpy.logger.file import LogFile
from herdpy.logger.ledger import Ledger

STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def unstamped(content: bytes) -> list[bytes]:
    """Return the lines of a log without their stamps, each of which must be there."""
    assert not content or content.endswith(b"\n")
    lines = content.split(b"\n")[:-1]
    for line in lines:
        assert STAMP.match(line), line
    return [line[20:] for line in lines]


@contextlib.contextmanager
def ledger_with_pipe() -> Iterator[tuple[Ledger, int, int]]:
    """A ledger, and both ends of a service's pipe."""
    _, *hold = ends = make_ledger()
    reading, writing = os.pipe()
    try:
        yield Ledger(*ends), reading, writing
    finally:
        for end in (*hold, reading, writing):
            os.close(end)


def feed(file: LogFile, ledger: Ledger, pipe: list[int], number: int, chunk: bytes) -> None:
    """Write a chunk as the logger does."""
    os.write(pipe[1], chunk)
    assert ledger.take(number, pipe[0]) == chunk
    file.write(number, chunk)


def silent(words: str) -> None:
    raise AssertionError(words)


@given(st.lists(st.binary(min_size=1, max_size=20).map(lambda chunk: chunk.replace(b"a", b"\n"))))
def test_any_bytes_in_any_chunks(chunks: list[bytes]) -> None:
    with TemporaryDirectory() as directory, ledger_with_pipe() as (ledger, *pipe):
        path = Path(directory) / "log"
        file = LogFile(str(path), ledger, silent)
        for chunk in chunks:
            feed(file, ledger, pipe, 1, chunk)
        file.finish(1)
        file.close()
        whole = b"".join(chunks)
        expected = whole.split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        assert unstamped(path.read_bytes() if path.exists() else b"") == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([b"x", b"x\n", b"\n", b"x\ny"])), min_size=1))
def test_two_writers_never_share_a_line(chunks: list[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as directory, ledger_with_pipe() as (ledger, *pipe):
        path = Path(directory) / "log"
        file = LogFile(str(path), ledger, silent)
        writers = {"a": 1, "b": 2}
        for writer, chunk in chunks:
            said = chunk.replace(b"x", writer.encode()).replace(b"y", writer.encode())
            feed(file, ledger, pipe, writers[writer], said)
        for each in writers.values():
            file.finish(each)
        file.close()
        for line in unstamped(path.read_bytes()):
            assert len(set(line)) <= 1, line


def test_a_line_left_unfinished_by_someone_else_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"2026-01-01 00:00:00 unfin")
    with ledger_with_pipe() as (ledger, *pipe):
        file = LogFile(str(path), ledger, silent)
        feed(file, ledger, pipe, 1, b"new\n")
        file.close()
    assert unstamped(path.read_bytes()) == [b"unfin", b"new"]
