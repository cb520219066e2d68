"""A directory that a process keeps things in, and does not make itself."""

import os

import msgspec

from herdpy.files import make_directories
from herdpy.preparation.insisting import insist
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """See that a directory is there."""

    path: str
    create: bool
    """Whether it is made, with mode 0700, when it is not."""
    where: str
    """Where another one can be named: ``state-directory in FILE``."""

    async def run(self, context: Context) -> None:
        """Look, and make it if need be.

        Raises:
            StartFailure: it is not there, or cannot be made.
        """
        await insist(self)
        if self.create:
            try:
                await in_thread(make_directories, self.path, 0o700)
            except OSError as error:
                raise StartFailure(f"cannot make the directory {self.path}: {error.strerror}") from None

    def lack(self) -> str | None:
        """What is wrong, and how to mend it; it may wait for a disk."""
        if os.path.isdir(self.path):
            return None
        if os.path.lexists(self.path):
            return f"{self.path} is no directory; set {self.where}"
        return None if self.create else f"there is no directory {self.path}; make it, or set {self.where}"
