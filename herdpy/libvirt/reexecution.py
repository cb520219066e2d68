"""Replacing a running virtlogd by a new one, which keeps its process, its sockets and the guests' logs (virtlogd(8)).

Upon SIGUSR1 it writes down its descriptors and executes itself, reads its configuration file, and says READY=1 again.
If the file is wrong, or the program cannot be executed, it ends instead, and every guest's log with it: so both are
tried before. Until the new program has begun, a second SIGUSR1 would kill it: so there is one at a time.
"""

import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from herdpy.libvirt.guests import Logs
from herdpy.libvirt.lens import tell_what_is_ignored
from herdpy.libvirt.placing import place
from herdpy.libvirt.rehearsal import Rehearsal
from herdpy.service import ActionContext, ActionFailure, Context, ProcessContext, StartFailure
from herdpy.threads import in_thread
from herdpy.watch import watching

if TYPE_CHECKING:
    from herdpy.watch import Watch

PATIENCE = 30.0
"""Seconds until the new one is ready; it takes 25 ms, and 200 ms on a host that is busy."""
QUIET = 2.0
"""Seconds without a change of the program after which an upgrade is taken for done."""
DETAIL = "new program"


class Reexecute(msgspec.Struct, frozen=True, kw_only=True):
    """A step: have the running virtlogd read this file, and be the program that is on disk by now."""

    path: str
    """Where its configuration file is."""
    content: str | None
    """What the file is to be; None means what it is."""
    lens: str
    """The module of augeas that knows virtlogd's keys."""
    rehearsal: Rehearsal

    async def run(self, context: Context) -> None:
        """Try it, put the file in its place, and have virtlogd execute itself; returns when it is ready again.

        Raises:
            StartFailure: the trial failed, and nothing was done; or what came of it.
        """
        begun = False

        async def take_turn(context: Context) -> None:
            nonlocal begun
            begun = True
            await self._reexecute(context)

        while not begun:  # what another one has done was done with its file
            try:
                await context.once(f"reexecution of {self.path}", take_turn)
            except StartFailure:
                if begun:
                    raise

    async def _reexecute(self, context: Context) -> None:
        tried = f"{self.path}.tried"
        try:
            if self.content is None:
                await self.rehearsal.run(context, self.path)
            else:
                await in_thread(place, tried, self.content)
                await self.rehearsal.run(context, tried)
                await in_thread(os.rename, tried, self.path)
        except OSError as error:
            raise StartFailure(f"cannot write {error.filename or tried}: {error.strerror}") from None
        except StartFailure as failure:
            raise StartFailure(f"it was not re-executed: {failure}") from None
        await context.renew(signal.SIGUSR1, PATIENCE)
        context.detail(DETAIL, None)
        await tell_what_is_ignored(context, self.path, self.lens)


class ReexecuteOnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The operation of the action ``reexec``."""

    step: Reexecute

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Do it.

        Raises:
            ActionFailure, StartFailure: it was not done; why.
        """
        if arguments:
            raise ActionFailure(f"it takes no arguments, and {' '.join(arguments)} was given")
        if context.pid is None:
            raise ActionFailure(f"{context.name} does not run; start it with: herd start {context.name}")
        await self.step.run(context)
        context.print(f"Service {context.name} has executed itself anew, as PID {context.pid} still.")
        return None


class ReexecuteInstead(msgspec.Struct, frozen=True, kw_only=True):
    """The renewal of virtlogd: while it writes guests' logs it is re-executed, and not restarted."""

    step: Reexecute
    logs: Logs

    async def run(self, context: ProcessContext) -> str | None:
        """Look, and do it.

        Raises:
            StartFailure: it was not done; why.
        """
        guests = await self.logs.guests(context.pid)
        if not guests:
            return None
        await self.step.run(context)
        return (
            f"Service {context.name} has executed itself anew instead of being restarted: "
            f"the logs of {', '.join(guests)} would have ended."
        )


class Identity(msgspec.Struct, frozen=True):
    """Which file a program is."""

    device: int
    inode: int
    changed: int
    """Of its content, in nanoseconds since the epoch."""


class FollowProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A guard that has nothing against the process: it re-executes it when its program was replaced on disk."""

    program: str
    step: Reexecute

    async def run(self, context: ProcessContext) -> str:
        """Watch until the process ends."""
        with watching(self.program) as watch:
            # An upgrade may have come while nobody watched. Of a script, what runs is its interpreter.
            known = await watch.look(partial(_running, context.pid, self.program))
            while True:
                found = await watch.look(partial(_identity, self.program))
                if found is not None and found != known:
                    await _settle(watch, self.program)
                    known = await watch.look(partial(_identity, self.program))
                    await self._reexecute(context)
                    continue
                await watch.change()

    async def _reexecute(self, context: ProcessContext) -> None:
        try:
            await self.step.run(context)
        except StartFailure as failure:
            context.detail(DETAIL, f"{failure}; when that is mended: herd reexec {context.name}")


async def _settle(watch: "Watch", path: str) -> None:
    """Wait until nothing has happened for a while: a package is unpacked file by file."""
    while True:
        await watch.look(partial(_identity, path))
        with trio.move_on_after(QUIET) as quiet:
            await watch.change()
        if quiet.cancelled_caught:
            return


def _identity(path: str) -> Identity | None:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return Identity(seen.st_dev, seen.st_ino, seen.st_mtime_ns)


def _running(pid: int, program: str) -> Identity | None:
    """What a process runs; of a script, what is on disk now."""
    try:
        with open(program, "rb") as file:
            if file.read(2) == b"#!":
                return _identity(program)
    except OSError:
        return None
    return _identity(f"/proc/{pid}/exe")
