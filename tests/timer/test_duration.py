"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.timer.duration import in_words, seconds_in


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (0.25, 0.25),
        ("15m", 900),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2 hours", 7200),
        ("500ms", 0.5),
        ("1.5 h", 5400),
        ("1 day", 86400),
        ("2W", 1209600),
        ("0s", 0),
    ],
)
def test_a_duration(text: float | str, seconds: float) -> None:
    assert seconds_in(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "15",
        "m",
        "15 parsecs",
        "-5m",
        "1..5h",
        ".h",
        "1h-2m",
        "99999999 weeks",
        "1e5s",
        "٣m",
        -1,
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_no_duration(text: float | str) -> None:
    assert seconds_in(text) is None


@given(st.text(max_size=30))
def test_anything_written_is_one_or_is_none(text: str) -> None:
    seconds = seconds_in(text)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (4.236, "4.24 s"),
        (59.99, "60 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3599.9, "1 h"),
        (5400, "1 h 30 min"),
        (86400, "1 day"),
        (90000, "1 day 1 h"),
        (3 * 86400 + 59, "3 days"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
