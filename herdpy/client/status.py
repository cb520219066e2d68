"""The status of services, in GNU Shepherd's words, with what herdpy knows beyond them."""

import time

from herdpy.client.words import Palette, clean, is_unicode, quote
from herdpy.sexp import Pair, Symbol, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fields = dict[str, object]

RESPAWNS_KEPT = 30
"""So many respawns are told of by a server of ours."""

# What a service's fields say, whichever server sent them


def name(service: "Fields") -> str:
    """Return the canonical name."""
    names = items(service, "provides")
    return str(names[0]) if names else "?"


def items(service: "Fields", key: str) -> "Sequence[object]":
    """Return a field that is a list, empty when it is missing."""
    value = service.get(key)
    return value if isinstance(value, list) else ()


def state(service: "Fields") -> str:
    """Return ``running``, ``starting``, ``stopping`` or ``stopped``; servers before 0.9 tell only by ``running``."""
    value = service.get("status")
    if isinstance(value, str):
        return str(value)
    return "running" if service.get("running") is not False else "stopped"


def group(service: "Fields") -> str:
    """Return :func:`state`, or for a stopped service ``one-shot`` or ``failing`` where that says more."""
    current = state(service)
    if current == "stopped":
        if items(service, "startup-failures"):
            return "failing"
        if service.get("one-shot?") is True:
            return "one-shot"
    return current


def changes(service: "Fields") -> list[tuple[str, int]]:
    """Return the states it entered and when, in UNIX seconds, newest first."""
    return [
        (str(change.head), change.tail)
        for change in items(service, "status-changes")
        if isinstance(change, Pair) and isinstance(change.tail, int)
    ]


def details(service: "Fields") -> list[tuple[str, str]]:
    """Return the facts of this start that the server tells, in its order."""
    return [(str(pair.head), str(pair.tail)) for pair in items(service, "details") if isinstance(pair, Pair)]


def required(service: "Fields") -> "list[str]":
    """Return what it cannot run without: what it requires and, as a target, its members, by the names that it uses."""
    return [str(name) for key in ("requires", "members") for name in items(service, key)]


def endpoints(service: "Fields") -> list[tuple[str, str]]:
    """Return where it listens: the name and the address of each socket."""
    return [(str(pair.head), str(pair.tail)) for pair in items(service, "endpoints") if isinstance(pair, Pair)]


def has_processes(service: "Fields") -> bool:
    """Return whether it has processes, and so something to respawn and to log: ours names no log file where not."""
    return service.get("log-file") is not False


def text(service: "Fields", key: str) -> str:
    """Return a field that is a string, empty when it is missing or #f."""
    value = service.get(key)
    return value if isinstance(value, str) else ""


# Rendering


def description(service: "Fields", colors: Palette, history: int, usage: "Fields | None" = None) -> str:
    """Return what ``herd status SERVICE`` prints: as Shepherd 1.0 does when the server tells the service's actions, as
    a server of that age and ours do; else as 0.10.

    Args:
        history: how many lines of its output to show, where the server says where they are.
        usage: what :mod:`herdpy.client.usage` knows of it.
    """
    canonical = name(service)
    current = state(service)
    is_enabled = service.get("enabled?") is not False
    is_new = "actions" in service
    respawns = items(service, "last-respawns")
    reason = text(service, "reason")
    is_given_up = service.get("given-up?") is True
    bullet = "● " if is_new and is_unicode() else ""
    lines = [f"{colors.bold}{bullet}Status of {clean(canonical)}:{colors.plain}\n"]

    def add(line: str, color: str = "") -> None:
        lines.append(f"  {_highlight(clean(line), color, colors)}\n")

    if current == "running":
        _describe_running(service, add)
    elif current == "stopped":
        add(*_describe_stopped(service, colors))
    elif current in {"starting", "stopping"}:
        add("It is starting." if current == "starting" else "It is being stopped.", _impatience(service, colors))
    else:
        add(f"Unknown status '{current}'.")
    if usage is not None:
        from herdpy.client.usage import lines as usage_lines

        for line in usage_lines(usage).splitlines():
            add(line)
    if is_enabled:
        add("It is enabled.")
    else:
        add("It is disabled.", colors.error if respawns else colors.warning)
        if reason and is_given_up:
            add(f"  Why: {reason}. To lift it: herd enable {canonical}")
    if is_new:
        for key in ("provides", "requires", "members"):
            if words := " ".join(map(str, items(service, key))):
                add(f"{key.capitalize()}: {words}")
        actions = [str(action) for action in items(service, "actions")]
        if actions:
            add(f"Custom action{'' if len(actions) == 1 else 's'}: {' '.join(actions)}")
    else:
        add(f"Provides {write(service.get('provides', []))}.")
        add(f"Requires {write(service.get('requires', []))}.")
    if has_processes(service):
        add("Will be respawned." if service.get("respawn?") is True else "Will not be respawned.")
    if respawns:
        add(f"Last respawned on {_moment(respawns[0])}.")
        if "reason" in service:
            or_more = " or more" if len(respawns) >= RESPAWNS_KEPT else ""
            add(f"Respawned {_count(len(respawns), 'time')}{or_more} since it was started.")
    failures = items(service, "startup-failures")
    if failures and (current == "stopped" or _is_tried_again(service, failures[0])):
        add(f"Failed to start at {_moment(failures[0])}.", colors.error)
    if stage := text(service, "stage"):
        add(f"Stage: {stage}")
    if reason and not is_given_up:
        add(f"Reason: {reason}")
    for key, value in details(service):
        add(f"{key[:1].upper()}{key[1:]}: {value}")
    if service.get("pending-replacement?") is True:  # Shepherd 1.0; ours tells what will be another
        add("From its next start on: as it is declared now")
    recent = _recent(service, history, add)
    if source := text(service, "source"):
        add(f"Declared in {source}")
    if recent:
        add("Recent messages (use '-n' to view more or less):")
        for line in recent:
            add(f"  {line}")
    return "".join(lines)


