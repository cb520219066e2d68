"""What a running service uses of the host: processor time, memory, tasks."""

from herdpy.client import status
from herdpy.client.connection import ask
from herdpy.client.words import Failure
from herdpy.protocol import Command, ProtocolError, parse_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[str, object]

PATIENCE = 2.0
"""Seconds that the status of a service waits for it."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def of(path: str, services: "list[Fields]") -> "Fields | None":
    """Ask for the usage of the one service, if it runs as a process and its server can tell; None otherwise."""
    if len(services) != 1 or status.state(services[0]) != "running" or status.process(services[0])[0] is None:
        return None
    if "usage" not in map(str, status.items(services[0], "actions")):
        return None
    try:
        reply = ask(path, Command("usage", status.name(services[0])), PATIENCE)
        return None if reply is None or reply.error is not False else parse(reply.result)
    except (Failure, ProtocolError):
        return None  # it is not what was asked for, and the rest is known


def parse(result: object) -> "Fields":
    """Return the fields of the result of the action ``usage``.

    Raises:
        ProtocolError: when it is none.
    """
    match result:
        case [["usage", *_] as answer]:
            return parse_fields(answer)
    raise ProtocolError("not the usage of a service")


def lines(usage: "Fields") -> str:
    """Return the usage in three lines."""
    return f"CPU time: {cpu_time(usage)}\nMemory: {memory(usage)}\nTasks: {tasks(usage)}\n"


def cpu_time(usage: "Fields") -> str:
    """Return the processor's seconds, as ``1 h 2 min 3 s``."""
    seconds = usage.get("cpu-seconds")
    if not isinstance(seconds, (int, float)):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def memory(usage: "Fields") -> str:
    """Return the resident memory, as ``12.3 MiB``."""
    size = usage.get("memory")
    if not isinstance(size, (int, float)):
        return "unknown"
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount /= 1024
        unit += 1
    return f"{amount:.1f} {UNITS[unit]}" if unit else f"{int(amount)} B"


def tasks(usage: "Fields") -> str:
    """Return the number of threads, and of the processes they are in."""
    threads, processes = usage.get("threads"), usage.get("processes")
    return f"{threads} in {processes} {'process' if processes == 1 else 'processes'}"
