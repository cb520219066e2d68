"""Programs that a service cannot do without."""

import os
import shutil

import msgspec

from herdpy.preparation.insisting import Insisting


class Installed(Insisting, frozen=True, kw_only=True):
    """See that a program is there."""

    program: str
    """An absolute path."""
    package: str
    """Of Debian."""
    where: str
    """Where another one can be named: ``libvirt in /etc/herdpy/services/libvirtd.toml``."""

    def lack(self) -> str | None:
        """What is wrong, and how to mend it; it may wait for a disk."""
        if not os.path.exists(self.program):
            return f"not installed: there is no {self.program}; apt-get install {self.package}, or set {self.where}"
        if not os.path.isfile(self.program) or not os.access(self.program, os.X_OK):
            return f"{self.program} is not executable; set {self.where}"
        return None


class InPath(msgspec.Struct, frozen=True, kw_only=True):
    """A foresight: whether a program is there that a step runs, by its name."""

    program: str
    package: str
    """Of Debian."""

    def lack(self) -> str | None:
        """What is wrong, and how to mend it."""
        if shutil.which(self.program) is None:
            return f"not installed: there is no {self.program} in the PATH; apt-get install {self.package}"
        return None
