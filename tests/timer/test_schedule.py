"""Schedules, against an oracle that looks at every minute there is."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from herdpy.timer.schedule import (
    Calendar,
    WrongLine,
    jitter_of,
    latest_due,
    latest_on_grid,
    moment_of,
    next_due,
    next_on_grid,
    of_cron,
)
from herdpy.timer.zone import NoZone, offset_of

LORD_HOWE = "Australia/Lord_Howe"
"""Its clocks change by half an hour."""
ZONES = ["Europe/Lisbon", "America/St_Johns", LORD_HOWE, "Pacific/Apia", "Asia/Kathmandu", "Africa/Casablanca", "UTC"]


def at(text: str) -> int:
    """``2026-03-29 01:30+00:00`` as seconds since the epoch."""
    return int(datetime.fromisoformat(text).timestamp())


def told(moment: float | None, zone: str) -> str:
    return "never" if moment is None else datetime.fromtimestamp(moment, ZoneInfo(zone)).isoformat()


def shown(moment: int, zone: ZoneInfo) -> datetime:
    """What a wall clock of the zone shows."""
    return datetime.fromtimestamp(moment, UTC).astimezone(zone)


def changes(zone: ZoneInfo, first: int, last: int) -> list[int]:
    """The minutes at which the zone's clocks are changed."""
    found = []
    for hour in range(first - first % 3600, last, 3600):
        if shown(hour, zone).utcoffset() != shown(hour + 3600, zone).utcoffset():
            minute = hour
            while shown(minute, zone).utcoffset() == shown(hour, zone).utcoffset():
                minute += 60
            found.append(minute)
    return found


class Line:
    """A cron line that the oracle reads by itself: a number or None for a star, in each field."""

    def __init__(self, *fields: int | None) -> None:
        self.minute, self.hour, self.day, self.month, self.weekday = fields
        self.text = " ".join("*" if field is None else str(field) for field in fields)

    def __repr__(self) -> str:
        return f"Line({self.text!r})"

    def has_day(self, day: date) -> bool:
        right_day = self.day in {None, day.day}
        right_weekday = self.weekday in {None, day.isoweekday() % 7}
        if self.day is None or self.weekday is None:
            return (self.month in {None, day.month}) and right_day and right_weekday
        return (self.month in {None, day.month}) and (right_day or right_weekday)

    def shows(self, local: datetime) -> bool:
        return self.minute in {None, local.minute} and self.hour in {None, local.hour} and self.has_day(local.date())

    def due(self, zone: ZoneInfo, first: int, last: int) -> Iterator[int]:
        """Every moment after ``first``, up to ``last``."""
        is_steady = self.minute is None or self.hour is None
        wanted = set()
        for minute in range(first - first % 60 - 26 * 3600, last + 26 * 3600, 60):
            local = shown(minute, zone)
            if self.shows(local) and (is_steady or local.fold == 0):
                wanted.add(minute)
        if not is_steady:
            for change in changes(zone, first - 26 * 3600, last + 26 * 3600):
                local = shown(change - 60, zone).replace(tzinfo=None) + timedelta(minutes=1)
                while local < shown(change, zone).replace(tzinfo=None):
                    if self.shows(local):
                        wanted.add(change)
                    local += timedelta(minutes=1)
        return iter(sorted(moment for moment in wanted if first < moment <= last))


def star_or(low: int, high: int) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.integers(low, high))


LINES = st.builds(Line, star_or(0, 59), star_or(0, 23), star_or(1, 31), st.none(), star_or(0, 6))
TURNS = [
    *("2026-03-29 00:00+00:00", "2026-10-24 22:30+00:00"),  # Lisbon
    *("2026-03-08 03:00+00:00", "2006-10-29 01:00+00:00"),  # St John's: at one minute past midnight in 2006
    *("2026-04-04 13:00+00:00", "2026-10-03 13:30+00:00"),  # Lord Howe
    "2011-12-30 08:00+00:00",  # Apia had no 30 December
    *("2026-02-14 22:00+00:00", "2026-03-21 23:00+00:00"),  # Casablanca, around Ramadan
]
MOMENTS = st.builds(lambda turn, away: at(turn) + away, st.sampled_from(TURNS), st.integers(-30 * 3600, 30 * 3600))


