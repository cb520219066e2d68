"""What comes of a request to start or to stop, and how it reaches whoever asked."""

from collections.abc import Callable

import msgspec
import trio

from herdpy.service import StartFailure
from herdpy.supervisor.flag import Flag


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
    """The answer to one request, once.

    Args:
        is_needed: of a start that another one entails: whether anybody wants that one still. Of a stop that another
            one entails: whether it still does.
    """

    __slots__ = ("_arrived", "_is_awaited", "_is_needed", "_outcome")

    def __init__(self, is_needed: Callable[[], bool] | None = None) -> None:
        self._arrived = Flag()
        self._outcome = Outcome(False)
        self._is_awaited = True
        self._is_needed = is_needed

    @property
    def is_wanted(self) -> bool:
        """Whether anybody wants it: a start that is stopped no longer wants what it requires, nor what that does."""
        return self._is_awaited and self.is_needed

    @property
    def is_needed(self) -> bool:
        """Whether what entails it still does, whoever waits for it."""
        return self._is_needed is None or self._is_needed()

    def give(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._arrived.set()

    async def wait(self) -> Outcome:
        try:
            await self._arrived.wait()
        except trio.Cancelled:
            self.abandon()
            raise
        return self._outcome

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._is_awaited = False


class Unmet(StartFailure):
    """Other services, without which one cannot start, could not be started; ``details`` say why, in sentences."""
