"""What is asked of one task, in the order in which it was asked.

Each service has one for as long as herdpy runs, empty most of the time: so it is a list, and the task that waits for
it; a tenth of the memory of a trio channel with its two ends, its queue and its sets of senders and receivers.
"""

from typing import Generic, TypeVar

import trio

_Message = TypeVar("_Message")


class Inbox(Generic[_Message]):
    """A queue without a bound that one task takes from."""

    __slots__ = ("_messages", "_taker")

    def __init__(self) -> None:
        self._messages: list[_Message] = []
        self._taker: trio.lowlevel.Task | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: _Message) -> None:
        """Add a message; never waits."""
        self._messages.append(message)
        if self._taker is not None:
            taker, self._taker = self._taker, None
            trio.lowlevel.reschedule(taker)

    async def take(self) -> _Message:
        """Wait for the next message. Only one task may."""
        if self._messages:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._taker = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        return self._messages.pop(0)

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._taker = None
        return trio.lowlevel.Abort.SUCCEEDED
