"""What a program that crashed has said last, from the end of a log."""

from __future__ import annotations

import os

TAIL = 16384
"""Bytes at the end of the file that are looked at."""

_STAMP = len("2026-01-31 23:59:59 ")
_OURS = ("keeper: ", "logger: ")


def last_words(path: str) -> str:
    """Return the last line in a log that no other program of herdpy has written, without its stamp; ``""`` if none.

    Of a traceback, that is the exception; the frame that a group of exceptions is drawn with is left out.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        size = os.fstat(file).st_size
        text = os.pread(file, TAIL, max(0, size - TAIL))
    except OSError:
        return ""
    finally:
        os.close(file)
    for line in reversed(text.decode("utf-8", "replace").splitlines()):
        words = line[_STAMP:].strip(" |+-^~")
        if words and not words.startswith(_OURS):
            return words[:500]
    return ""
