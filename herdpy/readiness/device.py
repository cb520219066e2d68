"""Services that are ready when they have a device open."""

import os

import msgspec
import trio

from herdpy.service import ProcessContext
from herdpy.threads import in_thread

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.25
"""Seconds between two looks, ever longer: the kernel tells nobody which process has opened what."""


class HasOpen(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when the main process has a device open."""

    path: str

    async def run(self, context: ProcessContext) -> None:
        """Wait for it."""
        context.progress(f"waiting until it has opened {self.path}")
        pause = FIRST_PAUSE
        while not await in_thread(has_open, context.pid, self.path, abandon_on_cancel=True):
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


def has_open(pid: int, path: str) -> bool:
    """Whether a process has a file open, by whatever name: what counts is which file or device it is."""
    try:
        wanted = os.stat(path)
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            opened = [
                os.stat(entry.path) for entry in descriptors if not os.readlink(entry.path).startswith("/dev/null")
            ]
    except OSError:
        return False  # the one is not there yet, or the other no longer
    return any((seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino) for seen in opened)
