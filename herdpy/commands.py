"""Commands of a declaration that are run beside its service: before its start, after its end, and when asked for."""

import shlex
import signal
from collections import deque
from collections.abc import Sequence

import msgspec
import trio

from herdpy.service import ActionContext, ActionFailure, Context, End, Process, StartFailure

OUTPUT_SHOWN = 64 * 1024
"""Characters of an action's output that are shown: its last ones."""


class RunCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A step that runs a command to its end; what it writes is in the service's log."""

    what: str
    """What the command is to the service, for messages: ``pre-start command``."""
    process: Process
    timeout: float
    """Seconds."""
    may_fail: bool = False

    async def run(self, context: Context) -> None:
        """Run it.

        Raises:
            StartFailure: it cannot be executed, ended with another status than 0, or not in time.
        """
        line = shlex.join(self.process.command)
        context.progress(f"running its {self.what}: {line}")
        try:
            with trio.move_on_after(self.timeout) as time:
                end = await context.execute(self.process)
            if time.cancelled_caught:
                raise StartFailure(f"its {self.what} {line} was not done after {self.timeout:g} s")
            if end.code != 0:
                raise StartFailure(f"its {self.what} {line} {_how(end)}; see: herd log {context.name}")
        except StartFailure:
            if not self.may_fail:
                raise


class RunOnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The operation of an action that runs a command, and shows what it writes to whoever asked."""

    process: Process
    timeout: float
    takes_arguments: bool = False

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Run it, with MAINPID in its environment while the service has a process.

        Raises:
            ActionFailure: it ended with another status than 0, or not in time, or takes no arguments.
            StartFailure: it cannot be executed.
        """
        if arguments and not self.takes_arguments:
            raise ActionFailure(f"it takes no arguments, and {shlex.join(arguments)} was given")
        process = msgspec.structs.replace(self.process, command=(*self.process.command, *arguments))
        if context.pid is not None:
            environment = process.environment | {"MAINPID": str(context.pid)}
            process = msgspec.structs.replace(process, environment=environment)
        lines: deque[str] = deque()
        size = 0

        def keep(line: str) -> None:
            nonlocal size
            lines.append(line)
            size += len(line) + 1
            while size > OUTPUT_SHOWN and len(lines) > 1:
                size -= len(lines.popleft()) + 1

        try:
            with trio.move_on_after(self.timeout) as time:
                end = await context.execute(process, on_line=keep)
        finally:
            for line in lines:
                context.print(line)
        if time.cancelled_caught:
            raise ActionFailure(f"{shlex.join(process.command)} was not done after {self.timeout:g} s")
        if end.code != 0:
            raise ActionFailure(f"{shlex.join(process.command)} {_how(end)}")
        return None


class SendSignal(msgspec.Struct, frozen=True, kw_only=True):
    """The operation of an action that sends a signal to the service's main process."""

    signal: int

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Send it.

        Raises:
            ActionFailure: there is no such process, or it takes no arguments.
        """
        if arguments:
            raise ActionFailure(f"it takes no arguments, and {shlex.join(arguments)} was given")
        pid = context.pid
        if pid is None:
            raise ActionFailure(f"it does not run; start it with: herd start {context.name}")
        await context.signal(self.signal)
        context.print(f"Sent {signal.Signals(self.signal).name} to PID {pid} of service {context.name}.")
        return None


def _how(end: End) -> str:
    """``exited with 1``."""
    return end.reason.removeprefix("it ")
