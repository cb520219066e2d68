"""A schedule on its clock: what is due next, what has been due, and waiting for it."""

import math
import os
import time

from herdpy.timer import schedule
from herdpy.timer.clock import BOOT, WALL, Alarm
from herdpy.timer.schedule import Calendar, Interval, Once
from herdpy.timer.zone import offset_of

Schedule = Calendar | Interval | Once

SET_BACK = 3 * 3600
"""Seconds that the wall clock may be set back without any moment being due twice; beyond that, cron(8) takes the clock
for corrected, and so do we."""


class Timing:
    """A schedule, its clock, and how late each service is on purpose. Moments are seconds of that clock.

    Args:
        name: the service's.
        jitter: seconds.
    """

    def __init__(self, wanted: Schedule, name: str, jitter: float) -> None:
        self._schedule = wanted
        self._seed = f"{os.uname().nodename} {name}"
        self._jitter = jitter
        self.alarm = Alarm(BOOT if isinstance(wanted, Interval) else WALL)
        self.anchor = self.alarm.now()
        """What an interval counts from."""

    def next(self, after: float) -> float | None:
        """The first moment after another one at which it is due."""
        match self._schedule:
            case Calendar(zone=zone):
                return schedule.next_due(self._schedule, after, offset_of(zone))
            case Interval(every=every):
                return schedule.next_on_grid(self.anchor, every, after)
            case Once(at=at):
                return at if at > after else None

    def latest(self, after: float, until: float) -> float | None:
        """The last moment after one and up to another at which it was due."""
        match self._schedule:
            case Calendar(zone=zone):
                return schedule.latest_due(self._schedule, after, until, offset_of(zone))
            case Interval(every=every):
                return schedule.latest_on_grid(self.anchor, every, after, until)
            case Once(at=at):
                return at if after < at <= until else None

    def delayed(self, due: float) -> float:
        """When the run that is due then begins: before the next one is due, however long the jitter, so that none of
        them is lost and each keeps its turn."""
        if not self._jitter:
            return due
        after = self.next(due)
        jitter = self._jitter if after is None else min(self._jitter, after - due)
        return due + schedule.jitter_of(self._seed, due, jitter)

    def latest_begun(self, due: float, now: float) -> float:
        """The last moment from one on whose run, delayed as it is, is to have begun by now; the first has."""
        newest = self.latest(due, now)
        if newest is not None and self.delayed(newest) > now:
            newest = self.latest(due, math.nextafter(newest, due))
        return due if newest is None else newest

    def mend(self, last: float) -> float:
        """The moment up to which everything has been dealt with, after the clock may have been set back."""
        now = self.alarm.now()
        return now if self.alarm.clock == WALL and last > now + SET_BACK else last

    def wall(self, moment: float) -> float:
        """The same moment in seconds since the epoch."""
        return moment if self.alarm.clock == WALL else time.time() + moment - self.alarm.now()

    def of_wall(self, moment: float) -> float:
        """A moment given in seconds since the epoch; at most the present one."""
        now = self.alarm.now()
        return min(now, moment if self.alarm.clock == WALL else now + moment - time.time())
