"""The words of mistakes."""

import datetime

import pytest

from herdpy.mistake import Mistake, Place, did_you_mean, printable, value_words


def test_a_mistake_is_one_line() -> None:
    assert str(Mistake(file="/a.toml", line=3, key="b[0].c", problem="wrong")) == "/a.toml:3: b[0].c: wrong"
    assert str(Mistake(file="/a.toml", line=3, problem="wrong")) == "/a.toml:3: wrong"
    assert str(Mistake(file="/a\n.toml", problem="wrong")) == "/a\\n.toml: wrong"
    assert str(Place(file="/a", line=1, key='b."\n"').mistake("wrong")) == '/a:1: b."\\n": wrong'


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("cpu-cuont", "cpu-count"),
        ("cpu_count", "cpu-count"),
        ("CPU-Count", "cpu-count"),
        ("auto-start?", "auto-start"),
        ("a_b", "a-b"),
        ("autostart", "auto-start"),
        ("port", "port-forwardings"),
        ("env", "environment"),
        ("zzz", None),
        ("", None),
        ("en", None),
    ],
)
def test_near_names(word: str, guess: str | None) -> None:
    choices = ["cpu", "cpu-count", "auto-start", "environment", "port-forwardings", "requirement", "a-b"]
    assert did_you_mean(word, choices) == ("" if guess is None else f"; did you mean {guess}?")


def test_the_first_choices_that_have_a_near_name_win() -> None:
    assert did_you_mean("cpus", ["cpu-count"], ["cpu"]) == "; did you mean cpu-count?"
    assert did_you_mean("cpus", ["zzz"], ["cpu"]) == "; did you mean cpu?"
    assert did_you_mean("cpus", [], []) == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true"),
        ("4", 'the string "4"'),
        ("a\nb", 'the string "a\\nb"'),
        ("x" * 100, 'the string "' + "x" * 57 + '..."'),
        (4, "the number 4"),
        (1.5, "the number 1.5"),
        (10**100, "the number 0x"),
        ([], "an empty list"),
        ([1], "a list"),
        ({}, "a table"),
        (datetime.date(2020, 1, 2), "the date 2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3, 4), "the date and time 2020-01-02T03:04:00"),
        (datetime.time(3, 4), "the time 03:04:00"),
    ],
)
def test_values_in_words(value: object, words: str) -> None:
    assert value_words(value).startswith(words)
    assert len(value_words(value)) < 100


def test_what_would_not_print_is_escaped() -> None:
    assert printable("é b") == "é b"
    assert printable("a\x1b[1m\udcff") == "a\\x1b[1m\\udcff"
