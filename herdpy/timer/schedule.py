"""When a timer is due: pure functions of a schedule and a moment.

Moments are seconds: since the epoch for what goes by the wall clock (:class:`Calendar`, :class:`Once`), of
CLOCK_BOOTTIME (clock_gettime(2)), which nobody sets and which goes on while the host sleeps, for an :class:`Interval`.

Where a zone puts its clocks forward or back, a calendar does what Debian's cron(8) does. A time of day that is
skipped is due right when the clocks are put forward, one that comes twice is due the first time only; but what is due
every so many minutes or hours goes by what the wall clock shows: nothing in the hour that is skipped, again in the
hour that is repeated.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from herdpy.timer.zone import Offset

if TYPE_CHECKING:
    from datetime import date, datetime

DAY = 86400
EPOCH_ORDINAL = 719163
"""``date(1970, 1, 1).toordinal()``."""
YEARS_AHEAD = 50
"""A calendar that has no day in so many years has none: 29 February comes on each weekday within 40."""
NEARBY = 36 * 3600
"""Seconds before and after a local time, taken for UTC, that lie on either side of any change of clocks around it: no
zone is more than 14 hours from UTC."""


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """Times of day on days of months, by a wall clock."""

    line: str
    """Six fields, as cronsim reads them: second, minute, hour, day of the month, month, day of the week."""
    both_days: bool
    """Whether day of the month and day of the week must both be right. cron takes either, unless one begins with a
    star."""
    is_steady: bool
    """Whether it goes on and on, every so many minutes or hours, rather than being due at certain times of day."""
    zone: str | None = None
    """The time zone's name; None means the host's own."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Every so many seconds, counted from one moment: a late run delays none that comes after it."""

    every: float


class Once(msgspec.Struct, frozen=True, kw_only=True):
    """One moment."""

    at: float


class WrongLine(ValueError):  # noqa: N818 - it says what the line is
    """A line that is no cron expression; ``str()`` says what is wrong with it."""


def of_cron(line: str, zone: str | None = None) -> Calendar:
    """The calendar of a cron expression: minute, hour, day of the month, month, day of the week (crontab(5)).

    Raises:
        WrongLine: it is none.
    """
    fields = line.split()
    if len(fields) != 5:
        raise WrongLine(f"expected five fields (minute, hour, day of month, month, day of week), got {len(fields)}")
    calendar = Calendar(
        line=" ".join(["0", *fields]),
        both_days=fields[2].startswith("*") or fields[4].startswith("*"),
        is_steady=fields[0].startswith("*") or fields[1].startswith("*"),
        zone=zone,
    )
    _sets(calendar)
    return calendar


def next_due(calendar: Calendar, after: float, offset: Offset) -> int | None:
    """The first moment after another one at which a calendar is due; None when it never is again."""
    start = math.floor(after)
    around = [offset(start - NEARBY), offset(start), offset(start + NEARBY)]
    spread = max(around) - min(around)  # how far local order and order in time can differ here
    best: int | None = None
    for local in _local_times(calendar, start + around[1] - spread):
        earliest = local - max(offset(local - NEARBY), offset(local + NEARBY))
        if best is not None and earliest > best:
            break
        for moment in _moments(local, calendar.is_steady, offset):
            if moment > after and (best is None or moment < best):
                best = moment
        if best is not None and spread == 0:
            break
    return best


def latest_due(calendar: Calendar, after: float, until: float, offset: Offset) -> int | None:
    """The last moment after ``after``, and not after ``until``, at which a calendar was due; None when there is
    none."""
    reach = 60.0
    while True:
        begin = max(after, until - reach)
        found = None
        due = next_due(calendar, begin, offset)
        while due is not None and due <= until:
            found = due
            due = next_due(calendar, due, offset)
        if found is not None or begin == after:
            return found
        reach *= 16  # where the last minute had none, an hour cannot have many


