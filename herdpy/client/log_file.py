"""A service's log file, read from its end: as the logger writes it, each line begins with ``YYYY-mm-dd HH:MM:SS ``.

Only builtin modules: ``herd status SERVICE`` shows the last lines.
"""

import posix

BLOCK = 64 * 1024
"""Bytes read at once on the way back from the end of a file."""
STAMP_LENGTH = 19
"""Bytes of a stamp, in local time, without the space after it."""
STAMP_FORM = "00000000T000000Z"
"""The time of the rotation, in UTC, each digit a 0."""
ENDINGS = ("", ".gz", ".zst")
"""In the order in which they are looked for: the plain one is there until the compressed one is whole."""


class Unreadable(Exception):  # noqa: N818 - it says what the file is
    """The file cannot be read; ``str()`` follows its path and says why."""

    def __init__(self, problem: str, is_missing: bool = False) -> None:
        super().__init__(problem)
        self.is_missing = is_missing


def open_log(path: str) -> int:
    """Return a descriptor of the file, for reading.

    Raises:
        Unreadable: when there is none, it may not be read, or it is something else: a FIFO would never end.
    """
    try:
        # Without O_NONBLOCK the open of a FIFO waits for a writer.
        file = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC)
    except FileNotFoundError:
        raise Unreadable("is not there yet", is_missing=True) from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    if posix.fstat(file).st_mode & 0o170000 == 0o100000:
        return file
    posix.close(file)
    raise Unreadable("is no regular file, and cannot be shown")


def archives(path: str) -> list[str]:
    """Return the rotated files of the log file ``path``, the oldest first, as they are called before they are
    compressed; none when nobody may look."""
    directory, _, name = path.rpartition("/")
    found: set[str] = set()
    try:
        others = posix.listdir(directory or "/")
    except OSError:
        return []
    for other in others:
        if not other.startswith(f"{name}."):
            continue
        stamp, ending = other[len(name) + 1 :][: len(STAMP_FORM)], other[len(name) + 1 + len(STAMP_FORM) :]
        form = "".join(["0" if character in "0123456789" else character for character in stamp])
        if form == STAMP_FORM and ending in ENDINGS:
            found.add(f"{path}.{stamp}")
    return sorted(found)


def last_lines(path: str, count: int) -> list[str]:
    """Return the last lines, at most ``count`` and at most :data:`BLOCK` bytes of them.

    Where the file has fewer, the others are those of the newest archive, unless it is compressed.

    Raises:
        Unreadable: as :func:`open_log`.
    """
    file = open_log(path)
    try:
        begin, lines = _last_lines(file, count)
        if begin == 0 and len(lines) < count:
            lines[:0] = _lines_before(path, file, count - len(lines))
        return lines
    finally:
        posix.close(file)


def _lines_before(path: str, file: int, count: int) -> list[str]:
    """Return the last lines of the newest archive, none when that is the file itself, put aside since it was opened."""
    rotated = archives(path)
    try:
        archive = open_log(rotated[-1])
    except (IndexError, Unreadable):
        return []
    try:
        seen, other = posix.fstat(file), posix.fstat(archive)
        return [] if (seen.st_ino, seen.st_dev) == (other.st_ino, other.st_dev) else _last_lines(archive, count)[1]
    finally:
        posix.close(archive)


def _last_lines(file: int, count: int) -> tuple[int, list[str]]:
    """Return where they begin, and the lines."""
    begin = offset_of_last(file, count, limit=BLOCK)
    text = posix.pread(file, BLOCK, begin).decode("utf-8", "replace")
    return begin, text.removesuffix("\n").split("\n") if text else []


def offset_of_last(file: int, count: int, limit: int | None = None) -> int:
    """Return where the last ``count`` lines begin, but no more than ``limit`` bytes before the end."""
    size = position = posix.fstat(file).st_size
    lowest = 0 if limit is None else max(size - limit, 0)
    if count <= 0:
        return size
    wanted = count
    is_end = True
    while position > lowest:
        start = max(position - BLOCK, lowest)
        block = posix.pread(file, position - start, start)
        newline = len(block)
        if is_end and block.endswith(b"\n"):
            newline -= 1  # the end of the last line begins no other
        is_end = False
        while (newline := block.rfind(b"\n", 0, newline)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + newline + 1
        position = start
    return lowest


def offset_since(file: int, stamp: bytes) -> int:
    """Return where the first line begins whose stamp is ``stamp`` or later, the file's size when there is none.

    The stamps are taken to be in order, which they are but for the hour that the clock goes back. Lines without one
    (somebody else's) belong to the line before them.
    """
    low, high = 0, posix.fstat(file).st_size
    while low < high:
        middle = (low + high) // 2
        begin, found = _next_stamp(file, middle, high)
        if found is not None and found < stamp:
            low = begin + STAMP_LENGTH
        else:
            high = middle
    return _next_stamp(file, low, posix.fstat(file).st_size)[0]


def _next_stamp(file: int, position: int, end: int) -> tuple[int, bytes | None]:
    """Return the first stamped line that begins at or after ``position``: where it does, and its stamp."""
    if position > 0:
        position = _after_newline(file, position - 1, end)
    while position < end:
        head = posix.pread(file, STAMP_LENGTH + 1, position)
        if is_stamped(head):
            return position, head[:STAMP_LENGTH]
        position = _after_newline(file, position, end)
    return end, None


def _after_newline(file: int, position: int, end: int) -> int:
    while position < end:
        block = posix.pread(file, BLOCK, position)
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        position += len(block) or end
    return end


def is_stamped(line: bytes) -> bool:
    """Whether a line begins with a stamp and a space."""
    return (
        len(line) > STAMP_LENGTH
        and line[4:5] == line[7:8] == b"-"
        and line[10:11] == line[STAMP_LENGTH : STAMP_LENGTH + 1] == b" "
        and line[13:14] == line[16:17] == b":"
        and (line[:4] + line[5:7] + line[8:10] + line[11:13] + line[14:16] + line[17:19]).isdigit()
    )
