"""What the keeper holds: processes and the pipes of their output."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from herdpy.keeper.cgroup import Cgroup, Emptiness
    from herdpy.keeper.family import Others
    from herdpy.keeper.line import Line


class Pipe:
    """An output pipe that the logger reads; we keep its read end until the logger has seen its end of file."""

    __slots__ = ("drains", "echo", "identity", "number", "path", "process", "reading", "rotation")

    def __init__(
        self, number: int, reading: int, path: str, *, rotation: Mapping[str, Any] | None = None, echo: bool = False
    ) -> None:
        self.number = number
        self.reading = reading
        self.identity = identity(reading)
        self.path = path
        self.rotation = rotation
        """How the file is rotated, which is between the supervisor and the logger."""
        self.echo = echo
        self.process: Process | None = None
        """The process whose last lines the logger has been asked to write, and has not yet."""
        self.drains = 0
        """So many times the logger was asked, and has not answered: only the last answer counts."""

    def record(self, name: str | None = None, scope: str | None = None) -> dict[str, object]:
        """Return what the journal says of it.

        Args:
            name: the id of the process that it was made for, if that is held; ``scope`` is that one's. It is said here
                too, for a journal that was cut before the line which says it first.
        """
        return {
            "kind": "pipe",
            "number": self.number,
            "identity": self.identity,
            "path": self.path,
            "rotation": self.rotation,
            "id": name,
            "scope": scope,
        }


class Process:
    """A process from its spawn to its release."""

    __slots__ = (
        "asker",
        "born",
        "cgroup",
        "drained",
        "errors",
        "id",
        "inode",
        "is_adopted",
        "is_foreign",
        "is_going",
        "others",
        "output",
        "pid",
        "pidfd",
        "pipe",
        "reading",
        "scope",
        "serial",
        "session",
        "start_time",
        "status",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        pid: int,
        pidfd: int,
        start_time: int,
        scope: str,
        pipe: Pipe | None,
        output: tuple[int, int] | None,
        cgroup: Cgroup | None,
    ) -> None:
        self.id = id
        self.pid = pid
        self.pidfd = pidfd
        """-1 of one that ended before we were its keeper."""
        self.inode = 0 if pidfd < 0 else os.fstat(pidfd).st_ino
        """The pidfd's: since Linux 6.9 no other process has it, until the next boot."""
        self.start_time = start_time
        self.scope = scope
        """``group`` or ``process``: whether all of the service is killed when it is released."""
        self.born = start_time
        """When the first process of the service was spawned; ``start_time`` is the main one's."""
        self.session: int | None = pid
        """The number of a session that is the service's as long as we hold its main process; None if none is."""
        self.output = output
        """(device, inode) of the pipe that it writes to."""
        self.cgroup = cgroup
        self.is_adopted = False
        """Whether the main process is another than the one we spawned."""
        self.is_foreign = False
        """Whether a keeper before us spawned it: its orphans do not come to us."""
        self.others: Others | Emptiness | None = None
        """What waits for those whom it has left behind."""
        self.is_going = False
        """Whether it is being released, and only they are waited for."""
        self.pipe = pipe
        self.status: dict[str, object] | None = None
        """How it ended; None while it runs."""
        self.drained = False
        """Whether it ended and its last lines are written."""
        self.errors: int | None = None
        """What tells whether its exec succeeded; None once that is known."""
        self.asker: Line | None = None
        self.serial: int | None = None
        """Who waits for its exec, and which answer that is."""
        self.reading: int | None = None
        """The read end of its output, until it is given to the supervisor."""

    def records(self) -> list[dict[str, object]]:
        """Return what the journal says of it."""
        pipe = None if self.pipe is None else self.pipe.number
        cgroup = None if self.cgroup is None else self.cgroup.path
        found = [intention(self.id, self.scope, self.born, None, cgroup, self.output, pipe), self.outcome()]
        if self.status is not None:
            found.append({"kind": "exited", "id": self.id, "status": self.status})
        return found

    def outcome(self) -> dict[str, object]:
        """Return what the journal says once it is there."""
        return {
            "kind": "process",
            "id": self.id,
            "pid": self.pid,
            "start_time": self.start_time,
            "inode": self.inode,
            "session": self.session,
        }

    def told(self, serial: int) -> dict[str, object]:
        """Return what a new supervisor needs to know of it."""
        return {
            "kind": "process",
            "serial": serial,
            "id": self.id,
            "pid": self.pid,
            "start_time": self.start_time,
            "scope": self.scope,
            "exited": self.status,
            "drained": self.drained,
        }


def intention(
    name: str,
    scope: str,
    born: int,
    uid: int | None,
    cgroup: str | None,
    output: tuple[int, int] | None,
    pipe: int | None,
) -> dict[str, object]:
    """Return what the journal says before a process is spawned, as far as it is known by then.

    Args:
        born: in clock ticks since boot; it cannot have begun before.
        uid: whose it is to be, if it is another's than ours.
        cgroup: the directory of its cgroup.
        output: (device, inode) of the pipe that it writes to.
        pipe: that pipe's number, if the logger reads it.
    """
    return {
        "kind": "intention",
        "id": name,
        "scope": scope,
        "born": born,
        "uid": os.getuid() if uid is None else uid,
        "cgroup": cgroup,
        "output": output,
        "pipe": pipe,
    }


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return what tells an open file from all others: device and inode; of -1, None."""
    if descriptor < 0:
        return None
    seen = os.fstat(descriptor)
    return seen.st_dev, seen.st_ino


def make_ledger() -> tuple[int, int, int]:
    """Return what the logger keeps its accounts in, to outlive it: some memory, and the two ends of a pipe of its own.

    Raises:
        OSError: when there are no descriptors left.
    """
    memory = os.memfd_create("herdpy-ledger", os.MFD_CLOEXEC)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    return memory, reading, writing


def make_pipe(uid: int | None = None, gid: int | None = None) -> tuple[int, int]:
    """Return the read end of a new pipe, nonblocking, and its write end, both close-on-exec.

    The write end is opened read-write through /proc: so a reader that is missing for a while kills no writer (pipe(7)),
    and end of file still comes with the last writer. It belongs to the user who writes, who may want to open
    /dev/stdout anew.

    Raises:
        OSError: when there are no descriptors left.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        both = os.open(f"/proc/self/fd/{writing}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        os.set_blocking(writing, True)
        both = None  # no /proc: a plain pipe is better than none
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if both is not None:
        os.close(writing)
        writing = both
    if uid is not None or gid is not None:
        try:
            os.fchown(writing, -1 if uid is None else uid, -1 if gid is None else gid)
        except PermissionError:
            return reading, writing  # then we may not become that user either, which the child will say
    return reading, writing
