"""What is made ready on the host before a virtual machine's QEMU is started, and cleared away after its end."""

import errno
import grp
import json
import os
import pwd
import shutil
import socket
import stat
from collections.abc import Sequence

import msgspec
import trio

from herdpy.preparation.insisting import insist
from herdpy.qemu.command_line import Rooms
from herdpy.service import Context, InternetAddress, Port, Socket, SocketKind, StartFailure
from herdpy.threads import in_thread

LEAST_ROOM = 16 << 20
"""Bytes: QEMU cannot begin without a few hundred KiB, nor a guest boot without a few MiB of its disk written."""
SOCKET_PATH_MAX = 107
"""Bytes in the path of a Unix socket (unix(7): 108 with the final NUL)."""


class EnsureUser(msgspec.Struct, frozen=True, kw_only=True):
    """See to it that the system user that guests run as is there, a member of the group kvm."""

    user: str

    async def run(self, context: Context) -> None:
        """Create the user, and the group, when missing.

        Raises:
            StartFailure: groupadd(8) or useradd(8) failed.
        """
        if not _exists(pwd.getpwnam, self.user):
            await context.once(f"user {self.user}", self._create)

    async def _create(self, context: Context) -> None:
        if _exists(pwd.getpwnam, self.user):
            return
        context.progress(f"creating the system user {self.user}")
        if not _exists(grp.getgrnam, "kvm"):
            await _succeed(context, ["groupadd", "--system", "kvm"])
        options = ["--system", "--user-group", "--groups", "kvm", "--no-create-home", "--home-dir", "/nonexistent"]
        comment = ["--comment", "herdpy's virtual machines", "--shell", "/usr/sbin/nologin"]
        await _succeed(context, ["useradd", *options, *comment, self.user])


class MakeRooms(msgspec.Struct, frozen=True, kw_only=True):
    """Make the directory of a machine's sockets and temporary files, and its console log, empty."""

    rooms: Rooms
    user: str | None
    """Who QEMU runs as; None means: as herdpy."""
    holds_writes: bool = False
    """Whether what the guest writes to its disk is kept there until its end (``-snapshot``)."""

    async def run(self, context: Context) -> None:
        """Make them anew; the console log of the last run is kept beside, with ``.1`` at its end.

        Raises:
            StartFailure: something cannot be created, there is no room, or a socket's path would be too long.
        """
        longest = max(self.rooms.sockets, key=len)
        if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
            raise StartFailure(
                f"the path {longest} is too long for a socket ({SOCKET_PATH_MAX} bytes); use a shorter --state-dir"
            )
        try:
            await in_thread(self._make)
        except OSError as error:
            raise StartFailure(f"cannot create {error.filename}: {error.strerror}") from None

    def _make(self) -> None:
        directory = self.rooms.directory
        owner = None if self.user is None else pwd.getpwnam(self.user)
        _empty(directory)
        os.makedirs(os.path.dirname(directory), mode=0o711, exist_ok=True)
        os.mkdir(directory, 0o700)
        room = os.statvfs(directory)
        if self.holds_writes and room.f_bavail * room.f_frsize < LEAST_ROOM:
            raise StartFailure(
                f"there is no room for what the guest writes: the file system of {directory} has"
                f" {room.f_bavail * room.f_frsize >> 10} KiB left, and at least {LEAST_ROOM >> 20} MiB are needed;"
                " remove something, or use another --state-dir"
            )
        log = self.rooms.console_log
        os.makedirs(os.path.dirname(log), exist_ok=True)
        if os.path.lexists(log):
            os.replace(log, f"{log}.1")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            if owner is not None:
                os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
                os.chown(directory, owner.pw_uid, owner.pw_gid)
        finally:
            os.close(descriptor)


class ClearRooms(msgspec.Struct, frozen=True, kw_only=True):
    """Remove a machine's sockets and temporary files."""

    rooms: Rooms

    async def run(self, context: Context) -> None:
        await in_thread(_empty, self.rooms.directory)


class CheckPorts(msgspec.Struct, frozen=True, kw_only=True):
    """See that the ports of the host that a service will listen on are free."""

    ports: tuple[Port, ...]
    where: str
    """Where to change them: ``port-forwardings in /etc/herdpy/services/build-vm.toml``."""

    async def run(self, context: Context) -> None:
        """Bind each port for a moment.

        Raises:
            StartFailure: one is taken (by whom, as far as we may know), or may not be bound.
        """
        for port in self.ports:
            number = _bind_error(port)
            if number == errno.EADDRINUSE:
                holder = await in_thread(_holder, port)
                raise StartFailure(f"host port {port} is in use{holder}; change {self.where}")
            if number == errno.EACCES:
                raise StartFailure(f"host port {port} needs root; change {self.where}")
            if number:
                raise StartFailure(f"host port {port} of {port.address} cannot be bound: {os.strerror(number)}")


