"""The keeper executes itself anew: the same process, and whatever code is installed by now.

What it holds goes through execve(2) as it is: descriptors stay open, children stay children. The *table*, which says
what is what, is passed on in a piece of memory (memfd_create(2)), in the journal's format, and so is readable by code
that is a release older or newer: what a reader does not know it leaves out, what is new has a default.

Before that, a child tries whether the code can do it (``python -I -m herdpy.keeper check 3``).
"""

from __future__ import annotations

import os
import sys

from herdpy.keeper.cgroup import Cgroup
from herdpy.keeper.journal import parse, record
from herdpy.keeper.message import encode, is_near
from herdpy.keeper.spawn import SpawnFailure, identify
from herdpy.keeper.table import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, NoReturn

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.spawn import Spawner
else:
    import _signal as signal

VERSION = 1
"""Of the table."""

TRIAL = "3"
"""The descriptor that a trial reads the table from."""


class Table:
    """What a keeper had before it executed itself, as :class:`herdpy.keeper.estate.Estate` has what a killed one left.

    Attributes:
        options: as :func:`herdpy.keeper.succession.options_told` has them.
        lock: the descriptor of the state directory's lock.
        has_pid_file: whether the PID file is written.
        serial: the request that is to be answered.
        paused: when the former keeper took its last request, in seconds of CLOCK_MONOTONIC.
        version: its code's.
        programs: by name, what is known of supervisor and logger: ``pid``, ``pidfd``, ``line``, ``ends``, ``began``.
        is_known: whether the supervisor has said hello.
        asked_to_end: how often.
        alone: ids of the processes whose services' ends are waited for.
        drains: by number of pipe, (how often the logger was asked to drain it, the id of the process in question).
        spawner: the descriptors that spawning needs to have low numbers.
        archiving: what deals with rotated logs: ``pid``, ``pidfd``, ``path``, ``waiting``; or None.

    The others are the estate's.
    """

    is_inherited = True

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Read it; nothing is touched.

        Raises:
            ValueError, KeyError, TypeError: it cannot be understood.
        """
        self.programs: dict[str, Mapping[str, Any]] = {}
        self.notes: list[bytes] = []
        self.held: dict[str, int] = {}
        self.pipes: list[tuple[int, int, str, Mapping[str, Any] | None]] = []
        self.pipe_of: dict[str, int | None] = {}
        self.drains: dict[int, tuple[int, str | None]] = {}
        self.alone: set[str] = set()
        self.archiving: Mapping[str, Any] | None = None
        self._processes: list[Mapping[str, Any]] = []
        head: Mapping[str, Any] | None = None
        for told in records:
            match told["kind"]:
                case "table":
                    head = told
                case "companion":
                    self.programs[told["name"]] = told
                case "note":
                    self.notes.append(encode(told))
                case "held":
                    self.held[told["name"]] = told["descriptor"]
                case "pipe":
                    self.pipes.append((told["number"], told["reading"], told["path"], told["rotation"]))
                    self.drains[told["number"]] = told["drains"], told["process"]
                case "process":
                    _needed(told, *PROCESS)
                    self._processes.append(told)
                case "archiving":
                    self.archiving = told
        if head is None:
            raise ValueError("it has no head")
        if not is_near(head["version"], VERSION):
            raise ValueError(f"it has version {head['version']}, and this code knows {VERSION}")
        self.options: Mapping[str, Any] = head["options"]
        self.lock: int = head["lock"]
        self.has_pid_file: bool = head["has_pid_file"]
        self.serial: int = head["serial"]
        self.paused: float = head["paused"]
        self.version: str = head["program"]
        self.is_known: bool = head["is_known"]
        self.signal: int | None = head["signal"]
        self.asked_to_end: int = head["asked_to_end"]
        self.was_ready: bool = head["was_ready"]
        self.began_anew: bool = head["began_anew"]
        self.own: tuple[int, int] = tuple(head["own"])
        self.ledger: tuple[int, int, int] = tuple(head["ledger"])
        self.pipe_number: int = head["pipe_number"]
        self.spawner: tuple[int, int, int] = tuple(head["spawner"])
        self.processes: list[Process] = []

    def take(self) -> None:
        """Take the processes, whose descriptors are ours from now on."""
        for told in self._processes:
            cgroup = None if told["cgroup"] is None else Cgroup(told["cgroup"])
            output = None if told["output"] is None else tuple(told["output"])
            process = Process(
                told["id"], told["pid"], told["pidfd"], told["start_time"], told["scope"], None, output, cgroup
            )
            for key in ("born", "session", "is_adopted", "is_foreign", "status", "drained"):
                setattr(process, key, told[key])
            self.processes.append(process)
            self.pipe_of[process.id] = told["pipe"]
            if told["awaits_others"]:
                self.alone.add(process.id)

    def control(self) -> int:
        """Return the control socket."""
        return self.held.pop("control")

    def words(self) -> Iterator[str]:
        """Nothing: it is told by the one who asked for it."""
        return iter(())


PROCESS = (
    *("id", "pid", "pidfd", "start_time", "scope", "output", "cgroup", "pipe"),
    *("born", "session", "is_adopted", "is_foreign", "status", "drained", "awaits_others"),
)
"""What the table has of each process."""


def process_record(process: Process) -> dict[str, object]:
    """Return what the table has of a process."""
    return {
        "kind": "process",
        **{key: getattr(process, key) for key in PROCESS if key not in ("cgroup", "pipe", "awaits_others")},
        "cgroup": None if process.cgroup is None else process.cgroup.path,
        "pipe": None if process.pipe is None else process.pipe.number,
        "awaits_others": process.others is not None,
    }


def _needed(told: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if key not in told:
            raise ValueError(f"a {told['kind']} without {key}")


def write(records: Iterable[Mapping[str, object]]) -> int:
    """Write a table into memory; return its descriptor, to be read from the beginning.

    Raises:
        OSError: there is no room.
    """
    memory = os.memfd_create("herdpy-table", os.MFD_CLOEXEC)
    content = memoryview(b"".join(record(encode(told)) for told in records))
    try:
        while content:
            content = content[os.write(memory, content) :]
        os.lseek(memory, 0, os.SEEK_SET)
    except OSError:
        os.close(memory)
        raise
    return memory


def read(memory: int) -> Table:
    """Return the table that is in a piece of memory.

    Raises:
        ValueError, KeyError, TypeError: it cannot be understood.
    """
    content = b""
    while chunk := os.read(memory, 1 << 20):
        content += chunk
    records, damaged = parse(content)
    if damaged:
        raise ValueError(f"{damaged} of its lines are not whole")
    return Table(records)


def check() -> int:
    """Be the trial: tell whether this code could go on with the table; returns the exit status, 0 if it could."""
    import herdpy.keeper.begin  # noqa: F401 - all that the keeper is made of

    try:
        read(int(TRIAL))
    except (ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the table of what is held cannot be understood: {error!r}\n")
        return 1
    return 0


class SignalsBlocked:
    """While it is entered, every signal is blocked; so it stays for what is executed meanwhile."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def execute(memory: int, descriptors: Iterable[int]) -> NoReturn:
    """Execute the keeper in our place, with signals blocked until it takes them.

    Args:
        memory: the table.
        descriptors: what it tells of, to stay open.

    Raises:
        OSError: it cannot be executed; everything is as it was.
    """
    passed = [memory, *descriptors]
    try:
        for descriptor in passed:
            os.set_inheritable(descriptor, True)
        os.execve(sys.executable, [sys.executable, "-I", "-m", "herdpy.keeper", "renewed", str(memory)], os.environ)
    finally:
        for descriptor in passed:
            os.set_inheritable(descriptor, False)


