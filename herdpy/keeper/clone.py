"""A fork whose child is born in a cgroup (clone3(2), CLONE_INTO_CGROUP, Linux 5.7)."""

from __future__ import annotations

import os
import sys

from herdpy.keeper.libc import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE3 = 435
"""Its number, the same on every architecture (asm-generic/unistd.h)."""
CLONE_INTO_CGROUP = 0x2_0000_0000
SIGCHLD = 17
FIELDS = 11
"""Of struct clone_args, each of 64 bits: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
set_tid, set_tid_size, cgroup."""


def forking_into(cgroup: str) -> Callable[[], int]:
    """Return what forks as os.fork does, but for the child's living in a cgroup from its first moment.

    What os.fork does besides is for processes with several threads. The caller has one.

    Args:
        cgroup: its directory.
    """

    def fork() -> int:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            values = [0] * FIELDS
            values[0], values[4], values[10] = CLONE_INTO_CGROUP, SIGCHLD, directory
            arguments = b"".join(value.to_bytes(8, sys.byteorder) for value in values)
            return call("syscall", CLONE3, arguments, len(arguments))
        finally:
            os.close(directory)

    return fork
