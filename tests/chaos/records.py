"""What each incarnation of a service has recorded of itself: the truth that herdpy's word is compared to."""

import sys
from pathlib import Path
from typing import NamedTuple

from tests.chaos.generator import FIELDS, SIZE


def stat(pid: int) -> tuple[str, int] | None:
    """State and start time of a process (proc_pid_stat(5), fields 3 and 22); None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


class Record(NamedTuple):
    """An incarnation, as it was when its record was read."""

    name: str
    pid: int
    start_time: int
    begun: int
    done: int
    end: int
    asked: int
    ready: int
    at: int

    @property
    def label(self) -> str:
        return f"{self.pid}.{self.start_time}"

    @property
    def code(self) -> int | None:
        """What it exited with, or was about to."""
        return self.end - 1 if self.end else None

    def lives(self) -> bool:
        found = stat(self.pid)
        return found is not None and found[0] not in "ZX" and found[1] == self.start_time


class Records:
    """All incarnations that there have been."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._dead: dict[str, dict[str, Record]] = {}

    def of(self, name: str) -> list[tuple[Record, bool]]:
        """Each incarnation of a service, eldest first, and whether it lives."""
        dead = self._dead.setdefault(name, {})
        directory = self.place / name
        found = []
        labels = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        for label in labels:
            if label.startswith("."):
                continue
            if label in dead:
                found.append((dead[label], False))
                continue
            is_alive = self._read(name, label).lives()
            record = self._read(name, label)  # after the look: what a dead one recorded is complete
            if not is_alive:
                dead[label] = record
            found.append((record, is_alive))
        found.sort(key=lambda item: (item[0].start_time, item[0].pid))
        return found

    def alive(self, name: str) -> list[Record]:
        """Those that live."""
        return [record for record, is_alive in self.of(name) if is_alive]

    def doubled(self) -> list[str]:
        """Those that found another one of their service alive."""
        return sorted(entry.name for entry in self.place.glob("doubled.*"))

    def _read(self, name: str, label: str) -> Record:
        content = (self.place / name / label).read_bytes()
        assert len(content) == SIZE
        numbers = [int.from_bytes(content[at : at + 8], sys.byteorder) for at in range(0, SIZE, 8)]
        pid, _, start_time = label.partition(".")
        return Record(name, int(pid), int(start_time), **dict(zip(FIELDS, numbers, strict=True)))
