"""Who can connect to the control socket at all, as file modes say it: groups are let in, nobody else.

The keeper makes the socket 0600, in a directory that is its owner's alone: what is opened here is opened by the
supervisor, once it knows to whom, and was never open to anybody else.
"""

import errno
import os
import stat
import struct
from collections.abc import Collection

ACCESS = "system.posix_acl_access"
"""The extended attribute that holds an access control list (acl(5)), as posix_acl_xattr.h of Linux has it: version 2,
then for each entry its tag, its permissions and whom it concerns."""
DEFAULT = "system.posix_acl_default"
"""The same for what is made in a directory."""
USER_OBJ, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF


class NotAdmitted(Exception):  # noqa: N818 - it says what the groups are not
    """Groups that cannot be let in; ``str()`` is one line that says why, and what to do."""


def admit(path: str, gids: Collection[int]) -> None:
    """Let the members of groups, and our own user, connect to the socket at ``path``; repeating it does no harm.

    Args:
        gids: none means that only our own user (and root) can.

    Raises:
        NotAdmitted: the system does not let us give them the right.
    """
    directory = os.path.dirname(path)
    try:
        if not gids:
            if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                os.chmod(path, 0o600)  # of an access control list, this is the mask
        elif len(gids) == 1:
            (gid,) = gids
            _give(directory, gid, 0o710)
            _give(path, gid, 0o660)
        else:
            _list(directory, gids, own=7, theirs=1)
            _list(path, gids, own=6, theirs=6)
    except OSError as error:
        raise NotAdmitted(
            f"cannot let the groups of [control] connect to {path}: {error.strerror}{_advice(error)}"
        ) from None


def _advice(error: OSError) -> str:
    if error.errno == errno.EOPNOTSUPP:
        return "; several groups take access control lists, which its file system has not: name one group"
    if error.errno == errno.EPERM:
        return "; who is not root can give files only to groups that he is a member of"
    return ""


def _give(path: str, gid: int, mode: int) -> None:
    """Make it a group's, closed while it changes hands."""
    status = os.stat(path)
    if status.st_gid == gid and stat.S_IMODE(status.st_mode) == mode and ACCESS not in os.listxattr(path):
        return
    os.chmod(path, mode & 0o700)
    if ACCESS in os.listxattr(path):
        os.removexattr(path, ACCESS)
        os.chmod(path, mode & 0o700)
    os.chown(path, -1, gid)
    os.chmod(path, mode)


def _list(path: str | int, gids: Collection[int], *, own: int, theirs: int, attribute: str = ACCESS) -> None:
    entries = [
        (USER_OBJ, own, NOBODY),
        (GROUP_OBJ, 0, NOBODY),
        *((GROUP, theirs, gid) for gid in sorted(gids)),
        (MASK, theirs, NOBODY),
        (OTHER, 0, NOBODY),
    ]
    os.setxattr(path, attribute, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))


def let_read(directory: str, gids: Collection[int]) -> None:
    """Let the members of groups read the logs in a directory, which is ours: those there are, and those to come.

    Raises:
        OSError: the file system has no access control lists, or does not let us.
    """
    if not gids and DEFAULT not in os.listxattr(directory):
        return
    if gids:
        _list(directory, gids, own=7, theirs=5, attribute=DEFAULT)
    else:
        os.removexattr(directory, DEFAULT)
    for entry in os.scandir(directory):
        if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
            file = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(file).st_uid != os.geteuid():
                    continue
                if gids:
                    _list(file, gids, own=6, theirs=4)
                elif ACCESS in os.listxattr(file):
                    os.removexattr(file, ACCESS)
            finally:
                os.close(file)
