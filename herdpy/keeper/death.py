"""How processes end: their status, and the orphans that come to us.

A service that ended is left a zombie until it is released, so that neither its number nor its group's can be reused.
That makes reaping everyone else a matter of its own: waitid(P_ALL) finds the same zombie again and again.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator


def status(pidfd: int) -> dict[str, object] | None:
    """Return how a child ended, without reaping it: ``{"exited": 1}`` or ``{"killed": 9, "core": False}``; or None."""
    try:
        end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {"exited": 127}  # cannot be: nobody else reaps our children
    if end is None:
        return None
    if end.si_code == os.CLD_EXITED:
        return {"exited": end.si_status}
    return {"killed": end.si_status, "core": end.si_code == os.CLD_DUMPED}


def reap(pidfd: int) -> None:
    """Reap a child that has ended; do nothing to one that has not."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot (proc(5), /proc/PID/stat, field 22); 0 if unknown."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # The second field may hold anything, parentheses too; the last one closes it.
        return int(os.read(file, 4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(file)


def reap_orphans(ours: Container[int]) -> None:
    """Reap every child that has ended, but those whose PID is in ``ours``."""
    while True:
        try:
            end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if end is None:
            return
        if end.si_pid in ours:
            break  # and would be found again for ever
        _reap_number(end.si_pid)
    for pid in _children():
        if pid not in ours:
            _reap_number(pid)


def _reap_number(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return


def _children() -> Iterator[int]:
    """Yield the PIDs of our children.

    proc(5) calls the list unreliable because an entry may be missed when another one goes away; only we make one go.
    """
    me = os.getpid()
    try:
        file = os.open(f"/proc/self/task/{me}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield from _children_one_by_one(me)  # a kernel without CONFIG_PROC_CHILDREN
        return
    words = b""
    try:
        while chunk := os.read(file, 65536):
            words += chunk
    finally:
        os.close(file)
    yield from map(int, words.split())


def _children_one_by_one(me: int) -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdecimal() and _parent(name) == me:
            yield int(name)


def _parent(pid: str) -> int:
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(file, 4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(file)
