"""``herd stop root``: what the supervisor waits for, and its end, which comes a moment after its answer."""

import os
import select
import sys
import time
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from herdpy.client.connection import PATIENCE, connect, reach, receive, send
from herdpy.protocol import Command, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 20
"""Times that somebody is asked who listens now, when the one who did has ended."""
END_PATIENCE = 30.0
"""Seconds of silence, when nothing tells any more what is waited for, until the supervisor must be gone."""


def stop(path: str, command: Command) -> Reply | None:
    """Have everything stopped, showing what is waited for; return None once the supervisor has ended, or its reply that
    it refuses.

    Raises:
        Failure: it does not end.
    """
    from herdpy.client.progress import watch

    connection = connect(path)
    pidfd = _listener(connection)
    send(connection, command)

    def wait(_: socket) -> None:
        watch(connection, path, str(command.service))

    reply = receive(connection, wait, PATIENCE)
    if reply is not None and reply.error is not False:
        return reply
    if pidfd is None:
        return reply
    # The supervisor may have been killed in the middle of it: the next one goes on. So may the keeper, whose supervisor
    # is the next keeper then; but one that has told of the end is not asked again: systemd would start another.
    while True:
        ready = select.poll()
        ready.register(pidfd, select.POLLIN)
        if not ready.poll(PATIENCE * 1000):
            watch(pidfd, path, str(command.service), END_PATIENCE)
        os.close(pidfd)
        heir = None if reply is not None else _heir(path, wait)
        if heir is None:
            return None
        pidfd = heir


def _heir(path: str, wait: "Callable[[socket], None]") -> int | None:
    """Return a pidfd of the supervisor that has become the keeper, or None when nobody has: it is over."""
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    for _ in range(TRIES):
        try:
            connection = reach(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:
            connection = connect(path)  # says what it is
        pidfd = _listener(connection)
        if pidfd is not None:
            return pidfd if _began(pidfd) < ended else None  # else it is another herdpy
        # The one who listened is dead, and its supervisor, which has the socket, on its way to be the next.
        send(connection, Command("status", "root"))
        receive(connection, wait, PATIENCE)
        connection.close()
    return None


def _began(pidfd: int) -> float:
    """Return when a process began, in seconds since the boot (proc_pid_stat(5), field 22); 0 if it is gone."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            pid = next(line.split()[1] for line in file if line.startswith("Pid:"))
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _listener(connection: socket) -> int | None:
    """Return a pidfd of the process that listens at the other end, or None when there is none to be had.

    The credentials are those of whoever called listen(2) (unix(7), SO_PEERCRED), which is the keeper: the process that
    removes the socket, and the lock that would refuse a new herdpy, before it ends.
    """
    pid = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], sys.byteorder, signed=True)
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None
