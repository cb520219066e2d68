"""Who is at the other end of a connection, as the kernel tells it: nothing here is what a client says of itself."""

import errno
import os
import pwd
import socket
import struct
from array import array

import msgspec
import trio

from herdpy.threads import in_thread

CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): PID, UID, GID."""
SO_PEERGROUPS = 59
"""Of socket(7), since Linux 4.13; the same on every architecture that Python's socket module has no name for it on."""
MOST_GROUPS = 256
"""So many group IDs Python's getsockopt can take (1,024 bytes); who is in more of them is asked for by ctypes."""
COMMAND_LENGTH = 200
"""Characters of a command line that are logged."""
LOOK_PATIENCE = 1.0
"""Seconds to find out the peer's names: a name service may ask a network, and a process may be stuck in the kernel."""


class Peer(msgspec.Struct, frozen=True):
    """The process that connected, when it did."""

    pid: int
    """0 when it is in a PID namespace that we do not see."""
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Who connected (unix(7), SO_PEERCRED)."""
    return Peer(*CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)))


def groups_of(connection: socket.socket) -> frozenset[int]:
    """The group IDs that the peer had when it connected, the supplementary ones with its own (SO_PEERGROUPS).

    Raises:
        OSError: the kernel does not tell.
    """
    own = peer_of(connection).gid
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS * 4)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        told = _many_groups(connection)
    return frozenset((own, *array("I", told)))


def _many_groups(connection: socket.socket) -> bytes:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    length = ctypes.c_uint32(65536 * 4)  # NGROUPS_MAX of limits.h
    buffer = ctypes.create_string_buffer(length.value)
    if libc.getsockopt(connection.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw[: length.value]


async def described(peer: Peer) -> dict[str, int | str]:
    """The peer for the log: ``by-uid``, ``by-user``, ``by-pid``, ``by-command``; what cannot be had is left out.

    The command line is what the process shows at the moment, which is not necessarily what connected. Only the first
    question for a user's name waits, for a name service may ask a network; commands that come one after the other are
    to be carried out in that order.
    """
    known: dict[str, int | str] = {"by-uid": peer.uid, "by-pid": peer.pid}
    if peer.uid not in _user_names:
        with trio.move_on_after(LOOK_PATIENCE):
            _user_names[peer.uid] = await in_thread(_user_name, peer.uid, abandon_on_cancel=True)
    if name := _user_names.get(peer.uid):
        known["by-user"] = name
    if command := _command_line(peer.pid):
        known["by-command"] = command
    return known


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a number that has no name
        return ""


_user_names = {0: "root"}
"""By UID."""


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(COMMAND_LENGTH * 4).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""  # it is gone already, or in a PID namespace of its own
    return b" ".join(words).decode(errors="replace")[:COMMAND_LENGTH]