@settings(max_examples=60, deadline=None)
@given(zone=st.sampled_from(ZONES), line=LINES, after=MOMENTS)
@example(zone=LORD_HOWE, line=Line(45, None, None, None, None), after=at("2026-04-04 14:20+00:00"))
@example(zone=LORD_HOWE, line=Line(None, 2, None, None, None), after=at("2026-04-04 14:20+00:00"))
@example(zone="Europe/Lisbon", line=Line(30, 1, None, None, None), after=at("2026-10-25 01:10+00:00"))
@example(zone="Europe/Lisbon", line=Line(30, 1, None, None, None), after=at("2026-03-29 00:59+00:00"))
@example(zone="America/St_Johns", line=Line(5, None, None, None, None), after=at("2006-10-29 02:29+00:00"))
@example(zone="Pacific/Apia", line=Line(0, 12, 30, None, None), after=at("2011-12-30 09:00+00:00"))
def test_every_due_moment_around_a_change_of_clocks(zone: str, line: Line, after: int) -> None:
    until = after + 2 * 86400
    calendar, offset = of_cron(line.text, zone), offset_of(zone)
    found: list[int] = []
    moment = next_due(calendar, after, offset)
    while moment is not None and moment <= until and len(found) < 200:
        found.append(moment)
        moment = next_due(calendar, moment, offset)
    wanted = list(line.due(ZoneInfo(zone), after, until))[:200]
    assert [told(moment, zone) for moment in found] == [told(moment, zone) for moment in wanted]


@settings(max_examples=40, deadline=None)
@given(zone=st.sampled_from(ZONES), line=LINES, after=MOMENTS, length=st.integers(0, 40 * 3600))
def test_the_latest_due_moment_is_the_last_of_them(zone: str, line: Line, after: int, length: int) -> None:
    until = after + length
    wanted = list(line.due(ZoneInfo(zone), after, until))
    found = latest_due(of_cron(line.text, zone), after, until, offset_of(zone))
    assert told(found, zone) == told(wanted[-1] if wanted else None, zone)


def test_the_latest_of_a_year_of_minutes_takes_no_time() -> None:
    begin = time.process_time()
    calendar, offset = of_cron("* * * * *"), offset_of("Europe/Lisbon")
    now = at("2026-06-01 12:00:30+00:00")
    assert latest_due(calendar, now - 366 * 86400, now, offset) == now - 30
    assert time.process_time() - begin < 1


def test_a_skipped_time_of_day_is_due_when_the_clocks_are_put_forward() -> None:
    offset = offset_of("Europe/Lisbon")
    due = next_due(of_cron("30 1 * * *"), at("2026-03-29 00:00+00:00"), offset)
    assert told(due, "Europe/Lisbon") == "2026-03-29T02:00:00+01:00"
    assert told(next_due(of_cron("30 1 * * *"), due, offset), "Europe/Lisbon") == "2026-03-30T01:30:00+01:00"


def test_a_repeated_time_of_day_is_due_once_and_a_steady_line_twice() -> None:
    offset = offset_of("Europe/Lisbon")
    after = at("2026-10-25 00:00+00:00")
    once = next_due(of_cron("30 1 * * *"), after, offset)
    assert told(once, "Europe/Lisbon") == "2026-10-25T01:30:00+01:00"
    assert told(next_due(of_cron("30 1 * * *"), once, offset), "Europe/Lisbon") == "2026-10-26T01:30:00+00:00"
    first = next_due(of_cron("30 * * * *"), after, offset)
    assert told(first, "Europe/Lisbon") == "2026-10-25T01:30:00+01:00"
    assert told(next_due(of_cron("30 * * * *"), first, offset), "Europe/Lisbon") == "2026-10-25T01:30:00+00:00"


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("0 4 * * mon", "2026-01-05T04:00:00+00:00"),
        ("0 0 L * *", "2026-01-31T00:00:00+00:00"),
        ("0 0 LW * *", "2026-01-30T00:00:00+00:00"),
        ("0 0 * * 5L", "2026-01-30T00:00:00+00:00"),
        ("0 0 * * mon#2", "2026-01-12T00:00:00+00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00+00:00"),
        ("*/20 9-17 * * 1-5", "2026-01-01T09:00:00+00:00"),
        ("0 0 13 * 5", "2026-01-02T00:00:00+00:00"),
        ("0 0 31 4,6 *", "never"),
    ],
)
def test_what_a_cron_line_says(line: str, due: str) -> None:
    try:
        calendar = of_cron(line)
    except WrongLine:
        assert due == "never"
    else:
        assert told(next_due(calendar, at("2026-01-01 00:30+00:00"), offset_of("UTC")), "UTC") == due


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 4 * *", "expected five fields (minute, hour, day of month, month, day of week), got 4"),
        ("0 0 4 * * *", "expected five fields (minute, hour, day of month, month, day of week), got 6"),
        ("60 4 * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 4 * * funday", "bad day-of-week"),
        ("", "expected five fields (minute, hour, day of month, month, day of week), got 0"),
    ],
)
def test_what_is_no_cron_line(line: str, problem: str) -> None:
    with pytest.raises(WrongLine) as caught:
        of_cron(line)
    assert str(caught.value) == problem


