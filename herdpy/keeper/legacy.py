"""What a keeper that was killed has left: its journal, and the processes, pipes and programs that it tells of.

Nothing is believed of a number alone. A process is the one that was held if the PID's pidfd, opened first, has the
same inode (pidfs, Linux 6.9), and its start time is the same (proc_pid_stat(5), field 22); the boot and the PID
namespace are compared before that. What is left of a spawn whose outcome was not recorded any more is looked for where
only it can be: in its cgroup, or among those who have its output pipe open.
"""

from __future__ import annotations

import os
import select
import time

from herdpy.keeper import death, proc
from herdpy.keeper.cgroup import LONGEST, Cgroup, left_in, readable
from herdpy.keeper.journal import VERSION, read
from herdpy.keeper.message import is_near

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from typing import Any

    Record = dict[str, Any]
else:
    import _signal as signal

PATIENCE = 2.0
"""Seconds that the end of each of a former keeper's own programs is waited for."""


class Legacy:
    """What the journal says, taken together; nothing of it has been looked for yet.

    Attributes:
        processes: by id, what was to be spawned (kind ``intention``).
        outcomes: by id, what it became (kind ``process``).
        ends: by id, the status that it ended with.
        notes: the packets that they came in.
        programs: (PID, start time) of supervisor and logger.
        held: by name, (device, inode) of each descriptor.
        pipes: by number, the pipes of their output; number 1 is of our own log.
        pipe_of: by id, the number of the pipe that was made for it.
        ledger: (device, inode) of the ledger's memory and of both ends of its pipe.
        signal: SIGTERM or SIGINT if it had come in.
        pipe_number: the highest that there was.
        was_ready: whether its supervisor had ever been.
        cgroups: the directory that the services' cgroups were made in, or None if none were.
        damaged: lines of the journal that are not whole.
        is_cut: whether the end of what it began with is missing; a cut after that leaves no trace in it.
    """

    def __init__(self) -> None:
        self.processes: dict[str, Record] = {}
        self.outcomes: dict[str, Record] = {}
        self.ends: dict[str, Record] = {}
        self.notes: dict[str, Record] = {}
        self.programs: dict[str, tuple[int, int]] = {}
        self.held: dict[str, tuple[int, int]] = {}
        self.pipes: dict[int, Record] = {}
        self.pipe_of: dict[str, int] = {}
        self.ledger: list[tuple[int, int]] = []
        self.signal: int | None = None
        self.pipe_number = 0
        self.was_ready = False
        self.cgroups: str | None = None
        self.damaged = 0
        self.is_cut = False
        self._writers: dict[tuple[int, int], list[int]] | None = None

    def who_writes(self, identity: tuple[int, int]) -> list[int]:
        """Return the PIDs of those who have a pipe open to write to it, herdpy's own programs aside."""
        if self._writers is None:
            self._writers = proc.writers(*(pid for pid, _ in self.programs.values()))
        return self._writers.get(identity, [])


