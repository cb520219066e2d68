"""Credentials: copies of files that a service's user alone can read, for as long as the service's process lives.

The service finds them in the directory that CREDENTIALS_DIRECTORY names, as under systemd (systemd.exec(5),
"Credentials"). They are in no environment, no command line and no log.
"""

import os
import pwd

import msgspec

from herdpy import files
from herdpy.files import content
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

LARGEST = 1024 * 1024
"""Bytes of all credentials of a service: systemd's limit."""


class PlaceCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Copy a service's credentials to where it finds them."""

    directory: str
    """Theirs alone. Its parent is made when it is missing."""
    files: tuple[tuple[str, str], ...]
    """(the credential's name, the path of what it holds) of each."""
    user: str | None
    """Whose they are to be; None means: ours."""
    passes_everywhere: bool = False
    """Whether that user's process can look into every directory, by its capabilities."""

    async def run(self, context: Context) -> None:
        """Read everything first, then make the directory anew: it appears whole or not at all.

        Raises:
            StartFailure: a file cannot be read, there is no such user, the copies cannot be made, or the user cannot
                come by them.
        """

        # Threads: files may lie on a file system that hangs, users in a network's directory.
        uid, contents = await in_thread(self._gather, abandon_on_cancel=True)
        try:
            await in_thread(self._place, uid, contents)
        except OSError as error:
            where = error.filename or self.directory
            raise StartFailure(f"cannot place the credentials: {where}: {error.strerror}") from None

    def _gather(self) -> tuple[int, dict[str, bytes]]:
        uid = os.geteuid() if self.user is None else _uid(self.user)
        contents: dict[str, bytes] = {}
        for name, path in self.files:
            try:
                contents[name] = content(path, LARGEST)
            except OSError as error:
                raise StartFailure(f"cannot read the credential {name} from {path}: {error.strerror}") from None
        if sum(map(len, contents.values())) > LARGEST:
            raise StartFailure(f"its credentials are larger than {LARGEST // 1024} KiB altogether")
        return uid, contents

    def _place(self, uid: int, contents: dict[str, bytes]) -> None:
        parent, name = os.path.split(self.directory)
        files.make_passage(parent)
        barred = None if self.passes_everywhere else _barred(parent, uid)
        if barred is not None:
            raise StartFailure(
                f"its user {self.user} cannot come by its credentials in {self.directory}: only the owner of {barred} "
                f"can pass through that; chmod o+x {barred}, or give herdpy another state directory"
            )
        beside = os.path.join(parent, f".{name}")  # no service's name begins so
        _remove(beside)
        _remove(self.directory)
        os.mkdir(beside, 0o700)
        try:
            for credential, held in contents.items():
                path = os.path.join(beside, credential)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
                # Not synced: it must not outlast the process, let alone a crash of the machine.
                with open(descriptor, "wb") as file:
                    file.write(held)
                    os.fchown(descriptor, uid, -1)
            os.chown(beside, uid, -1)
            os.rename(beside, self.directory)
        except OSError:
            _remove(beside)
            raise


class RemoveCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Remove a service's credentials, and whatever the service has put beside them."""

    directory: str

    async def run(self, context: Context) -> None:
        """Do so; it does not matter when there are none.

        Raises:
            OSError: as unlink(2) and rmdir(2) have it.
        """

        await in_thread(_remove, self.directory)


def _remove(path: str) -> None:
    """Remove a directory of a service's user. What it links to stays: shutil.rmtree follows no link."""
    if os.path.lexists(path):
        import shutil  # it imports every compression there is, which a boot need not wait for

        shutil.rmtree(path)


def _barred(directory: str, uid: int) -> str | None:
    """Which directory on the way to this one, itself included, only another user can pass through; None if none.

    Where a group, or an access control list, lets somebody through, that may be the user: then the mode has group bits
    (acl(5), "Correspondence between ACL entries and file permission bits").
    """
    if uid in (0, os.geteuid()):
        return None
    way = os.path.realpath(directory)
    while way != "/":
        seen = os.stat(way)
        if seen.st_uid != uid and not seen.st_mode & 0o011:
            return way
        way = os.path.dirname(way)
    return None


def _uid(user: str) -> int:
    try:
        return (pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)).pw_uid
    except KeyError:
        raise StartFailure(f"there is no user {user}") from None