def test_seconds_of_a_calendar() -> None:
    calendar = Calendar(line="15,45 * * * * *", both_days=True, is_steady=True)
    assert next_due(calendar, 100.5, offset_of("UTC")) == 105
    assert next_due(calendar, 105, offset_of("UTC")) == 135


def test_both_days_must_be_right_where_that_is_asked() -> None:
    friday_the_13th = Calendar(line="0 0 0 13 * 5", both_days=True, is_steady=False)
    found = next_due(friday_the_13th, at("2026-01-01 00:00+00:00"), offset_of("UTC"))
    assert told(found, "UTC") == "2026-02-13T00:00:00+00:00"


@given(st.floats(-1e6, 1e9), st.floats(0.05, 1e6), st.floats(0, 1e6))
def test_the_next_on_a_grid_is_after_and_no_further_than_a_step(anchor: float, every: float, ahead: float) -> None:
    after = anchor + ahead
    found = next_on_grid(anchor, every, after)
    assert after < found <= after + every * 1.001 + 1e-6


@given(st.floats(-1e6, 1e9), st.floats(0.05, 1e6), st.floats(0, 1e6))
def test_the_latest_on_a_grid_is_the_one_before_the_next(anchor: float, every: float, ahead: float) -> None:
    until = anchor + ahead
    found = latest_on_grid(anchor, every, anchor, until)
    if found is None:
        assert until < anchor + every
    else:
        assert anchor < found <= until < found + every * 1.001 + 1e-6


def test_nothing_on_a_grid_is_due_twice() -> None:
    assert latest_on_grid(0.0, 10.0, 30.0, 39.9) is None
    assert latest_on_grid(0.0, 10.0, 30.0, 40.0) == 40.0


def test_jitter_is_stable_and_spread_evenly() -> None:
    assert jitter_of("host backup", 1000, 60) == jitter_of("host backup", 1000, 60)
    assert jitter_of("host backup", 1000, 0) == 0
    for values in (
        [jitter_of("host backup", 86400.0 * day, 1) for day in range(2000)],
        [jitter_of(f"host{number} backup", 86400.0, 1) for number in range(2000)],
    ):
        assert all(0 <= value < 1 for value in values)
        counts = [sum(1 for value in values if tenth / 10 <= value < (tenth + 1) / 10) for tenth in range(10)]
        assert all(140 < count < 260 for count in counts), counts


def test_the_hosts_own_zone_is_that_of_tz(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        assert offset_of(None)(at("2026-07-01 00:00+00:00")) == -4 * 3600
        assert offset_of(None)(at("2026-01-01 00:00+00:00")) == -5 * 3600
        due = next_due(of_cron("30 2 * * *"), at("2026-03-08 05:00+00:00"), offset_of(None))
        assert told(due, "UTC") == "2026-03-08T07:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "TZ" not in os.environ or os.environ["TZ"] != "EST5EDT,M3.2.0,M11.1.0"


def test_a_local_time_as_a_moment() -> None:
    offset = offset_of("Europe/Lisbon")
    for local, moment in (
        ("2026-07-01 07:00", "2026-07-01 06:00+00:00"),
        ("2026-03-29 01:30", "2026-03-29 01:00+00:00"),  # skipped: when the clocks are put forward
        ("2026-10-25 01:30", "2026-10-25 00:30+00:00"),  # comes twice: the first time
    ):
        assert moment_of(datetime.fromisoformat(local), offset) == at(moment)
    assert moment_of(datetime.fromisoformat("2026-07-01 07:00+05:30"), offset) == at("2026-07-01 01:30+00:00")


@pytest.mark.parametrize("name", ["Europe/Lissabon", "", "../etc/passwd", "/etc/localtime", "Europe"])
def test_there_is_no_such_zone(name: str) -> None:
    with pytest.raises(NoZone) as caught:
        offset_of(name)
    assert name in str(caught.value)
