"""The log files, line by line: each number of each incarnation is there once."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from tests.chaos.fleet import Violation
from tests.chaos.generator import padding
from tests.chaos.records import Record

STAMP = len("2026-01-31 23:59:59 ")
LINE = re.compile(r"(\S+) (\d+\.\d+) (\d+) (\.*)")
LOST = re.compile(r"\d+ lines? (was|were) lost here: .*")
NO_END = 1 << 62


class Allowance(NamedTuple):
    """What may be missing or there twice, as the table of faults says of one fault."""

    label: str
    low: int
    high: int
    why: str


class Lines:
    """What has been read of the log files.

    Attributes:
        checked: so many lines were as they should be.
        excused: so many were missing or doubled as they may be.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offsets: dict[str, int] = {}
        self._rests: dict[str, bytes] = {}
        self._last: dict[str, int] = {}
        self._allowed: dict[str, list[Allowance]] = {}
        self._may_break: set[str] = set()
        self._may_tell: set[str] = set()
        self.checked = 0
        self.excused = 0

    def last(self, label: str) -> int:
        """The highest number of an incarnation that was read."""
        return self._last.get(label, 0)

    def allow(self, name: str, allowance: Allowance) -> None:
        """Let lines of an incarnation be missing or doubled, and one be broken."""
        self._allowed.setdefault(allowance.label, []).append(allowance)
        self._may_break.add(name)
        self._may_tell.add(name)

    def rest(self) -> None:
        """All that the faults until now have broken has been read, but a last line that has no end yet."""
        self._may_break = {name for name in self._may_break if self._rests.get(name)}

    def read(self, name: str) -> None:
        """Read what has been added to a service's log.

        Raises:
            Violation: a line is missing, there twice, or not as it was written.
        """
        try:
            with open(self._log / f"{name}.log", "rb") as file:
                file.seek(self._offsets.get(name, 0))
                content = file.read()
        except FileNotFoundError:
            return
        self._offsets[name] = self._offsets.get(name, 0) + len(content)
        *lines, self._rests[name] = (self._rests.get(name, b"") + content).split(b"\n")
        for line in lines:
            self._take(name, line.decode(errors="replace"))

    def _take(self, name: str, line: str) -> None:
        found = LINE.fullmatch(line, STAMP)
        if found is None or found[1] != name or len(found[4]) != len(padding(int(found[3]))):
            is_loss = name in self._may_tell and LOST.fullmatch(line, STAMP)
            if name in self._may_break or is_loss:  # cut where a killed logger, or a full disk, has cut it
                self.excused += 1
                return
            raise Violation(f"{name}.log has a line that nobody wrote so: {line!r}")
        label, number = found[2], int(found[3])
        last = self.last(label)
        if number == last + 1:
            self.checked += 1
        elif number > last:
            self._excuse(name, label, last + 1, number - 1, "missing")
        else:
            self._excuse(name, label, number, number, "there twice")
        self._last[label] = max(last, number)

    def _excuse(self, name: str, label: str, low: int, high: int, what: str) -> None:
        if any(allowed.low <= low and high <= allowed.high for allowed in self._allowed.get(label, ())):
            self.excused += high - low + 1
            return
        allowed = "; allowed was " + ", ".join(map(str, self._allowed.get(label, ()))) if label in self._allowed else ""
        numbers = f"{low}" if low == high else f"{low} to {high}"
        raise Violation(f"{name}.log: of {label} {numbers} {what}{allowed}")

    def is_complete(self, record: Record) -> bool:
        """Whether all that a dead incarnation wrote has been read. What it was writing may be there or not."""
        last = self.last(record.label)
        return last >= record.done or any(
            allowed.low <= last + 1 and record.done <= allowed.high for allowed in self._allowed.get(record.label, ())
        )

    def overdone(self, record: Record) -> bool:
        """Whether there is more than it ever wrote."""
        return self.last(record.label) > record.begun

    def size(self) -> int:
        """Bytes in the log directory."""
        return sum(entry.stat().st_size for entry in os.scandir(self._log))
