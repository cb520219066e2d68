"""Watching the directories of declarations, so that what is written there takes effect by itself."""

import contextlib
import math
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from herdpy.service import StartFailure
from herdpy.supervisor.log import log
from herdpy.watch import watching

QUIET = 0.3
"""Seconds without a further change until the changes so far are acted upon: who edits writes, and renames."""
LONGEST = 3.0
"""Seconds after the first change when they are acted upon in any case."""


async def watch(directories: Iterable[str], since: float, act: Callable[[], Awaitable[object]]) -> None:
    """Call ``act`` after each burst of changes in the directories, for ever. They need not exist yet.

    Args:
        since: when they were last read, in seconds since the epoch.
    """
    send, receive = trio.open_memory_channel[None](1)
    async with trio.open_nursery() as nursery:
        for directory in directories:
            nursery.start_soon(_tell, directory, since, send)
        while True:
            await receive.receive()
            with trio.move_on_after(LONGEST):
                while True:
                    with trio.move_on_after(QUIET) as quiet:
                        await receive.receive()
                    if quiet.cancelled_caught:
                        break
            await act()


async def _tell(directory: str, since: float, send: trio.MemorySendChannel[None]) -> None:
    try:
        with watching(directory, entries=True) as changes:
            while True:
                last = await changes.look(partial(_last_change, directory))
                if last <= since:
                    await changes.change()
                since = math.inf
                try:
                    send.send_nowait(None)
                except trio.WouldBlock:
                    continue  # it is told already
    except StartFailure as failure:
        log("directory-not-watched", directory=directory, reason=failure, advice="after a change: herd reload root")


def _last_change(directory: str) -> float:
    """When something was last written there, in seconds since the epoch; 0 when there is nothing."""
    last = 0.0
    with contextlib.suppress(OSError):
        last = os.stat(directory).st_mtime
        with os.scandir(directory) as entries:
            for entry in entries:
                last = max(last, entry.stat().st_mtime)
    return last
