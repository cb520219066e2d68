"""What ``herd spawn transient`` and ``herd schedule timer`` are asked, without asking anybody."""

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.catalogue.maker import Asked, asked, moment
from herdpy.client.making import absolute

NOW = 1_800_000_000.0
"""In seconds since the epoch; in UTC 2027-01-15 08:00."""


@pytest.fixture(autouse=True)
def in_lisbon(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TZ", "Europe/Lisbon")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--", "make", "-j4"], Asked((), {}, ("make", "-j4"))),
        (
            ["--user=bob", "-d", "/x", "--", "a", "--", "b"],
            Asked((), {"user": "bob", "directory": "/x"}, ("a", "--", "b")),
        ),
        (
            ["-E", "A=B", "--environment-variable=C=D=E", "-EF=", "--", "x"],
            Asked((), {"environment": {"A": "B", "C": "D=E", "F": ""}}, ("x",)),
        ),
        (
            ["at", "07:00", "-N", "alarm", "--log-file", "/tmp/x.log", "--", "mpg123"],
            Asked(("at", "07:00"), {"name": "alarm", "log-file": "/tmp/x.log"}, ("mpg123",)),
        ),
    ],
)
def test_what_is_asked(arguments: list[str], wanted: Asked) -> None:
    assert asked(arguments) == wanted


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the command is missing"),
        (["make"], "it follows --"),
        (["--"], "nothing follows --"),
        (["--user", "--", "x"], "--user needs a value"),
        (["--usr=x", "--", "x"], "there is no option --usr; there are --user, --group"),
        (["-x", "--", "x"], "there is no option -x"),
        (["-E", "A", "--", "x"], "NAME=VALUE, and 'A' is none"),
        (["--name=a", "-N", "b", "--", "x"], "-N is given twice"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        asked(arguments)
    assert problem in str(caught.value)


@given(
    st.lists(
        st.sampled_from(["--", "-d", "--user=", "-E", "A=B", "at", "", "-", "--name", "x"]) | st.text(), max_size=8
    )
)
def test_anything_asked_is_read_or_refused(arguments: list[str]) -> None:
    try:
        asked(arguments)
    except ValueError as problem:
        assert "\n" not in str(problem) or any("\n" in word for word in arguments)


@pytest.mark.parametrize(
    ("words", "when"),
    [
        ("at 08:01", "2027-01-15T08:01:00+00:00"),
        ("at 07:00", "2027-01-16T07:00:00+00:00"),
        ("at 08:00:30", "2027-01-15T08:00:30+00:00"),
        ("at 2027-07-01T07:00", "2027-07-01T07:00:00+01:00"),
        ("at 2027-07-01 07:00", "2027-07-01T07:00:00+01:00"),
        ("at 2027-03-28T01:30", "2027-03-28T02:00:00+01:00"),
        ("at 2027-07-01T07:00+05:30", "2027-07-01T02:30:00+01:00"),
        ("at 2027-07-01", "2027-07-01T00:00:00+01:00"),
        ("in 2 hours", "2027-01-15T10:00:00+00:00"),
        ("in 1h30m", "2027-01-15T09:30:00+00:00"),
        ("in 0.5s", "2027-01-15T08:00:00.500000+00:00"),
    ],
)
def test_the_moment_that_is_meant(words: str, when: str) -> None:
    assert moment(words.split(), NOW).isoformat() == when
    assert moment(words.split(), NOW) == datetime.fromisoformat(when)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "it takes a time: at TIME, or in DURATION"),
        ("at", "it takes a time"),
        ("07:00", "it takes a time"),
        ("at 25:00", "'25:00' is no time"),
        ("at 07:60", "'07:60' is no time"),
        ("at 07:00:", "'07:00:' is no time"),
        ("at noon", "'noon' is no time"),
        ("at 2026-01-01T07:00", "2026-01-01 07:00:00+00:00 has passed"),
        ("at 9999-12-31", "more than a hundred years away"),
        ("in 5 parsecs", "'5 parsecs' is no duration"),
        ("in 5", "'5' is no duration"),
    ],
)
def test_what_is_no_moment(words: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        moment(words.split(), NOW)
    assert problem in str(caught.value)


def test_the_paths_of_the_client_are_made_absolute() -> None:
    arguments = [
        "at",
        "-d",
        ".",
        "--log-file=x.log",
        "-dsub",
        "--directory",
        "/abs",
        "--",
        "-d",
        "kept",
        "--log-file=x",
    ]
    assert absolute(arguments, "/home/bob") == [
        *("at", "-d", "/home/bob/.", "--log-file=/home/bob/x.log", "-d/home/bob/sub", "--directory", "/abs"),
        *("--", "-d", "kept", "--log-file=x"),
    ]
    assert absolute(["-d", "--", "x"], "/home") == ["-d", "--", "x"]
