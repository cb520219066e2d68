"""What /proc tells of a process (proc(5)). A process that is gone, or that we may not look at, tells nothing."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds."""


class Stat:
    """The fields of /proc/PID/stat that the keeper needs.

    Attributes:
        state: a letter; ``Z`` means that it has ended, or only that its first thread has.
        start_time: in clock ticks since boot; with the PID, it tells one process from all others.
        lacks_environment: whether it has none, not even an empty one; so to who may not trace it.
        has_variables: whether it has one that is not empty; never to who may not trace it.
        exit_status: as wait(2) has it, once it has ended; 0 to who may not trace it.
    """

    __slots__ = (
        "exit_status",
        "has_variables",
        "lacks_environment",
        "parent",
        "session",
        "start_time",
        "state",
        "threads",
    )

    def __init__(self, fields: list[bytes]) -> None:
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.threads = int(fields[17])
        self.start_time = int(fields[19])
        self.lacks_environment = fields[48] == b"0"  # env_end
        self.has_variables = fields[47] != fields[48]  # env_start
        self.exit_status = int(fields[49])

    def has_ended(self) -> bool:
        return self.state in (b"Z", b"X") and self.threads <= 1


def stat(pid: int) -> Stat | None:
    """Read /proc/PID/stat."""
    content = _read(f"/proc/{pid}/stat")
    # The second field may hold anything, parentheses too; the last one closes it.
    fields = content.rpartition(b")")[2].split()
    return Stat(fields) if len(fields) > 49 else None


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if unknown."""
    seen = stat(pid)
    return 0 if seen is None else seen.start_time


def start_time_since(before: int, pid: int) -> int:
    """Return when a process started that did so between ``before``, as :func:`now` told it, and now.

    If no tick has passed since, it was in that one; to open a file of /proc costs 60 us.
    """
    return before if before == now() else start_time(pid)


def now() -> int:
    """Return the time in clock ticks since boot, as start times are told (the kernel's fs/proc/array.c)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK


def name(pid: int) -> str:
    """Return the name of the program that a process executes, its first 15 bytes; empty when it has gone."""
    return _read(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")


def environment(pid: int, name: bytes) -> bytes | None:
    """Return a variable that a process's program was started with; see also :func:`is_in_between`."""
    content = _read(f"/proc/{pid}/environ")
    if not content:
        seen = stat(pid)
        if seen is not None and seen.has_variables:  # it has executed a program meanwhile
            content = _read(f"/proc/{pid}/environ")
    for line in content.split(b"\0"):
        found, _, value = line.partition(b"=")
        if found == name:
            return value
    return None


def is_in_between(pid: int) -> bool:
    """Tell whether a process has ended, or is of our user and executes a program or ends right now (or is a thread of
    the kernel's): then it may not be clear whose it is.

    One that executes a program has no environment from when it gets the new memory until its arguments are in it (the
    kernel's fs/exec.c and fs/binfmt_elf.c), and one that ends has none from when it gives its memory back until it has
    ended.
    """
    seen = stat(pid)
    return seen is None or seen.has_ended() or (seen.lacks_environment and belongs_to_us(pid))


def belongs_to_us(pid: int) -> bool:
    """Tell whether a process's effective user is ours: then /proc/PID/stat hides nothing from us."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def writes_to(pid: int) -> set[tuple[int, int]]:
    """Return (device, inode) of what a process has as its stdout and stderr."""
    found = set()
    for number in (1, 2):
        try:
            seen = os.stat(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        found.add((seen.st_dev, seen.st_ino))
    return found


def writes_to_a_pipe(pid: int) -> bool:
    """Tell whether its stdout or stderr is one."""
    for number in (1, 2):
        try:
            if os.stat(f"/proc/{pid}/fd/{number}").st_mode & 0o170000 == 0o010000:
                return True
        except OSError:
            continue
    return False


def open_files(pid: int) -> dict[tuple[int, int], str]:
    """Return the paths below /proc of what a process has open, by (device, inode)."""
    found: dict[tuple[int, int], str] = {}
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for number in numbers:
        path = f"/proc/{pid}/fd/{number}"
        try:
            seen = os.stat(path)
        except OSError:
            continue
        found[seen.st_dev, seen.st_ino] = path
    return found


def writers(*besides: int) -> dict[tuple[int, int], list[int]]:
    """Return the PIDs of those who have a file open for writing, by (device, inode).

    The mode of the link below /proc tells whether it is (proc_pid_fd(5)).

    Args:
        besides: the PIDs of those who do not count.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for pid in all_pids():
        if pid in besides:
            continue
        for identity, path in open_files(pid).items():
            try:
                if os.lstat(path).st_mode & 0o200:
                    found.setdefault(identity, []).append(pid)
            except OSError:
                continue  # closed meanwhile
    return found


def real_uid(pid: int) -> int | None:
    """Return a process's real user ID."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def all_pids() -> list[int]:
    """Return the PIDs of all processes that we can see."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """Return the PIDs of a process's children, those that ended but are not reaped among them.

    proc(5) calls the list unreliable because an entry may be missed when another one goes away meanwhile. Of our own
    children only we make one go; of another's, look again.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children", must=True).split())
        except FileNotFoundError:
            if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                return list(_children_one_by_one(pid))  # a kernel without CONFIG_PROC_CHILDREN
        except OSError:
            continue  # the thread has ended
    return found


def _children_one_by_one(parent: int) -> Iterator[int]:
    for pid in all_pids():
        seen = stat(pid)
        if seen is not None and seen.parent == parent:
            yield pid


def _read(path: str, *, must: bool = False) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        if must:
            raise
        return b""
    content = b""
    try:
        while chunk := os.read(file, 65536):
            content += chunk
    except OSError:
        if must:
            raise
    finally:
        os.close(file)
    return content
