"""Waiting for moments of a clock, on the kernel's own timers."""

import os
import time
from pathlib import Path

import pytest
import trio

from herdpy.timer.clock import BOOT, WALL, Alarm


@pytest.fixture(params=[WALL, BOOT], ids=["wall", "boot"])
def alarm(request: pytest.FixtureRequest) -> object:
    made = Alarm(request.param)
    yield made
    made.close()


async def test_it_comes_at_its_moment_and_never_before(alarm: Alarm) -> None:
    for ahead in (0.05, 0.0005, 0.12):
        moment = alarm.now() + ahead
        assert await alarm.wait(moment)
        assert 0 <= alarm.now() - moment < 30


async def test_a_moment_that_has_passed_comes_at_once(alarm: Alarm) -> None:
    with trio.fail_after(60):
        assert await alarm.wait(alarm.now() - 3600)
        assert await alarm.wait(-5.0)


async def test_a_moment_beyond_any_clock_can_be_waited_for(alarm: Alarm) -> None:
    with trio.move_on_after(0.05) as waiting:
        await alarm.wait(1e18)
    assert waiting.cancelled_caught


async def test_a_wait_that_was_cancelled_leaves_nothing_behind(alarm: Alarm) -> None:
    with trio.move_on_after(0.02):
        await alarm.wait(alarm.now() + 0.04)
    moment = alarm.now() + 0.2
    assert await alarm.wait(moment)
    assert alarm.now() >= moment


async def test_nobody_wakes_up_meanwhile(alarm: Alarm) -> None:
    def switches() -> int:
        status = Path(f"/proc/self/task/{os.getpid()}/status").read_text()
        return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    for _ in range(5):  # on a busy machine, a page that is read from the disk counts, too
        before = switches()
        assert await alarm.wait(alarm.now() + 0.5)
        if switches() - before <= 2:
            return
    raise AssertionError("it was woken up each time")


async def test_the_descriptor_is_not_inherited_and_is_closed(alarm: Alarm) -> None:
    descriptor = alarm._descriptor
    assert not os.get_inheritable(descriptor)
    other = Alarm(WALL)
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other._descriptor)


def test_the_clocks_are_what_they_are_called() -> None:
    wall = Alarm(WALL)
    assert abs(wall.now() - time.time()) < 1
    wall.close()
