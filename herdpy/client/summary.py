"""``herd status``: the names of all services, by their state."""

import time

from herdpy.client.words import Failure, clean, palette, say
from herdpy.protocol import Command, ProtocolError, Reply, parse_fields, parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS = (
    ("Started:", "+", "running"),
    ("Starting:", "^", "starting"),
    ("Stopped:", "-", "stopped"),
    ("Stopping:", "v", "stopping"),
    ("One-shot:", "*", "one-shot"),
    ("Failed to start:", "!", "failing"),
)
LONG, TOO_LONG = 30, 60
"""Seconds of starting or stopping from which a name is highlighted, in two degrees."""

Members = dict[str, list[tuple[str, float]]]
"""The names in each group, and since when they are what they are (UNIX seconds; only of those starting or stopping)."""


def show(ask: "Callable[[Command], Reply]", directory: str) -> int:
    """Print the summary; return the exit code. Our supervisor has an answer that is made for it, GNU Shepherd has not.

    Raises:
        Failure: the answer makes no sense.
    """
    reply = ask(Command("overview", "root", (), directory))
    try:
        match reply.error:
            case False:
                members = _of_overview(reply.result)
            case ["error", _, "action-not-found", *_]:
                reply = ask(Command("status", "root", (), directory))
                members = _of_services(reply)
    except ProtocolError as error:
        raise Failure(f"cannot make out the supervisor's answer: {error}") from None
    if reply.error is not False:
        from herdpy.client.refused import report_error

        report_error(reply.error)
        return 1
    say("".join([f"{clean(line)}\n" for line in reply.messages]) + render(members))
    return 0


def _of_overview(result: object) -> Members:
    match result:
        case [["overview", *_] as answer]:
            fields = parse_fields(answer)
        case _:
            raise ProtocolError("not an overview")
    members: Members = {}
    for _, _, key in GROUPS:
        names = fields.get(key)
        if isinstance(names, list) and names:
            since = fields.get(f"{key}-since")
            times = since if isinstance(since, list) else [0] * len(names)
            members[key] = list(zip(names, times, strict=False))
    return members


def _of_services(reply: Reply) -> Members:
    from herdpy.client import status

    members: Members = {}
    if reply.error is False:
        for service in parse_services(reply.result):
            entered = status.changes(service)
            members.setdefault(status.group(service), []).append(
                (status.name(service), entered[0][1] if entered else time.time())
            )
    return members


def render(members: Members) -> str:
    """Return the groups that have members, each sorted."""
    colors = palette(1)
    lines: list[str] = []
    for header, bullet, key in GROUPS:
        if key not in members:
            continue
        color = colors.error if key == "failing" else colors.bold
        lines.append(f"{color}{header}{colors.plain}\n")
        is_transition = key in {"starting", "stopping"}
        for name, since in sorted(members[key]):
            shown = clean(name)
            if is_transition and (color := impatience(since, colors.warning, colors.error)):
                shown = f"{color}{shown}{colors.plain}"
            lines.append(f" {bullet} {shown}\n")
    return "".join(lines)


def impatience(since: float, long: str, too_long: str) -> str:
    """Return which of the two colours is fit for what has been starting or stopping since then, if any."""
    elapsed = time.time() - since
    return too_long if elapsed >= TOO_LONG else long if elapsed >= LONG else ""
