"""What comes of a request to start or to stop, and how it reaches whoever asked."""

import msgspec
import trio

from herdpy.service import StartFailure


class Outcome(msgspec.Struct, frozen=True):
    """What came of a request to start or to stop."""

    done: bool
    lines: tuple[str, ...] = ()
    """Sentences for whoever asked."""
    stopped: tuple[str, ...] = ()
    """Canonical names of the services that were stopped, the one asked for first."""
    is_own: bool = True
    """Of a failed start: whether the service itself failed, not something it requires."""


class Reply:
    """The answer to one request, once."""

    __slots__ = ("_arrived", "_outcome", "is_wanted")

    def __init__(self) -> None:
        self._arrived = trio.Event()
        self._outcome = Outcome(False)
        self.is_wanted = True
        """Whether anybody waits for it: a start that is stopped no longer wants what it requires."""

    def give(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._arrived.set()

    async def wait(self) -> Outcome:
        try:
            await self._arrived.wait()
        except trio.Cancelled:
            self.is_wanted = False
            raise
        return self._outcome


class Unmet(StartFailure):
    """Other services, without which one cannot start, could not be started; ``details`` say why, in sentences."""
