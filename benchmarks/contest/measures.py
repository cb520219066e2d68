"""What is measured: each part is one session of a contestant, and gives some figures."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .contestants import Contestant, Fleet, Loop
from .session import Session, session
from .stamps import TooSlow

LINE_LENGTH = 200
IDLE_STALL = 5.0
"""Seconds without a further byte in its log, and a flood is taken for over, with lines lost."""


class Effort(NamedTuple):
    """How much is done of each measure."""

    lines: int
    idle: float
    kills: int
    thousand: int
    requests: float


FULL = Effort(lines=500_000, idle=30.0, kills=5, thousand=1000, requests=2.0)
QUICK = Effort(lines=100_000, idle=5.0, kills=3, thousand=200, requests=0.5)

Figures = dict[str, list[float]]
Part = Callable[[Contestant, Path, Effort], tuple[Figures, dict[str, str]]]


def one(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """One service with the defaults: boot, client, respawn with the default delay, shutdown."""
    with session(contestant, Fleet(1), service) as running:
        figures: Figures = {"boot-1": [running.boot]}
        if isinstance(contestant, Loop):
            return figures, running.commands
        running.settle()
        figures["status"] = [running.client("status") for _ in range(effort.kills)]
        if "requests" in contestant.forms:
            figures["requests"] = [contestant.request_rate(running.place, effort.requests)]
        figures["stop"], figures["start"] = [], []
        for _ in range(effort.kills):
            figures["stop"].append(running.client("stop"))
            figures["start"].append(running.client("start"))
            running.take(1)
        figures["respawn"] = []
        for _ in range(2):
            running.settle()
            figures["respawn"].append(running.kill([0]))
        running.settle(0.5)
        figures["shutdown-1"] = [running.shut_down()]
    return figures, running.commands


def respawn(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """SIGKILL to the first act of the new process, without a delay where there can be none."""
    with session(contestant, Fleet(1, is_quick=True), service) as running:
        running.settle()
        figures: Figures = {"respawn-0": []}
        for _ in range(effort.kills):
            running.settle(0.2 if "quick" in contestant.forms else 1.3)
            figures["respawn-0"].append(running.kill([0]))
    return figures, running.commands


def daemon(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """A daemon that forks and writes a PID file: its start through the client, until that has been answered."""
    with session(contestant, Fleet(1, is_daemon=True), service) as running:
        running.settle()
        figures: Figures = {"daemon-start": []}
        for _ in range(effort.kills):
            figures["daemon-start"].append(running.client("start"))
            running.take(1)
            running.client("stop")
    return figures, running.commands


def _many(count: int, label: str, contestant: Contestant, service: Path) -> tuple[Figures, dict[str, str]]:
    with session(contestant, Fleet(count, is_quick=True), service) as running:
        figures: Figures = {f"boot-{label}": [running.boot]}
        if isinstance(contestant, Loop):
            return figures, running.commands
        running.settle(2.0)
        if label == "1000" and contestant.has_client:
            figures["status-all"] = [running.client("status-all") for _ in range(5)]
        try:
            figures[f"storm-{label}"] = [running.kill(list(running.running))]
            running.settle(2.0)
            figures[f"shutdown-{label}"] = [running.shut_down()]
        except TooSlow as error:
            sys.stderr.write(f"{contestant.name}: {error}\n")
    return figures, running.commands


def hundred(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """A hundred services: boot, all killed at once, shutdown."""
    del effort
    return _many(100, "100", contestant, service)


def thousand(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """A thousand services: boot, status of all, all killed at once, shutdown."""
    return _many(effort.thousand, "1000", contestant, service)


def flood(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """One service writes as fast as its lines are taken: lines a second, CPU a line, lines lost or doubled."""
    fleet = Fleet(2, is_quick=True, flood=(effort.lines, LINE_LENGTH))
    with session(contestant, fleet, service) as running:
        running.settle()
        before = running.cpu()
        begin = running.begin_flood()
        end = _written(running, effort.lines)
        used = running.cpu() - before
        lost, doubled, stamped = _audit(running.contestant.log_files(running.place), effort.lines)
        figures: Figures = {
            "lines": [(effort.lines - lost) / (end - begin)],
            "cpu-line": [used / effort.lines * 1e6],
            "lost": [lost],
            "doubled": [doubled],
            "unstamped": [effort.lines - lost - stamped],
        }
    return figures, running.commands


def flood_respawn(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """SIGKILL to the first act of the new process while another service floods."""
    fleet = Fleet(2, is_quick=True, flood=(effort.lines * 4, LINE_LENGTH))
    with session(contestant, fleet, service) as running:
        running.settle()
        running.begin_flood()
        figures: Figures = {"respawn-flood": []}
        for _ in range(effort.kills):
            running.settle(0.1 if "quick" in contestant.forms else 1.3)
            took = running.kill([1])
            if -1 in running.running:
                break  # the flood is over
            figures["respawn-flood"].append(took)
    return figures, running.commands


def _idle(count: int, label: str, contestant: Contestant, service: Path, seconds: float) -> Figures:
    with session(contestant, Fleet(count), service) as running:
        running.settle(15.0)  # threads that have nothing to do end by themselves, trio's after 10 s
        before = running.cost()
        time.sleep(seconds)
        after = running.cost()
    return {
        f"idle-cpu-{label}": [(after.cpu - before.cpu) * 1000],
        f"idle-wake-{label}": [after.wake_ups - before.wake_ups],
        f"idle-switches-{label}": [after.switches - before.switches],
        f"pss-{label}": [after.pss / 2**20],
        f"processes-{label}": [after.processes],
    }


def idle(contestant: Contestant, service: Path, effort: Effort) -> tuple[Figures, dict[str, str]]:
    """Nothing to do, with one service and with a thousand: CPU, wake-ups, context switches, memory."""
    if isinstance(contestant, Loop):
        return {}, {}
    figures = _idle(1, "1", contestant, service, effort.idle)
    figures |= _idle(effort.thousand, "1000", contestant, service, effort.idle)
    each = (figures["pss-1000"][0] - figures["pss-1"][0]) * 1024 / (effort.thousand - 1)
    return figures | {"pss-each": [each]}, {}


PARTS: dict[str, Part] = {
    "one": one,
    "respawn": respawn,
    "daemon": daemon,
    "hundred": hundred,
    "thousand": thousand,
    "flood": flood,
    "flood-respawn": flood_respawn,
    "idle": idle,
}


def takes_part(contestant: Contestant, part: str) -> bool:
    """Whether a part can be measured on a contestant."""
    if isinstance(contestant, Loop):
        return part in ("one", "hundred", "thousand")
    if not contestant.has_client:
        return part in ("respawn", "hundred", "thousand")
    if part == "daemon":
        return "pid-file" in contestant.forms
    return "flood" in contestant.forms or not part.startswith("flood")


def interpreter(python: Path) -> Figures:
    """The bare interpreter, and what a supervisor on trio cannot do without, as whole processes."""
    return {
        "python": [_timed([str(python), "-I", "-c", "pass"]) for _ in range(5)],
        "imports": [_timed([str(python), "-I", "-c", "import trio, msgspec"]) for _ in range(5)],
    }


def _timed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


def _written(running: Session, lines: int) -> float:
    """Wait until the whole flood is in its files; returns the clock at the last write (its mtime)."""
    difference = time.time() - time.monotonic()
    running.take(1)
    size, last_growth = 0, time.monotonic()
    while True:
        found = [path.stat() for path in running.contestant.log_files(running.place) if path.exists()]
        now = time.monotonic()
        if (grown := sum(status.st_size for status in found)) > size:
            size, last_growth = grown, now
        each = _line_length(running.contestant.log_files(running.place))
        if (each and size >= each * lines) or now - last_growth > IDLE_STALL:
            return max(status.st_mtime for status in found) - difference
        time.sleep(0.02)


def _line_length(files: list[Path]) -> int:
    for path in files:
        if path.exists():
            with path.open("rb") as file:
                return len(file.readline())
    return 0


def _lines(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from file


def _audit(files: list[Path], lines: int) -> tuple[int, int, int]:
    """Count the lines of a flood that are lost, those that are there twice, and those with something before them."""
    seen = bytearray(lines)
    doubled = stamped = 0
    for line in _lines(files):
        begin = len(line) - LINE_LENGTH
        number = line[begin : begin + 12]
        if begin < 0 or not number.isdigit() or int(number) >= lines:
            continue
        doubled += seen[int(number)]
        seen[int(number)] = 1
        stamped += begin > 0
    return lines - sum(seen), doubled, stamped - doubled
