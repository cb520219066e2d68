"""The status of services, in GNU Shepherd's words, with what herdpy knows beyond them."""

import time

from herdpy.client.words import Palette, clean
from herdpy.sexp import Pair, Symbol, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fields = dict[str, object]

GROUPS = (
    ("Started:", "+", "running"),
    ("Starting:", "^", "starting"),
    ("Stopped:", "-", "stopped"),
    ("Stopping:", "v", "stopping"),
    ("One-shot:", "*", "one-shot"),
    ("Failed to start:", "!", "failing"),
)


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
        if service.get("one-shot?") is True:
            return "one-shot"
        if items(service, "startup-failures"):
            return "failing"
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


def text(service: "Fields", key: str) -> str:
    """Return a field that is a string, empty when it is missing or #f."""
    value = service.get(key)
    return value if isinstance(value, str) else ""


# Rendering


def summary(services: "list[Fields]", colors: Palette) -> str:
    """Return what ``herd status`` prints: the services' names in groups."""
    members: dict[str, list[tuple[str, Fields]]] = {}
    for service in services:
        members.setdefault(group(service), []).append((name(service), service))
    lines: list[str] = []
    for header, bullet, key in GROUPS:
        if key in members:
            color = colors.error if key == "failing" else colors.bold
            lines.append(f"{color}{header}{colors.plain}\n")
            for canonical, service in sorted(members[key], key=_first):
                shown = clean(canonical)
                if key in {"starting", "stopping"}:
                    shown = _highlight(shown, _impatience(service, colors), colors)
                lines.append(f" {bullet} {shown}\n")
    return "".join(lines)


def _first(pair: "tuple[str, Fields]") -> str:
    return pair[0]


def description(service: "Fields", colors: Palette) -> str:
    """Return what ``herd status SERVICE`` prints."""
    canonical = name(service)
    current = state(service)
    is_enabled = service.get("enabled?") is not False
    respawns = items(service, "last-respawns")
    reason = text(service, "reason")
    lines = [_highlight(f"Status of {canonical}:", colors.bold, colors)]
    add: Callable[[str], None] = lambda line: lines.append(f"  {line}")  # noqa: E731
    if current == "running":
        _describe_running(service, add)
    elif current == "stopped":
        add(_describe_stopped(service, colors))
    elif current in {"starting", "stopping"}:
        words = "It is starting." if current == "starting" else "It is being stopped."
        add(_highlight(words, _impatience(service, colors), colors))
    else:
        add(f"Unknown status '{current}'.")
    if is_enabled:
        add("It is enabled.")
    else:
        add(_highlight("It is disabled.", colors.error if respawns else colors.warning, colors))
        if reason:
            add(f"  Why: {reason}. To lift it: herd enable {canonical}")
    add(f"Provides {write(service.get('provides', []))}.")
    add(f"Requires {write(service.get('requires', []))}.")
    add("Will be respawned." if service.get("respawn?") is True else "Will not be respawned.")
    if respawns:
        add(f"Last respawned on {_moment(respawns[0])}.")
    failures = items(service, "startup-failures")
    if current == "stopped" and failures:
        add(_highlight(f"Failed to start at {_moment(failures[0])}.", colors.error, colors))
    if stage := text(service, "stage"):
        add(f"Stage: {stage}")
    if reason and is_enabled:
        add(f"Reason: {reason}")
    for key, value in details(service):
        add(f"{key[:1].upper()}{key[1:]}: {value}")
    if log_file := text(service, "log-file"):
        add(f"Log file: {log_file}")
    if source := text(service, "source"):
        add(f"Declared in {source}")
    return "".join([f"{line}\n" for line in lines])


def _describe_running(service: "Fields", add: "Callable[[str], None]") -> None:
    transient = service.get("transient?") is True
    entered = changes(service)
    if entered and entered[0][0] == "running":
        since = _moment(entered[0][1])
        add(f"It is transient, running since {since}." if transient else f"It is running since {since}.")
    else:
        add("It is started and transient." if transient else "It is started.")
    value = service.get("running", True)
    # Shepherd 1.0 tells of a process as (process (version 0) (id PID) (command (WORD ...)) ...).
    if isinstance(value, list) and len(value) > 1 and value[0] == "process" and isinstance(value[0], Symbol):
        for field in value:
            match field:
                case ["id", int(pid)]:
                    add(f"Main PID: {pid}")
                case ["command", list(command)]:
                    add(f"Command: {clean(' '.join(map(str, command)))}")
    else:
        add(f"Running value is {write(value)}.")


def _describe_stopped(service: "Fields", colors: Palette) -> str:
    if service.get("one-shot?") is True:
        return "It is stopped (one-shot)."
    if items(service, "startup-failures"):
        return _highlight("It is stopped (failing).", colors.error, colors)
    entered = changes(service)
    if entered and entered[0][0] == "stopped":
        return _highlight(f"It is stopped since {_moment(entered[0][1])}.", colors.warning, colors)
    return _highlight("It is stopped.", colors.warning, colors)


def _highlight(words: str, color: str, colors: Palette) -> str:
    return f"{color}{words}{colors.plain}" if color else words


def _impatience(service: "Fields", colors: Palette) -> str:
    """Return the colour for a service that has been starting or stopping for long."""
    entered = changes(service)
    elapsed = time.time() - entered[0][1] if entered else 0
    return colors.error if elapsed >= 60 else colors.warning if elapsed >= 30 else ""


def _moment(at: object) -> str:
    """Return a time in UNIX seconds as ``05:49:30 (0 seconds ago)``, the clock's part as the locale has it."""
    if not isinstance(at, int):
        return str(at)
    use_locale()
    now = time.time()
    there, here = time.localtime(at), time.localtime(now)
    is_today = there.tm_year == here.tm_year and there.tm_mday == here.tm_mday
    elapsed = int(now) - at
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
