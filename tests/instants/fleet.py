"""A herdpy with a few services that leave traces of all they do, and what must be so of it while nothing happens."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from herdpy.client import as_json
from herdpy.client.connection import ask
from herdpy.client.ending import may_be_executing
from herdpy.client.words import Failure
from herdpy.keeper.cgroup import find, key_of
from herdpy.protocol import Command, parse_services
from herdpy.sexp import Symbol
from tests import processes
from tests.conftest import Herdpy, can_have_cgroups, remove_cgroup, wait_until

PATIENCE = 30
"""Seconds until what must be so is so, on a machine that is busy."""
PROGRAMS = ("supervisor", "keeper", "logger")

SERVICE = """\
marks=$1 sleep=$2 i=0
read -r stat </proc/$$/stat
set -- $stat
me=$$.${22}
say() { i=$((i+1)); echo "$me $i"; }
trap 'say; echo "end $me $i" >>"$marks"; exit 0' TERM
trap 'say; echo "end $me $i" >>"$marks"; exit 7' USR1
echo "begin $me 0" >>"$marks"
say; say; say
echo "said $me $i" >>"$marks"
sleep "$sleep" & wait
echo "torn $me $i" >>"$marks"
"""
"""Numbered lines with the process's number and start time, and the same, appended, where no logger comes between.

Whatever it is ended by, its sleep is to be ended with it: a process that only its service's end can end."""

TELLER = """\
import os, signal, socket, sys

marks, sleep = sys.argv[1:]
me = f"{os.getpid()}.{open('/proc/self/stat').read().rpartition(')')[2].split()[19]}"
count = 0

def say():
    global count
    count += 1
    print(me, count, flush=True)

def mark(word):
    with open(marks, "a") as file:
        file.write(f"{word} {me} {count}\\n")

def end(*_):
    say()
    mark("end")
    os._exit(0)

signal.signal(signal.SIGTERM, end)
mark("begin")
for _ in range(3):
    say()
mark("said")
child = os.posix_spawnp("sleep", ["sleep", sleep], os.environ)
name = os.environ["NOTIFY_SOCKET"]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.sendto(b"READY=1", "\\0" + name[1:] if name[0] == "@" else name)
os.waitpid(child, 0)
mark("torn")
"""
"""The same, and it says that it is ready (sd_notify(3))."""


class Mark(msgspec.Struct, frozen=True):
    """A line that a service's process has appended to its file."""

    word: str
    process: str
    lines: int


class Expected(msgspec.Struct):
    """How a service must be: its state, how often it must have begun and ended by itself; None: it must not be."""

    status: str | None = "stopped"
    begun: int = 0
    ended: int = 0
    pending: bool = False


