"""What the service types, which are pure functions, need to know of the machine."""

import os
import pwd
from collections.abc import Mapping

import msgspec

from herdpy.qemu.accelerator import Accelerator, probe

GUIX_OUTSIDE_PATH = (
    "/run/current-system/profile/bin/guix",
    "/var/guix/profiles/per-user/root/current-guix/bin/guix",
)
"""Where Guix System and guix-install.sh put it; a daemon's PATH seldom names either."""

CAP_SYS_RESOURCE = 24  # linux/capability.h

GUIX_MACHINES = {
    "armv7l": "armhf",
    "armv6l": "armhf",
    "i386": "i686",
    "i486": "i686",
    "i586": "i686",
    "ppc64le": "powerpc64le",
    "ppc": "powerpc",
}
"""What Guix's system types call a machine otherwise than uname(2) does."""


class Directories(msgspec.Struct, frozen=True, kw_only=True):
    """Where herdpy keeps things; docs/explanation/architecture.md has the table."""

    state: str
    log: str
    configuration: str
    """``/etc/herdpy``: the parent of the administrator's ``services``."""
    runtime: str
    """The directory of the default control socket."""
    socket: str
    """The control socket."""
    secrets: str
    """Each virtual build machine has a directory of its name there."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A value for one moment: gathered when declarations are read, never while services run."""

    uid: int
    user: str
    """The name of the user herdpy runs as; the number in digits when it has no name."""
    home: str
    directories: Directories
    system: str
    """As Guix writes it: ``x86_64-linux``."""
    guix: str | None
    """The path of the ``guix`` command."""
    accelerator: Accelerator
    host_name: str = "localhost"
    may_exceed_limits: bool = False
    """Whether we may raise hard limits, and make a process less likely to be killed for want of memory
    (capabilities(7), CAP_SYS_RESOURCE)."""

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def log_file(self, name: str) -> str:
        """Where the output of a service goes that sets no log file of its own."""
        return os.path.join(self.directories.log, f"{name}.log")

    def credentials_directory(self, name: str) -> str:
        """Where a service finds its credentials."""
        return self._place_of_services("credentials", name)

    def notification_socket(self, name: str) -> str:
        """Where a service writes to what it has to say of itself (sd_notify(3))."""
        return self._place_of_services("notify", name)

    def _place_of_services(self, purpose: str, name: str) -> str:
        """A path that a service's user can come by.

        Beside the directory of the usual control socket when that is in /run, in memory; that one itself is closed to
        the users of services. The herdpy that has a control socket of its own may be one of several: its state
        directory has nobody else.
        """
        places = self.directories
        is_usual = places.socket == os.path.join(places.runtime, "socket")
        if is_usual and places.runtime.startswith("/run/"):
            return os.path.join(f"{places.runtime}-{purpose}", name)
        return os.path.join(places.state, purpose, name)


def gather(directories: Directories, environment: Mapping[str, str] = os.environ) -> HostFacts:
    """Look at this machine, as the user we run as. Reads files, spawns nothing, takes about a millisecond."""
    uid = os.geteuid()
    try:
        account = pwd.getpwuid(uid)
        user, home = account.pw_name, account.pw_dir
    except KeyError:
        user, home = str(uid), "/"
    machine = os.uname().machine
    return HostFacts(
        uid=uid,
        user=user,
        home=environment.get("HOME") or home,
        directories=directories,
        system=f"{GUIX_MACHINES.get(machine, machine)}-linux",
        guix=_find_guix(environment),
        accelerator=probe(),
        host_name=os.uname().nodename,
        may_exceed_limits=_may(CAP_SYS_RESOURCE),
    )


def _may(capability: int) -> bool:
    with open("/proc/self/status", "rb") as status:
        effective = next((line.split()[1] for line in status if line.startswith(b"CapEff:")), b"0")
    return bool(int(effective, 16) >> capability & 1)


def _find_guix(environment: Mapping[str, str]) -> str | None:
    in_path = (os.path.join(directory, "guix") for directory in os.get_exec_path(environment))
    paths = (path for path in (*in_path, *GUIX_OUTSIDE_PATH) if os.path.isabs(path))
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)
