"""Watching the directories of declarations, so that what is written there takes effect by itself."""

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from herdpy.service import StartFailure
from herdpy.supervisor.log import log
from herdpy.supervisor.reload import State, state_of
from herdpy.watch import watching

QUIET = 0.3
"""Seconds without a further change until the changes so far are acted upon: who edits writes, and renames."""
LONGEST = 3.0
"""Seconds after the first change when they are acted upon in any case."""
TICK = 0.02
"""Seconds that the times of files may be behind the clock: a file system stamps with the kernel's last tick."""


async def watch(directories: Mapping[str, State | None], since: float, act: Callable[[], Awaitable[object]]) -> None:
    """Call ``act`` after each burst of changes in the directories, for ever. They need not exist yet.

    Args:
        directories: with the state that each was in when it was last read; None for one that was not there.
        since: when that was, in seconds since the epoch.
    """
    send, receive = trio.open_memory_channel[None](1)
    async with trio.open_nursery() as nursery:
        for directory, before in directories.items():
            nursery.start_soon(_tell, directory, before, since - TICK, send)
        while True:
            await receive.receive()
            with trio.move_on_after(LONGEST):
                while True:
                    with trio.move_on_after(QUIET) as quiet:
                        await receive.receive()
                    if quiet.cancelled_caught:
                        break
            await act()


async def _tell(directory: str, before: State | None, since: float, send: trio.MemorySendChannel[None]) -> None:
    try:
        with watching(directory, entries=True) as changes:
            has_changed = await changes.look(partial(_has_changed, directory, before, since))
            while True:
                if not has_changed:
                    await changes.change()
                    await changes.look(_nothing)  # what comes now is told again, be it another directory by then
                has_changed = False
                with contextlib.suppress(trio.WouldBlock):  # it is told already
                    send.send_nowait(None)
    except StartFailure as failure:
        log("directory-not-watched", directory=directory, reason=failure, advice="after a change: herd reload root")


def _nothing() -> None:
    """To look at: all that matters is to watch from now on."""


def _has_changed(directory: str, before: State | None, since: float) -> bool:
    """Whether it is another directory than it was, or one of the files in it was written after it was read."""
    if state_of(directory) != before:
        return True
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link to nothing
                if entry.stat().st_ctime > since:
                    return True
    return False
