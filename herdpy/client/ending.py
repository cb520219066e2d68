"""The end of the supervisor that was told to stop, which comes a moment after its answer."""

import os
import select
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from herdpy.client.words import Failure

PATIENCE = 30.0
"""Seconds from the answer, when every service has stopped, until the supervisor must be gone."""


def listener(connection: socket) -> int | None:
    """Return a pidfd of the process that listens at the other end, or None when there is none to be had.

    The credentials are those of whoever called listen(2) (unix(7), SO_PEERCRED), which is the keeper: the process that
    removes the socket, and the lock that would refuse a new herdpy, before it ends.
    """
    pid = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], sys.byteorder, signed=True)
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def wait(pidfd: int) -> None:
    """Return once the process has ended.

    Raises:
        Failure: it has not within :data:`PATIENCE`.
    """
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    if not ready.poll(PATIENCE * 1000):
        raise Failure(f"all services have stopped, but herdpy itself has not ended within {PATIENCE:.0f} s")
