"""The keeper's journal: whatever becomes of the file, what is read of it was written."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.keeper import legacy
from herdpy.keeper.journal import RETRY, ROOM, Journal, parse, read, record
from herdpy.keeper.message import encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
MESSAGES = st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3), max_size=6).map(
    lambda found: [{"kind": "note", **message, "at": at} for at, message in enumerate(found)]
)


class Disk:
    """A journal, and what it says and asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.retries: list[tuple[float, Callable[[], None]]] = []
        self.journal = Journal(
            str(path),
            lambda: map(encode, self.content),
            self.said.append,
            lambda seconds, then: self.retries.append((seconds, then)),
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path / "journal")
    yield found
    found.journal.end()
    assert os.listdir(tmp_path) == []


def written(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(record(encode(message)) for message in messages)


@given(MESSAGES)
def test_what_is_cut_at_any_byte_is_whole_before_it(messages: list[dict[str, Any]]) -> None:
    content = written(messages)
    ends = [len(written(messages[:count])) for count in range(len(messages) + 1)]
    for cut in range(len(content) + 1):
        whole = sum(end <= cut for end in ends) - 1
        assert parse(content[:cut]) == (messages[:whole], int(cut not in ends))


@given(MESSAGES.filter(bool), st.data())
def test_a_flipped_bit_costs_the_lines_that_it_is_in_and_no_other(
    messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    content = bytearray(written(messages))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    found, damaged = parse(bytes(content))
    assert damaged >= 1
    assert all(message in messages for message in found)
    assert len(found) >= len(messages) - 2  # two, when the end of a line was hit


@given(st.binary(max_size=200))
def test_anything_else_is_nothing(content: bytes) -> None:
    assert parse(content)[0] == []


def test_a_packet_with_line_breaks_between_its_tokens_is_one_line() -> None:
    assert parse(record(b'{"kind":\n"note"}')) == ([{"kind": "note"}], 0)


def test_it_stays_small_whatever_happens(disk: Disk) -> None:
    disk.content = [{"kind": "journal"}, *({"kind": "note", "key": str(at), "text": "x" * 100} for at in range(1000))]
    disk.journal.begin()
    live = disk.path.stat().st_size
    largest = 0
    for at in range(100_000):
        disk.journal.append({"kind": "exited", "id": f"service:main:0@0:{at}", "status": {"exited": 0}})
        if not at % 1000:
            largest = max(largest, disk.path.stat().st_size)
    assert live < largest <= 2 * live + ROOM + 200
    assert read(str(disk.path))[0][: len(disk.content)] == disk.content


def test_it_is_said_once_that_it_cannot_be_written_and_all_is_written_when_that_is_mended(disk: Disk) -> None:
    disk.content = [{"kind": "journal"}]
    beside = Path(f"{disk.path}.new")
    beside.mkdir()
    disk.journal.begin()
    disk.journal.append({"kind": "ready"})
    [(seconds, retry)] = disk.retries
    assert seconds == RETRY
    retry()
    assert len(disk.said) == 1
    assert disk.said[0].startswith(f"cannot write {disk.path}: Is a directory; should all of herdpy be killed")
    beside.rmdir()
    disk.content.append({"kind": "ready"})
    disk.retries[-1][1]()
    assert disk.said[1:] == [f"can write {disk.path} again"]
    assert read(str(disk.path)) == (disk.content, 0)


def test_nobody_else_can_read_it(disk: Disk) -> None:
    umask = os.umask(0)
    try:
        disk.journal.begin()
    finally:
        os.umask(umask)
    assert disk.path.stat().st_mode & 0o777 == 0o600


def test_another_boot_s_is_void(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    ready = {"kind": "ready"}
    path.write_bytes(written([legacy.head(), ready]))
    found = legacy.read_legacy(str(path))
    assert found is not None
    assert found.was_ready
    path.write_bytes(written([legacy.head(), ready, legacy.head()])[1:])
    found = legacy.read_legacy(str(path))
    assert found is not None
    assert found.damaged == 1
    path.write_bytes(written([ready]))
    assert legacy.read_legacy(str(path)) is None
    for key in ("boot", "namespace", "version"):
        path.write_bytes(written([{**legacy.head(), key: "other"}, ready]))
        assert legacy.read_legacy(str(path)) is None


def test_records_of_another_shape_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(written([legacy.head(), {"kind": "process"}, {"kind": "pipe", "number": "x"}, {"kind": "ready"}]))
    found = legacy.read_legacy(str(path))
    assert found is not None
    assert found.was_ready
    assert found.damaged
    assert found.outcomes == {}
