"""Schedules on their clocks, with runs that are late on purpose."""

from collections.abc import Iterator

import pytest

from herdpy.timer.schedule import Calendar
from herdpy.timer.timing import Timing

EVERY_FIVE_SECONDS = Calendar(line="*/5 * * * * *", both_days=True, is_steady=True, zone="UTC")
NOON = 1_800_014_400.0


@pytest.fixture
def timing() -> Iterator[Timing]:
    made = Timing(EVERY_FIVE_SECONDS, "often", 20.0)
    yield made
    made.alarm.close()


def test_a_jitter_longer_than_the_gaps_loses_no_run_and_keeps_their_order(timing: Timing) -> None:
    moments = [timing.delayed(NOON + 5 * number) for number in range(100)]
    assert moments == sorted(moments)
    assert all(0 <= moment - NOON - 5 * number < 5 for number, moment in enumerate(moments))
    assert len({round(moment % 5, 3) for moment in moments}) > 90, "they are spread over the gaps"


def test_who_wakes_up_late_runs_what_has_had_its_delay(timing: Timing) -> None:
    second, third = timing.delayed(NOON + 5), timing.delayed(NOON + 10)
    assert timing.latest_begun(NOON, timing.delayed(NOON)) == NOON
    assert timing.latest_begun(NOON, second - 0.001) == NOON, "the next one is due, but has yet to begin"
    assert timing.latest_begun(NOON, second) == NOON + 5
    assert timing.latest_begun(NOON, third - 0.001) == NOON + 5
    assert timing.latest_begun(NOON, third) == NOON + 10
