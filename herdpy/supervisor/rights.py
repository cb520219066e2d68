"""Who may ask for what: everything, operating services, or only reading how they are.

Root and herdpy's own user may do everything. Members of the groups that ``[control]`` in herdpy's own file names may
read, or operate; nobody else is answered at all.
"""

import os
import socket
from enum import IntEnum

import msgspec

from herdpy.supervisor.peer import Peer, groups_of


class Right(IntEnum):
    """What somebody may do; each right includes those before it."""

    NONE = 0
    READ = 1
    OPERATE = 2
    FULL = 3


IN_WORDS = {Right.READ: "read", Right.OPERATE: "operate"}

OF_ROOT = {
    "load": Right.FULL,
    "unload": Right.FULL,
    "reload": Right.FULL,
    "upgrade": Right.FULL,
    "eval": Right.FULL,
    "daemonize": Right.FULL,
    "stop": Right.FULL,
    "halt": Right.FULL,
    "power-off": Right.FULL,
    "enable": Right.FULL,
    "disable": Right.FULL,
}
"""What it takes to ask herdpy itself for an action; any other only reads."""

OF_SERVICE = {
    "status": Right.READ,
    "doc": Right.READ,
    "configuration": Right.READ,
    "usage": Right.READ,
    "doctor": Right.READ,
    "progress": Right.READ,
}
"""What it takes to ask a service for an action; any other of those that all services have operates it."""


_MASTERS = (0, os.geteuid())
"""The UIDs that may do everything."""


class Groups(msgspec.Struct, frozen=True):
    """The IDs of the groups whose members have rights."""

    read: frozenset[int] = frozenset()
    operate: frozenset[int] = frozenset()


def right_of(peer: Peer, connection: socket.socket, groups: Groups) -> Right:
    """What the peer of a connection may do.

    Raises:
        OSError: the kernel does not tell the peer's groups.
    """
    if peer.uid in _MASTERS:
        return Right.FULL
    if not groups.read and not groups.operate:
        return Right.NONE
    memberships = groups_of(connection)
    if not groups.operate.isdisjoint(memberships):
        return Right.OPERATE
    return Right.NONE if groups.read.isdisjoint(memberships) else Right.READ


def refusal(peer: Peer, right: Right, needed: Right) -> str:
    """Why somebody is refused what takes more than his right, in words."""
    if needed is Right.FULL:
        return f"UID {peer.uid} may only {IN_WORDS[right]} here, and this takes root or herdpy's own user"
    return (
        f"UID {peer.uid} may only {IN_WORDS[right]} here, and this takes the right to {IN_WORDS[needed]}; "
        "operate-groups in herdpy.toml says who has it"
    )
