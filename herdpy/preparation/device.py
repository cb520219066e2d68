"""A device that a process opens, and that may come later than the process could be started."""

import os

import msgspec
import trio

from herdpy.service import Context, StartFailure
from herdpy.watch import watching


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Waits until a device is there: one is told of it by inotify(7), not by looking again."""

    path: str
    patience: float
    """Seconds."""
    advice: str
    """What to look at when it does not come."""

    async def run(self, context: Context) -> None:
        """Wait for it.

        Raises:
            StartFailure: it has not come in time.
        """
        with trio.move_on_after(self.patience), watching(self.path) as watch:
            while not await watch.look(self._is_there):
                context.progress(f"waiting for {self.path}; {self.advice}")
                await watch.change()
            return
        raise StartFailure(f"there was no {self.path} for {self.patience:g} s; {self.advice}")

    def _is_there(self) -> bool:
        return os.path.exists(self.path)

    def lack(self) -> str | None:
        """What is wrong, and how to mend it."""
        return None if self._is_there() else f"there is no {self.path}; {self.advice}"
