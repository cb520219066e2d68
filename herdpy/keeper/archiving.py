"""The process that compresses rotated logs and removes the oldest: one at a time, whoever asked for how many.

It is the keeper's child, as all are, and not asked for through the supervisor, which may be missing just then. What it
does is the logger's own, ``herdpy.logger.archive``: what one leaves undone that was killed, the next one does.
"""

from __future__ import annotations

import os

from herdpy.keeper import death
from herdpy.keeper.spawn import Child, SpawnFailure, identify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.spawn import Spawner


class Archiving:
    """Runs the logger's program for each log that was rotated; a log asked for twice meanwhile waits once.

    Attributes:
        pid: of the process that is at work now, or None.
    """

    def __init__(
        self,
        loop: Loop,
        program: list[str],
        environment: dict[str, str],
        spawner: Spawner,
        output: int,
        say: Callable[[str], None],
    ) -> None:
        self.pid: int | None = None
        self._loop = loop
        self._program = program
        self._environment = environment
        self._spawner = spawner
        self._output = output
        self._say = say
        self._waiting: dict[str, str] = {}
        self._pidfd = -1
        self._path = ""
        self._is_over = False

    def ask(self, path: str, packet: bytes) -> None:
        """Have the rotated files of a log dealt with, as the logger's packet says."""
        self._waiting[path] = str(packet, "ascii")
        if self.pid is None:
            self._next()

    def record(self) -> dict[str, object]:
        """Return what a keeper that executes itself anew has to know of it."""
        return {
            "kind": "archiving",
            "pid": self.pid,
            "pidfd": self._pidfd,
            "path": self._path,
            "waiting": self._waiting,
        }

    def resume(self, told: Mapping[str, Any]) -> None:
        """Go on with what :meth:`record` told."""
        self._path, self._waiting = told["path"], dict(told["waiting"])
        if told["pid"] is not None:
            self.pid, self._pidfd = told["pid"], told["pidfd"]
            self._loop.watch(self._pidfd, self._look)

    @property
    def descriptors(self) -> list[int]:
        """What is open for it."""
        return [] if self.pid is None else [self._pidfd]

    def end(self) -> None:
        """Stop; the next rotation goes on with what is left."""
        self._is_over = True
        self._waiting.clear()
        if self.pid is not None:
            os.kill(self.pid, 9)  # ours and not reaped yet: the number is its own

    def _next(self) -> None:
        while self._waiting and not self._is_over:
            self._path = next(iter(self._waiting))
            wanted = self._waiting.pop(self._path)
            try:
                pid, _ = self._spawner.spawn(
                    Child([*self._program, "archive", wanted], self._environment), self._output
                )
                self._pidfd = identify(pid)
            except SpawnFailure as error:
                self._say(f"cannot compress what was rotated of {self._path}: {os.strerror(error.errno)}")
                continue
            self.pid = pid
            self._loop.watch(self._pidfd, self._look)
            return

    def _look(self) -> None:
        if self.pid is None:
            return
        status = death.status(self._pidfd)
        if status is None:
            return
        self._loop.forget(self._pidfd)
        death.reap(self._pidfd)
        os.close(self._pidfd)
        self.pid = None
        if "killed" in status and not self._is_over:
            self._say(f"what compresses the rotated files of {self._path} was killed by signal {status['killed']}")
        self._next()
