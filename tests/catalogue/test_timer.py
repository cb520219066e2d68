"""The type ``timer``: from its declaration to a service, or to every mistake in it."""

from typing import Any

import msgspec
import pytest

from herdpy.catalogue.timer import TimerConfiguration
from herdpy.timer.schedule import Calendar, Interval, Once


def declared(**fields: Any) -> TimerConfiguration:
    return msgspec.convert({"command": ["true"], **fields}, TimerConfiguration)


@pytest.mark.parametrize(
    ("fields", "schedule", "words"),
    [
        (
            {"cron": "30 4 * * mon"},
            Calendar(line="0 30 4 * * mon", both_days=True, is_steady=False),
            "cron 30 4 * * mon",
        ),
        (
            {"calendar": {"hours": [4, 3], "days-of-week": ["sunday", "monday"]}, "time-zone": "Europe/Lisbon"},
            Calendar(line="0 0 3,4 * * 0,1", both_days=True, is_steady=False, zone="Europe/Lisbon"),
            "seconds 0; minutes 0; hours 4 3; days-of-week sunday monday (Europe/Lisbon)",
        ),
        (
            {"calendar": {"minutes": [0, 30], "days-of-month": [1], "months": [12]}},
            Calendar(line="0 0,30 * 1 12 *", both_days=True, is_steady=True),
            "seconds 0; minutes 0 30; days-of-month 1; months 12",
        ),
        ({"every": "1h30m"}, Interval(every=5400.0), "every 1 h 30 min"),
        ({"every": 0.5}, Interval(every=0.5), "every 0.5 s"),
        (
            {"at": "2026-07-01T07:00:00", "time-zone": "Europe/Lisbon"},
            Once(at=1782885600.0),
            "at 2026-07-01 07:00:00 (Europe/Lisbon)",
        ),
    ],
)
def test_when_it_runs(fields: dict[str, Any], schedule: object, words: str) -> None:
    configuration = declared(**fields)
    assert list(configuration.check()) == []
    assert configuration.schedule() == schedule
    assert configuration.schedule_words() == words


@pytest.mark.parametrize(
    ("fields", "key", "problem"),
    [
        ({}, "", "missing: when it runs; one of cron, calendar, every, at"),
        ({"cron": "0 4 * * *", "every": 5}, "every", "cron says when it runs already"),
        ({"cron": "61 4 * * *"}, "cron", "bad minute"),
        ({"cron": "0 4 31 4,6 *"}, "cron", "bad day-of-month"),
        ({"calendar": {"days-of-month": [30], "months": [2]}}, "calendar", "bad day-of-month"),
        ({"every": "5 parsecs"}, "every", "expected seconds, or a duration such as"),
        ({"every": "10ms"}, "every", "expected at least 0.1 s, got 0.01 s"),
        ({"every": "1m", "jitter": "90s"}, "jitter", "is not below every, which is 1 min"),
        ({"every": "1m", "time-zone": "UTC"}, "time-zone", "an interval (every) knows no time zone"),
        ({"cron": "0 4 * * *", "time-zone": "Europe/Lissabon"}, "time-zone", "there is no time zone 'Europe/Lissabon'"),
        (
            {"at": "9999-12-31T23:59:59", "time-zone": "America/New_York"},
            "at",
            "no time zone can tell what moment 9999-12-31 23:59:59 is; take a year from 2 to 9998",
        ),
        ({"at": "0001-01-01T00:00:00", "time-zone": "Asia/Tokyo"}, "at", "0001-01-01 00:00:00"),
        ({"every": "1m", "max-duration": 0}, "max-duration", "no run can take no time"),
        ({"every": "1m", "catch-up": -1}, "catch-up", "expected seconds, or a duration"),
    ],
)
def test_what_is_a_mistake(fields: dict[str, Any], key: str, problem: str) -> None:
    ((found_key, found),) = declared(**fields).check()
    assert found_key == key
    assert problem in found


@pytest.mark.parametrize(
    "calendar", [{"hours": [24]}, {"hours": []}, {"months": [0]}, {"days-of-week": ["mon"]}, {"minute": [1]}]
)
def test_what_no_calendar_holds(calendar: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        declared(calendar=calendar)
