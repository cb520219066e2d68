"""The inbox that a service's task takes from, and the list of what was last."""

import trio
import trio.testing

from herdpy.supervisor.inbox import Inbox
from herdpy.supervisor.recent import Recent


async def test_messages_come_in_their_order_before_and_while_somebody_waits(nursery):
    inbox, taken = Inbox[int](), []

    async def take() -> None:
        while True:
            taken.append(await inbox.take())

    inbox.put(1)
    inbox.put(2)
    assert len(inbox) == 2
    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [1, 2]
    for number in (3, 4, 5):  # the first wakes the taker, the others come before it runs
        inbox.put(number)
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [1, 2, 3, 4, 5]


async def test_a_cancelled_wait_takes_nothing():
    inbox = Inbox[int]()
    with trio.move_on_after(0):
        await inbox.take()
    inbox.put(1)
    with trio.move_on_after(0):
        await inbox.take()
    assert len(inbox) == 1
    assert await inbox.take() == 1


def test_the_oldest_are_dropped_beyond_the_limit():
    recent = Recent(3, [4, 3, 2, 1])
    assert recent == [4, 3, 2]
    recent.add(5)
    assert recent == [5, 4, 3]
