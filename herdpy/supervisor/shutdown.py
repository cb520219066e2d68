"""The end of everything: every service is stopped before one deadline, and whoever waits is told for what."""

import time
from typing import TYPE_CHECKING

import trio

from herdpy.supervisor.line import Refused
from herdpy.supervisor.log import log

if TYPE_CHECKING:
    from herdpy.supervisor.registry import Registry

TELLING = 5.0
"""Seconds between two times that it is told which services are waited for."""
KILLED_PATIENCE = 5.0
"""Seconds after the deadline until herdpy ends, whatever is left: what was killed is buried, and cleared away after."""
NAMED = 5
"""So many services are named; of the rest only the number is told."""


class Shutdown:
    """A shutdown, from when it is asked for."""

    def __init__(self) -> None:
        self.timeout = 90.0
        """Seconds from its beginning until what still runs is killed."""
        self.asked = trio.Event()
        self.hurry = trio.Event()
        """Set when it is asked for a second time, and at the deadline: graceful ways are left out."""
        self.stage: str | None = None
        """What is waited for, in words."""
        self.changed = trio.Event()
        """Set, and replaced by a new one, when that changes."""

    def ask(self) -> None:
        """Ask for it; who asks again wants it sooner."""
        if self.asked.is_set():
            log("shutdown-hurries")
            self.hurry.set()
        self.asked.set()

    def deadline(self) -> float:
        """When it must be over, if it begins now: CLOCK_BOOTTIME seconds, which the next supervisor has, too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.timeout

    async def carry_out(self, registry: "Registry", deadline: float) -> str | None:
        """Stop everything; return what had to be killed at the deadline, in words, or None."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, registry, deadline)
            left = deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
            with trio.move_on_after(max(left, 0)) as waiting:
                await registry.stop_all()
            nursery.cancel_scope.cancel()
        if not waiting.cancelled_caught:
            return None
        names = _waited_for(registry)
        log("shutdown-too-long", services=" ".join(names), seconds=self.timeout)
        self.hurry.set()
        for held in list(registry.line.held.values()):
            if not held.has_ended:
                try:
                    await registry.line.signal(held, 9)
                except Refused as refusal:
                    log("cannot-kill", process=held.id, pid=held.pid, reason=refusal)
        with trio.move_on_after(KILLED_PATIENCE):
            await registry.stop_all()
        return f"{_words(names)} had not stopped after {self.timeout:g} s, and what still ran was killed"

    async def _tell(self, registry: "Registry", deadline: float) -> None:
        """Tell again and again what is waited for: soon to who watches, after a while also to the log."""
        pause = 0.2
        while True:
            await trio.sleep(pause)
            names = _waited_for(registry)
            left = max(deadline - time.clock_gettime(time.CLOCK_BOOTTIME), 0)
            if pause == TELLING:
                log("shutdown-waits", services=" ".join(names), seconds=round(left))
            pause = TELLING
            self.stage = f"waiting for {_words(names)} to stop; what still runs in {left:.0f} s is killed"
            self.changed.set()
            self.changed = trio.Event()


def _waited_for(registry: "Registry") -> list[str]:
    return [name for name, life in registry.lives.items() if life.status != "stopped"]


def _words(names: list[str]) -> str:
    more = len(names) - NAMED
    if more > 0:
        return f"{', '.join(names[:NAMED])} and {more} more"
    return ", ".join(names) or "nothing"