class Trial:
    """A child that tries whether the code installed by now can go on with a table."""

    def __init__(
        self,
        loop: Loop,
        spawner: Spawner,
        environment: Mapping[str, str],
        memory: int,
        patience: float,
        then: Callable[[str | None], None],
    ) -> None:
        """Begin it.

        Args:
            memory: the table; closed here.
            patience: seconds until it is killed.
            then: called with what was in the way, in words, or None.

        Raises:
            SpawnFailure, OSError: there is no child.
        """
        self._loop = loop
        self._patience = patience
        self._then = then
        self._said = b""
        try:
            self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                command = [sys.executable, "-I", "-m", "herdpy.keeper", "check"]
                self.pid = spawner.spawn_companion(command, environment, writing, memory)
                self._pidfd = identify(self.pid)
            except SpawnFailure:
                os.close(self._reading)
                raise
            finally:
                os.close(writing)
        finally:
            os.close(memory)
        loop.watch(self._pidfd, self._look)
        loop.watch(self._reading, self._hear)
        loop.after(patience, "trial", self._too_late)

    def _too_late(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # ours and not reaped yet: the number is its own
        self._answer(f"the new keeper's code was not tried within {self._patience:g} s")

    def _answer(self, problem: str | None) -> None:
        """Answer, once: it may be late, and end later still."""
        then, self._then = self._then, lambda problem: None
        then(problem)

    def _hear(self) -> None:
        try:
            said = os.read(self._reading, 65536)
        except OSError:
            return
        self._said = (self._said + said)[-65536:]
        if not said:
            self._loop.forget(self._reading)

    def _look(self) -> None:
        from herdpy.keeper import death
        from herdpy.keeper.companion import in_words

        status = death.status(self._pidfd)
        if status is None:
            return
        self._hear()
        self._loop.cancel("trial")
        self._loop.forget(self._pidfd)
        self._loop.forget(self._reading)
        death.reap(self._pidfd)
        os.close(self._pidfd)
        os.close(self._reading)
        if status == {"exited": 0}:
            self._answer(None)
        else:
            words = self._said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            self._answer(f"the new keeper's code cannot be used: {words or in_words(status)}")
