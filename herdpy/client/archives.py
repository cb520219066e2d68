"""A service's log files that were rotated: ``PATH.20260131T235959Z``, and ``.gz`` or ``.zst`` when compressed."""

import os
import subprocess
from collections import deque
from collections.abc import Iterator

from herdpy.client.log_file import STAMP_LENGTH, is_stamped
from herdpy.client.words import warn

STAMP_FORM = "00000000T000000Z"
"""The time of the rotation, in UTC, each digit a 0."""
ENDINGS = ("", ".gz", ".zst")


def archives(path: str) -> list[str]:
    """Return the rotated files of the log file ``path``, the oldest first, each once; none when nobody may look."""
    directory, name = os.path.split(path)
    found: dict[str, str] = {}
    try:
        others = sorted(os.listdir(directory), reverse=True)
    except OSError:
        return []
    for other in others:
        stamp, ending = other[len(name) + 1 :][: len(STAMP_FORM)], other[len(name) + 1 + len(STAMP_FORM) :]
        form = "".join(["0" if character in "0123456789" else character for character in stamp])
        if other.startswith(f"{name}.") and form == STAMP_FORM and ending in ENDINGS:
            found[stamp] = os.path.join(directory, other)  # the plain one comes last: it may be compressed just now
    return [found[stamp] for stamp in sorted(found)]


def last_lines(path: str, count: int) -> list[bytes]:
    """Return the last ``count`` lines of the rotated files; one that cannot be read is told of, and left out."""
    lines: deque[bytes] = deque()
    for archive in reversed(archives(path)):
        if len(lines) >= count:
            break
        lines.extendleft(reversed(deque(_lines(archive), maxlen=count - len(lines))))
    return list(lines)


def lines_since(path: str, stamp: bytes) -> Iterator[bytes]:
    """Yield the lines of the rotated files from the first one on whose stamp is ``stamp`` or later."""
    is_late = False
    for archive in _reaching(path, stamp):
        for line in _lines(archive):
            is_late = is_late or (is_stamped(line) and line[:STAMP_LENGTH] >= stamp)
            if is_late:
                yield line


def _reaching(path: str, stamp: bytes) -> list[str]:
    """Return the archives from the first one that has a line so late on: by the first stamp of the one after it."""
    every = archives(path)
    for position in range(len(every) - 1, 0, -1):
        first = next((line for line in _lines(every[position]) if is_stamped(line)), b"")
        if first[:STAMP_LENGTH] < stamp:
            return every[position:]
    return every


def _lines(archive: str) -> Iterator[bytes]:
    try:
        if archive.endswith(".gz"):
            import gzip

            with gzip.open(archive) as unpacked:
                yield from unpacked
        elif archive.endswith(".zst"):
            yield from _unpacked_by_zstd(archive)
        else:
            with open(archive, "rb") as plain:
                yield from plain
    except FileNotFoundError:
        return  # it was compressed or removed since we looked
    except (OSError, EOFError) as error:
        problem = getattr(error, "strerror", None) or error
        warn(f"the lines of {archive} are missing here: {problem}")


def _unpacked_by_zstd(archive: str) -> Iterator[bytes]:
    try:
        zstd = subprocess.Popen(["zstd", "-dcq", "--", archive], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        warn(f"the lines of {archive} are missing here: cannot run zstd: {error.strerror}")
        return
    with zstd:
        assert zstd.stdout is not None
        try:
            yield from zstd.stdout
        finally:
            zstd.stdout.close()
    if zstd.returncode > 0:
        warn(f"lines of {archive} are missing here: zstd ended with {zstd.returncode}")
