"""One log file: lines are stamped, appended, and never lost without a word."""

from __future__ import annotations

import errno
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_stamp = b""
_stamped_second = -1


def stamp() -> bytes:
    """Return the local time as the beginning of a line: ``2026-01-31 23:59:59 ``."""
    global _stamp, _stamped_second  # noqa: PLW0603 - one clock for all files
    second = int(time.time())
    if second != _stamped_second:
        _stamp = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(second)).encode()
        _stamped_second = second
    return _stamp


class LogFile:
    """A file that lines are appended to, made when the first line comes and anew when it has been moved away.

    Several pipes may write into it (a service's processes before and after its restart). A line that is not finished
    yet is in the file already; when another pipe's comes, it is broken off, and its rest begins with its own stamp.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._file = -1
        self._identity = (0, 0)
        self._open_line: object = None  # whose line is unfinished
        self._lost = 0
        self._problem = ""

    def write(self, writer: object, chunk: bytes) -> None:
        """Append what ``writer`` wrote, however many lines and parts of lines that is; never raises OSError."""
        try:
            self._check()
            if self._lost:
                self._recover()
            self._append(self._stamped(writer, chunk))
        except OSError as error:
            self._lose(error, chunk)

    def finish(self, writer: object) -> None:
        """End the line of ``writer``, if it is unfinished."""
        if self._open_line is writer:
            self._open_line = None
            try:
                self._append(b"\n")
            except OSError as error:
                self._lose(error, b"")

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _check(self) -> None:
        """Have the file open that the path names: one that was moved or removed is made anew."""
        if self._file >= 0:
            try:
                seen = os.stat(self.path)
                if (seen.st_ino, seen.st_dev) == self._identity:
                    return
            except FileNotFoundError:
                pass
            self.close()
            self._open_line = None
        try:
            self._open()
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), 0o750, exist_ok=True)
            self._open()

    def _open(self) -> None:
        # The directory may be a service's own: what it puts there under this name must not lead us elsewhere.
        # O_NONBLOCK: a FIFO without a reader must not hold up everyone else's lines.
        file = os.open(
            self.path,
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            0o640,
        )
        seen = os.fstat(file)
        self._file = file
        self._identity = (seen.st_ino, seen.st_dev)
        # A logger that was killed may have left a line unfinished.
        if stat.S_ISREG(seen.st_mode) and seen.st_size and os.pread(file, 1, seen.st_size - 1) != b"\n":
            os.write(file, b"\n")

    def _stamped(self, writer: object, chunk: bytes) -> bytes:
        """Return ``chunk`` with one and the same stamp before each line that begins in it."""
        now = stamp()
        if self._open_line is writer:
            begin = b""
        elif self._open_line is None:
            begin = now
        else:
            begin = b"\n" + now
        if chunk.endswith(b"\n"):
            self._open_line = None
            return begin + chunk[:-1].replace(b"\n", b"\n" + now) + b"\n"
        self._open_line = writer
        return begin + chunk.replace(b"\n", b"\n" + now)

    def _append(self, text: bytes) -> None:
        written = os.write(self._file, text)
        if written < len(text):
            rest = memoryview(text)
            while written < len(text):
                written += os.write(self._file, rest[written:])

    def _lose(self, error: OSError, chunk: bytes) -> None:
        """Count lines that cannot be written; say so once."""
        if not self._lost:
            self._problem = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.ELOOP:
                self._problem = "it is a symbolic link"
            self._say(f"cannot write {self.path}: {self._problem}; its lines are lost until that is mended")
        self._lost += max(1, chunk.count(b"\n"))
        self._open_line = None
        self.close()  # what is wrong may be mended by another file of that name

    def _recover(self) -> None:
        """Tell how many lines are missing, where they are missing."""
        words = f"{self._lost} lines were lost here: {self._problem}"
        self._append(stamp() + words.encode() + b"\n")
        self._say(f"can write {self.path} again; {words}")
        self._lost = 0
