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
    lambda found: [{**message, "kind": "note", "at": at} for at, message in enumerate(found)]
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
            str(path.with_name("elsewhere")),
            lambda: map(encode, self.content),
            self.said.append,
            lambda seconds, then: self.retries.append((seconds, then)),
            lambda then: then(),
            lambda: self.refusal,
        )
        self.refusal: str | None = None


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


HEAD = {"kind": "journal"}


def entries(path: Path) -> list[dict[str, Any]]:
    return read(str(path))[0]


def test_while_it_cannot_be_written_it_is_elsewhere_which_is_said_once(disk: Disk) -> None:
    disk.content = [HEAD]
    elsewhere, beside = disk.path.with_name("elsewhere"), Path(f"{disk.path}.new")
    beside.mkdir()
    disk.journal.begin()
    disk.journal.append({"kind": "ready"})
    assert entries(elsewhere) == [HEAD, {"kind": "ready"}]
    [(seconds, retry)] = disk.retries
    assert seconds == RETRY
    retry()
    disk.journal.append({"kind": "note"})
    assert entries(elsewhere) == [HEAD, {"kind": "ready"}, {"kind": "note"}]
    assert disk.said == [f"cannot write {disk.path}: Is a directory; until that is mended, it is {elsewhere}"]
    beside.rmdir()
    disk.content.append({"kind": "ready"})
    disk.retries[-1][1]()
    assert disk.said[1:] == [f"can write {disk.path} again"]
    assert entries(disk.path) == disk.content
    assert not elsewhere.exists()


def test_one_that_is_written_nowhere_is_said_to_be_unknown(disk: Disk) -> None:
    disk.content = [HEAD]
    for name in ("journal.new", "elsewhere.new"):
        disk.path.with_name(name).mkdir()
    disk.journal.begin()
    disk.journal.append({"kind": "ready"})
    assert len(disk.said) == 1
    assert disk.said[0].startswith(f"cannot write {disk.path}: Is a directory; should all of herdpy be killed")
    for name in ("journal.new", "elsewhere.new"):
        disk.path.with_name(name).rmdir()
    disk.retries[-1][1]()
    assert entries(disk.path) == disk.content


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_one_that_is_gone_is_noticed_at_the_next_record_and_no_record_is_lost(disk: Disk, how: str) -> None:
    disk.content = [HEAD]
    disk.journal.begin()
    disk.path.unlink()
    if how == "replaced":
        disk.path.touch()
    disk.journal.append({"kind": "ready"})
    assert disk.said == [
        f"cannot write {disk.path}: it was {how}; until that is mended, it is {disk.path.with_name('elsewhere')}"
    ]
    assert entries(disk.path.with_name("elsewhere")) == [HEAD, {"kind": "ready"}]
    disk.refusal = "another herdpy has its directory"
    disk.retries[-1][1]()
    assert disk.path.exists() == (how == "replaced")
    disk.refusal = None
    disk.retries[-1][1]()
    assert entries(disk.path) == [HEAD]


def test_of_two_the_one_that_was_begun_last_counts(tmp_path: Path) -> None:
    paths = [tmp_path / "journal", tmp_path / "elsewhere"]
    early, late = legacy.head(), legacy.head()
    assert early["written"] < late["written"]
    for first, second in ((early, late), (late, early), (early, {**early, "boot": "other"})):
        for path, at in zip(paths, (first, second), strict=True):
            ready = [{"kind": "ready"}] if at is late or second["boot"] == "other" else []
            path.write_bytes(written([at, *ready]))
        found, problem = legacy.read_legacy(*map(str, paths))
        assert found is not None
        assert found.was_ready
        assert problem is None
    paths[0].unlink()
    paths[0].symlink_to("journal")
    found, problem = legacy.read_legacy(*map(str, paths))
    assert (found, problem) == (None, f"cannot read {paths[0]}: Too many levels of symbolic links")


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
    found, _ = legacy.read_legacy(str(path))
    assert found is not None
    assert found.was_ready
    path.write_bytes(written([legacy.head(), ready, legacy.head()])[1:])
    found, _ = legacy.read_legacy(str(path))
    assert found is not None
    assert found.damaged == 1
    path.write_bytes(written([ready]))
    problem = f"{path} is cut or damaged: it does not even say of which boot it is"
    assert legacy.read_legacy(str(path)) == (None, problem)
    for key in ("boot", "namespace", "version"):
        path.write_bytes(written([{**legacy.head(), key: "other"}, ready]))
        assert legacy.read_legacy(str(path)) == (None, None)


def test_records_of_another_shape_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(written([legacy.head(), {"kind": "process"}, {"kind": "pipe", "number": "x"}, {"kind": "ready"}]))
    found, _ = legacy.read_legacy(str(path))
    assert found is not None
    assert found.was_ready
    assert found.damaged
    assert found.outcomes == {}
