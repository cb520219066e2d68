"""The two programs that the keeper itself keeps running: the supervisor and the logger."""

from __future__ import annotations

import os
import time

from herdpy.keeper import death
from herdpy.keeper.line import Line, pair, resumed
from herdpy.keeper.message import apart
from herdpy.keeper.spawn import SpawnFailure, identify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.spawn import Spawner

FIRST_DELAY = 0.1
TURN = 64
"""Messages that are heard before others have their turn; a packet is heard to its end."""
MANY = 8
"""Messages that are sent before the turn is over: the other end has something to do meanwhile."""
LONGEST_DELAY = 5.0
HANG_UP_PATIENCE = 1.0
"""Seconds that one has to end that has closed its line."""
STEADY = 10.0
"""Seconds of life after which the next end is again the first."""


class Companion:
    """A program with a line to us, started anew whenever it ends: at once the first time, then ever later."""

    def __init__(
        self,
        loop: Loop,
        name: str,
        command: list[str],
        environment: dict[str, str],
        spawner: Spawner,
        output: int,
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self.command = command
        self.line: Line | None = None
        self.pid: int | None = None
        self.pidfd = -1
        self.is_wanted = True
        """Whether it is started anew when it ends."""
        self.ends = 0
        """So many times in a row it has ended early, or not begun."""
        self.status: dict[str, object] | None = None
        """How it last ended."""
        self.has_hung_up = False
        """Whether the last one closed its line before it ended, and was killed for that."""
        self._is_waiting = False
        self._is_paused = False
        self.on_begin: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_message: Callable[[bytes], None] = lambda message: None
        self.before_sending: Callable[[], None] = lambda: None
        """What must be done before anything is sent that was said since."""
        self._environment = environment
        self._loop = loop
        self._spawner = spawner
        self._output = output
        self._say = say
        self._began = 0.0

    def begin(self) -> None:
        """Start it; when that fails, try again later."""
        try:
            ours, theirs = pair()
        except OSError as error:
            self._failed(error.strerror or "no socket")
            return
        try:
            pid = self._spawner.spawn_companion(self.command, self._environment, self._output, theirs.fileno())
            self.pidfd = identify(pid)
        except (SpawnFailure, ValueError) as error:
            ours.close()
            self._failed(
                f"{error.path or error.stage}: {os.strerror(error.errno)}"
                if isinstance(error, SpawnFailure)
                else str(error)
            )
            return
        finally:
            theirs.close()
        self._began = time.monotonic()
        self.pid = pid
        self.line = Line(ours)
        self._is_waiting = self._is_paused = self.has_hung_up = False
        self._loop.watch(self.pidfd, self._look)
        self._loop.watch(self.line.descriptor, self._talk)
        self.on_begin()

    def record(self) -> dict[str, object]:
        """Return what a keeper that executes itself anew has to know of it."""
        line = None if self.line is None else self.line.descriptor
        return {
            "kind": "companion",
            "name": self.name,
            "pid": self.pid,
            "pidfd": self.pidfd,
            "line": line,
            "ends": self.ends,
            "began": self._began,
        }

    def resume(self, told: Mapping[str, Any]) -> None:
        """Go on with what the keeper had before it executed itself anew, as :meth:`record` told it."""
        self.ends, self._began = told["ends"], told["began"]
        if told["pid"] is None or told["line"] is None:
            return
        self.pid, self.pidfd = told["pid"], told["pidfd"]
        self.line = resumed(told["line"])
        self._loop.watch(self.pidfd, self._look)
        self._loop.watch(self.line.descriptor, self._talk)

    @property
    def is_quiet(self) -> bool:
        """Whether all that was to be sent has been."""
        return self.line is None or self.line.is_empty

    def pause(self) -> None:
        """Hear nothing until :meth:`unpause`; what it says meanwhile waits in the line."""
        self._is_paused = True
        if self.line is not None:
            self._loop.watch_writing(self.line.descriptor, wanted=self._is_waiting, reading=False)

    def unpause(self) -> None:
        """Hear it again."""
        self._is_paused = False
        if self.line is not None:
            self._loop.watch_writing(self.line.descriptor, wanted=self._is_waiting)

    def send(
        self, packet: bytes, descriptors: tuple[int, ...] = (), *, give: bool = False, joins: bool = False
    ) -> None:
        """Send a message at the end of this turn, or as soon as it is taken. There must be a line.

        Args:
            joins: as of :meth:`Line.put`.
        """
        assert self.line is not None
        count = self.line.put(packet, descriptors, give=give, joins=joins)
        if count == 1:
            self._loop.soon(self.flush)
        elif count >= MANY:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it is taken; the rest goes by itself."""
        if self.line is None or self._is_waiting:
            return
        self.before_sending()
        if not self.line.flush():
            self._loop.watch_writing(self.line.descriptor, wanted=True, reading=not self._is_paused)
            self._is_waiting = True

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.pid is not None:
            os.kill(self.pid, 9)  # ours and not reaped yet: the number is its own

    def _talk(self) -> None:
        line = self.line
        if line is None:
            return
        if self._is_waiting and line.flush():
            self._loop.watch_writing(line.descriptor, wanted=False, reading=not self._is_paused)
            self._is_waiting = False
        heard = 0
        while heard < TURN:  # so that one who talks without end leaves others a turn
            if self._is_paused:
                return
            packet = line.receive()
            if packet is None:
                return
            if not packet:
                self._hang_up()
                return
            for message in apart(packet):
                self.on_message(message)
                heard += 1
                if self.line is not line:
                    return

    def _hang_up(self) -> None:
        """It has closed its end: then it is of no use, if it lives at all.

        Of one that is killed that is seen, too: the kernel closes its descriptors before it tells of its end.
        """
        assert self.line is not None
        self._loop.forget(self.line.descriptor)
        pid = self.pid

        def end() -> None:
            if self.pid == pid:
                self.has_hung_up = True
                self.kill()

        self._loop.after(HANG_UP_PATIENCE, f"end {self.name}", end)

    def _look(self) -> None:
        status = death.status(self.pidfd)
        if status is None or self.pid is None or self.line is None:
            return
        self.status = status
        # What it said before it ended counts.
        while packet := self.line.receive():
            for message in apart(packet):
                self.on_message(message)
        self._loop.forget(self.line.descriptor)
        self._loop.cancel(f"end {self.name}")
        self.line.close()
        self.line = None
        self._loop.forget(self.pidfd)
        death.reap(self.pidfd)
        os.close(self.pidfd)
        pid, self.pid = self.pid, None
        if time.monotonic() - self._began >= STEADY:
            self.ends = 0
        if self.is_wanted:
            self._say(f"the {self.name} (PID {pid}) {in_words(status)}; starting a new one")
            self._again()
        self.on_end()

    def _failed(self, reason: str) -> None:
        self._say(f"cannot start the {self.name}: {reason}")
        self._again()
        self.on_end()

    def _again(self) -> None:
        delay = 0.0 if self.ends == 0 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self.ends - 1, 16))
        self.ends += 1
        self._loop.after(delay, f"begin {self.name}", self._begin_again)

    def _begin_again(self) -> None:
        if self.is_wanted and self.pid is None:
            self.begin()


def in_words(status: dict[str, object]) -> str:
    """Say how a process ended."""
    if "exited" in status:
        return f"ended with {status['exited']}"
    return f"was killed by signal {status['killed']}"
