"""What would keep a command from being executed later, when nobody is there to be told."""

import grp
import os
import pwd
import shutil

from herdpy.preparation.insisting import Insisting


class Executable(Insisting, frozen=True, kw_only=True):
    """See that a command's program is there, and whom it is to run as."""

    program: str
    """A path, or a name that is looked up in PATH."""
    directory: str | None
    """What a path is relative to; None means what only its user's home tells."""
    path: str | None
    """PATH, if the command has one of its own."""
    user: str | None
    group: str | None

    def lack(self) -> str | None:
        """What is missing; it may ask a network."""
        try:
            if self.user is not None and not self.user.isdecimal():
                pwd.getpwnam(self.user)
        except KeyError:
            return f"there is no user {self.user}"
        try:
            if self.group is not None and not self.group.isdecimal():
                grp.getgrnam(self.group)
        except KeyError:
            return f"there is no group {self.group}"
        if "/" in self.program:
            place = os.path.join(self.directory or "", self.program)
            if os.path.isabs(place) and not os.path.exists(place):
                return f"{self.program} cannot be executed: No such file or directory"
            return None
        path = self.path or os.environ.get("PATH")
        if path is not None and shutil.which(self.program, path=path) is None:
            return f"{self.program} cannot be executed: it is not in {path}"
        return None
