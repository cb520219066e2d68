"""A service's log files that were rotated: ``PATH.20260131T235959Z``, and ``.gz`` or ``.zst`` when compressed."""

import os
import subprocess
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

from herdpy.client.log_file import ENDINGS, STAMP_LENGTH, Unreadable, archives, is_stamped, open_log
from herdpy.client.words import warn

PIECE = 64 * 1024
"""Bytes that are read at once."""


def opened(path: str) -> tuple[int | None, list[str]]:
    """Open the log file; return its descriptor, None when it is not there, and what was rotated before it.

    Raises:
        Unreadable: as :func:`open_log`, but for a file that is not there.
    """
    while True:
        file = None
        try:
            file = open_log(path)
        except Unreadable as problem:
            if not problem.is_missing:
                raise
        rotated = archives(path)
        if is_at(path, file):
            return file, rotated
        if file is not None:
            os.close(file)  # it was rotated in between: it may be one of them


def is_at(path: str, file: int | None) -> bool:
    """Whether the path names this file; None is that it names none."""
    try:
        seen = os.stat(path)
    except OSError:
        return file is None
    return file is not None and os.path.samestat(seen, os.fstat(file))


def from_there_on(path: str, file: int | None, offset: int, rotated: list[str]) -> Iterator[bytes]:
    """Yield what is in the log from ``offset`` on, through all its rotations, and nothing whenever that is all so far.

    Args:
        path: of the log file.
        file, rotated: as :func:`opened` returned them; the file is closed when another has its name.
        offset: bytes of it that are known.

    Raises:
        Unreadable: another file has its name, and cannot be read.
    """
    newest = rotated[-1] if rotated else ""
    while True:
        is_all = is_at(path, file)  # asked first: after its rotation nobody writes to it
        if file is not None:
            if os.fstat(file).st_size < offset:
                offset = 0  # it was emptied
            while piece := os.pread(file, PIECE, offset):
                offset += len(piece)
                yield piece
        if is_all:
            yield b""
            continue
        successor, rotated = opened(path)
        later = [archive for archive in rotated if archive > newest]
        if later and file is not None and _is_of(later[0], file):
            del later[0]
        for archive in later:
            yield from lines(archive)
        if file is not None:
            os.close(file)
        file, offset, newest = successor, 0, rotated[-1] if rotated else newest


def _is_of(archive: str, file: int) -> bool:
    """Whether the archive was that file: when it is compressed, the time of its last line is kept."""
    for ending in ENDINGS:
        try:
            return os.stat(archive + ending).st_mtime_ns == os.fstat(file).st_mtime_ns
        except OSError:
            continue
    return False


def last_lines(rotated: list[str], count: int) -> list[bytes]:
    """Return the last ``count`` lines of the rotated files; one that cannot be read is told of, and left out."""
    found: deque[bytes] = deque()
    for archive in reversed(rotated):
        if len(found) >= count:
            break
        found.extendleft(reversed(deque(lines(archive), maxlen=count - len(found))))
    return list(found)


def lines_since(rotated: list[str], stamp: bytes) -> Iterator[bytes]:
    """Yield the lines of the rotated files from the first one on whose stamp is ``stamp`` or later."""
    is_late = False
    for archive in _reaching(rotated, stamp):
        for line in lines(archive):
            is_late = is_late or (is_stamped(line) and line[:STAMP_LENGTH] >= stamp)
            if is_late:
                yield line


def _reaching(rotated: list[str], stamp: bytes) -> list[str]:
    """Return the archives from the first one that has a line so late on: by the first stamp of the one after it."""
    for position in range(len(rotated) - 1, 0, -1):
        # One without a stamp (it is empty, or cannot be read) tells nothing of those before it.
        first = next((line for line in lines(rotated[position], _ignore) if is_stamped(line)), stamp)
        if first[:STAMP_LENGTH] < stamp:
            return rotated[position:]
    return rotated


def _ignore(problem: str) -> None:
    """Tell nothing: who reads the whole will."""


def lines(archive: str, tell: Callable[[str], None] = warn) -> Iterator[bytes]:
    """Yield the lines of a rotated file, whether it is compressed by now or not; what cannot be read is told of."""
    for ending in ENDINGS:
        name = archive + ending
        try:
            file = open_log(name)
        except Unreadable as problem:
            if problem.is_missing:
                continue
            tell(f"the lines of {name} are missing here: it {problem}")
            return
        with open(file, "rb") as content:
            try:
                yield from _unpacked(name, content, tell)
            except (OSError, EOFError, zlib.error) as error:
                tell(f"lines of {name} are missing here: {getattr(error, 'strerror', None) or error}")
        return
    tell(f"the lines of {archive} are missing here: it was removed meanwhile")


def _unpacked(name: str, content: IO[bytes], tell: Callable[[str], None]) -> Iterator[bytes]:
    if name.endswith(".gz"):
        import gzip

        with gzip.GzipFile(fileobj=content) as unpacked:
            yield from unpacked
    elif name.endswith(".zst"):
        yield from _unpacked_by_zstd(name, content, tell)
    else:
        yield from content


def _unpacked_by_zstd(name: str, content: IO[bytes], tell: Callable[[str], None]) -> Iterator[bytes]:
    try:
        zstd = subprocess.Popen(["zstd", "-dcq"], stdin=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        tell(f"the lines of {name} are missing here: cannot run zstd: {error.strerror}")
        return
    with zstd:
        assert zstd.stdout is not None
        try:
            yield from zstd.stdout
        finally:
            zstd.stdout.close()
    if zstd.returncode > 0:
        tell(f"lines of {name} are missing here: zstd ended with {zstd.returncode}")
