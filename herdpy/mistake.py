"""A mistake in a declaration, told in one line to the person who wrote it; and the place where it is."""

import datetime
from collections.abc import Iterable
from typing import Any

import msgspec

from herdpy.nearest import nearest

KeyPath = tuple[str | int, ...]
"""From a document's root: keys of tables, and indexes of arrays (of values, or of tables), counted from 0."""


class Mistake(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What is wrong, and where. ``str()`` is ``FILE:LINE: KEY: PROBLEM``, without the parts that do not apply."""

    file: str
    line: int = 0
    """Counted from 1; 0 when the whole file is meant."""
    key: str = ""
    problem: str

    def __str__(self) -> str:
        place = f"{printable(self.file)}:{self.line}" if self.line else printable(self.file)
        return f"{place}: {printable(self.key)}: {self.problem}" if self.key else f"{place}: {self.problem}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where something is written."""

    file: str
    line: int = 0
    """Counted from 1; 0 when the whole file is meant."""
    key: str = ""
    """The path of the key: ``port-forwardings[0].host``; empty when no key is meant."""

    def mistake(self, problem: str) -> Mistake:
        """The mistake that is made here."""
        return Mistake(file=self.file, line=self.line, key=self.key, problem=problem)


def own_mistake(error: Exception) -> str:
    """What is said of a declaration that a mistake of ours is in the way of: it is no reason to have no others."""
    return f"a mistake in herdpy: {type(error).__name__}: {error}"


def printable(text: str) -> str:
    """The text with whatever would not print on one line escaped (file names hold any byte but NUL and ``/``)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def value_words(value: Any) -> str:
    """A TOML value, shortened when it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            shown = value if len(value) <= 60 else f"{value[:57]}..."
            return f'the string "{printable(shown)}"'
        case int() | float():
            shown = str(value) if isinstance(value, float) or value.bit_length() < 200 else f"{value:#x}"[:57] + "..."
            return f"the number {shown}"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case datetime.datetime():
            return f"the date and time {value.isoformat()}"
        case datetime.date():
            return f"the date {value.isoformat()}"
        case datetime.time():
            return f"the time {value.isoformat()}"
        case _:
            return f"a {type(value).__name__}"


def did_you_mean(word: str, *choices: Iterable[str]) -> str:
    """``; did you mean WORD?`` with the nearest word of the first choice that has a near one; else nothing."""
    for words in choices:
        if near := nearest(word, words):
            return f"; did you mean {printable(near)}?"
    return ""
