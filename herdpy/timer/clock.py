"""Waiting for a moment of a clock, as timerfd_create(2) has it: no wake-up before it, none while the host sleeps.

trio's own clock is CLOCK_MONOTONIC, which stands still while the host sleeps and knows nothing of the time of day.
"""

import errno
import os
import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import CDLL

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
"""linux/timerfd.h; Python has them from 3.13 on."""
FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
"""The same as TFD_NONBLOCK and TFD_CLOEXEC."""

WALL = time.CLOCK_REALTIME
BOOT = time.CLOCK_BOOTTIME

NANO = 1_000_000_000


class Alarm:
    """A timerfd of one clock.

    It is kept from one wait to the next, because the kernel compares: whoever reads the clock, computes a moment from
    that and then waits for it is told also when the clock was set in between.
    """

    def __init__(self, clock: int) -> None:
        self.clock = clock
        self._set = _timerfd_settime()
        self._flags = TFD_TIMER_ABSTIME | (TFD_TIMER_CANCEL_ON_SET if clock == WALL else 0)
        self._descriptor = _timerfd_create(clock)
        self._arm(2**62)  # the comparison begins here

    def now(self) -> float:
        """What the clock shows, in seconds."""
        return time.clock_gettime(self.clock)

    async def wait(self, moment: float) -> bool:
        """Wait for a moment of the clock, in seconds.

        Returns:
            Whether it has come; False means that the clock was set (clock_settime(2)) since the last wait, or the
            making of this: what was computed from it may be wrong.
        """
        nanoseconds = min(max(1, round(moment * NANO)), 2**62)  # 0 would disarm it
        while True:
            if not self._arm(nanoseconds):
                return False
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                os.read(self._descriptor, 8)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno == errno.ECANCELED:
                    return False
                raise
            if time.clock_gettime_ns(self.clock) >= nanoseconds:
                return True

    def _arm(self, nanoseconds: int) -> bool:
        try:
            self._set(self._descriptor, self._flags, nanoseconds)
        except OSError as error:
            if error.errno == errno.ECANCELED:  # it is armed all the same; the clock was set since it was last
                return False
            raise
        return True

    def close(self) -> None:
        os.close(self._descriptor)


def _timerfd_create(clock: int) -> int:
    if hasattr(os, "timerfd_create"):  # from Python 3.13 on
        made: int = os.timerfd_create(clock, flags=FLAGS)
        return made
    return _checked(_libc().timerfd_create(clock, FLAGS))


def _timerfd_settime() -> "Callable[[int, int, int], object]":
    """A function of the descriptor, flags, and nanoseconds; it raises OSError."""
    if hasattr(os, "timerfd_settime_ns"):
        settime = os.timerfd_settime_ns
        return lambda descriptor, flags, nanoseconds: settime(descriptor, flags=flags, initial=nanoseconds)
    import struct

    libc = _libc()

    def set_time(descriptor: int, flags: int, nanoseconds: int) -> None:
        # struct itimerspec: an interval, and the first expiration, each of seconds (time_t) and nanoseconds (long).
        setting = struct.pack("@4l", 0, 0, *divmod(nanoseconds, NANO))
        _checked(libc.timerfd_settime(descriptor, flags, setting, None))

    return set_time


def _libc() -> "CDLL":
    from ctypes import CDLL  # a megabyte, for those alone who have timers

    return CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        from ctypes import get_errno

        number = get_errno()
        raise OSError(number, os.strerror(number))
    return result