class Fleet:
    """One herdpy.

    Attributes:
        expected: how each service must be by now.
        variant: which of the two configurations its files are.
        ends: how often each program was killed since the keeper began; each time the next one comes later.
    """

    numbers = itertools.count(1)

    def __init__(self, directory: Path, *, has_cgroups: bool = True) -> None:
        directory.mkdir()
        self.directory = directory
        self.herdpy = Herdpy(directory)
        self.pid_file = directory / "pid"
        self.ends: Counter[str] = Counter()
        self.variant = 0
        self.expected = {
            "worker": Expected(),
            "teller": Expected(),
            "steady": Expected("running", begun=1),
            "changed": Expected("running", begun=1),
            "renewed": Expected("running", begun=1),
            "leaning": Expected("running", begun=1),
            "even": Expected("running", begun=1),
            "odd": Expected(None),
        }
        self._has_cgroups = has_cgroups and can_have_cgroups()
        if not has_cgroups and (own := find()) is not None:
            protect = f'mount -o bind,ro {own} {own} && exec "$@"'
            self.herdpy.prefix = ("unshare", "--mount", "sh", "-c", protect, "sh")
        self._sleep = f"86400.{os.getpid()}{next(self.numbers):04}"
        self._script = directory / "service.sh"
        self._script.write_text(SERVICE)
        self._teller = directory / "teller.py"
        self._teller.write_text(TELLER)
        self._marks = directory / "marks"
        self._marks.mkdir()
        self.configure(0)

    # Its files, its beginning and its end.

    def configure(self, variant: int) -> None:
        """Let its files be another configuration, without a moment at which one of them is half written."""
        self.variant = variant
        declared = {"worker": "respawn-limit = 1000\nrespawn-delay = 0.0", "steady": "auto-start = true"}
        declared["teller"] = "ready.notify = true"
        declared["changed"] = f"auto-start = true\nenvironment = {{ VARIANT = '{variant}' }}"
        declared["renewed"] = f"{declared['changed']}\non-change = 'restart'"
        base = ("even", "odd")[variant]
        declared["leaning"] = f"{declared['changed']}\nrequirement = ['{base}']"
        declared[base] = "auto-start = true"
        for name, text in declared.items():
            program = [sys.executable, "-IS", str(self._teller)] if name == "teller" else ["sh", str(self._script)]
            command = [*program, str(self._marks / name), self._sleep]
            written = self.directory / "declaration"
            written.write_text(f"command = {json.dumps(command)}\n{text}\n")
            path = self.herdpy.services / f"{name}.toml"
            if not path.exists() or path.read_bytes() != written.read_bytes():
                written.rename(path)
            else:
                written.unlink()
        for path in self.herdpy.services.iterdir():
            if path.stem not in declared:
                path.unlink()

    def start(self) -> None:
        """Start it, and wait until all is as it must be."""
        command = [*self.herdpy.command()[:-1], f"--pid={self.pid_file}"]
        with (self.directory / "errors").open("a") as errors:
            self.herdpy.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=self.herdpy.environment,
                start_new_session=True,
            )
        wait_until(self.pid_file.exists, PATIENCE)
        self.expect()

    def stop(self) -> None:
        """End it, and see that nothing is left."""
        keeper = os.pidfd_open(self.programs()["keeper"])
        self.herdpy.ok("stop", "root")
        os.close(keeper)
        assert self.herdpy.process is not None
        self.herdpy.process.wait(PATIENCE)
        wait_until(lambda: not self.pid_file.exists(), PATIENCE)
        left = [*self._of_services(), *self.herdpy.state.glob("journal*"), *self.herdpy.socket.parent.glob("socket*")]
        assert not left, f"left behind: {left}\n{self.herdpy.said()}"

    def kill(self) -> None:
        """End it, whatever state it is in."""
        for pid in [*self._programs().values(), *self._of_services()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.herdpy.process is not None:
            self.herdpy.process.kill()
            self.herdpy.process.wait(PATIENCE)
        remove_cgroup(self.herdpy.state)

    # Its programs.

    def programs(self) -> dict[str, int]:
        """The PIDs of all three, once there are three."""
        found: dict[str, int] = {}

        def is_whole() -> bool:
            nonlocal found
            found = self._programs()
            return len(found) == 3

        wait_until(is_whole, PATIENCE)
        return found

    def _programs(self) -> dict[str, int]:
        try:
            return processes.programs(int(self.pid_file.read_text()))
        except (OSError, ValueError):
            return {}

    def newborn(self, program: str, before: int) -> int:
        """The PID of the keeper's child that is a program's second, or next, one, as soon as it is there."""
        word = {"supervisor": "herdpy.supervisor", "logger": "logger/__main__.py"}[program]
        keeper = int(self.pid_file.read_text())
        found = 0

        def look() -> int:
            nonlocal found
            for child in processes.children(keeper):
                if child != before and any(one.endswith(word) for one in processes.command_line(child)):
                    found = child
            return found

        end = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < end, f"there is no other {program}"
        return found

    def is_gone(self) -> bool:
        """Whether there is neither a keeper nor a supervisor, nor one to come."""
        socket = str(self.herdpy.socket).encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal():
                    words = (entry / "cmdline").read_bytes()
                    if socket in words or (not words and may_be_executing(entry.name)):
                        return False
        return True

    def has_services(self) -> bool:
        """Whether any process of a service lives."""
        return bool(self._of_services())

    def is_answered_after(self, keeper: int) -> bool:
        """Whether another keeper has all its programs, and one of them answers."""
        programs = self._programs()
        if len(programs) < 3 or programs["keeper"] == keeper:
            return False
        try:
            return self.ask("overview") is not None
        except Failure:
            return False

    def replace_keeper(self) -> None:
        """Kill the keeper while nothing happens: the next one's programs begin at once again when they are killed."""
        before = self.programs()["keeper"]
        os.kill(before, signal.SIGKILL)
        if self.herdpy.process is not None:
            self.herdpy.process.poll()
        wait_until(lambda: self._programs().get("keeper", before) != before, PATIENCE)
        self.ends.clear()
        self.expect()

    # What services say.

    def marks(self, name: str) -> list[Mark]:
        """What the service's processes have appended, whole lines."""
        try:
            lines = (self._marks / name).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        found = [line.split() for line in lines if line.endswith("\n")]
        return [Mark(word, process, int(count)) for word, process, count in found]

    def begun(self, name: str) -> int:
        """How many processes have begun to be the service."""
        return sum(mark.word == "begin" for mark in self.marks(name))

    def running(self, name: str) -> int:
        """The PID of the process that began last."""
        *_, last = (mark.process for mark in self.marks(name) if mark.word == "begin")
        return int(last.partition(".")[0])

    def ask(self, action: str, service: str = "root") -> Any:
        """Ask the supervisor, and return the reply's result."""
        reply = ask(str(self.herdpy.socket), Command(Symbol(action), Symbol(service)), PATIENCE)
        return None if reply is None else reply.result

    # What must be so.

    def expect(self) -> None:
        """Wait until all is as it must be.

        Raises:
            AssertionError: it does not become so; with all that is otherwise.
        """
        wrong: list[str] = []

        def is_right() -> bool:
            wrong[:] = self.wrong()
            return not wrong

        try:
            wait_until(is_right, PATIENCE)
        except AssertionError:
            raise AssertionError("; ".join(wrong)) from None

    def rest(self) -> None:
        """Wait until services have begun and ended, and the log has what they wrote, as far as one sees without asking.

        What does not become so is :meth:`expect`'s to tell.
        """

        def is_at_rest() -> bool:
            return not any(True for name in self.expected for _ in self._wrong_marks(name, self.marks(name)))

        with contextlib.suppress(AssertionError):
            wait_until(is_at_rest, PATIENCE / 3)

    def wrong(self) -> list[str]:
        """What is otherwise than it must be, in words."""
        programs = self._programs()
        if len(programs) != 3:
            return [f"of herdpy's programs there are only {programs}"]
        try:
            told = self.ask("status")
        except Failure as failure:
            return [f"status is not answered: {failure}"]
        if told is None:
            return ["status is not answered"]
        states = {str(fields["name"]): fields for fields in map(as_json.service, parse_services(told))}
        return [
            *(f"{name}: {problem}" for name in self.expected for problem in self._wrong_of(name, states.get(name))),
            *(f"{name} should not be there" for name in states.keys() - self.expected.keys() - {"root"}),
            *self._wrong_processes(states),
            *self._wrong_files(),
            *self._wrong_words(),
            *self._untold_ends(),
        ]

    def _wrong_of(self, name: str, state: Any) -> Iterator[str]:
        expected, marks = self.expected[name], self.marks(name)
        if (None if state is None else state["status"]) != expected.status:
            yield f"is {None if state is None else state['status']} instead of {expected.status}"
        begun = [mark.process for mark in marks if mark.word == "begin"]
        if expected.status == "running" and begun and state and state["pid"] != int(begun[-1].partition(".")[0]):
            yield f"is said to be {state['pid']}, but {begun[-1]} was the last to begin"
        if state and ("from its next start on" in state["details"]) != expected.pending:
            yield f"the change to come is {state['details']}, pending should be {expected.pending}"
        yield from self._wrong_marks(name, marks)

    def _wrong_marks(self, name: str, marks: list[Mark]) -> Iterator[str]:
        expected = self.expected[name]
        begun = [mark.process for mark in marks if mark.word == "begin"]
        ended = [mark.process for mark in marks if mark.word == "end"]
        if len(begun) != expected.begun or len(ended) != expected.ended or len(set(begun)) != len(begun):
            yield f"began {len(begun)} times and ended {len(ended)} times instead of {expected.begun}, {expected.ended}"
        if any(mark.word == "torn" for mark in marks):
            yield "lost one of its processes"
        yield from self._wrong_lines(name, marks)

    def _wrong_lines(self, name: str, marks: Iterable[Mark]) -> Iterator[str]:
        log = self.herdpy.log / f"{name}.log"
        written: dict[str, list[int]] = {}
        for process, number in re.findall(r"(\d+\.\d+) (\d+)$", log.read_text() if log.exists() else "", re.MULTILINE):
            written.setdefault(process, []).append(int(number))
        said: dict[str, int] = {}
        for mark in marks:
            said[mark.process] = max(said.get(mark.process, 0), mark.lines)
        for process in said.keys() | written.keys():
            lines = written.get(process, [])
            if lines != list(range(1, len(lines) + 1)) or len(lines) < said.get(process, 0):
                yield f"{process} wrote {said.get(process)} lines, the log has {lines}"
        for mark in marks:
            if mark.word == "begin" and said[mark.process] < 3:
                yield f"{mark.process} has not said all yet"

    def _of_services(self) -> dict[int, str]:
        """The processes of services that live, whoever knows them, and what they are."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if self._sleep.encode() in line:
                        found[int(entry.name)] = "sleep" if line.startswith(b"sleep\0") else "main"
        return found

    def _wrong_processes(self, states: dict[str, Any]) -> Iterator[str]:
        wanted = sum(expected.status == "running" for expected in self.expected.values())
        found = self._of_services()
        mains = {pid for pid, what in found.items() if what == "main"}
        known = {state["pid"] for state in states.values()} - {None}
        if mains != known:
            yield f"there are the processes {mains}, known are {known}"
        if len(found) - len(mains) != wanted:
            yield f"there are {len(found) - len(mains)} sleeps instead of {wanted}"
        if self._has_cgroups and (own := find()) is not None:
            with os.scandir(f"{own}/herdpy-{key_of(str(self.herdpy.state))}") as entries:
                cgroups = [entry.name for entry in entries if entry.is_dir()]
            if len(cgroups) != wanted:
                yield f"there are the cgroups {cgroups}"

    def _wrong_files(self) -> Iterator[str]:
        known = {
            self.herdpy.state: {"journal", "lock", "plan.json", "notify"},
            self.herdpy.socket.parent: {"socket"},
            self.herdpy.log: {"herdpy.log", *(f"{name}.log" for name in self.expected)},
            self.directory: {
                *("services", "state", "log", "run", "marks"),
                *("service.sh", "teller.py", "pid", "errors", "trace", "configuration"),
            },
        }
        for directory, names in known.items():
            strange = {entry.name for entry in directory.iterdir()} - names
            if strange:
                yield f"in {directory.name} there is {', '.join(sorted(strange))}"

    def _untold_ends(self) -> Iterator[str]:
        """Each end is told at least once; by a supervisor that was killed just then, and by the next one, twice."""
        log = (self.herdpy.log / "herdpy.log").read_text(errors="replace")
        told = re.findall(r" (?:service-exited|service-stopped|start-begins-anew) service=(\S+)", log)
        for name, expected in self.expected.items():
            if told.count(name) < expected.ended:
                yield f"{name} has ended {expected.ended} times, of which {told.count(name)} are told"

    def _wrong_words(self) -> Iterator[str]:
        for path in (self.herdpy.log / "herdpy.log", self.directory / "errors"):
            text = path.read_text(errors="replace") if path.exists() else ""
            if "Traceback" in text:
                yield f"{path.name} has a traceback: {text[text.index('Traceback') :][:3000]}"
