"""The socket through which a process tells of itself (sd_notify(3)): making it, its messages, and who sent them."""

import array
import os
import pwd
import socket
import struct

from herdpy import files
from herdpy.service import Notify, Process, StartFailure
from herdpy.threads import in_thread

LARGEST_MESSAGE = 4096
"""Bytes; systemd takes no more either."""
LONGEST_PATH = 106
"""Bytes of a Unix socket's path (unix(7)), less the dot before the name under which it is made."""
MOST_DESCRIPTORS = 253
"""In one message: the kernel's SCM_MAX_FD (unix(7))."""
CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): PID, UID, GID."""
PEEKED_SIZE = socket.CMSG_SPACE(CREDENTIALS.size)
"""Room for the credentials alone, which come first: what is peeked at brings no descriptors."""
CONSUMED_SIZE = PEEKED_SIZE + socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


def parse(message: bytes) -> dict[str, str]:
    """The assignments of a message, one a line; a line that is none does not count, of two the last one does.

    Undecodable bytes are replaced, for what comes out is shown to people.
    """
    pairs = (line.partition("=") for line in message.decode(errors="replace").split("\n"))
    return {name: value for name, sign, value in pairs if name and sign}


def microseconds(text: str) -> float | None:
    """The seconds that a number of microseconds means; None when it is no number that systemd would take."""
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        return None
    return int(text) / 1e6


def given(notify: Notify) -> dict[str, str]:
    """The environment variables that tell a process of its socket, and of its watchdog (sd_watchdog_enabled(3))."""
    variables = {"NOTIFY_SOCKET": notify.socket}
    if notify.watchdog is not None:
        variables["WATCHDOG_USEC"] = str(round(notify.watchdog * 1e6))
    return variables


async def make_socket(notify: Notify, process: Process) -> int:
    """Make the socket anew, for its user alone, and return its descriptor.

    Raises:
        StartFailure: it cannot be made.
    """
    return await in_thread(_make_socket, notify, notify.user or process.user)


def _make_socket(notify: Notify, user: str | None) -> int:
    path = notify.socket
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise StartFailure(
            f"its notification socket cannot be made: {path} has {length} bytes, and herdpy's sockets at most "
            f"{LONGEST_PATH}; give herdpy a shorter state directory, or the service a shorter name"
        )
    directory, name = os.path.split(path)
    beside = os.path.join(directory, f".{name}")  # no service's name begins so
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        files.make_passage(directory)
        _unlink(beside)
        os.fchmod(made.fileno(), 0o600)  # what bind makes has the mode of the socket (unix(7)): never open to others
        made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        made.bind(beside)
        if user is not None:
            os.chown(beside, _uid(user), -1)
        os.rename(beside, path)
    except OSError as error:
        made.close()
        where = error.filename or path
        raise StartFailure(f"its notification socket cannot be made: {where}: {error.strerror}") from None
    except StartFailure:
        made.close()
        raise
    return made.detach()


async def remove_socket(path: str) -> None:
    """Remove the socket's name, if it is there; what holds its descriptor holds a socket that nobody finds."""
    await in_thread(_unlink, path)


def sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The PID of who sent a message, as the kernel vouches for it (unix(7), SCM_CREDENTIALS)."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(content) >= CREDENTIALS.size:
            pid: int = CREDENTIALS.unpack_from(content)[0]
            return pid
    return None


def close_descriptors(ancillary: list[tuple[int, int, bytes]]) -> None:
    """Close what came with a message: that answers BARRIER=1, and refuses FDSTORE=1."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            for number in numbers:
                os.close(number)


def is_of(pid: int, main: int) -> bool:
    """Whether a process is one of a service's: its main process, of its session or its cgroup, or descended from it.

    Tells by /proc, at this moment: of a process that has been waited for already nothing can be told.
    """
    if pid == main:
        return True
    try:
        if os.getsid(pid) == os.getsid(main):
            return True
        cgroup = _cgroup(main)
        if cgroup != _cgroup(os.getpid()) and _cgroup(pid) == cgroup:
            return True
        while pid > 1:
            pid = _parent(pid)
            if pid == main:
                return True
    except (OSError, IndexError, ValueError):
        return False
    return False


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _cgroup(pid: int) -> bytes:
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        return file.read()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _uid(user: str) -> int:
    try:
        return (pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)).pw_uid
    except KeyError:
        raise StartFailure(f"there is no user {user}") from None
