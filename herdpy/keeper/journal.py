"""What the keeper holds, on disk: whoever is the keeper next finds there what runs, though nobody told it.

The journal survives the programs, not the machine: nothing is synced, and the boot's ID in its head makes an older one
void. A record is a line, ``LENGTH CHECKSUM JSON``: a line that was cut, or in which a bit has changed, is known as such
and left out; the whole ones after it still say what is true. A record is written before what it announces is done, and
says what is, not what changes: to read one twice does no harm.

It grows by a line for each thing that happens, and is written anew, beside itself, when it is larger than twice what it
was then and 1 MiB. So it is never larger than that and a record more.

While it cannot be written, or is not found any more where it was written, another one is, elsewhere. Which of the two
was begun last, their heads tell.
"""

from __future__ import annotations

import os
from binascii import crc32

from herdpy.keeper.message import MessageError, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

NAME = "journal"
"""In the state directory."""

VERSION = 1

ROOM = 1 << 20
"""Bytes that it may grow by, beyond twice its size, until it is written anew."""

CHUNK = 64 * 1024
"""Bytes that are written at once when it is written anew."""

RETRY = 10.0
"""Seconds until the next try, when it cannot be written."""


class Journal:
    """The file, as it is written."""

    def __init__(
        self,
        path: str,
        elsewhere: str,
        content: Callable[[], Iterable[bytes]],
        say: Callable[[str], None],
        later: Callable[[float, Callable[[], None]], None],
        soon: Callable[[Callable[[], None]], None],
        keep_place: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Nothing is written yet.

        Args:
            elsewhere: a path on another file system, if possible: what is written while the first cannot be.
            content: returns the packets that say all that is held now.
            say: takes a line about what is wrong.
            later: calls back after so many seconds.
            soon: calls back before anything is waited for.
            keep_place: sees that nobody else writes there; returns why somebody may, in words.
        """
        self._path = path
        self._elsewhere = elsewhere
        self._content = content
        self._say = say
        self._later = later
        self._soon = soon
        self._keep_place = keep_place
        self._file = -1
        self._pending: list[bytes] = []
        self._written = path
        """Where the file is."""
        self._identity = (0, 0)
        self._size = 0
        self._most = 0
        self._problem = ""
        self._is_over = False

    def append(self, *messages: Mapping[str, object]) -> None:
        """Keep records until :meth:`sync`, which comes by itself before anything is waited for."""
        for message in messages:
            self.append_packet(encode(message))

    def append_packet(self, packet: bytes) -> None:
        """Keep a record that is encoded already."""
        if self._file >= 0:
            self._pending.append(packet)
            if len(self._pending) == 1:
                self._soon(self.sync)

    def sync(self) -> None:
        """Write what is kept. When that cannot be done, it is said once, all is written elsewhere, and anew later."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        if self._size > self._most:
            self._rewrite()
        lines = b"".join(map(record, pending))
        problem = self._append(lines)
        if problem is None:
            return
        os.close(self._file)
        self._file = -1
        if self._written == self._elsewhere:
            self._failed(problem)
        elif self._replace(self._elsewhere) is None:
            self._append(lines)  # what is about to be done is in no content yet
            self._failed(problem)
        else:
            self._failed(problem)

    def _append(self, lines: bytes) -> str | None:
        """Write to the file that there is; return what went wrong."""
        try:
            seen = os.stat(self._written)
            if (seen.st_dev, seen.st_ino) != self._identity:
                return "it was replaced"
            if os.write(self._file, lines) == len(lines):
                self._size += len(lines)
                return None
            problem = "no space left"
        except FileNotFoundError:
            return "it was removed"
        except OSError as error:
            problem = error.strerror or str(error)
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            return problem  # its reader knows half a record from a whole one
        return problem

    def begin(self) -> None:
        """Write all anew, now; a journal that was there before is void from then on."""
        if self._is_over:
            return
        problem = self._keep_place() or self._replace(self._path)
        if problem is None:
            _remove(self._elsewhere)
            if self._problem:
                self._problem = ""
                self._say(f"can write {self._path} again")
            return
        if self._file < 0:
            self._replace(self._elsewhere)
        self._failed(problem)

    def end(self) -> None:
        """Remove it: nothing is held any more."""
        self._is_over = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._keep_place() is None:
            _remove(self._path)
        _remove(self._elsewhere)

    def _rewrite(self) -> None:
        """Write it anew because it has grown; where that fails for want of room, it goes on growing."""
        if (self._written == self._path and self._keep_place()) or self._replace(self._written):
            self._most = 2 * self._size + ROOM

    def _replace(self, path: str) -> str | None:
        """Write all beside, and put it in its place; return what went wrong."""
        beside = f"{path}.new"
        try:
            file = os.open(
                beside,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        except OSError as error:
            return error.strerror or str(error)
        try:
            size = _write(file, map(record, self._content()))
            os.rename(beside, path)
            seen = os.fstat(file)
        except BaseException as error:
            os.close(file)
            _remove(beside)
            if isinstance(error, OSError):
                return error.strerror or str(error)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._pending.clear()  # it is in there
        self._file, self._size, self._written = file, size, path
        self._identity = seen.st_dev, seen.st_ino
        self._most = 2 * self._size + ROOM
        return None

    def _failed(self, reason: str) -> None:
        if not self._problem:
            self._problem = reason
            if self._file >= 0:
                follows = f"until that is mended, it is {self._written}"
            else:
                follows = (
                    "should all of herdpy be killed before that is mended, the next one will not know of what happens "
                    "from now on"
                )
            self._say(f"cannot write {self._path}: {reason}; {follows}")
        self._later(RETRY, self.begin)


def _write(file: int, lines: Iterable[bytes]) -> int:
    """Write lines, and return how many bytes these are. Some at a time: all of a thousand services' at once would take
    a megabyte that we would keep."""
    size = 0
    for some in _together(lines):
        written = 0
        while written < len(some):
            written += os.write(file, memoryview(some)[written:])
        size += written
    return size


def _together(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Put lines together until there are some 64 KiB."""
    some, size = [], 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size >= CHUNK:
            yield b"".join(some)
            some, size = [], 0
    yield b"".join(some)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # what is left is written over by the next one, and says nothing of processes that are not there


def record(packet: bytes) -> bytes:
    """Return the line that a packet is written as."""
    if b"\n" in packet:  # between the tokens of JSON that is not ours
        packet = encode(decode(packet))
    return b"%x %08x %b\n" % (len(packet), crc32(packet), packet)


def read(path: str) -> tuple[list[dict[str, Any]], int]:
    """Return the records of a journal that are whole, oldest first, and how many lines are not.

    Raises:
        OSError: when it cannot be read; FileNotFoundError when there is none.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    content = b""
    try:
        while chunk := os.read(file, 1 << 20):
            content += chunk
    finally:
        os.close(file)
    return parse(content)


def parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """See :func:`read`."""
    found, damaged = [], 0
    lines = content.split(b"\n")
    for line in lines[:-1]:
        packet = _whole(line)
        if packet is None:
            damaged += 1
        else:
            found.append(packet)
    return found, damaged + bool(lines[-1])


def _whole(line: bytes) -> dict[str, Any] | None:
    length, _, rest = line.partition(b" ")
    checksum, _, packet = rest.partition(b" ")
    if length != b"%x" % len(packet) or checksum != b"%08x" % crc32(packet):
        return None
    try:
        return decode(packet)
    except MessageError:
        return None  # whole, and another version's
