"""Services that are ready when they say so in what they write."""

import glob
import os
import re
from collections.abc import Iterator

import msgspec

from herdpy.service import ProcessContext
from herdpy.watch import watching

STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
"""What the logger writes before each line."""
CHUNK = 64 * 1024
LONGEST_LINE = 64 * 1024
"""Bytes of a line that are looked at."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when a line that its process writes holds what a regular expression matches."""

    pattern: str

    async def run(self, context: ProcessContext) -> None:
        """Wait for the line, from what the process wrote first; a rotation between its lines does not matter."""
        pattern = re.compile(self.pattern)
        context.progress(f"waiting until it writes a line that matches {self.pattern}")
        log = _Log(context.log_file, context.log_begin)

        def is_there() -> bool:
            return any(pattern.search(line) for line in log.new_lines())

        with watching(context.log_file) as watch:
            while not await watch.look(is_there):
                await watch.change()


class _Log:
    """The lines of a log file from an offset on, also of the files that follow it when it is rotated.

    Nothing stays open: a look may be abandoned in its thread.
    """

    def __init__(self, path: str, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._inode: int | None = None
        self._line = b""

    def new_lines(self) -> Iterator[str]:
        """The whole lines that have come since the last time, without their stamps."""
        for path in self._files():
            yield from self._rest_of(path)

    def _files(self) -> Iterator[str]:
        """The file that was read last, under whatever name it has now, those that came after it, the log itself."""
        if self._inode is not None and _inode(self._path) != self._inode:
            rotated = sorted(glob.glob(f"{glob.escape(self._path)}.*Z"))
            inodes = [_inode(path) for path in rotated]
            yield from rotated[inodes.index(self._inode) :] if self._inode in inodes else ()
        yield self._path

    def _rest_of(self, path: str) -> Iterator[str]:
        try:
            file = open(path, "rb")  # noqa: SIM115 - the with statement is below the exception
        except OSError:
            return  # made when the first line comes
        with file:
            state = os.fstat(file.fileno())
            if self._inode is not None and state.st_ino != self._inode:
                self._offset, self._line = 0, b""
            elif state.st_size < self._offset:  # made anew since our process was spawned, or emptied
                self._offset = 0
            self._inode = state.st_ino
            file.seek(self._offset)
            while chunk := file.read(CHUNK):
                self._offset += len(chunk)
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    yield _words(self._line + line)
                    self._line = b""
                self._line = (self._line + rest)[: LONGEST_LINE + 32]


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _words(line: bytes) -> str:
    stamped = STAMP.match(line)
    return line[stamped.end() if stamped else 0 :][:LONGEST_LINE].decode(errors="replace").rstrip("\r")
