"""Lines come out as they went in, however they were cut into chunks."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from herdpy.logger.file import LogFile

STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def unstamped(content: bytes) -> list[bytes]:
    """Return the lines of a log without their stamps, each of which must be there."""
    assert not content or content.endswith(b"\n")
    lines = content.split(b"\n")[:-1]
    for line in lines:
        assert STAMP.match(line), line
    return [line[20:] for line in lines]


def silent(words: str) -> None:
    raise AssertionError(words)


@given(st.lists(st.binary(min_size=1, max_size=20).map(lambda chunk: chunk.replace(b"a", b"\n"))))
def test_any_bytes_in_any_chunks(chunks: list[bytes]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        file = LogFile(str(path), silent)
        for chunk in chunks:
            file.write("writer", chunk)
        file.finish("writer")
        file.close()
        whole = b"".join(chunks)
        expected = whole.split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        assert unstamped(path.read_bytes() if path.exists() else b"") == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([b"x", b"x\n", b"\n", b"x\ny"])), min_size=1))
def test_two_writers_never_share_a_line(chunks: list[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        file = LogFile(str(path), silent)
        writers = {"a": object(), "b": object()}
        for writer, chunk in chunks:
            file.write(writers[writer], chunk.replace(b"x", writer.encode()).replace(b"y", writer.encode()))
        for each in writers.values():
            file.finish(each)
        file.close()
        for line in unstamped(path.read_bytes()):
            assert len(set(line)) <= 1, line


def test_a_line_left_unfinished_by_a_logger_that_was_killed_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LogFile(str(path), silent).write("writer", b"unfin")
    file = LogFile(str(path), silent)
    file.write("writer", b"new\n")
    assert unstamped(path.read_bytes()) == [b"unfin", b"new"]
