"""What processes cost, from /proc (proc(5)), and the end of all that we started."""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """Of several processes together."""

    cpu: float
    """Seconds."""
    wake_ups: int
    """Voluntary context switches: each is the end of a wait."""
    switches: int
    """All context switches."""
    pss: int
    """Bytes: proportional set size."""
    processes: int


def become_subreaper() -> None:
    """Let everything that our children leave behind come to us (prctl(2)), so that :func:`end_all` finds it.

    Raises:
        OSError: the kernel refused.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(root: int) -> list[int]:
    """PIDs of a process's children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(entry))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def program(pid: int) -> str:
    """The path of what a process executes; empty when it is gone, or a zombie."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """What processes have used so far, to the nanosecond: /proc/PID/task/TID/schedstat, first field."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[0])
    return total / 1e9


def cost(pids: Iterable[int]) -> Cost:
    """What processes have cost so far, and their memory now."""
    pids = list(pids)
    voluntary = involuntary = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                fields = _fields(f"/proc/{pid}/task/{task}/status")
                voluntary += int(fields["voluntary_ctxt_switches"])
                involuntary += int(fields["nonvoluntary_ctxt_switches"])
            pss += int(_fields(f"/proc/{pid}/smaps_rollup")["Pss"].split()[0]) * 1024
    return Cost(cpu_seconds(pids), voluntary, voluntary + involuntary, pss, len(pids))


def _fields(path: str) -> dict[str, str]:
    with open(path) as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


class Watched:
    """Processes whose end is waited for, by their pidfds, so that a number used anew is never taken for them."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds: list[int] = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(pid))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to each that still runs."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    def ended(self, patience: float) -> bool:
        """Wait until all have ended; False when some have not after ``patience`` seconds.

        For one after the other, in their order: to be woken by each of a thousand ends, and to poll a thousand each
        time, takes some 100 ms of a processor that whoever is measured needs.
        """
        end = time.monotonic() + patience
        for pidfd in self._pidfds:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
        return True

    def close(self) -> None:
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()


def end_with_us() -> None:
    """Let SIGTERM end us by way of our ``finally`` clauses, once: a second one must not keep them from their work."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)

    signal.signal(signal.SIGTERM, end)


def end_all(say: Callable[[str], None]) -> None:
    """Kill and reap every process below us. We are their subreaper: there is no way out of it."""
    for _ in range(200):
        below = descendants(os.getpid())
        if not below:
            return
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        select.select([], [], [], 0.01)
    say(f"these processes do not end: {descendants(os.getpid())}")
