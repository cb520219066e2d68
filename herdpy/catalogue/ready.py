"""The table ``ready``: how one tells that a process is of use, and not only running."""

import shlex
from collections.abc import Iterator
from typing import Annotated

import msgspec

from herdpy.catalogue.common import path_mistakes
from herdpy.service import Process, Readiness, Step


class Ready(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What has to be so for the service to count as started; when several keys are given, all of them."""

    notify: bool = False
    """It says READY=1 through the socket that NOTIFY_SOCKET names to it, as sd_notify(3) has it."""
    pid_file: str | None = None
    """The absolute path of the file into which a daemon that forks writes the number of the process that remains: that
    is the service's main process from then on. One that an earlier process has left is removed before the start."""
    listens: str | tuple[str, ...] = ()
    """Where it listens, in a list if at several: ``"tcp:127.0.0.1:80"``, ``"tcp:[::1]:80"``, ``"udp:53"`` (at whatever
    address), ``"unix:/run/x.sock"`` or, of an abstract socket, ``"unix:@name"``."""
    log_line: str | None = None
    """A regular expression, as Python has them but for lookarounds, back-references and other things that RE2 does not
    have, that matches somewhere in a line that it writes. ``\\d``, ``\\s``, ``\\w`` and ``\\b`` know ASCII alone."""
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    """A command that succeeds, run again and again until then, as the service itself is."""
    interval: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 0.5
    """Seconds from the end of ``command`` to its next run."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self.listens,) if isinstance(self.listens, str) else self.listens


def mistakes(ready: Ready) -> Iterator[tuple[str, str]]:
    """What the types of the fields cannot say: (key path, problem) of each mistake."""
    from herdpy.readiness.endpoint import parse_endpoint

    if not (ready.notify or ready.pid_file is not None or ready.endpoints or ready.log_line or ready.command):
        yield "ready", "it says nothing to wait for: notify, pid-file, listens, log-line or command"
    if ready.pid_file is not None:
        yield from path_mistakes("ready.pid-file", ready.pid_file)
    for index, text in enumerate(ready.endpoints):
        try:
            parse_endpoint(text)
        except ValueError as error:
            yield "ready.listens" if isinstance(ready.listens, str) else f"ready.listens[{index}]", str(error)
    if ready.log_line is not None:
        from herdpy.readiness.log_line import compiled

        try:
            compiled(ready.log_line)
        except ValueError as error:
            yield "ready.log-line", str(error)
    if ready.command is not None:
        yield from command_mistakes("ready.command", ready.command)


def command_mistakes(key: str, command: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What is wrong with a command line."""
    if not command[0]:
        yield f"{key}[0]", "the program's name is empty"
    for index, argument in enumerate(command):
        if "\0" in argument:
            yield f"{key}[{index}]", "an argument cannot hold a NUL character"


def readiness(ready: Ready, process: Process) -> Readiness | None:
    """The readiness step of a process; None when there is nothing to wait for but READY=1."""
    from herdpy.readiness.all_of import AllOf
    from herdpy.readiness.endpoint import Listening, parse_endpoint
    from herdpy.readiness.log_line import LogLine
    from herdpy.readiness.pid_file import PidFile
    from herdpy.readiness.succeeded import Succeeded

    ways: list[Readiness] = []
    if ready.pid_file is not None:
        ways.append(PidFile(path=ready.pid_file))
    if ready.log_line is not None:
        ways.append(LogLine(pattern=ready.log_line))
    ways += (Listening(endpoint=parse_endpoint(text)) for text in ready.endpoints)
    if ready.command is not None:
        asking = msgspec.structs.replace(process, command=ready.command)
        ways.append(Succeeded(process=asking, pause=ready.interval))
    if not ways:
        return None
    return ways[0] if len(ways) == 1 else AllOf(tuple(ways))


def preparation(ready: Ready, *, insists: bool) -> tuple[Step, ...]:
    """What is to be done about a PID file while there is no process.

    Args:
        insists: whether it is a failure that the file cannot be a stale one.
    """
    if ready.pid_file is None:
        return ()
    from herdpy.readiness.pid_file import RemoveStalePidFile

    return (RemoveStalePidFile(path=ready.pid_file, insists=insists),)


def words(ready: Ready) -> str:
    """``PID file /run/x.pid; listens at tcp:127.0.0.1:80``."""
    said = [
        "READY=1" if ready.notify else "",
        f"PID file {ready.pid_file}" if ready.pid_file is not None else "",
        f"log line {ready.log_line}" if ready.log_line is not None else "",
        f"listens at {', '.join(ready.endpoints)}" if ready.endpoints else "",
        f"{shlex.join(ready.command)} succeeds" if ready.command is not None else "",
    ]
    return "; ".join(word for word in said if word)
