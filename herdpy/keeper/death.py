"""How processes end: their status, and the orphans that come to us.

A service that ended is left a zombie until it is released, so that neither its number nor its group's can be reused.
That makes reaping everyone else a matter of its own: waitid(P_ALL) finds the same zombie again and again.
"""

from __future__ import annotations

import fcntl
import os
import select
from struct import pack, unpack_from

from herdpy.keeper import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


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


def has_ended(pidfd: int) -> bool:
    """Tell whether a process has ended, whosever child it is (pidfd_open(2): its pidfd can be read then)."""
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    return bool(ready.poll(0))


def is_child(pidfd: int) -> bool:
    """Tell whether a process is our child, alive or not yet reaped."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:  # EBADF, EINVAL: it has no pidfd any more
        return False
    return True


def reap(pidfd: int) -> None:
    """Reap a child that has ended; do nothing to one that has not."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return


def status_of_any(pidfd: int, pid: int, start_time: int) -> dict[str, object] | None:
    """Return how a process ended that need not be our child: as :func:`status`, or ``{"unknown": True}``; or None.

    Its parent may not have reaped it yet: then /proc tells. Or it has: then new kernels tell (6.15,
    PIDFD_GET_INFO with PIDFD_INFO_EXIT, in <linux/pidfd.h>).
    """
    if is_child(pidfd):
        return status(pidfd)
    if not has_ended(pidfd):
        return None
    seen = proc.stat(pid)
    if (
        seen is not None
        and seen.start_time == start_time
        and seen.has_ended()
        and (seen.exit_status or proc.belongs_to_us(pid))
    ):
        return _told(seen.exit_status)
    answer = bytearray(pack("=Q56x", _INFO_EXIT))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, answer)
    except OSError:
        return {"unknown": True}
    (mask,), (status_word,) = unpack_from("=Q", answer), unpack_from("=i", answer, 60)
    return _told(status_word) if mask & _INFO_EXIT else {"unknown": True}


_GET_INFO = 0xC040FF0B
"""_IOWR(0xFF, 11, struct pidfd_info), the first version of which has 64 bytes."""
_INFO_EXIT = 1 << 3


def _told(word: int) -> dict[str, object]:
    """What a status means (wait(2))."""
    if os.WIFSIGNALED(word):
        return {"killed": os.WTERMSIG(word), "core": os.WCOREDUMP(word)}
    return {"exited": os.WEXITSTATUS(word)}


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
    for pid in proc.children(os.getpid()):
        if pid not in ours:
            _reap_number(pid)


def _reap_number(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return
