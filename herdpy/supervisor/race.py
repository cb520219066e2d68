"""Waiting for whichever comes first."""

import math
from collections.abc import Awaitable, Callable

import trio


async def first(*contenders: Callable[[], Awaitable[object]]) -> int:
    """Run coroutines beside each other until one ends; the others are cancelled.

    Returns:
        The index of the one that ended first.

    Raises:
        whatever that one raised, as itself and not in an exception group.
    """
    winner: int | None = None
    failure: BaseException | None = None

    async with trio.open_nursery() as nursery:

        async def run(index: int, contender: Callable[[], Awaitable[object]]) -> None:
            nonlocal winner, failure
            try:
                await contender()
            except trio.Cancelled:
                raise
            except BaseException as error:
                if winner is None:
                    winner, failure = index, error
            else:
                if winner is None:
                    winner = index
            nursery.cancel_scope.cancel()

        for index, contender in enumerate(contenders):
            nursery.start_soon(run, index, contender)
    if failure is not None:
        raise failure
    assert winner is not None
    return winner


class Patience:
    """How long the supervisor waits for a process, which may ask for more while it is waited for (sd_notify(3)).

    Attributes:
        scope: is left after so many seconds, or later, though after ``most`` seconds if these are more.
    """

    __slots__ = ("_end", "scope")

    def __init__(self, seconds: float, most: float = math.inf) -> None:
        now = trio.current_time()
        self.scope = trio.CancelScope(deadline=now + seconds)
        self._end = now + max(seconds, most)

    def extend(self, seconds: float) -> None:
        """Wait for at least so many seconds from now on, as far as that is allowed."""
        self.scope.deadline = max(self.scope.deadline, min(self._end, trio.current_time() + seconds))
