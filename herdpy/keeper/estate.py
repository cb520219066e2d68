"""What a keeper takes over from one that was killed: looked for, opened, and ready to be held.

Pipes are opened anew through /proc/PID/fd: the old logger's first, which has them all, even those that nobody writes to
any more; else those of whoever writes. The old logger's ledger is had the same way; so its next one goes on where it
was ended, as after any killed logger. Listening sockets cannot be opened so: they come from the supervisor, which has a
copy of each, when it is the one to become the keeper; else from the processes that were given them (pidfd_getfd(2)).
What nobody has any more is lost, and made anew.
"""

from __future__ import annotations

import os

from herdpy.keeper import proc
from herdpy.keeper.cgroup import Cgroup, end_all_in
from herdpy.keeper.cgroup import find as find_cgroup
from herdpy.keeper.family import VARIABLE
from herdpy.keeper.legacy import Program, find, look_into_cgroups, open_again, take_from
from herdpy.keeper.message import encode
from herdpy.keeper.succession import LEDGER
from herdpy.keeper.table import Process
from herdpy.keeper.table import identity as identity_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from herdpy.keeper.legacy import Legacy

    Identity = tuple[int, int]


LOST = 0
"""The number of a pipe of which the journal does not tell: no other one has it."""


class Estate:
    """What there is to be held.

    Attributes:
        is_inherited: whether we were the former keeper's supervisor; else somebody started us.
        notes: the packets that they came in.
        held: descriptors by their names.
        signal: SIGTERM or SIGINT if that is still to be obeyed.
        own: both ends of the pipe of our own log, or None.
        ledger: the logger's (memory, read end, write end), or None.
        pipes: (number, read end, path, rotation) of each.
        pipe_of: by process's id, the number of its pipe.
        processes: those that run, and those whose end has not been dealt with.
    """

    def __init__(self, legacy: Legacy, held: Mapping[str, int] | None, cgroups: str | None = None) -> None:
        """Gather what there is, and end what a former keeper's own programs are still doing.

        Args:
            legacy: what the journal says.
            held: the descriptors that were passed on to us; None when nobody has.
            cgroups: the directory in which our services' cgroups are.
        """
        self._legacy = legacy
        self._lost_pipes = 0
        self._ended: list[int] = []
        self.is_inherited = held is not None
        self.was_ready = legacy.was_ready
        self.signal = legacy.signal if self.is_inherited else None  # it was for those who are gone
        self.pipe_number = legacy.pipe_number
        self.notes = [encode(note) for note in legacy.notes.values()]
        self.processes: list[Process] = []
        self.pipe_of: dict[str, int | None] = {}
        self.pipes: list[tuple[int, int, str, Mapping[str, Any] | None]] = []
        Program(legacy.programs.get("supervisor")).end()
        Program(legacy.programs.get("second")).end()
        logger = Program(legacy.programs.get("logger"))
        files = {identity: [path] for identity, path in logger.descriptors().items()}
        self.held = dict(held or {})
        copies = [self.held.pop(name) for name in list(self.held) if name.startswith(LEDGER)]
        for copy in copies:  # the logger may have been killed, too
            files.setdefault(identity_of(copy) or (0, 0), []).append(f"/proc/self/fd/{copy}")
        for cgroup in look_into_cgroups(legacy, cgroups):
            self._ended += end_all_in(cgroup)
        for name in legacy.processes:
            self._look_for(name)
        self.own = self._open_own(files)
        self.ledger = self._open_ledger(files)
        self._open_pipes(files)
        for copy in copies:
            os.close(copy)
        if held is None:
            self.held = self._take_sockets()
        self._strays = [] if cgroups is not None or self.is_inherited else self._look_for_strays()
        # Last: by now we have all that it had, and who writes meanwhile writes into a pipe that has a reader.
        logger.end()

    def control(self) -> int | None:
        """Return the control socket, if it was passed on to us."""
        return self.held.pop("control", None)

    def words(self) -> Iterator[str]:
        """Say what was found, for our own log."""
        running = sum(process.status is None for process in self.processes)
        ended = len(self.processes) - running
        yield f"took over from a herdpy that was killed: {running} processes run, {ended} have ended"
        if self._legacy.damaged:
            yield f"its journal is damaged: {self._legacy.damaged} lines of it are not whole, and were left out"
        if self._legacy.is_cut:
            yield "its journal has no end mark: it was cut, and what it does not tell of any more was looked for"
        if self._ended:
            yield f"killed, for nobody knows which service they are of: PID {', '.join(map(str, self._ended))}"
        if self._strays:
            yield (
                "left alone, for nothing but their environment says that a herdpy has spawned them: "
                f"PID {', '.join(map(str, self._strays))}; if it was this one, end them: they may run twice now"
            )
        if self._lost_pipes:
            yield f"of {self._lost_pipes} processes the output cannot be had any more"

    def _look_for(self, name: str) -> None:
        found = find(self._legacy, name)
        if found is None:
            return
        record = self._legacy.processes[name]
        if record["uid"] is None and found.status is None:
            record |= {key: value for key, value in self._learn(found.pid).items() if record[key] is None}
        outcome = self._legacy.outcomes.get(name)
        output = None if record["output"] is None else tuple(record["output"])
        cgroup = None if record["cgroup"] is None else Cgroup(record["cgroup"])
        process = Process(name, found.pid, found.pidfd, found.start_time, record["scope"], None, output, cgroup)
        process.born = record["born"]
        process.session = found.pid if outcome is None else outcome["session"]
        process.status = found.status
        process.is_adopted = process.is_foreign = True
        self.processes.append(process)
        self.pipe_of[name] = record["pipe"]

    def _learn(self, pid: int) -> dict[str, object]:
        """Return what the journal does not say of a process any more: its cgroup, and its output."""
        path = find_cgroup(pid)
        is_ours = path is not None and os.path.basename(os.path.dirname(path)).startswith("herdpy-")
        writes_to = proc.writes_to(pid)
        pipes = (pipe for pipe in self._legacy.pipes.values() if tuple(pipe["identity"]) in writes_to)
        unknown = {"identity": None, "number": LOST if proc.writes_to_a_pipe(pid) else None}
        pipe = next(pipes, unknown)
        return {"cgroup": path if is_ours else None, "output": pipe["identity"], "pipe": pipe["number"]}

    def _look_for_strays(self) -> list[int]:
        """Return the PIDs of those who say that they are a service's, of which the journal does not tell; without those
        whose herdpy lives: that one is their parent, and has the other end of their output."""
        found: dict[int, tuple[bytes, int]] = {}
        for pid in proc.all_pids():
            named = proc.environment(pid, VARIABLE.encode())
            seen = None if named is None or os.fsdecode(named) in self._legacy.processes else proc.stat(pid)
            if named is not None and seen is not None and not seen.has_ended():
                found[pid] = named, seen.parent
        return [
            pid
            for pid, (named, parent) in found.items()
            if found.get(parent, (b"", 0))[0] != named and proc.writes_to(pid).isdisjoint(proc.open_files(parent))
        ]

    def _open_pipes(self, files: dict[Identity, list[str]]) -> None:
        """Open the pipes, at the old logger's, or at those who write to them."""
        wanted = {tuple(pipe["identity"]): pipe for pipe in self._legacy.pipes.values() if pipe["number"] != 1}
        for process in self.processes:
            if process.status is None and process.output in wanted and process.output not in files:
                for number in (1, 2):
                    files.setdefault(process.output, []).append(f"/proc/{process.pid}/fd/{number}")
        opened = {identity: _open_to_read(files.get(identity, ()), identity) for identity in wanted}
        if not all(opened.values()):
            files = {}
            for pid in proc.all_pids():  # a main process may write elsewhere, what it forked may not
                for identity, path in proc.open_files(pid).items():
                    if identity in wanted and opened[identity] is None:
                        files.setdefault(identity, []).append(path)
            for identity, paths in files.items():
                opened[identity] = _open_to_read(paths, identity)
        for identity, pipe in wanted.items():
            reading = opened[identity]
            if reading is not None:
                self.pipes.append((pipe["number"], reading, pipe["path"], pipe["rotation"]))
        found = {number for number, *_ in self.pipes}
        self._lost_pipes = sum(
            process.status is None and self.pipe_of[process.id] is not None and self.pipe_of[process.id] not in found
            for process in self.processes
        )

    def _take_sockets(self) -> dict[str, int]:
        """Take copies of the listening sockets that processes have been given; returns them by their names."""
        wanted = {identity: name for name, identity in self._legacy.held.items() if name.split(":")[1:2] == ["socket"]}
        found: dict[str, int] = {}
        for process in self.processes:
            if not wanted or process.status is not None:
                continue
            for identity, path in proc.open_files(process.pid).items():
                if identity in wanted and wanted[identity] not in found:
                    copy = take_from(process.pidfd, int(os.path.basename(path)), identity)
                    if copy is not None:
                        found[wanted[identity]] = copy
        return found

    def _open_own(self, files: dict[Identity, list[str]]) -> tuple[int, int] | None:
        """Open the pipe of our own log: when we were the supervisor, it is our stderr."""
        pipe = self._legacy.pipes.get(1)
        if pipe is None:
            return None
        identity = tuple(pipe["identity"])
        reading = _open_to_read([*files.get(identity, ()), "/proc/self/fd/2"], identity)
        if reading is None:
            return None
        try:
            return reading, os.open(f"/proc/self/fd/{reading}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(reading)
            return None

    def _open_ledger(self, files: dict[Identity, list[str]]) -> tuple[int, int, int] | None:
        if len(self._legacy.ledger) != 3:
            return None
        modes = (os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK)
        opened = [
            open_again(files.get(identity, ()), identity, mode)
            for identity, mode in zip(self._legacy.ledger, modes, strict=True)
        ]
        there = [descriptor for descriptor in opened if descriptor is not None]
        if len(there) < 3:
            for descriptor in there:
                os.close(descriptor)
            return None
        for end in there[1:]:
            os.set_blocking(end, True)
        return there[0], there[1], there[2]


def _open_to_read(paths: Iterable[str], identity: Identity) -> int | None:
    return open_again(paths, identity, os.O_RDONLY | os.O_NONBLOCK)
