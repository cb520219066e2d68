"""One log file: lines are stamped, appended, and never lost without a word."""

from __future__ import annotations

import errno
import os
import stat
import time

from herdpy.logger.ledger import Intent, Ledger
from herdpy.logger.rotation import archive_name, period_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from herdpy.logger.rotation import Rotation

CONTINUED, NEW_LINE, BROKEN_OFF = range(3)
"""How a text begins: within its own unfinished line, with a line, or where another's unfinished line has to end."""

ROTATION_RETRY = 60.0
"""Seconds until a rotation that failed is tried again."""

LONGEST_PERIOD = 8 * 86400.0
"""Seconds; a week may have an hour more than its days."""

_NOBODY: frozenset[int] = frozenset()

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


def stamped(chunk: bytes, beginning: int, now: bytes) -> bytes:
    """Return ``chunk`` with one and the same stamp before each line that begins in it."""
    begin = (b"", now, b"\n" + now)[beginning]
    if chunk.endswith(b"\n"):
        return begin + chunk[:-1].replace(b"\n", b"\n" + now) + b"\n"
    return begin + chunk.replace(b"\n", b"\n" + now)


class CutShort(OSError):  # noqa: N818 - it names what happened to the text
    """A write that failed, perhaps in the middle; ``lines`` whole ones were written."""

    def __init__(self, error: OSError, lines: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.lines = lines


class LogFile:
    """A file that lines are appended to, made when the first line comes and anew when it has been moved away.

    Several pipes may write into it (a service's processes before and after its restart). A line that is not finished
    yet is in the file already; when another pipe's comes, it is broken off, and its rest begins with its own stamp.

    Args:
        ledger: where it is recorded what is about to be written.
        say: takes a line about logging itself.
        on_rotation: called when a file has been put aside.
    """

    __slots__ = (
        "_done",
        "_file",
        "_identity",
        "_is_inherited",
        "_is_regular",
        "_last_written",
        "_ledger",
        "_lost",
        "_lost_within",
        "_on_rotation",
        "_open_line",
        "_period_end",
        "_problem",
        "_rotation",
        "_rotation_retry",
        "_say",
        "_size",
        "path",
        "users",
    )

    def __init__(
        self,
        path: str,
        ledger: Ledger,
        say: Callable[[str], object],
        on_rotation: Callable[[LogFile], None] = lambda file: None,
    ) -> None:
        self.path = path
        self.users = 0  # pipes that go to it
        self._rotation: Rotation | None = None
        self._ledger = ledger
        self._say = say
        self._on_rotation = on_rotation
        self._file = -1
        self._identity = (0, 0)
        self._size = 0
        self._last_written = 0.0  # before we opened it
        self._period_end = 0.0
        self._open_line = 0  # whose line is unfinished
        self._is_inherited = False
        self._rotation_retry = 0.0
        self._is_regular = False
        self._done = 0  # bytes of the chunk at hand that are written
        self._lost = 0
        self._lost_within = _NOBODY  # who was within a line when the last was lost
        self._problem = ""

    @property
    def rotation(self) -> Rotation | None:
        """How it is rotated; it may change at any time."""
        return self._rotation

    @rotation.setter
    def rotation(self, wanted: Rotation | None) -> None:
        self._rotation = wanted
        if wanted is not None:
            self._period_end = period_end(wanted.every, self._last_written)

    def inherit(self, writer: int) -> None:
        """Let the unfinished line, if there is one, be that of ``writer``: a logger that was killed has left it so."""
        self._open_line = writer
        self._is_inherited = True

    def write(self, writer: int, chunk: bytes) -> None:
        """Append what ``writer`` wrote, however many lines and parts of lines that is; never raises OSError."""
        self._write(writer, chunk, 0, None)

    def resume(self, writer: int, chunk: bytes, start: int, intent: Intent | None) -> None:
        """Append what a logger that was killed has not, of a chunk whose first ``start`` bytes are written."""
        self._write(writer, chunk, start, intent)

    def _write(self, writer: int, chunk: bytes, start: int, intent: Intent | None) -> None:
        self._done = start
        try:
            self._check(intent)
            if intent is not None and intent.file == self._identity:
                self._complete(writer, chunk, intent)
            if self._problem:
                self._recover()
            if self._done < len(chunk):
                self._put(writer, chunk, self._done)
        except OSError as error:
            whole = error.lines if isinstance(error, CutShort) else 0
            ends = chunk.endswith(b"\n")
            begun = writer in self._lost_within  # its first line is counted already
            self._lose(error, chunk.count(b"\n", self._done) + (not ends) - whole - begun)
            self._lost_within = self._lost_within - {writer} if ends else self._lost_within | {writer}
        self._ledger.settle()

    def finish(self, writer: int) -> None:
        """End the line of ``writer``, if it is unfinished."""
        if writer in self._lost_within:
            self._lost_within -= {writer}
        if self._open_line == writer and writer:
            try:
                self._check(None)
                if self._open_line == writer:
                    self._append(b"\n")
            except OSError as error:
                self._lose(error, 0)
            self._forget_line()

    def add(self, line: bytes) -> None:
        """Append a line of the logger's own, between two chunks; never raises OSError."""
        try:
            self._check(None)
            if self._problem:
                self._recover()
            self._append((b"\n" if self._open_line else b"") + stamp() + line)
            self._forget_line()
        except OSError as error:
            self._lose(error, 1)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # The file that the path names.

    def _check(self, intent: Intent | None) -> None:
        """Have the file open that the path names: one that was moved or removed is made anew."""
        if self._file >= 0:
            try:
                seen = os.stat(self.path)
                if (seen.st_ino, seen.st_dev) == self._identity:
                    self._size = seen.st_size
                    return
            except FileNotFoundError:
                pass
            self.close()
            self._forget_line()
        try:
            self._open(intent)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), 0o750, exist_ok=True)
            self._open(intent)

    def _open(self, intent: Intent | None = None) -> None:
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
        self._is_regular = stat.S_ISREG(seen.st_mode)
        self._size = seen.st_size
        self._last_written = seen.st_mtime
        self.rotation = self._rotation
        is_inherited, self._is_inherited = self._is_inherited, False
        if intent is not None and intent.file == self._identity:
            return
        if not self._is_regular or not seen.st_size or os.pread(file, 1, seen.st_size - 1) == b"\n":
            self._forget_line()
        elif not is_inherited:
            self._append(b"\n")  # whoever wrote here before us has left a line unfinished

    # Appending.

    def _put(self, writer: int, chunk: bytes, start: int) -> None:
        """Append a chunk from ``start`` on; put the file aside first when it is time, but never within a line."""
        now = stamp()
        text = stamped(chunk[start:], self._beginning(writer), now)
        if self._is_due(len(text)):
            start = self._end_line(writer, chunk, start, now)
            if not self._open_line:
                self._rotate()
            if start == len(chunk):
                return
            text = stamped(chunk[start:], self._beginning(writer), now)
        self._put_part(writer, chunk, start, len(chunk), text, now)

    def _put_part(self, writer: int, chunk: bytes, start: int, end: int, text: bytes, now: bytes) -> None:
        """Append the text of a part of a chunk, so that a logger after us can tell how much of it we have written."""
        beginning = self._beginning(writer)
        broken = self._open_line if beginning == BROKEN_OFF else 0
        self._ledger.intend(Intent(start, end, self._size, self._identity, beginning, broken, now))
        self._append(text, begin=beginning == BROKEN_OFF)
        self._struck(writer, chunk, end)

    def _complete(self, writer: int, chunk: bytes, intent: Intent) -> None:
        """Append what is missing of a part that a logger began to write before it was killed."""
        text = stamped(chunk[intent.start : intent.end], intent.beginning, intent.stamp)
        there = os.pread(self._file, len(text), intent.offset) if self._is_regular else b""
        if not text.startswith(there):  # someone else has written, too
            there = there[: next(at for at, byte in enumerate(there) if text[at] != byte)]
        self._append(text, len(there), begin=intent.beginning == BROKEN_OFF)
        self._struck(writer, chunk, intent.end)

    def _struck(self, writer: int, chunk: bytes, end: int) -> None:
        self._ledger.strike()
        self._done = end
        self._open_line = 0 if chunk[end - 1] == 10 else writer

    def _beginning(self, writer: int) -> int:
        if self._open_line == writer:
            return CONTINUED
        return BROKEN_OFF if self._open_line else NEW_LINE

    def _append(self, text: bytes, written: int = 0, *, begin: int = 0) -> None:
        """Append the text from ``written`` on; the lines in it begin at ``begin``.

        Raises:
            CutShort: with the lines of it that are there.
        """
        try:
            while written < len(text):
                count = os.write(self._file, memoryview(text)[written:])
                written += count
                self._size += count
        except OSError as error:
            raise CutShort(error, text.count(b"\n", begin, max(begin, written))) from None

    def _forget_line(self) -> None:
        if self._open_line:
            self._ledger.mark_line(self._open_line, is_open=False)
            self._open_line = 0

    # Rotation.

    def _is_due(self, more: int) -> bool:
        """Tell whether the file is to be put aside before so many bytes are added."""
        rotation = self._rotation
        if rotation is None or not self._is_regular:
            return False
        now = time.time()
        if not self._size:
            self._period_end = period_end(rotation.every, now)
            return False
        if rotation.every is not None and self._period_end > now + LONGEST_PERIOD:  # the clock was set back
            self._period_end = period_end(rotation.every, now)
        if self._rotation_retry and time.monotonic() < self._rotation_retry:
            return False
        return now >= self._period_end or (rotation.size is not None and self._size + more > rotation.size)

    def _end_line(self, writer: int, chunk: bytes, start: int, now: bytes) -> int:
        """Let the file end with a line, if that can be; return from where on the chunk is left."""
        if self._open_line == writer:
            end = chunk.find(b"\n", start) + 1
            if not end:
                return start
            self._put_part(writer, chunk, start, end, stamped(chunk[start:end], CONTINUED, now), now)
            return end
        if self._open_line:
            self._append(b"\n")
            self._forget_line()
        return start

    def _rotate(self) -> None:
        try:
            aside = archive_name(self.path, time.time())
            os.rename(self.path, aside)
        except OSError as error:
            if not self._rotation_retry:
                self._say(f"cannot rename {self.path} for its rotation: {error.strerror}; it grows on until that works")
            self._rotation_retry = time.monotonic() + ROTATION_RETRY
            return
        self._rotation_retry = 0.0
        self.close()
        self._on_rotation(self)
        self._open()

    # Loss.

    def _lose(self, error: OSError, lines: int) -> None:
        """Count lines that cannot be written; say so once."""
        if not self._problem:
            self._problem = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.ELOOP:
                self._problem = "it is a symbolic link"
            self._say(f"cannot write {self.path}: {self._problem}; its lines are lost until that is mended")
        self._lost += lines
        self._forget_line()
        self.close()  # what is wrong may be mended by another file of that name

    def _recover(self) -> None:
        """Tell how many lines are missing, where they are missing."""
        words = f"{self._lost} lines were lost here: {self._problem}"
        if self._lost:
            self._append(stamp() + words.encode() + b"\n")
        self._say(f"can write {self.path} again; {words}")
        self._lost = 0
        self._lost_within = _NOBODY
        self._problem = ""
