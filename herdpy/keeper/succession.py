"""How a supervisor whose keeper was killed becomes the next keeper: by exec, on the spot.

That is for the supervisor what being killed at that moment would be, and any next supervisor is made for that. It has
the listening sockets, copies of all the keeper held; the rest is in the journal (:mod:`herdpy.keeper.legacy`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn


LEDGER = "ledger:"
"""What the names of the ledger's descriptors begin with, among those that are held; a number follows."""


def descriptors_told(descriptors: Sequence[int]) -> tuple[int, dict[str, int]]:
    """Return the keeper's stderr (-1 for none), and the logger's ledger by the names that :func:`succeed` takes.

    Args:
        descriptors: what came beside the packet ``succession``.
    """
    if not descriptors:
        return -1, {}
    *ledger, stderr = descriptors
    return stderr, {f"{LEDGER}{number}": descriptor for number, descriptor in enumerate(ledger)}


def succeed(options: Mapping[str, Any], stderr: int, held: Mapping[str, int]) -> NoReturn:
    """Execute the keeper, in our place.

    Args:
        options: as the keeper told them.
        stderr: the keeper's.
        held: by name, the descriptors that it held, and the logger's ledger.

    Raises:
        OSError: it cannot be executed.
    """
    import json

    for descriptor in (stderr, *held.values()):
        os.set_inheritable(descriptor, True)
    told = json.dumps({**options, "stderr": stderr, "held": dict(held)})
    os.execve(sys.executable, [sys.executable, "-I", "-m", "herdpy.keeper", told], os.environ)


def options_told(
    *,
    socket: str,
    state_directory: str,
    log_directory: str,
    pid_file: str | None,
    supervisor: list[str],
    arguments: list[str],
    open_files: int,
    ignores_hangup: bool,
    init: Mapping[str, object],
    has_own_socket: bool,
) -> dict[str, object]:
    """Return what the successor is to know; all paths are absolute.

    Args:
        open_files: the soft limit that we were started with (getrlimit(2), RLIMIT_NOFILE).
        ignores_hangup: whether SIGHUP is ignored (nohup(1)).
        init, has_own_socket: as in :class:`herdpy.keeper.Options`.
    """
    return {
        "socket": socket,
        "state_directory": state_directory,
        "log_directory": log_directory,
        "pid_file": pid_file,
        "supervisor": supervisor,
        "arguments": arguments,
        "open_files": open_files,
        "ignores_hangup": ignores_hangup,
        "init": init,
        "has_own_socket": has_own_socket,
    }