class CheckImage(msgspec.Struct, frozen=True, kw_only=True):
    """See that a disk image of the user's own is one."""

    path: str
    format: str
    user: str | None
    """Who QEMU runs as, and must be able to read it; None means: as herdpy."""
    where: str
    """Where to change it: ``image in /etc/herdpy/services/build-vm.toml``."""
    absent: str | None = None
    """What to do when there is no such file; None means that ``where`` says enough."""
    boots: bool = True
    """Whether it has to have a boot sector when it is raw: not when QEMU loads a kernel itself."""
    written: bool = False
    """Whether QEMU will write to it."""

    async def run(self, context: Context) -> None:
        """Ask qemu-img(1), as the user that QEMU will run as.

        Raises:
            StartFailure: it is not there, cannot be read (or written), is of another format, or is garbage.
        """
        await insist(self)
        fault = f"the image {self.path}"
        options = ["info", "--force-share", "--output=json"]
        completed = await context.command(["qemu-img", *options, self.path], user=self.user)
        if completed.status != 0:
            # qemu-img: Could not open 'PATH': Could not open 'PATH': No such file or directory
            said = completed.output.strip().rpartition("\n")[2].rpartition(f"'{self.path}': ")[2]
            raise StartFailure(f"{fault} cannot be used: {said}; change {self.where}")
        found = json.loads(completed.output)["format"]
        if found != self.format:
            raise StartFailure(f"{fault} is {found}, not {self.format}; change {self.where}, or set image-format")
        if found == "raw" and self.boots and not await in_thread(_is_bootable, self.path):
            raise StartFailure(f"{fault} is not a disk that boots: it has no boot sector; change {self.where}")
        if self.written and (await context.command(["test", "-w", self.path], user=self.user)).status != 0:
            who = f" by {self.user}" if self.user is not None else ""
            raise StartFailure(f"{fault} cannot be written{who}; change who owns it, or {self.where}")

    def lack(self) -> str | None:
        """What can be told of it without asking qemu-img."""
        if not os.path.lexists(self.path):
            return f"there is no image {self.path}; {self.absent or f'change {self.where}'}"
        try:
            mode = os.stat(self.path).st_mode
        except OSError as error:
            return f"the image {self.path} cannot be used: {error.strerror}; change {self.where}"
        # qemu-img would wait for the writer of a FIFO.
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            kind = next((words for is_kind, words in _OTHER_KINDS if is_kind(mode)), "of an unknown kind")
            return f"the image {self.path} is {kind}; change {self.where}"
        return None


_OTHER_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
)


class CheckScreen(msgspec.Struct, frozen=True, kw_only=True):
    """See that there is a port for the screen (VNC), whichever of them QEMU will take."""

    first: int
    last: int
    address: str = "127.0.0.1"

    async def run(self, context: Context) -> None:
        """Bind them one after the other, until one is free.

        Raises:
            StartFailure: none is.
        """
        for number in range(self.first, self.last + 1):
            if not _bind_error(Port(port=number, address=self.address)):
                return
        raise StartFailure(
            f"there is no port for its screen (VNC): {self.address}:{self.first} to {self.last} are all in use; end one"
            " of those that listen there"
        )


class KeepDisk(msgspec.Struct, frozen=True, kw_only=True):
    """Give a persistent machine files of its own, copied from an image once."""

    source: str
    """The directory of the image."""
    target: str
    """The directory of the copy."""
    user: str | None

    async def run(self, context: Context) -> None:
        """Copy the image unless the copy is there.

        Raises:
            StartFailure: cp(1) failed, for want of space for example; nothing is left behind.
        """
        if os.path.isdir(self.target):
            return
        context.progress("copying the image")
        beside = f"{self.target}.new"
        try:
            await in_thread(_empty, beside)
            os.makedirs(os.path.dirname(self.target), mode=0o711, exist_ok=True)
            await _succeed(context, ["cp", "-RL", "--reflink=auto", "--sparse=always", self.source, beside])
            if self.user is not None:
                await _succeed(context, ["chown", "-R", f"{self.user}:", beside])
            await _succeed(context, ["chmod", "-R", "u=rwX,go=", beside])
            os.rename(beside, self.target)
        except OSError as error:
            raise StartFailure(f"cannot create {self.target}: {error.strerror}") from None
        finally:
            with trio.CancelScope(shield=True):
                await in_thread(_empty, beside)


async def _succeed(context: Context, command: Sequence[str]) -> None:
    completed = await context.command(command)
    if completed.status != 0:
        said = completed.output.strip().rpartition("\n")[2]
        raise StartFailure(f"{' '.join(command)} failed: {said or f'status {completed.status}'}")


def _exists(look_up: object, name: str) -> bool:
    assert callable(look_up)
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def _empty(directory: str) -> None:
    """Remove a directory of the guest's user; what it links to stays (shutil.rmtree follows no link)."""
    if os.path.isdir(directory) and not os.path.islink(directory):
        shutil.rmtree(directory)


def _bind_error(port: Port) -> int:
    """The errno of binding a port, 0 when it is free. SO_REUSEADDR as QEMU sets it: old connections do not count."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address, port.port))
            if port.protocol == "tcp":
                probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def _holder(port: Port) -> str:
    from herdpy.activation.holder import holder

    kind: SocketKind = "stream" if port.protocol == "tcp" else "datagram"
    by = holder(Socket(address=InternetAddress(port.address, port.port), kind=kind))
    return f" {by}" if by else ""


def _is_bootable(path: str) -> bool:
    """Whether a raw disk begins with a boot sector (0x55AA at its end), as a BIOS wants it."""
    with open(path, "rb") as disk:
        return disk.read(512)[510:] == b"\x55\xaa"
