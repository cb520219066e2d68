"""When a log file is put aside, under which name, and how many are kept."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

COMPRESSIONS = {"gzip": ".gz", "zstd": ".zst", "none": ""}
PERIODS = ("day", "week")
PART = ".part"
"""The end of the name of what is being compressed."""

_STAMP = "%Y%m%dT%H%M%SZ"
_STAMP_LENGTH = 16


class Rotation:
    """How a log file is rotated.

    Attributes:
        size: bytes that it grows to at most, as far as its lines allow; None means any.
        every: ``day`` or ``week`` (from Monday), by local time; None means never for its age.
        keep: so many rotated files are kept at most.
        keep_days: days that one is kept after its last line; None means for ever.
        compress: ``gzip``, ``zstd`` or ``none``.
    """

    __slots__ = ("compress", "every", "keep", "keep_days", "size")

    def __init__(
        self,
        size: int | None = None,
        every: str | None = None,
        keep: int = 5,
        keep_days: int | None = None,
        compress: str = "gzip",
    ) -> None:
        if (
            not (size is None or (type(size) is int and size > 0))
            or not (every is None or every in PERIODS)
            or not (type(keep) is int and keep >= 0)
            or not (keep_days is None or (type(keep_days) is int and keep_days > 0))
            or compress not in COMPRESSIONS
        ):
            raise ValueError("a rotation that makes no sense")
        self.size = size
        self.every = every
        self.keep = keep
        self.keep_days = keep_days
        self.compress = compress


def rotation(told: Mapping[str, Any] | None) -> Rotation | None:
    """Return what the keeper's packet says of a file's rotation.

    Raises:
        ValueError, TypeError: when it makes no sense.
    """
    return None if told is None else Rotation(**told)


def period_end(every: str | None, when: float) -> float:
    """Return when the day or week of ``when`` ends, by local time; both in seconds since the epoch."""
    if every is None:
        return float("inf")
    at = time.localtime(when)
    days = 1 if every == "day" else 7 - at.tm_wday
    # mktime(3) takes the 32nd of a month, and finds out itself whether that day has summer time.
    return time.mktime((at.tm_year, at.tm_mon, at.tm_mday + days, 0, 0, 0, 0, 0, -1))


def archives(path: str, ends: Collection[str] = COMPRESSIONS.values()) -> list[str]:
    """Return the stamps of the rotated files of the log file ``path``, the oldest first, each once.

    Args:
        path: the log file.
        ends: what may follow the stamp in their names.

    Raises:
        OSError: when its directory cannot be read.
    """
    directory, name = os.path.split(path)
    begin = f"{name}."
    found = set()
    for other in os.listdir(directory):
        if other.startswith(begin):
            stamp, end = other[len(begin) :][:_STAMP_LENGTH], other[len(begin) + _STAMP_LENGTH :]
            if end in ends and _is_stamp(stamp):
                found.add(stamp)
    return sorted(found)


def archive_name(path: str, now: float) -> str:
    """Return a name for the log file ``path`` to be put aside: ``PATH.20260131T235959Z``.

    It is in UTC and later than any other, whatever the clock does: by their names they stand in their order.

    Raises:
        OSError: when its directory cannot be read.
    """
    there = archives(path)
    stamp = time.strftime(_STAMP, time.gmtime(now))
    if there and stamp <= there[-1]:
        stamp = time.strftime(_STAMP, time.gmtime(_seconds(there[-1]) + 1))
    return f"{path}.{stamp}"


def _is_stamp(text: str) -> bool:
    if len(text) != _STAMP_LENGTH or text[8] != "T" or text[15] != "Z" or not (text[:8] + text[9:15]).isdecimal():
        return False
    return time.strftime(_STAMP, time.gmtime(_seconds(text))) == text


def _seconds(stamp: str) -> int:
    """Return the seconds since the epoch of a stamp (time.strptime would import re; calendar, datetime)."""
    year, month, day = int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8])
    hour, minute, second = int(stamp[9:11]), int(stamp[11:13]), int(stamp[13:15])
    # Days from the civil date, by Euclidean division: March is the first month, so that leap days come last.
    year -= month <= 2
    era_day = 365 * year + year // 4 - year // 100 + year // 400
    days = era_day + (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719468
    return ((days * 24 + hour) * 60 + minute) * 60 + second
