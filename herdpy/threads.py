"""Work in another thread: what a file system, or anybody else who need not answer, is asked for.

A thread counts as a process does: where a user, or a cgroup, may have no more of them, none can be started, and whoever
needs one waits until there is one again.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import trio

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

NO_THREAD = "can't start new thread"
"""What CPython's RuntimeError says then (the module _thread, thread_PyThread_start_new_thread)."""
TOO_MANY = "too many processes: see ulimit -u, pids.max of herdpy's cgroup, kernel.pid_max"
"""Why there is none, and what to do; the same of a process."""
SHORTEST, LONGEST = 0.1, 2.0
"""Seconds between two tries: the kernel tells nobody when there is room again."""


class _Shortage:
    """How many wait for a thread, and who is told when the first one begins to."""

    def __init__(self) -> None:
        self.waiting = 0
        self.tell: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """One more waits."""
        self.waiting += 1
        if self.waiting == 1:
            self.tell()


_shortage = _Shortage()


def when_none_is_left(tell: Callable[[], None]) -> None:
    """Have somebody told, once for each time that lasts."""
    _shortage.tell = tell


async def in_thread(
    function: Callable[[*_Arguments], _Result],
    *arguments: *_Arguments,
    abandon_on_cancel: bool = False,
    limiter: "trio.CapacityLimiter | None" = None,
) -> _Result:
    """As trio.to_thread.run_sync, but when no thread can be started, it is tried again until one can."""
    import trio  # steps are declared where there is no event loop: ``herdpy check``

    pause = SHORTEST
    waits = False
    try:
        while True:
            try:
                return await trio.to_thread.run_sync(
                    function, *arguments, abandon_on_cancel=abandon_on_cancel, limiter=limiter
                )
            except RuntimeError as error:
                if error.args != (NO_THREAD,):
                    raise
            if not waits:
                waits = True
                _shortage.begin()
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST)
    finally:
        if waits:
            _shortage.waiting -= 1
