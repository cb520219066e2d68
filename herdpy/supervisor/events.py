"""What happens, for whoever asks (``herd events``): the last of it, and what is yet to come.

An event is what herdpy's own log tells, by name and fields (:mod:`herdpy.supervisor.log` makes one of each line). The
last ones are kept here; what was before them, maybe before this supervisor, is read from the log file.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from herdpy.threads import in_thread

KEPT = 300
"""So many of the last events are kept in memory."""
QUEUE = 1000
"""So many events wait for one follower that does not read; what is older is lost to it, and it is told how many."""
TAIL = 1024 * 1024
"""Bytes at the end of the log file in which earlier events are looked for."""
BEGIN = "supervisor-begins"
"""The event that a supervisor logs first, with its PID."""

_PLAIN = frozenset({str, int, float, bool, type(None)})


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened."""

    time: float
    """Seconds since the epoch; whole ones for what was read from the log."""
    name: str
    fields: dict[str, Any]

    def concerns(self, service: str | None) -> bool:
        """Whether it has to do with the service of this canonical name; with None, anything does."""
        return service is None or self.fields.get("service") == service


class Follower:
    """Someone who is told what happens from now on, as far as it concerns the service (None: all of it)."""

    def __init__(self, service: str | None) -> None:
        self._service = service
        self._waiting: deque[Event] = deque(maxlen=QUEUE)
        self._missed = 0
        self._arrived = trio.Event()

    def __enter__(self) -> "Follower":
        _followers.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _followers.remove(self)

    def take(self, event: Event) -> None:
        """Let it wait for the follower. Costs nobody else anything, however slow that one is."""
        if event.concerns(self._service):
            self._missed += len(self._waiting) == QUEUE
            self._waiting.append(event)
            self._arrived.set()

    async def next(self) -> list[Event]:
        """Wait for what happens next; begins with an event ``missed`` when some had to be dropped."""
        await self._arrived.wait()
        self._arrived = trio.Event()
        events = list(self._waiting)
        self._waiting.clear()
        if self._missed:
            events.insert(0, Event(events[0].time, "missed", {"count": self._missed}))
            self._missed = 0
        return events


_recent: deque[Event] = deque(maxlen=KEPT)
_followers: list[Follower] = []


def record(name: str, fields: Mapping[str, Any]) -> None:
    """Remember an event that happens now, and tell the followers. Exceptions and the like are kept as their text."""
    kept = {
        key: value if type(value) in _PLAIN else str(value)
        for key, value in fields.items()
        if key != "exc_info" and value is not None
    }
    if (error := fields.get("exc_info")) is not None:
        kept["error"] = f"{type(error).__name__}: {error}"
    event = Event(time.time(), name, kept)
    _recent.append(event)
    for follower in _followers:
        follower.take(event)


def recent() -> list[Event]:
    """The events in memory, oldest first; at most :data:`KEPT`."""
    return list(_recent)


async def before(memory: list[Event], path: str) -> list[Event]:
    """The events that the log file tells of from before those that were in memory, oldest first."""
    return await in_thread(_read, path, memory, abandon_on_cancel=True)


def _read(path: str, memory: list[Event]) -> list[Event]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except OSError:
        return []  # there is no log yet, or no longer
    events = [event for line in text.split("\n") if (event := parse(line)) is not None]
    # Events that say the same may be many in a second: what is in memory is as many of the last lines, or nearly.
    begin = len(events) - len(memory)
    same = [position for position, event in enumerate(events) if _is_same(event, memory[0])]
    if same:
        return events[: min(same, key=lambda position: abs(position - begin))]
    return [event for event in events if event.time <= memory[0].time]


def _is_same(read: Event, event: Event) -> bool:
    """Whether a line of the log, which the logger has stamped with a whole second, tells of this event. An exception is
    on lines of its own there."""
    return (
        read.name == event.name
        and 0 <= read.time - int(event.time) <= 1
        and read.fields.items() <= event.fields.items()
    )


def parse(line: str) -> Event | None:
    """The event that a line of herdpy's log tells: ``2026-01-31 23:59:59 service-started service=foo pid=12``.

    None when it is none: a traceback's line, or what the keeper says.
    """
    try:
        at = datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S").timestamp()
    except ValueError:
        return None
    name, _, rest = line[20:].partition(" ")
    if not name or name.strip("abcdefghijklmnopqrstuvwxyz-"):
        return None
    try:
        return Event(at, name, dict(_fields(rest)))
    except ValueError:
        return None


def _fields(text: str) -> Iterator[tuple[str, Any]]:
    while text:
        key, equals, text = text.partition("=")
        if not equals or " " in key:
            raise ValueError(text)
        if text.startswith('"'):
            value, text = _unquoted(text)
            yield key, value
        else:
            word, _, text = text.partition(" ")
            yield key, _value(word)


def _unquoted(text: str) -> tuple[str, str]:
    """(the string at the beginning of ``text``, what follows it and a blank)."""
    letters: list[str] = []
    position = 1
    while True:
        letter = text[position : position + 1]
        if letter == "\\":
            escaped = text[position + 1 : position + 2]
            letters.append("\n" if escaped == "n" else escaped)
            position += 2
        elif letter == '"':
            return "".join(letters), text[position + 1 :].removeprefix(" ")
        elif letter == "":
            raise ValueError(text)
        else:
            letters.append(letter)
            position += 1


_TO_BE_QUOTED = frozenset(' "\n=')


def written(value: object) -> str:
    """A field's value as the log has it, so that :func:`parse` finds the same value again."""
    if isinstance(value, str):
        if value and _TO_BE_QUOTED.isdisjoint(value) and _value(value) == value:
            return value
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value) if type(value) in _PLAIN else written(str(value))


def _value(word: str) -> object:
    """What a word without quotes means: a boolean, a number, else itself."""
    if word in ("True", "False"):
        return word == "True"
    if word[:1] in "0123456789+-." and word.isascii():
        for kind in (int, float):
            try:
                number = kind(word)
            except ValueError:
                continue
            if str(number) == word:
                return number
    return word


_encoder = msgspec.json.Encoder(enc_hook=str)


def as_json(event: Event) -> str:
    """One line of JSON: ``time`` in UNIX seconds, ``iso`` the same in UTC, ``event``, and the fields."""
    iso = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = {"time": round(event.time, 6), "iso": iso, "event": event.name, **event.fields}
    return _encoder.encode(document).decode()
