"""The type ``timer``: a command that runs when it is due."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue import command
from herdpy.catalogue.command import CommandConfiguration
from herdpy.catalogue.common import Declaration, ServiceType, Unsuitable, as_service, rotation_facts
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.executable import Executable
from herdpy.service import Fact, Service, plain
from herdpy.timer import schedule
from herdpy.timer.actions import RUNS, TRIGGER
from herdpy.timer.attendant import Overlap, RunOnSchedule
from herdpy.timer.change import TimerChange
from herdpy.timer.duration import in_words, seconds_in
from herdpy.timer.zone import NoZone, offset_of

SHORTEST = 0.1
"""Seconds. A command that is to run more often than that is a process that never ends."""
SCHEDULES = ("cron", "calendar", "every", "at")

Weekday = Literal["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
WEEKDAYS: tuple[Weekday, ...] = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""By their numbers in cron."""


class CalendarTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The table ``calendar``: it is due when everything that is given holds."""

    seconds: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=59)], ...], msgspec.Meta(min_length=1)] = (0,)
    minutes: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=59)], ...], msgspec.Meta(min_length=1)] = (0,)
    hours: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=23)], ...], msgspec.Meta(min_length=1)] | None = None
    """None means every hour."""
    days_of_week: Annotated[tuple[Weekday, ...], msgspec.Meta(min_length=1)] | None = None
    """None means every day."""
    days_of_month: (
        Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=31)], ...], msgspec.Meta(min_length=1)] | None
    ) = None
    months: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=12)], ...], msgspec.Meta(min_length=1)] | None = None

    def schedule(self, zone: str | None) -> schedule.Calendar:
        """The same as the timer takes it."""
        weekdays = None if self.days_of_week is None else tuple(map(WEEKDAYS.index, self.days_of_week))
        fields = (self.seconds, self.minutes, self.hours, self.days_of_month, self.months, weekdays)
        return schedule.Calendar(
            line=" ".join("*" if field is None else ",".join(map(str, sorted(set(field)))) for field in fields),
            both_days=True,
            is_steady=self.hours is None,
            zone=zone,
        )


class TimerConfiguration(CommandConfiguration, frozen=True, kw_only=True):
    """The fields of a declaration of type ``timer``."""

    cron: str | None = None
    """When it runs, as crontab(5) says it: ``"30 4 * * mon"`` is at 4:30 on Mondays. Minute, hour, day of the month,
    month, day of the week; besides, ``L`` is the last day of the month, ``LW`` the last working day, ``5L`` the last
    Friday, ``mon#2`` the second Monday. This, ``calendar``, ``every`` or ``at`` has to be given."""
    calendar: CalendarTable | None = None
    """When it runs, such as ``{ hours = [4], minutes = [30], days-of-week = ["monday"] }``."""
    every: str | float | None = None
    """It runs every so many seconds, or ``"15m"``, ``"1h30m"``, ``"2 days"`` (ms, s, m, h, d, w), for the first time
    after so long. It is counted from the start of the service (when ``persistent``, from the last run that was due),
    not from run to run, so that it does not drift; setting the clock changes nothing."""
    at: datetime | None = None
    """It runs once, at this date and time, such as ``2026-12-01T07:00:00``."""
    time_zone: str | None = None
    """The time zone of ``cron``, ``calendar`` and ``at``, such as ``"Europe/Lisbon"``; None means the host's. A time
    of day that is skipped when clocks are put forward is due at that moment, one that comes twice is due once; hours
    and minutes with a star go by what the clock shows."""
    run_at_start: bool = False
    """Whether it runs when the service starts, too."""
    persistent: bool = False
    """Whether a run that was due while the timer, herdpy or the host was down is made up for, once, at the start."""
    catch_up: str | float | None = None
    """How late a run may be made up for that was missed while the timer was down, the host slept, or its clock was set
    forward: ``"6h"``; later ones are dropped. None means however late. A minute is never too late."""
    overlap: Overlap = "skip"
    """What becomes of a run that is due while another is under way: ``"skip"`` leaves it out, ``"queue"`` lets it begin
    when that has ended (one waits, no more), ``"stop-old"`` stops the other for it."""
    max_duration: str | float | None = None
    """How long a run may take: then it gets the stop signal, and after the grace period SIGKILL."""
    jitter: str | float = 0
    """Each run begins later by up to so long, but before the next one is due, so that many hosts do not all do the same
    at once. How much is decided by the names of host and service and the time that it is due."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        given = [key for key in SCHEDULES if getattr(self, key) is not None]
        if not given:
            yield "", f"missing: when it runs; one of {', '.join(SCHEDULES)}"
        for other in given[1:]:
            yield other, f"{given[0]} says when it runs already: take one of them away"
        for key in ("every", "catch_up", "max_duration", "jitter"):
            duration = getattr(self, key)
            if duration is not None and seconds_in(duration) is None:
                yield (
                    key.replace("_", "-"),
                    f'expected seconds, or a duration such as "15m" or "1h30m", got {duration!r}',
                )
        every, jitter = self.seconds("every"), self.seconds("jitter") or 0.0
        if every is not None and every < SHORTEST:
            yield "every", f"expected at least {SHORTEST} s, got {every:g} s"
        elif every is not None and jitter >= every:
            yield (
                "jitter",
                f"is not below every, which is {in_words(every)}: each run begins before the next one is due",
            )
        if self.max_duration is not None and self.seconds("max_duration") == 0:
            yield "max-duration", "no run can take no time; leave it out, and each takes as long as it likes"
        if self.time_zone is not None:
            yield from self._zone_mistakes()
        if self.at is not None:
            yield from self._moment_mistakes(self.at)
        for key, calendar in (("cron", self.cron), ("calendar", self.calendar)):
            if calendar is not None:
                yield from self._calendar_mistakes(key)

    def _zone_mistakes(self) -> Iterator[tuple[str, str]]:
        # The time zone database is a file of the host; that it is read here is as if it were part of the language.
        try:
            offset_of(self.time_zone)
        except NoZone as problem:
            yield "time-zone", f"{problem} (package tzdata)"
        if self.every is not None:
            yield "time-zone", "an interval (every) knows no time zone; leave it out"

    def _moment_mistakes(self, at: datetime) -> Iterator[tuple[str, str]]:
        try:
            schedule.moment_of(at, offset_of(self.time_zone))
        except NoZone:
            pass  # it is told already
        except (ValueError, OverflowError, OSError):
            yield "at", f"no time zone can tell what moment {at.isoformat(sep=' ')} is; take a year from 2 to 9998"

    def _calendar_mistakes(self, key: str) -> Iterator[tuple[str, str]]:
        try:
            calendar = self._calendar(None)
            assert calendar is not None
            due = schedule.next_due(calendar, 0.0, lambda _moment: 0)
        except schedule.WrongLine as wrong:
            yield key, f"{wrong}; crontab(5) tells what such a line is made of"
        else:
            if due is None:
                yield key, "no such day ever comes"

    def _calendar(self, zone: str | None) -> schedule.Calendar | None:
        if self.cron is not None:
            return schedule.of_cron(self.cron, zone)
        return None if self.calendar is None else self.calendar.schedule(zone)

    def seconds(self, key: str) -> float | None:
        """The seconds of a field that is a duration."""
        duration: str | float | None = getattr(self, key)
        return None if duration is None else seconds_in(duration)

    def schedule(self) -> schedule.Calendar | schedule.Interval | schedule.Once:
        """When it is due.

        Raises:
            NoZone: the host does not know its time zone.
        """
        every = self.seconds("every")
        if every is not None:
            return schedule.Interval(every=every)
        if self.at is not None:
            return schedule.Once(at=schedule.moment_of(self.at, offset_of(self.time_zone)))
        calendar = self._calendar(self.time_zone)
        assert calendar is not None  # check() has seen to it
        return calendar

    def schedule_words(self) -> str:
        """When it is due, for a person."""
        zone = f" ({self.time_zone})" if self.time_zone else ""
        every = self.seconds("every")
        if every is not None:
            return f"every {in_words(every)}"
        if self.at is not None:
            return f"at {self.at.isoformat(sep=' ')}{zone}"
        if self.cron is not None:
            return f"cron {self.cron}{zone}"
        table = msgspec.to_builtins(self.calendar)
        return (
            "; ".join(f"{key} {' '.join(map(str, value))}" for key, value in table.items() if value is not None) + zone
        )


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs the command when it is due.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: TimerConfiguration = declaration.configuration
    try:
        wanted = configuration.schedule()
    except NoZone as problem:  # of a declaration that was right before tzdata went away
        raise Unsuitable("time-zone", str(problem)) from None
    process = command.process(declaration, facts)
    executable = Executable(
        program=process.command[0],
        directory=process.directory,
        path=process.environment.get("PATH"),
        user=process.user,
        group=process.group,
    )
    is_made = not declaration.source  # by a maker, which started it at once, and once only; it comes from no file
    record = os.path.join(facts.directories.state, "timers", f"{declaration.name}.json")
    return (
        as_service(
            declaration,
            documentation=f"Run {os.path.basename(configuration.command[0])}: {configuration.schedule_words()}.",
            prepare=(executable,) if is_made else (),
            attendant=RunOnSchedule(
                schedule=wanted,
                process=process,
                prepare=command.preparation(declaration, facts),
                aftermath=command.aftermath(declaration, facts),
                overlap=configuration.overlap,
                max_duration=configuration.seconds("max_duration"),
                jitter=configuration.seconds("jitter") or 0.0,
                record=record if configuration.persistent else None,
                catch_up=configuration.seconds("catch_up"),
                at_start=configuration.run_at_start,
                makes_up=configuration.at is not None and is_made,  # it may have been due at once
            ),
            aftermath=command.aftermath(declaration, facts),  # of a run that the stop has stopped
            stop=command.stop(configuration),
            facts=tuple(_facts(declaration, facts)),
            actions=(TRIGGER, RUNS),
            on_change=TimerChange() if configuration.on_change == "next-start" else configuration.on_change,
        ),
    )


def _facts(declaration: Declaration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""
    configuration: TimerConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield plain("schedule", "schedule", configuration.schedule_words())
    yield from command.command_facts(declaration, facts)
    if configuration.persistent:
        yield Fact("persistent", "persistent", True, "yes")
    for key in ("catch_up", "max_duration", "jitter"):
        seconds = configuration.seconds(key)
        if seconds:
            name = key.replace("_", "-")
            yield Fact(name, name, seconds, in_words(seconds))
    yield plain("overlap", "overlap", configuration.overlap)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


TYPE = ServiceType(
    name="timer",
    configuration=TimerConfiguration,
    services=services,
    documentation="Runs a command at certain times.",
)