def next_on_grid(anchor: float, every: float, after: float) -> float:
    """The first of the moments ``anchor + N * every``, N from 1, after another one."""
    steps = max(1, math.floor((after - anchor) / every) + 1)
    while (moment := anchor + steps * every) <= after:  # of two floating-point numbers that are nearly the same
        steps += 1
    return moment


def latest_on_grid(anchor: float, every: float, after: float, until: float) -> float | None:
    """The last of the moments ``anchor + N * every``, N from 1, after ``after`` and not after ``until``."""
    steps = math.floor((until - anchor) / every) + 1
    while (moment := anchor + steps * every) > until:
        steps -= 1
    return moment if steps >= 1 and moment > after else None


def moment_of(time: "datetime", offset: Offset) -> float:
    """The moment that a date and time means: one without a time zone is what a wall clock shows."""
    if time.tzinfo is not None:
        return time.timestamp()
    from datetime import UTC

    local = time.replace(tzinfo=UTC).timestamp()
    return _moments(math.floor(local), is_steady=False, offset=offset)[0] + local % 1


def jitter_of(seed: str, due: float, jitter: float) -> float:
    """The seconds, from 0 up to ``jitter``, that a run is delayed by: always the same for one seed and moment, so that
    a supervisor that takes over waits for the same moment; spread evenly over seeds and moments."""
    if not jitter:
        return 0.0
    from binascii import crc32

    # Neighbouring texts have neighbouring checksums: a few rounds of multiplication stir them (as in splitmix64).
    mixed = crc32(f"{seed} {due:.3f}".encode())
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        mixed = ((mixed ^ (mixed >> 15)) * factor) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return jitter * (mixed / 2**64)


@lru_cache(maxsize=256)
def _sets(calendar: Calendar) -> tuple[list[int], frozenset[int], "Callable[[date], bool]"]:
    """The seconds of a day, the months, and which of their days it is.

    cronsim reads the line and knows the days. It does not walk through time for us: it takes every change of clocks to
    be one of whole hours (Lord Howe's is of half an hour), and within a repeated hour it answers with moments that
    have passed.

    Raises:
        WrongLine
    """
    from datetime import datetime

    from cronsim import CronSim, CronSimError  # a thing for those who have timers

    try:
        read = CronSim(calendar.line, datetime(2000, 1, 1))
    except CronSimError as error:
        raise WrongLine(str(error).lower()) from None
    read.day_and = calendar.both_days
    times = [
        hour * 3600 + minute * 60 + second
        for hour in sorted(read.hours)
        for minute in sorted(read.minutes)
        for second in sorted(read.seconds)
    ]
    return times, frozenset(read.months), read.match_day


def _local_times(calendar: Calendar, start: int) -> Iterator[int]:
    """What a wall clock shows when it is due, from ``start`` on, ascending: seconds since the epoch, were it UTC."""
    from bisect import bisect_left
    from datetime import date

    times, months, is_day = _sets(calendar)
    first, since = divmod(start, DAY)
    for number in range(first, first + round(YEARS_AHEAD * 365.25)):
        day = date.fromordinal(EPOCH_ORDINAL + number)
        if day.month in months and is_day(day):
            for index in range(bisect_left(times, since), len(times)):
                yield number * DAY + times[index]
        since = 0


def _moments(local: int, is_steady: bool, offset: Offset) -> list[int]:
    """When a wall clock shows a local time, or when a calendar takes it to: never, once, or twice."""
    offsets = {offset(local - NEARBY), offset(local + NEARBY)}
    moments = sorted(local - ahead for ahead in offsets if offset(local - ahead) == ahead)
    if is_steady:
        return moments
    return moments[:1] or [_change_between(local - max(offsets), local - min(offsets), offset)]


def _change_between(before: int, after: int, offset: Offset) -> int:
    """The moment in this stretch from which on a wall clock is as far ahead of UTC as at its end."""
    new = offset(after)
    while before < after:
        middle = (before + after) // 2
        if offset(middle) == new:
            after = middle
        else:
            before = middle + 1
    return after
