"""``herd stop root``: what the supervisor waits for, and its end, which comes a moment after its answer."""

import os
import select
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from herdpy.client.connection import PATIENCE, connect, reach, receive, send
from herdpy.client.words import Failure
from herdpy.protocol import Command, ProtocolError, Reply, parse_reply
from herdpy.sexp import Reader, SexpError, read

TRIES = 100
"""Times that it is looked whether herdpy has ended, each a quarter of a second or longer."""
PAUSE = 0.01
LOOKS = 100
"""Times that processes are looked at, every so many seconds, while one may be about to become another program."""
PF_EXITING, PF_KTHREAD = 0x4, 0x200000
"""Flags of a process without a command line that gets none any more (include/linux/sched.h; proc_pid_stat(5), flags).
"""
END_PATIENCE = 30.0
"""Seconds of silence, when nothing tells any more what is waited for, until the supervisor must be gone."""


def stop(path: str, command: Command) -> Reply | None:
    """Have everything stopped, showing what is waited for; return None once herdpy has ended, or its reply that it
    refuses.

    Raises:
        Failure: it does not end.
    """
    from herdpy.client.progress import watch

    connection = connect(path)

    def wait(_: socket) -> None:
        watch(connection, path, str(command.service))

    while True:
        pidfd = _listener(connection)
        send(connection, command)
        reply = receive(connection, wait, PATIENCE)
        connection.close()
        if reply is not None and reply.error is not False:
            return reply
        if pidfd is None:
            return reply
        # The supervisor may have been killed in the middle of it, or the keeper, whose supervisor is the next one then:
        # mostly the next one goes on. It does not if nobody had noted yet what was asked.
        if _is_over(path, pidfd, str(command.service)):
            return None
        connection = connect(path)


def _is_over(path: str, pidfd: int, service: str) -> bool:
    """Wait for the end of herdpy; return False when whoever followed one that was killed knows of no stop.

    Raises:
        Failure: there is no end.
    """
    from herdpy.client.progress import watch

    keeper: int | None = pidfd
    for _ in range(TRIES):
        if keeper is not None and select.select([keeper], [], [], PATIENCE)[0]:
            os.close(keeper)
            keeper = None
            if not _has_heir(path):
                return True
        try:
            connection = reach(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            connection = connect(path)  # which says what it is
        if keeper is None:
            keeper = _listener(connection)
            if keeper is not None and select.select([keeper], [], [], 0)[0]:
                os.close(keeper)  # of the one that was killed: the next one is on its way to listen itself
                keeper = None
        is_under_way = _tells_of_a_stop(connection, keeper)
        connection.close()
        if is_under_way is False:
            return False
        if is_under_way and keeper is not None:
            watch(keeper, path, service, END_PATIENCE)
    raise Failure(f"{path}: whoever answers there is gone again and again")


def _tells_of_a_stop(connection: socket, keeper: int | None) -> bool | None:
    """Ask whether everything is being stopped; None when the answer is not clear, or the keeper ends before it."""
    send(connection, Command("progress", "root"))
    reader = Reader()
    sources: list[socket | int] = [connection] if keeper is None else [connection, keeper]
    try:
        while connection in select.select(sources, [], [], END_PATIENCE)[0]:
            data = connection.recv(65_536)
            if not data:
                return None
            for text in reader.feed(data):
                value = read(text)
                if isinstance(value, list) and value[:1] == ["progress"]:
                    return True
                return False if parse_reply(text).error is False else None
    except (OSError, SexpError, ProtocolError):
        return None
    return None


def _has_heir(path: str) -> bool:
    """Tell whether there is a supervisor, or a keeper, of the herdpy with this socket.

    To connect would tell, too; but at a socket that systemd has made that starts herdpy anew.
    """
    if not os.path.exists(path):
        return False
    word = os.fsencode(os.path.abspath(path))
    for _ in range(LOOKS):
        is_clear = True
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read() if name.isdecimal() else b""
            except OSError:
                continue
            if word in words and b"\0-I\0" in words:
                return True
            if not words and name.isdecimal() and may_be_executing(name):
                is_clear = False
        if is_clear:
            return False
        select.select([], [], [], PAUSE)
    return False


def may_be_executing(name: str) -> bool:
    """Tell whether a process without a command line may have one in a moment.

    One that executes a program has none from when it gets the new memory until its arguments are in it, which is long
    on a machine that reads the program from its disk meanwhile (the kernel's fs/exec.c and fs/binfmt_elf.c).
    """
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0] not in (b"Z", b"X") and not int(fields[6]) & (PF_EXITING | PF_KTHREAD)
    except (OSError, IndexError):  # read while it ends, it can be empty
        return False


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
