"""Shepherd's other views of all services: ``detailed-status``, ``log`` and ``graph``."""

import time

from herdpy.client import status
from herdpy.client.main import Request
from herdpy.client.words import Failure, Palette, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[str, object]


def render(request: Request, services: "list[Fields]", colors: Palette) -> str:
    """Return what ``herd ACTION`` prints, for the three actions of this module.

    Raises:
        Failure: for a log from a server that keeps none, or a ``--since`` that makes no sense.
    """
    if request.action == "detailed-status":
        return "".join([status.description(service, colors, request.history or 0) for service in services])
    return log(request, services, colors) if request.action == "log" else graph(services)


def log(request: Request, services: "list[Fields]", colors: Palette) -> str:
    """Return one line for each change of state, oldest first; what happened in the same second stays in order."""
    status.use_locale()
    return "".join(
        [
            f"{time.strftime('%e %b %Y %H:%M:%S', time.localtime(at))}\t{_event(service, state, before, colors)}\n"
            for at, service, state, before in changes(request, services)
        ]
    )


def changes(request: Request, services: "list[Fields]") -> "list[tuple[int, Fields, str, str]]":
    """Return when which service entered which state, and the state before that, oldest first, as far as asked for.

    Raises:
        Failure: as :func:`render`.
    """
    entered: list[tuple[int, Fields, str, str]] = []
    for service in services:
        before = ""
        for state, at in reversed(status.changes(service)):
            entered.append((at, service, state, before))
            before = state
    if not entered:
        raise Failure("event log is missing (shepherd is too old?)")
    entered.sort(key=lambda change: change[0])
    if request.since is not None:
        from datetime import datetime

        from herdpy.client.log import moment

        since = datetime.fromisoformat(moment(request.since, datetime.now())).timestamp()
        entered = [change for change in entered if change[0] >= since]
    if request.history is not None:
        entered = entered[max(len(entered) - request.history, 0) :]
    return entered


def _event(service: "Fields", state: str, before: str, colors: Palette) -> str:
    color = ""
    match state:
        case "running":
            color, words = colors.bold, "is running"
        case "stopped" if service.get("one-shot?") is True:
            words = "is done (one-shot)"
        case "stopped" if before == "starting":
            color, words = colors.error, "failed to start"
        case "stopped" if service.get("transient?") is True:
            color, words = colors.warning, "is done (transient)"
        case "stopped":
            color, words = colors.warning, "is stopped"
        case "starting":
            words = "is being started"
        case "stopping":
            words = "is being stopped"
        case _:
            words = f"is entering state '{state}'"
    line = f"service {clean(status.name(service))} {words}"
    return f"{color}{line}{colors.plain}" if color else line


def graph(services: "list[Fields]") -> str:
    """Return the services and what they require as a Graphviz digraph.

    A requirement that no service provides is drawn dotted in red: the graph is there to find such things.
    """
    canonical = {
        str(alias): status.name(service) for service in services for alias in status.items(service, "provides")
    }
    lines = ['digraph "Service Graph" {\n']
    missing: list[str] = []
    for service in services:
        current = status.group(service)
        shape = "circle" if service.get("one-shot?") is True else "box"
        style = "dashed" if service.get("transient?") is True else "solid"
        if current == "failing":
            color = text_color = "red"
        elif current == "running":
            color, text_color = "green", "black"
        else:
            color = text_color = "purple" if status.state(service) == "stopped" else "gray"
        node = _quoted(status.name(service))
        lines.append(f"  {node} [shape = {shape}, color = {color}, fontcolor = {text_color}, style = {style}];\n")
        for requirement in status.required(service):
            required = canonical.get(str(requirement))
            if required is None:
                required = str(requirement)
                missing.append(required)
            lines.append(f"  {node} -> {_quoted(required)};\n")
    lines += [
        f"  {_quoted(name)} [shape = box, color = red, fontcolor = red, style = dotted];\n"
        for name in dict.fromkeys(missing)
    ]
    lines.append("}\n")
    return "".join(lines)


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{clean(escaped)}"'
