"""The end of a file: what a service last said. In a thread that a stop need not wait for: a disk may be slow."""

import os
import re

from herdpy.threads import in_thread

READ = 32 * 1024
TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")
"""What a terminal obeys instead of showing it (ECMA-48: control sequences and two-byte escapes)."""


async def end_of(path: str) -> int:
    """A file's size in bytes now; 0 when it is not there."""
    return await in_thread(_size, path, abandon_on_cancel=True)


async def last_lines(path: str, count: int, *, since: int = 0) -> list[str]:
    """The last lines of a file, without what stood before the offset ``since``.

    Control characters, which a serial console is full of, are left out; undecodable bytes are replaced.
    """
    return await in_thread(_last_lines, path, count, since, abandon_on_cancel=True)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _last_lines(path: str, count: int, since: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            since = since if since <= size else 0  # made anew meanwhile
            file.seek(max(since, size - READ))
            text = file.read(READ).decode(errors="replace")
    except OSError:
        return []
    text = TERMINAL.sub("", text)
    lines = ("".join(c for c in line if c.isprintable() or c == "\t").rstrip() for line in text.splitlines())
    return [line for line in lines if line][-count:]