def _is_tried_again(service: "Fields", failure: object) -> bool:
    """Tell of a service with this last failure to start whether that is what it was about to do right before."""
    entered = changes(service)
    if [state for state, _ in entered[:2]] != ["starting", "stopped"] or not isinstance(failure, int):
        return False
    return max(entered[0][1], failure) - min(entered[1][1], failure) <= 1


def _recent(service: "Fields", history: int, add: "Callable[[str], None]") -> list[str]:
    """Tell where the service's output is, and return its last lines: ours are read from the file, Shepherd 1.0 sends
    them, and the names of maybe several files."""
    path = text(service, "log-file")
    if path:
        problem = ""
        lines: list[str] = []
        if history:
            from herdpy.client.log_file import Unreadable, last_lines

            try:
                lines = last_lines(path, history)
            except Unreadable as unreadable:
                problem = f", which {unreadable}"
        add(f"Log file: {path}{problem}")
        return lines
    for sent_path in items(service, "log-files"):
        add(f"Log file: {sent_path}")
    sent = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(pair.head))} {pair.tail}"
        for pair in items(service, "recent-messages")
        if isinstance(pair, Pair) and isinstance(pair.head, int)
    ]
    return sent[max(len(sent) - history, 0) :]


def _describe_running(service: "Fields", add: "Callable[[str], None]") -> None:
    transient = service.get("transient?") is True
    entered = changes(service)
    if entered and entered[0][0] == "running":
        since = _moment(entered[0][1])
        add(f"It is transient, running since {since}." if transient else f"It is running since {since}.")
    else:
        add("It is started and transient." if transient else "It is started.")
    value = service.get("running", True)
    pid, command = process(service)
    if pid is not None:
        add(f"Main PID: {pid}")
    elif not (isinstance(value, list) and value[:1] == ["process"]) and not (value is True and "actions" in service):
        add(f"Running value is {write(value)}.")
    if command:
        add(f"Command: {quote(command)}")
    if listening := endpoints(service):
        style = "Inetd" if service.get("activation") == "inetd" else "Systemd"
        add(f"{style}-style service listening on {_count(len(listening), 'endpoint')}:")
        for _, address in listening:
            add(f"  - {address}")


def process(service: "Fields") -> "tuple[int | None, list[str]]":
    """Return the main process's PID and command line, as far as the server tells.

    Shepherd 1.0 says (process (version 0) (id PID) (command (WORD ...)) ...) for its running value; ours says the PID,
    and the command in a key of its own. A bare number of Shepherd 0.10 may be anything.
    """
    value = service.get("running")
    if isinstance(value, list) and len(value) > 1 and value[0] == "process" and isinstance(value[0], Symbol):
        pid: int | None = None
        command: list[str] = []
        for field in value:
            match field:
                case ["id", int(number)]:
                    pid = number
                case ["command", list(words)]:
                    command = [str(word) for word in words]
        return pid, command
    command = [str(word) for word in items(service, "command")]
    return (value if command and isinstance(value, int) and value is not True else None), command


def _describe_stopped(service: "Fields", colors: Palette) -> tuple[str, str]:
    """Return what it is, and its colour."""
    if service.get("one-shot?") is True:
        return "It is stopped (one-shot).", ""
    if items(service, "startup-failures"):
        return "It is stopped (failing).", colors.error
    entered = changes(service)
    if entered and entered[0][0] == "stopped":
        return f"It is stopped since {_moment(entered[0][1])}.", colors.warning
    return "It is stopped.", colors.warning


def _highlight(words: str, color: str, colors: Palette) -> str:
    return f"{color}{words}{colors.plain}" if color else words


def _impatience(service: "Fields", colors: Palette) -> str:
    """Return the colour for a service that has been starting or stopping for long."""
    from herdpy.client.summary import impatience

    entered = changes(service)
    return impatience(entered[0][1], colors.warning, colors.error) if entered else ""


def _moment(at: object) -> str:
    """Return a time in UNIX seconds as ``05:49:30 (0 seconds ago)``, the clock's part as the locale has it."""
    if not isinstance(at, int):
        return str(at)
    use_locale()
    now = time.time()
    there, here = time.localtime(at), time.localtime(now)
    is_today = there.tm_year == here.tm_year and there.tm_mday == here.tm_mday
    elapsed = int(now) - at
    if elapsed < 0:
        return f"{time.strftime('%X' if is_today else '%c', there)} (the clock was set back since)"
    if elapsed < 120:
        ago = _count(elapsed, "second")
    elif elapsed < 7200:
        ago = _count(round(elapsed / 60), "minute")
    elif elapsed < 48 * 3600:
        ago = _count(round(elapsed / 3600), "hour")
    else:
        ago = _count(round(elapsed / 86400), "day")
    return f"{time.strftime('%X' if is_today else '%c', there)} ({ago} ago)"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def use_locale() -> None:
    """Let times be written the user's way; a locale that is not installed leaves them as they are in C."""
    import _locale

    try:
        _locale.setlocale(_locale.LC_TIME, "")
    except _locale.Error:  # type: ignore[attr-defined]  # it is there, only typeshed does not say so
        return
