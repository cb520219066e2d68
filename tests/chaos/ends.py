"""How incarnations ended, and what herdpy's log says of it: each end is told once, and as it was."""

import os
import signal
import time
from pathlib import Path

from herdpy.supervisor.events import Event, parse
from tests.chaos.fleet import Kind, Violation
from tests.chaos.records import Record

UNKNOWN = "nobody knows how"
TOLD = (
    *("service-exited", "service-failed-to-start", "service-done", "service-stopped", "timer-run-ended"),
    "start-begins-anew",
)
"""The events that tell an end."""
LATE = 10.0
"""Seconds after which an end is told no more."""
RUN_ENDED = "timer-run-ended"
UNSEEN = 2.0
"""Seconds before the keeper's end from which it may not have seen what ended: it may not have had its turn."""


class Ends:
    """What has been read of herdpy's log, compared to how incarnations ended.

    Attributes:
        killed: by label, who was sent SIGKILL, and when (CLOCK_MONOTONIC).
        stops: by service, how many stops were asked for that may end an incarnation.
        is_journal_whole: whether the keeper has said nothing else.
        unknown_one_shots: those of them that have failed because of that since somebody looked, by service.
        told, unknown: so many ends were told as they were, and as unknown.
    """

    def __init__(self, log: Path, kinds: dict[str, Kind]) -> None:
        self._log = log / "herdpy.log"
        self._kinds = kinds
        self._offset = 0
        self._rest = b""
        self._events: dict[str, list[Event]] = {}
        self._next_event: dict[str, int] = {}
        self._next_end: dict[str, int] = {}
        self.recent: list[Event] = []
        self.killed: dict[str, float] = {}
        self.stops: dict[str, int] = {}
        self._unseen: list[tuple[float, float]] = []
        self._untold: list[tuple[float, float]] = []
        self._unrecorded: dict[str, set[str]] = {}
        self._repeated: dict[str, int] = {}
        self.unknown_one_shots: dict[str, int] = {}
        self.is_journal_whole = True
        self.told = self.unknown = 0

    def nobody_saw(self, begin: float, end: float) -> None:
        """There was no keeper from then to then (CLOCK_MONOTONIC): what ended within may be unknown."""
        self._unseen.append((begin - UNSEEN, end))

    def nobody_wrote(self, begin: float, end: float) -> None:
        """herdpy's log could not be written then."""
        self._untold.append((begin, end))

    def read(self) -> None:
        """Read what has been added to herdpy's log."""
        try:
            with open(self._log, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return  # its first lines are yet to come
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            if b"Traceback" in line:
                raise Violation(f"a mistake of herdpy's is in its log: {line!r}")
            if b"keeper: cannot write " in line:
                self.is_journal_whole = False
            elif b"keeper: can write " in line:
                self.is_journal_whole = True
            event = parse(line.decode(errors="replace"))
            if event is not None:
                self.recent.append(event)
                self._events.setdefault(str(event.fields.get("service")), []).append(event)
        del self.recent[:-60]

    def rest(self) -> None:
        """Nothing is under way: what was asked for is done, and what was stopped without a process is passed over."""
        self.stops.clear()
        self.unknown_one_shots.clear()
        for name, events in self._events.items():
            at = self._next_event.get(name, 0)
            while at < len(events) and (events[at].name not in TOLD or events[at].name == "service-stopped"):
                at += 1
            self._next_event[name] = at

    def are_told(self, name: str, records: list[tuple[Record, bool]]) -> bool:
        """Compare the ends of a service to the events; tells whether all have been told by now.

        Raises:
            Violation: an end was told that was none, or otherwise than it was, or a process was stopped that nobody
                wanted to be stopped.
        """
        at = self._next_end.get(name, 0)
        while at < len(records) and not records[at][1]:
            record = records[at][0]
            if self._is_untold(record):
                self._next_event[name] = self._after(name, record)
            elif not self._take(name, record, records[at - 1][0] if at else None):
                if not (self._unrecorded.get(name) and time.monotonic() > self._moment(record) + LATE):
                    return False
                self._unrecorded[name].pop()
            at += 1
            self._next_end[name] = at
        return True

    def _take(self, name: str, record: Record, before: Record | None) -> bool:
        """Look for the event that tells of an end; False when there is none yet.

        Args:
            before: the one that ended before it, which a killed keeper may not have been told to be done with.
        """
        if self._may_be_unrecorded(record):
            self._unrecorded.setdefault(name, set()).add(record.label)
        events = self._events.get(name, [])
        at = self._next_event.get(name, 0)
        is_run = self._kinds[name].ends == RUN_ENDED
        is_repeated = before is not None and self._may_be_unknown(before)
        if is_repeated:
            at = self._after_its_start(events, at, record)
            if is_run:  # its start is not told with its PID: which end was repeated shows only when ends differ
                self._repeated[name] = self._repeated.get(name, 0) + 1
        while at < len(events):
            event = events[at]
            at += 1
            if event.name not in TOLD or self._is_cut(event) or (is_run and event.name != RUN_ENDED):
                continue
            reason = str(event.fields.get("reason", ""))
            if "was killed by SIGTERM" in reason:
                continue  # before it could record anything, and without its lines
            if self._is_right(name, record, event.name, reason):
                self.told += 1
            elif UNKNOWN in reason and self._may_be_unknown(record):
                self.unknown += 1
                if event.name == "service-failed-to-start":
                    self.unknown_one_shots[name] = self.unknown_one_shots.get(name, 0) + 1
            elif event.name == "service-stopped" or (
                event.name == "service-failed-to-start" and not reason.startswith("it ")
            ):
                continue  # of something else: a service without a process, a requirement that was not to be had
            elif (
                is_repeated and before is not None and self._is_of(before, event.name, reason)
            ) or self._is_told_again(name, events, at, record, before):
                continue
            elif self._repeated.get(name) and self._is_right(
                name, record, RUN_ENDED, self._reason_before(events, at - 1)
            ):
                self._repeated[name] -= 1
                at -= 1
            elif self._unrecorded.get(name):
                self._unrecorded[name].pop()  # one of the last ends was not told, and all since are one event early
                return True
            else:
                raise Violation(f"{name}: {self._in_words(record)}, but what was told is {event.name} {reason!r}")
            self._next_event[name] = at
            return True
        return False

    def _is_told_again(self, name: str, events: list[Event], at: int, record: Record, before: Record | None) -> bool:
        """Whether an event tells once more of the end before this one, whose start comes later: by a supervisor that
        followed one which was killed when it had told of it, and not noted yet that it had.

        Args:
            at: where the events go on after it.
        """
        if before is None or self._after_its_start(events, at, record) == at:
            return False
        event = events[at - 1]
        return self._is_of(before, event.name, str(event.fields.get("reason", "")))

    def _after_its_start(self, events: list[Event], at: int, record: Record) -> int:
        """Where the events go on after an incarnation's start was told, if it was: what is before that is not of it."""
        for number in range(at, len(events)):
            if events[number].name == "service-started" and events[number].fields.get("pid") == record.pid:
                return number + 1
        return at

    def _reason_before(self, events: list[Event], at: int) -> str:
        """The reason that the end before an event was told with."""
        for event in reversed(events[:at]):
            if event.name == RUN_ENDED:
                return str(event.fields.get("reason", ""))
        return ""

    def _is_cut(self, event: Event) -> bool:
        """Whether a disk that got full has cut its line."""
        return (
            bool(self._untold)
            and event.name not in ("service-stopped", "service-done")
            and not event.fields.get("reason")
        )

    def _is_right(self, name: str, record: Record, told: str, reason: str) -> bool:
        if told == "service-stopped":
            if record.asked != signal.SIGTERM and not (self.stops.get(name, 0) and record.code is not None):
                return False  # the latter has ended by itself just when it was to be stopped
            if not self.stops.get(name, 0):
                raise Violation(f"{name}: {record.label} was stopped, and nobody had asked for that")
            self.stops[name] -= 1
            return True
        if told == RUN_ENDED and record.asked == signal.SIGTERM and not self.stops.get(name, 0):
            raise Violation(f"{name}: its run {record.label} was stopped, and nobody had asked for that")
        return self._is_of(record, told, reason)

    def _is_of(self, record: Record, told: str, reason: str) -> bool:
        """Whether an end was told as it was, whoever had asked for it; also of one that has been dealt with."""
        if told == "service-stopped":
            return bool(record.asked == signal.SIGTERM)
        possible = []
        if record.code is not None:
            possible.append(f"exited with {record.code}")
        if record.label in self.killed:
            possible.append("was killed by SIGKILL")
        if told == "service-done":
            return record.code == 0
        return any(words in reason for words in possible)

    def _may_be_unknown(self, record: Record) -> bool:
        moment = self._moment(record)
        return any(begin <= moment <= end for begin, end in self._unseen)

    def _may_be_unrecorded(self, record: Record) -> bool:
        """Whether it was spawned just before the keeper was killed, and ended before there was another: then nobody
        may know that it ever was."""
        born, moment = record.start_time / os.sysconf("SC_CLK_TCK"), self._moment(record)
        return any(begin <= born <= begin + UNSEEN + 0.1 and moment <= end for begin, end in self._unseen)

    def _is_untold(self, record: Record) -> bool:
        moment = self._moment(record)
        return any(begin <= moment <= end for begin, end in self._untold)

    def _after(self, name: str, record: Record) -> int:
        """Where the events go on after one that may have been written or not."""
        before = self._next_event.get(name, 0)
        events = self._events.get(name, [])
        for at in range(before, len(events)):
            if events[at].name in TOLD:
                reason = str(events[at].fields.get("reason", ""))
                is_it = self._is_right(name, record, events[at].name, reason) or UNKNOWN in reason
                return at + 1 if is_it else before
        return before

    def _moment(self, record: Record) -> float:
        if record.at:
            return record.at / 1e9
        return self.killed.get(record.label, time.monotonic())

    def _in_words(self, record: Record) -> str:
        words = []
        if record.code is not None:
            words.append(f"exited with {record.code}")
        if record.asked:
            words.append(f"after it was sent {signal.Signals(record.asked).name}")
        if record.label in self.killed:
            words.append("was sent SIGKILL by us")
        return f"{record.label} {', '.join(words) or 'ended, not by us and not by itself'}"

    def untold(self, name: str, records: list[tuple[Record, bool]]) -> str:
        """The first end that was not told, in words."""
        return f"{name}: {self._in_words(records[self._next_end.get(name, 0)][0])}; no event tells that"
