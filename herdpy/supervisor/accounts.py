"""Who a process runs as, and the environment and directory that follow from it."""

import grp
import os
import pwd

import msgspec

from herdpy.service import Process, StartFailure
from herdpy.threads import in_thread

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Account(msgspec.Struct, frozen=True):
    """What a process's user and group come to."""

    ids: tuple[int, int, tuple[int, ...]] | None
    """uid, gid, supplementary gids; None means: as the supervisor."""
    environment: dict[str, str]
    directory: str


async def resolve(process: Process) -> Account:
    """Look up a process's user and group. In a thread, because a name service may ask a network.

    Raises:
        StartFailure: there is no such user or group, or only root could change to it.
    """
    if process.user is None and process.group is None and process.supplementary_groups is None:
        return _OWN
    return await in_thread(_resolve, process, abandon_on_cancel=True)


def _own() -> Account:
    environment = {"PATH": PATH, **{key: value for key, value in os.environ.items() if key not in _PRIVATE}}
    home = environment.get("HOME", "/")
    directory = "/" if os.geteuid() == 0 or not os.path.isdir(home) else home
    return Account(None, environment, directory)


_PRIVATE = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What the machine's init tells us is not for the services (sd_notify(3), sd_listen_fds(3))."""
_OWN = _own()


def _resolve(process: Process) -> Account:
    user = pwd.getpwuid(os.geteuid()) if process.user is None else _user(process.user)
    gid = user.pw_gid if process.group is None else _group(process.group)
    if process.supplementary_groups is not None:
        groups = tuple(_group(name) for name in process.supplementary_groups)
    else:
        groups = tuple(os.getgrouplist(user.pw_name, gid))
    if os.geteuid() != 0:
        if (user.pw_uid, gid) == (os.geteuid(), os.getegid()) and process.supplementary_groups is None:
            return _OWN
        raise StartFailure(
            f"only root can run it as {user.pw_name}:{gid}; run herdpy as root or leave user and group out"
        )
    environment = _OWN.environment | {
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell,
    }
    return Account((user.pw_uid, gid, groups), environment, "/")


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise StartFailure(f"there is no user {name}") from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartFailure(f"there is no group {name}") from None