class Found:
    """A process that was held, as it is now.

    Attributes:
        pid: 0 when even that is not known.
        pidfd: -1 when it is gone.
        status: how it ended, or None while it runs.
    """

    __slots__ = ("pid", "pidfd", "start_time", "status")

    def __init__(self, pid: int, pidfd: int, start_time: int, status: dict[str, object] | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.start_time = start_time
        self.status = status


def head(cgroups: str | None = None) -> Record:
    """Return what must be the same for the rest of a journal to mean anything, and when that was written (nanoseconds
    since the boot). It is there twice, as the first line and as the last of what a journal begins with: one may be
    hurt, and without the last one it was cut.

    Args:
        cgroups: the directory that the services' cgroups are made in.
    """
    return {
        "kind": "journal",
        "version": VERSION,
        "boot": _boot(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "cgroups": cgroups,
        "written": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }


def read_legacy(*paths: str) -> tuple[Legacy | None, str | None]:
    """Return what the journal says that was begun last, and why one cannot be read.

    Returns:
        None when there is none, or it is of another boot, or of a version too far from ours, or does not say.
    """
    ours, problem = head(), None
    found: list[tuple[int, list[Record], int]] = []
    for path in paths:
        try:
            records, damaged = read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = f"cannot read {path}: {error.strerror}"
            continue
        theirs = next((record for record in records if record["kind"] == "journal"), None)
        if theirs is None:
            problem = f"{path} is cut or damaged: it does not even say of which boot it is"
        if theirs is None or not is_near(theirs.get("version"), VERSION):
            continue
        if all(ours[key] == theirs.get(key) for key in ("boot", "namespace")):
            written = theirs.get("written")
            found.append((written if type(written) is int else 0, records, damaged))
    if not found:
        return None, problem
    _, records, damaged = max(found, key=lambda one: one[0])
    return _together(records, damaged), problem


def _together(records: Iterable[Record], damaged: int) -> Legacy:
    legacy = Legacy()
    legacy.damaged = damaged
    heads = 0
    for record in records:
        heads += record["kind"] == "journal"
        try:
            _add(legacy, record)
        except (KeyError, TypeError, ValueError):
            legacy.damaged += 1
    for name, outcome in legacy.outcomes.items():
        if name not in legacy.processes:  # that line is hurt: what it said is looked for where the process is
            unknown = dict.fromkeys(FIELDS["intention"])
            legacy.processes[name] = {**unknown, "id": name, "scope": "group", "born": outcome["start_time"]}
    for name, number in legacy.pipe_of.items():
        pipe = legacy.pipes.get(number)
        if pipe is not None and name not in legacy.processes:  # the journal is cut, or that line hurt
            written = {"id": name, "scope": pipe["scope"], "born": 0, "output": pipe["identity"], "pipe": number}
            legacy.processes[name] = {**dict.fromkeys(FIELDS["intention"]), **written}
    legacy.is_cut = heads < 2
    return legacy


def look_into_cgroups(legacy: Legacy, *directories: str | None) -> list[Cgroup]:
    """Add to the legacy whoever lives in a service's cgroup of which the journal does not tell.

    Whose it is, the cgroup's name says; where not every letter of the id could be in it, those who live there must say
    so by their environment as well.

    Args:
        directories: the ones in which the services' cgroups are made.

    Returns:
        The cgroups of which that is not known.
    """
    known = {record["cgroup"] for record in legacy.processes.values()}
    nameless = []
    for directory in {legacy.cgroups, *directories} - {None}:
        for cgroup in left_in(str(directory)):
            if cgroup.path in known:
                continue
            name = _id_of(cgroup)
            if name is None:
                nameless.append(cgroup)
            elif name not in legacy.processes:
                unknown = dict.fromkeys(FIELDS["intention"])
                legacy.processes[name] = {**unknown, "id": name, "scope": "group", "born": 0, "cgroup": cgroup.path}
            elif legacy.processes[name]["cgroup"] is None:
                legacy.processes[name]["cgroup"] = cgroup.path
    return nameless


def _id_of(cgroup: Cgroup) -> str | None:
    tail = os.path.basename(cgroup.path).partition(".")[2]
    if "_" not in tail and len(tail) < LONGEST:
        return tail
    named = (proc.environment(pid, b"HERDPY_SERVICE") for pid in cgroup.pids())
    return next((name for one in named if one is not None and readable(name := os.fsdecode(one)) == tail), None)


FIELDS = {
    "intention": ("id", "scope", "born", "uid", "cgroup", "output", "pipe"),
    "process": ("id", "pid", "start_time", "inode", "session"),
    "pipe": ("number", "identity", "path", "rotation"),
}
"""Without which a record is of no use."""


def _add(legacy: Legacy, record: Record) -> None:
    if any(field not in record for field in FIELDS.get(record["kind"], ())):
        raise KeyError
    match record["kind"]:
        case "journal":
            legacy.cgroups = record.get("cgroups") or legacy.cgroups
        case "intention":
            name = record["id"]
            legacy.processes[name] = record
            legacy.outcomes.pop(name, None)
            legacy.ends.pop(name, None)
        case "process":
            legacy.outcomes[record["id"]] = record
            legacy.ends.pop(record["id"], None)
        case "exited":
            legacy.ends[record["id"]] = record["status"]
        case "gone":
            legacy.processes.pop(record["id"], None)
            legacy.outcomes.pop(record["id"], None)
            legacy.ends.pop(record["id"], None)
            legacy.pipe_of.pop(record["id"], None)
        case "note":
            if record.get("text") is None:
                legacy.notes.pop(record["key"], None)
            else:
                legacy.notes[record["key"]] = record
        case "pipe":
            legacy.pipe_number = max(legacy.pipe_number, record["number"])
            legacy.pipes[record["number"]] = record
            if record.get("id") is not None:
                legacy.pipe_of[record["id"]] = record["number"]
        case "closed":
            legacy.pipes.pop(record["number"], None)
        case "program":
            legacy.programs[record["name"]] = record["pid"], record["start_time"]
        case "held":
            legacy.held[record["name"]] = tuple(record["identity"])
        case "let_go":
            legacy.held.pop(record["name"], None)
        case "ledger":
            legacy.ledger = [tuple(identity) for identity in record["identities"]]
        case "signal":
            legacy.signal = record["signal"]
        case "ready":
            legacy.was_ready = True


def find(legacy: Legacy, name: str) -> Found | None:
    """Look for a process that was held; None when it was only to be spawned, and never was."""
    intention, outcome = legacy.processes[name], legacy.outcomes.get(name)
    if outcome is None:
        return _find_unrecorded(intention, legacy)
    pid, start_time = outcome["pid"], outcome["start_time"]
    if name in legacy.ends:
        return Found(pid, -1, start_time, legacy.ends[name])
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return Found(pid, -1, start_time, {"unknown": True})
    seen = proc.stat(pid)
    inode = os.fstat(pidfd).st_ino
    if seen is None or seen.start_time != start_time or inode != outcome["inode"]:
        os.close(pidfd)
        return Found(pid, -1, start_time, {"unknown": True})
    status = death.status_of_any(pidfd, pid, start_time)
    if status is None:
        return Found(pid, pidfd, start_time, None)
    os.close(pidfd)  # a zombie, of whoever is its parent now
    return Found(pid, -1, start_time, status)


def _find_unrecorded(intention: Record, legacy: Legacy) -> Found | None:
    """Look for what a spawn became that was begun and not recorded as done.

    It may not have come to its exec yet: then it has the keeper's environment, and its output pipe anywhere.
    """
    born, output = intention["born"], intention["output"]
    candidates = [] if intention["cgroup"] is None else Cgroup(intention["cgroup"]).pids()
    if not candidates and output is not None:
        candidates = legacy.who_writes(tuple(output))
    elif not candidates:
        named = os.fsencode(intention["id"])
        candidates = [
            pid
            for pid in proc.all_pids()
            if proc.environment(pid, b"HERDPY_SERVICE") == named and proc.real_uid(pid) == intention["uid"]
        ]
    found: list[tuple[bool, int, int, int]] = []
    for pid in candidates:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        seen = proc.stat(pid)
        if seen is None or seen.has_ended() or seen.start_time < born or death.has_ended(pidfd):
            os.close(pidfd)
            continue
        found.append((seen.session != pid, seen.start_time, pid, pidfd))
    if not found:
        return None
    found.sort()  # the leader of its session first, then the eldest: others are what it has forked by now
    for *_, pidfd in found[1:]:
        os.close(pidfd)
    _, start_time, pid, pidfd = found[0]
    return Found(pid, pidfd, start_time, None)


class Program:
    """A supervisor or logger that outlived its keeper, if it has."""

    def __init__(self, identity: tuple[int, int] | None) -> None:
        self._pid = 0
        self._pidfd = -1
        if identity is None or identity[0] == os.getpid():  # we were the supervisor ourselves
            return
        pid, start_time = identity
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        if proc.start_time(pid) == start_time and not death.has_ended(pidfd):
            self._pid, self._pidfd = pid, pidfd
        else:
            os.close(pidfd)

    def descriptors(self) -> dict[tuple[int, int], str]:
        """Return the paths under which what it has open can be opened anew, by (device, inode)."""
        return proc.open_files(self._pid) if self._pid else {}

    def end(self) -> None:
        """Kill it, and wait until it has ended, though not for ever: it may be in the kernel, waiting for a disk."""
        if self._pidfd < 0:
            return
        _kill(self._pidfd)
        ready = select.poll()
        ready.register(self._pidfd, select.POLLIN)
        ready.poll(PATIENCE * 1000)
        os.close(self._pidfd)
        self._pidfd = -1


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return  # it has just ended


def open_again(paths: Iterable[str], identity: tuple[int, int], flags: int) -> int | None:
    """Open a file under /proc/PID/fd, if it still is the one that we mean."""
    for path in paths:
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
        except OSError:
            continue
        seen = os.fstat(descriptor)
        if (seen.st_dev, seen.st_ino) == identity:
            return descriptor
        os.close(descriptor)
    return None


PIDFD_GETFD = 438
"""The number of pidfd_getfd(2), the same on every architecture; since Linux 5.6."""


def take_from(pidfd: int, number: int, identity: tuple[int, int]) -> int | None:
    """Return a copy of a process's descriptor, if it still is the file that we mean.

    None also where we may not have it: that takes the right to trace the process (ptrace(2)).
    """
    from herdpy.keeper.libc import call

    try:
        descriptor = call("syscall", PIDFD_GETFD, pidfd, number, 0)
    except OSError:
        return None
    seen = os.fstat(descriptor)
    if (seen.st_dev, seen.st_ino) == identity:
        return descriptor
    os.close(descriptor)
    return None


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
