"""What the tiny services tell: when they began, by the monotonic clock, and who they are."""

import os
import select
import struct
import time
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("qii")


class Stamp(NamedTuple):
    """One service's first act."""

    seconds: float
    """CLOCK_MONOTONIC."""
    pid: int
    number: int
    """Which service; -1 from one that has written all of its lines."""


class TooSlow(Exception):  # noqa: N818 - it says what the contestant is
    """What was waited for did not come in time."""


class Stamps:
    """The FIFO that services write into, and the reading of it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fifo = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)  # ours to write: never an end of file

    def take(self, count: int, patience: float, pidfd: int) -> list[Stamp]:
        """Wait for so many stamps.

        Args:
            patience: seconds.
            pidfd: the supervisor's: when it ends, nothing more is waited for.

        Raises:
            TooSlow: they did not come.
        """
        found: list[Stamp] = []
        end = time.monotonic() + patience
        while len(found) < count:
            ready, _, _ = select.select([self._fifo, pidfd], [], [], max(0.0, end - time.monotonic()))
            if self._fifo not in ready:
                why = "then the supervisor ended" if ready else f"within {patience:g} s"
                raise TooSlow(f"{len(found)} of {count} services began, {why}")
            found += self._read(count - len(found))
        return found

    def _read(self, most: int) -> list[Stamp]:
        try:
            chunk = os.read(self._fifo, most * _RECORD.size)
        except BlockingIOError:
            return []
        return [Stamp(clock / 1e9, pid, number) for clock, pid, number in _RECORD.iter_unpack(chunk)]

    def close(self) -> None:
        os.close(self._fifo)
