"""A vfork whose child is born in a cgroup: posix_spawn(3) with POSIX_SPAWN_SETCGROUP, from glibc 2.39 on.

Python's os.posix_spawn does not know that flag, so the C library is called directly. Where that has no such function
(an older glibc, musl), a child is forked into its cgroup, or the keeper enters it (:mod:`herdpy.keeper.cgroup`).
"""

from __future__ import annotations

import errno
import os
import sys

from herdpy.keeper import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from typing import Any
else:
    import _signal as signal

SETSIGDEF, SETSIGMASK, SETSID, SETCGROUP = 0x04, 0x08, 0x80, 0x100
"""Flags (glibc's spawn.h)."""
ROOM = 1024
"""Bytes for what the C library keeps of a spawn; glibc's posix_spawnattr_t has 336 on 64-bit systems, sigset_t 128."""

PID = 4
"""Bytes of a pid_t, which is an int wherever there is glibc."""

OTHERS_TOO = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EAGAIN))
"""Errors that any other way into a cgroup would end with, too. What ENOMEM is about, a fork tells better."""
NO_WAY = frozenset((errno.ENOSYS, errno.EOPNOTSUPP))
"""Errors that say that there is no such way: a kernel before 5.7, or a filter of system calls."""

_made: dict[object, Any] = {}
"""Attributes and actions that are the same again and again: to make them anew takes longer than the rest."""


def can_spawn_into() -> bool:
    """Tell whether the C library can have a child be born in a cgroup."""
    return libc.has("posix_spawnattr_setcgroup_np")


def spawn(
    path: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[tuple[int, int]],
    cgroup: int | None = None,
) -> int:
    """Execute ``path`` in a session of its own, with all signals as they are by default and none blocked.

    Args:
        descriptors: pairs of a descriptor of ours and the number that it has in the child.
        cgroup: a descriptor of the directory of the one to be born in; None means in ours.

    Returns:
        Its PID.

    Raises:
        OSError: what posix_spawn(3) or, in the child, execve(2) failed with.
        ValueError: a word holds a NUL byte.
    """
    words = libc.strings(map(os.fsencode, command))
    variables = libc.strings(os.fsencode(f"{key}={value}") for key, value in environment.items())
    attributes, actions = _attributes(cgroup), _actions(tuple(descriptors))
    pid = libc.room(PID)
    _call("posix_spawn", pid, os.fsencode(path), actions, attributes, words, variables)
    return int.from_bytes(pid, sys.byteorder)


def _attributes(cgroup: int | None) -> Any:
    """What the child is, besides its descriptors; but for the cgroup, always the same."""
    attributes = _made.get(cgroup is not None)
    if attributes is None:
        attributes, signals = libc.room(ROOM), libc.room(ROOM)
        _call("posix_spawnattr_init", attributes)
        _call("posix_spawnattr_setsigmask", attributes, signals)
        libc.call("sigfillset", signals)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            libc.call("sigdelset", signals, number)
        _call("posix_spawnattr_setsigdefault", attributes, signals)
        flags = SETSIGDEF | SETSIGMASK | SETSID
        _call("posix_spawnattr_setflags", attributes, flags if cgroup is None else flags | SETCGROUP)
        _made[cgroup is not None] = attributes
    if cgroup is not None:
        _call("posix_spawnattr_setcgroup_np", attributes, cgroup)
    return attributes


def _actions(descriptors: tuple[tuple[int, int], ...]) -> Any:
    """What becomes of the child's descriptors; there are two cases in all of a keeper's life (Spawner._standard)."""
    actions = _made.get(descriptors)
    if actions is None:
        actions = libc.room(ROOM)
        _call("posix_spawn_file_actions_init", actions)
        for ours, theirs in descriptors:
            _call("posix_spawn_file_actions_adddup2", actions, ours, theirs)
        _made[descriptors] = actions
    return actions


def _call(name: str, *arguments: Any) -> None:
    """Call a function that returns an error's number, or 0.

    Raises:
        OSError: it failed.
    """
    number = libc.call(name, *arguments)
    if number:
        raise OSError(number, os.strerror(number))
