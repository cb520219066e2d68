"""libvirtd's driver for QEMU: on Debian a package of its own, for a user that is yet another package's."""

import glob
import grp
import os
import pwd
import shutil

import msgspec

from herdpy.preparation.insisting import Insisting

DRIVERS = "/usr/lib/*-linux-gnu*/libvirt/connection-driver"
"""Where Debian's libvirtd looks for drivers; each architecture has a directory of its own."""
DRIVER = "libvirt_driver_qemu.so"
ACCOUNT = "libvirt-qemu"
"""Debian's user for guests, and its group. Both have to be there, whoever else /etc/libvirt/qemu.conf names."""
EMULATORS = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm", "armv7l": "qemu-system-arm"}
"""Debian's packages of the emulators of some machines; all the others are in qemu-system."""


class Driver(Insisting, frozen=True, kw_only=True):
    """See that Debian's libvirtd can have its driver. It says itself what is missing, if at all, among dozens of lines,
    and ends with 0 then; on other systems we do not know what it takes."""

    drivers: str = DRIVERS
    """A pattern of glob(7)."""
    account: str | None = ACCOUNT
    """None for an ordinary user, whose guests are run as that one."""

    def lack(self) -> str | None:
        """What is missing, and how to get it; a directory in the network may be asked."""
        directories = glob.glob(self.drivers)
        if not directories:
            return None
        if not any(os.path.exists(os.path.join(directory, DRIVER)) for directory in directories):
            return "not installed: libvirtd has no driver for QEMU; apt-get install libvirt-daemon-driver-qemu"
        if self.account is None:
            return None
        for what, find in (("user", pwd.getpwnam), ("group", grp.getgrnam)):
            try:
                find(self.account)
            except KeyError:
                why = "without which libvirtd does not start"
                return f"there is no {what} {self.account}, {why}; apt-get install libvirt-daemon-system"
        return None


class Emulator(msgspec.Struct, frozen=True, kw_only=True):
    """A foresight: whether there is a QEMU. libvirtd starts without, and then no guest does."""

    machine: str
    """The host's, as ``uname -m`` has it."""
    path: str | None
    """The PATH in which libvirtd looks; None means our own."""
    where: str
    """Where a directory in front of it can be named: ``qemu in FILE``."""

    def lack(self) -> str | None:
        """What is missing, and how to get it."""
        program = f"qemu-system-{self.machine}"
        if shutil.which(program, path=self.path) is not None:
            return None
        package = EMULATORS.get(self.machine, "qemu-system")
        return f"not installed: there is no {program} in the PATH; apt-get install {package}, or set {self.where}"
