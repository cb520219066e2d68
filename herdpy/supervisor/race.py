"""Waiting for whichever comes first."""

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
