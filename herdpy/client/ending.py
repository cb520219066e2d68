"""``herd stop root``: what the supervisor waits for, and its end, which comes a moment after its answer."""

import os
import select
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from herdpy.client.connection import PATIENCE, connect, receive, send
from herdpy.protocol import Command, Reply

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
    # The supervisor may have been killed in the middle of it: the next one goes on.
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    if not ready.poll(PATIENCE * 1000):
        watch(pidfd, path, str(command.service), END_PATIENCE)
    return None


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
