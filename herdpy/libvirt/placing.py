"""The file that a daemon of libvirt reads, put in its place before each start."""

import contextlib
import errno
import os
import socket

import msgspec
import trio

from herdpy import files
from herdpy.libvirt.lens import tell_what_is_ignored
from herdpy.libvirt.rehearsal import Rehearsal
from herdpy.preparation.insisting import Insisting
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

MODE = 0o600
"""The daemon reads it as whom we run it; nobody else need know who may do what."""
SYSTEM_BUS = "/run/dbus/system_bus_socket"
POLICY_SERVICE = "dbus-1/system-services/org.freedesktop.PolicyKit1.service"
"""By which D-Bus starts polkitd when somebody asks for it (polkit(8))."""
ACTIONS = "polkit-1/actions/org.libvirt.unix.policy"
"""What polkit knows of connecting to libvirtd; what it does not know of, it refuses to everybody."""
ACTIONS_OF_CALLS = "polkit-1/actions/org.libvirt.api.policy"
"""Likewise of each call, which the access driver asks it about."""
PACKAGE = "libvirt-daemon-system"
"""Of Debian, which has both."""
SHARED = ("/usr/share", "/usr/local/share", "/run/current-system/profile/share")
DETAIL = "authentication"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A file for a host that may or may not have polkit: that is known only when the daemon is started, for what brings
    D-Bus up may be another service of ours."""

    content: str
    """With polkit, which the defaults are made for."""
    words: str
    """Who may connect, for the status."""


class PlaceFile(msgspec.Struct, frozen=True, kw_only=True):
    """Put a daemon's configuration file in its place."""

    path: str
    content: str
    lens: str
    """The module of augeas that knows the daemon's keys."""
    words: str | None = None
    """Who may connect, for the status; None says nothing."""
    without_polkit: Choice | None = None
    """What it is where there is no polkit; None means the same."""

    async def run(self, context: Context) -> None:
        """Write it beside, then rename it; one that is right is left alone.

        Raises:
            StartFailure: it cannot be written.
        """
        content, words = await self._choose()
        await _place(self.path, content)
        context.detail(DETAIL, words)
        await tell_what_is_ignored(context, self.path, self.lens)

    async def try_it(self, context: Context, rehearsal: Rehearsal) -> None:
        """See whether a daemon starts with it, and leave the file as it is.

        Raises:
            StartFailure: it does not; why.
        """
        tried = f"{self.path}.tried"
        content, _ = await self._choose()
        await _place(tried, content)
        try:
            await rehearsal.run(context, tried)
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(FileNotFoundError):
                await in_thread(os.unlink, tried)

    async def _choose(self) -> tuple[str, str | None]:
        """The content, and who may connect."""
        if self.without_polkit is not None:
            missing = await in_thread(polkit_missing, abandon_on_cancel=True)
            if missing is not None:
                return self.without_polkit.content, f"{self.without_polkit.words} ({missing})"
        return self.content, self.words


async def _place(path: str, content: str) -> None:
    try:
        await in_thread(place, path, content)
    except OSError as error:
        raise StartFailure(f"cannot write {error.filename or path}: {error.strerror}") from None


def place(path: str, content: str) -> None:
    """Make a configuration file of this content.

    Raises:
        OSError: it cannot be written.
    """
    files.make_directories(os.path.dirname(path), 0o700)
    files.replace(path, content.encode(), MODE)


class PolkitAccess(Insisting, frozen=True, kw_only=True):
    """See that the access driver ``polkit`` has somebody to ask: else libvirtd refuses every call, even root's, and our
    question whether it is ready."""

    where: str
    """Where it is chosen: ``access-drivers in FILE``."""

    def lack(self) -> str | None:
        """What is missing, and how to mend it."""
        missing = polkit_missing(actions=ACTIONS_OF_CALLS)
        if missing is None:
            return None
        return f'"polkit" refuses everything to everybody where {missing}; change {self.where}'


def polkit_missing(bus: str = SYSTEM_BUS, shared: tuple[str, ...] = SHARED, actions: str = ACTIONS) -> str | None:
    """Why libvirtd cannot ask polkit on this host, in words; None when it can.

    Args:
        actions: the file by which polkit knows what it is asked about.
    """
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with asked:
        number = asked.connect_ex(bus)
    if number not in (0, errno.EAGAIN):  # EAGAIN: it listens, and has too many callers at the moment
        return "there is no D-Bus system bus here"
    if not _is_in(shared, POLICY_SERVICE):
        return "there is no polkit here"
    if not _is_in(shared, actions):
        return f"polkit has not been told of libvirt, as the package {PACKAGE} does"
    return None


def _is_in(directories: tuple[str, ...], name: str) -> bool:
    return any(os.path.exists(os.path.join(directory, name)) for directory in directories)
