"""What libvirt's daemons need on the host, and nobody else makes."""

import grp
import socket

import msgspec
import trio

from herdpy.files import make_directories
from herdpy.preparation.insisting import Insisting
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

COMMAND_PATIENCE = 30.0
"""Seconds for groupadd(8), which waits for others that change /etc/group."""


class EnsureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """See that the group is there whose members may connect."""

    group: str
    create: bool
    """Whether it is made when it is missing: the one that libvirt's packages make, too. None of a person's choosing is,
    whose name may be misspelt."""
    where: str
    """Where it can be changed: ``unix-sock-group in FILE``."""

    async def run(self, context: Context) -> None:
        """Look, and make it if need be.

        Raises:
            StartFailure: it is missing, or groupadd(8) failed.
        """
        if await self._is_there():
            return
        if not self.create:
            raise StartFailure(self._missing())
        await context.once(f"group {self.group}", self._create)

    def lack(self) -> str | None:
        """What is wrong, and how to mend it; a directory in the network may be asked."""
        return None if self.create or _group_exists(self.group) else self._missing()

    def _missing(self) -> str:
        return f"there is no group {self.group}; groupadd --system {self.group}, or change {self.where}"

    async def _is_there(self) -> bool:
        # A thread: a directory in the network may be asked.
        return await in_thread(_group_exists, self.group, abandon_on_cancel=True)

    async def _create(self, context: Context) -> None:
        if await self._is_there():
            return
        context.progress(f"creating the system group {self.group}")
        completed = None
        with trio.move_on_after(COMMAND_PATIENCE):
            completed = await context.command(["groupadd", "--system", self.group])
        if completed is None or (completed.status != 0 and not await self._is_there()):
            said = "" if completed is None else completed.output.strip().rpartition("\n")[2]
            why = said or f"it was not done after {COMMAND_PATIENCE:g} s"
            raise StartFailure(f"the group {self.group} cannot be created: {why}; change {self.where}")


class MakeDirectories(msgspec.Struct, frozen=True, kw_only=True):
    """Make directories that are not there; what is there stays as it is."""

    directories: tuple[str, ...]
    mode: int = 0o755

    async def run(self, context: Context) -> None:
        """Make them.

        Raises:
            StartFailure: one cannot be made.
        """
        for directory in self.directories:
            try:
                await in_thread(make_directories, directory, self.mode)
            except OSError as error:
                raise StartFailure(f"cannot make the directory {directory}: {error.strerror}") from None


class Listening(Insisting, frozen=True, kw_only=True):
    """See that what libvirtd needs to listen on the network is there: it says less, and only after it has begun."""

    ports: tuple[tuple[str, str], ...]
    """(a port's number or name, the key that says it)."""
    certificates: tuple[tuple[str, str], ...]
    """(a file's path, the key that says it)."""
    source: str
    """Where the keys are."""

    def lack(self) -> str | None:
        """What is wrong first, and how to mend it."""
        return _first_missing(self)


def _first_missing(wanted: Listening) -> str | None:
    for port, key in wanted.ports:
        if not port.isdecimal():
            try:
                socket.getservbyname(port, "tcp")
            except OSError:
                return f"no TCP port is called {port} (services(5)); change {key} in {wanted.source}"
    for path, key in wanted.certificates:
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            advice = f"make it, change {key} in {wanted.source}, or set listen-tls = false"
            return f"TLS needs {path}, which cannot be read: {error.strerror}; {advice}"
    return None


def _group_exists(name: str) -> bool:
    try:
        grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)
    except KeyError:
        return False
    return True
