"""Services that are ready when they say so in what they write."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec

from herdpy.service import ProcessContext
from herdpy.watch import watching

if TYPE_CHECKING:
    import gzip

STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
"""What the logger writes before each line."""
CHUNK = 64 * 1024
LONGEST_LINE = 64 * 1024
"""Bytes of a line that are looked at."""
AS_IT_WAS = -1
"""Instead of an inode: that of the file that was the log before the process was spawned."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when a line that its process writes holds what a regular expression matches."""

    pattern: str

    async def run(self, context: ProcessContext) -> None:
        """Wait for the line, from what the process wrote first on.

        Rotations do not matter, but for a line whose file was removed, or compressed by zstd, before we came to it.
        """
        pattern = compiled(self.pattern)
        context.progress(f"waiting until it writes a line that matches {self.pattern}")
        log = _Log(context.log_file, context.log_begin, context.log_since)

        def is_there() -> bool:
            return any(pattern.search(line) for line in log.new_lines())

        with watching(context.log_file) as watch:
            while not await watch.look(is_there):
                await watch.change()


def compiled(pattern: str) -> Any:
    """A regular expression, as Python has them, made to be matched by RE2: in time that is linear in the line's length.
    Python's own matching may take for ever, in whatever thread, and lets nothing else of the program run meanwhile.

    Raises:
        ValueError: it is none, or needs what cannot be matched so; ``str()`` says which.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"no regular expression: {error}") from None
    import re2  # a thing for those who have such services

    options = re2.Options()
    options.log_errors = False  # on stderr
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        problem = error.args[0].decode(errors="replace")
        words = "lookarounds, back-references and the like cannot be matched in bounded time"
        raise ValueError(f"not for a log line: {problem}; {words}") from None


class _Log:
    """The lines that a process writes to a log, through all its rotations.

    Nothing stays open from one look to the next: a look may be abandoned in its thread.

    Args:
        offset: the log's size before the process was spawned, in bytes.
        since: when that was, in seconds since the epoch.
    """

    def __init__(self, path: str, offset: int, since: float) -> None:
        self._path = path
        self._since = since
        self._is_rotated = re.compile(re.escape(os.path.basename(path)) + r"\.(\d{8}T\d{6}Z)(|\.gz|\.zst)")
        self._inode: int | None = AS_IT_WAS
        """Of the file that was the log when we last looked; None when it was put aside."""
        self._offset = offset
        """How much of it was read, in bytes."""
        self._rotated: set[str] | None = None
        """Stamps of the rotated files that there were then; None before the first look."""
        self._line = b""

    def new_lines(self) -> Iterator[str]:
        """The whole lines that have come since the last time, without their stamps."""
        # Opened before the rotated files are listed: one that is put aside in between is known by its inode.
        try:
            log = open(self._path, "rb")  # noqa: SIM115 - closed below
        except OSError:
            yield from self._rotated_since(None)  # it is made when the next line comes
            if self._inode == AS_IT_WAS:
                self._begin(None)
            return
        with log:
            state = os.fstat(log.fileno())
            yield from self._rotated_since(state.st_ino)
            if self._inode not in (state.st_ino, AS_IT_WAS) or state.st_size < self._offset:
                self._begin(state.st_ino)
            self._inode = state.st_ino
            log.seek(self._offset)
            yield from self._rest_of(log)

    def _begin(self, inode: int | None) -> None:
        self._inode, self._offset, self._line = inode, 0, b""

    def _rotated_since(self, log: int | None) -> Iterator[str]:
        """The lines of files that were put aside since the last look: first the rest of what was the log then."""
        rotated = self._list()
        new = self._written(rotated) if self._rotated is None else sorted(rotated.keys() - self._rotated)
        self._rotated = set(rotated)
        for stamp in new:
            if rotated[stamp] != log:
                yield from self._read(stamp)
                self._begin(None)

    def _written(self, rotated: Iterable[str]) -> list[str]:
        """Before the first look: those that the process may have written to."""
        found = {stamp: seen for stamp in sorted(rotated) if (seen := self._seen(stamp)) is not None}
        written = [stamp for stamp, (last, _) in found.items() if last >= self._since]
        earlier = [stamp for stamp in found if stamp not in written]
        # The first is what was the log when it was spawned, unless its first line found that full.
        begin = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._since))
        was_full = bool(earlier) and earlier[-1] >= begin and found[earlier[-1]][1] == self._offset
        size = found[written[0]][1] if written else None
        if was_full or (size is not None and size < self._offset):
            self._begin(None)
        return written

    def _seen(self, stamp: str) -> tuple[float, int | None] | None:
        """When a rotated file was last written to, and its size; None for that of one that is compressed by now."""
        for end in ("", ".gz", ".zst"):
            with contextlib.suppress(FileNotFoundError):
                state = os.lstat(f"{self._path}.{stamp}{end}")
                return state.st_mtime, None if end else state.st_size
        return None

    def _list(self) -> dict[str, int]:
        """The rotated files' stamps, with their inodes."""
        found = {}
        with os.scandir(os.path.dirname(self._path)) as entries:
            for entry in entries:
                if rotated := self._is_rotated.fullmatch(entry.name):
                    found[rotated[1]] = entry.inode()
        return found

    def _read(self, stamp: str) -> Iterator[str]:
        try:
            with open(f"{self._path}.{stamp}", "rb") as file:
                file.seek(self._offset)
                yield from self._rest_of(file)
                return
        except OSError:
            pass  # it is compressed by now
        import gzip

        try:
            with gzip.open(f"{self._path}.{stamp}.gz", "rb") as file:
                file.seek(self._offset)
                yield from self._rest_of(file)
        except (OSError, EOFError):
            return

    def _rest_of(self, file: "IO[bytes] | gzip.GzipFile") -> Iterator[str]:
        while chunk := file.read(CHUNK):
            self._offset += len(chunk)
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                yield _words(self._line + line)
                self._line = b""
            self._line = (self._line + rest)[: LONGEST_LINE + 32]


def _words(line: bytes) -> str:
    stamped = STAMP.match(line)
    return line[stamped.end() if stamped else 0 :][:LONGEST_LINE].decode(errors="replace").rstrip("\r")
