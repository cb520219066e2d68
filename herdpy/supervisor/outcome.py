"""What comes of a request to start or to stop, and how it reaches whoever asked."""

from collections.abc import Callable, Sequence

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
    is_failure: bool = True
    """Of one that is not done: whether it failed, and was not only called off."""
    status: int = 1
    """Of a failed start: what herdpy ends with, if the service is essential."""
    code: int | None = None
    """Of a start that failed since its process ended: the exit code, unless it was killed."""
    was_stopped: bool = False
    """Of a failed start: whether that, or what it requires, was stopped by hand before it was over."""
    unmet: tuple[str, ...] = ()
    """Of one that failed for want of other services: their names."""


NOT_YET = Outcome(False)


class Reply:
    """The answer to one request, once.

    Args:
        is_needed: of a start that another one entails: whether anybody wants that one still. Of a stop that another
            one entails: whether it still does.
    """

    __slots__ = ("_is_needed", "_parties", "arrived", "outcome", "taken")

    def __init__(self, is_needed: Callable[[], bool] | None = None) -> None:
        self.taken = Flag()
        """Of a start: set when the service's note says that it was asked to, or the answer is there."""
        self.arrived = Flag()
        """Set when it is there."""
        self.outcome = NOT_YET
        self._parties = 1
        self._is_needed = is_needed

    @property
    def is_wanted(self) -> bool:
        """Whether anybody wants it: a start that is stopped no longer wants what it requires, nor what that does."""
        return self._parties > 0 and self.is_needed

    @property
    def is_needed(self) -> bool:
        """Whether what entails it still does, whoever waits for it."""
        return self._is_needed is None or self._is_needed()

    def give(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.taken.set()
        self.arrived.set()

    async def wait(self) -> Outcome:
        try:
            await self.arrived.wait()
        except trio.Cancelled:
            self.abandon()
            raise
        return self.outcome

    def abandon(self) -> None:
        """One of those who wait for it does so no more."""
        self._parties -= 1

    def share(self) -> "Reply":
        """Be the answer to somebody else, too."""
        self._parties += 1
        return self


class Unmet(StartFailure):
    """Other services, without which one cannot start, could not be started; ``details`` say why, in sentences.

    Attributes:
        names: theirs.
        was_stopped: whether one of them was stopped by hand before it had started.
    """

    def __init__(self, names: Sequence[str], which: str, details: Sequence[str], *, was_stopped: bool) -> None:
        super().__init__(f"{' and '.join(names)}, {which}, could not be started", details)
        self.names = tuple(names)
        self.was_stopped = was_stopped
