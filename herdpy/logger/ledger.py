"""What is under way between a pipe and a file, where it outlives the logger.

A logger that is killed must lose no line and write none twice. So whatever it has taken from a service's pipe, and what
it is about to do with it, is at every moment in things that the keeper holds and passes to the next logger: a small
pipe of our own, the *hold*, and a piece of memory (memfd_create(2)).

    service's pipe ──splice──▶ hold ──read──▶ memory ──write──▶ file

splice(2) from pipe to pipe moves pages with both pipes locked: a byte is in one or in the other. Nobody else touches
the hold, so what is left in it (FIONREAD) tells how much of the reading has been done. Before the write, the memory
says which bytes go where in which file, so what the file holds there tells how much of the writing has been done. The
phase is one number, and changes last: whatever was half recorded when the end came is recorded again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import termios

READ_SIZE = 65536
"""Bytes taken from a pipe at a time: as much as a pipe holds by default (pipe(7))."""

IDLE, MOVING, READING, HELD, WRITING, WRITTEN = range(6)
"""Nothing under way; moving into the hold; reading the hold; all in memory; being written; written, not yet struck."""

_LAYOUT = 0x6865_7264_0001
"""Of the memory; one of another layout is begun anew."""

_MARK, _PHASE, _SOURCE, _LENGTH, _START, _END, _OFFSET, _DEVICE, _INODE, _BEGINNING, _BROKEN, _USED = range(12)
_STAMP = 256
"""Where the stamp stands: after the numbers above, eight bytes each."""
STAMP_SIZE = 20

_BUFFER = 4096
_SLOTS = _BUFFER + READ_SIZE
_SLOT_COUNT = 65536
_SIZE = _SLOTS + 8 * _SLOT_COUNT
"""Most of it is slots that nobody touches: they cost nothing."""


class Intent:
    """A part of what is in memory, and where it is to be written.

    Attributes:
        start, end: which bytes of what is in memory.
        offset: the size of the file before.
        file: its device and inode.
        beginning: how the text begins (see :func:`herdpy.logger.file.stamped`).
        broken: the pipe whose unfinished line it breaks off, or 0.
        stamp: that of its lines.
    """

    __slots__ = ("beginning", "broken", "end", "file", "offset", "stamp", "start")

    def __init__(
        self, start: int, end: int, offset: int, file: tuple[int, int], beginning: int, broken: int, stamp: bytes
    ) -> None:
        self.start = start
        self.end = end
        self.offset = offset
        self.file = file
        self.beginning = beginning
        self.broken = broken
        self.stamp = stamp


class Ledger:
    """The hold and the memory. At most one chunk is under way at a time."""

    def __init__(self, memory: int, reading: int, writing: int) -> None:
        """Go on with what is there.

        Args:
            memory: a memfd, empty at first. It stays open: a keeper that follows a killed one finds it at us.
            reading, writing: the ends of the hold, a pipe of the default size.

        Raises:
            OSError: when the memory cannot be mapped.
        """
        self._reading = reading
        self._writing = writing
        if os.fstat(memory).st_size != _SIZE:
            os.ftruncate(memory, _SIZE)
        self._memory = memoryview(mmap.mmap(memory, _SIZE))
        self._words = self._memory[:_STAMP].cast("Q")
        self._buffer = self._memory[_BUFFER : _BUFFER + READ_SIZE]
        self._open_lines = self._memory[_SLOTS:].cast("Q")
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        if self._words[_MARK] != _LAYOUT:
            self._memory[:_SLOTS] = bytes(_SLOTS)
            self._words[_MARK] = _LAYOUT
        self._read_slots()

    # One chunk, from the pipe to the file.

    def take(self, source: int, pipe: int, most: int = READ_SIZE) -> bytes | None:
        """Take what can be read from the pipe of a source, ``most`` bytes at most.

        Returns:
            None when there is nothing now; empty at the end of file.
        """
        self._words[_SOURCE] = source
        self._words[_PHASE] = MOVING
        try:
            count = os.splice(pipe, self._writing, most, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            count = -1
        if count <= 0:
            self._words[_PHASE] = IDLE
            return None if count else b""
        self._words[_LENGTH] = count
        self._words[_PHASE] = READING
        self._read_hold(count, 0)
        return self._buffer[:count].tobytes()

    def intend(self, intent: Intent) -> None:
        """Record what is about to be written."""
        words = self._words
        words[_START], words[_END], words[_OFFSET] = intent.start, intent.end, intent.offset
        words[_DEVICE], words[_INODE] = intent.file
        words[_BEGINNING], words[_BROKEN] = intent.beginning, intent.broken
        self._memory[_STAMP : _STAMP + STAMP_SIZE] = intent.stamp
        words[_PHASE] = WRITING

    def strike(self) -> None:
        """Record that what was intended is written."""
        source, broken = self._words[_SOURCE], self._words[_BROKEN]
        if broken:
            self.mark_line(broken, is_open=False)
        self.mark_line(source, is_open=self._buffer[self._words[_END] - 1] != 10)
        self._words[_PHASE] = WRITTEN
        self._strike_bytes()

    def settle(self) -> None:
        """Be done with the chunk, whether it was written or given up."""
        self._words[_PHASE] = IDLE

    # What a logger that was killed has left.

    @property
    def source(self) -> int:
        """The number of the pipe whose chunk is under way; 0 when none is."""
        return self._words[_SOURCE] if self._words[_PHASE] != IDLE else 0

    def resume(self) -> tuple[bytes, int, Intent | None]:
        """Bring what is under way into memory.

        Returns:
            The chunk, how much of it is written and struck, and what was being written when the end came.
        """
        words = self._words
        if words[_PHASE] == MOVING:
            words[_LENGTH] = _readable(self._reading)
            words[_PHASE] = READING
        if words[_PHASE] == READING:
            length = words[_LENGTH]
            left = _readable(self._reading)
            if left:
                self._read_hold(left, length - left)
            words[_START] = 0
            words[_PHASE] = HELD
        elif words[_PHASE] == WRITTEN:
            self._strike_bytes()
        chunk = self._buffer[: words[_LENGTH]].tobytes()
        if words[_PHASE] != WRITING:
            return chunk, words[_START], None
        intent = Intent(
            words[_START],
            words[_END],
            words[_OFFSET],
            (words[_DEVICE], words[_INODE]),
            words[_BEGINNING],
            words[_BROKEN],
            self._memory[_STAMP : _STAMP + STAMP_SIZE].tobytes(),
        )
        return chunk, intent.start, intent

    # Which pipes' last lines are unfinished in their files.

    def mark_line(self, source: int, *, is_open: bool) -> None:
        """Record whether the last line of a source is unfinished."""
        slot = self._slots.get(source)
        if slot is None:
            if not is_open:
                return
            slot = self._free.pop() if self._free else self._words[_USED]
            if slot >= _SLOT_COUNT:
                return  # more pipes than descriptors: its line is cut in two if we are killed now
            self._slots[source] = slot
            self._words[_USED] = max(self._words[_USED], slot + 1)
        self._open_lines[slot] = source if is_open else 0
        if not is_open:
            del self._slots[source]
            self._free.append(slot)

    def open_lines(self) -> list[int]:
        """Return the numbers of the pipes whose last lines are unfinished."""
        return list(self._slots)

    def _read_slots(self) -> None:
        for slot in range(self._words[_USED]):
            source = self._open_lines[slot]
            if source:
                self._slots[source] = slot
            else:
                self._free.append(slot)

    def _read_hold(self, count: int, at: int) -> None:
        while count > 0:
            done = os.readv(self._reading, [self._buffer[at : at + count]])
            at += done
            count -= done

    def _strike_bytes(self) -> None:
        self._words[_START] = self._words[_END]
        self._words[_PHASE] = HELD


def _readable(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
