"""What somebody may have meant who named a service, or an action, that there is not."""

from herdpy.client.connection import ask
from herdpy.client.main import DEFAULT_ROOT, ROOT, SWAPPABLE, Request
from herdpy.client.status import items
from herdpy.client.words import Failure, quote
from herdpy.nearest import nearest
from herdpy.protocol import Command, ProtocolError, Reply, parse_fields, parse_services
from herdpy.sexp import SexpError

OF_ALL = (*SWAPPABLE, "restart", "enable", "disable", "log")
"""What can be asked of each service, besides what it has of its own."""
OF_ROOT = (*DEFAULT_ROOT, *SWAPPABLE)
LOADING = ("load", "unload", "reload")
"""What root alone can be asked, but is likely to be asked of a service."""
PATIENCE = 2.0
"""Seconds that a guess is worth waiting for."""


def command(request: Request, error: object) -> str | None:
    """Return the command line that an error's victim may have meant, without its arguments; None when none is near.

    Args:
        error: the reply's.
    """
    action, service = request.action, request.service
    try:
        match error:
            case ["error", ["version", 0, *_], "service-not-found", missing]:
                names = _services(_ask(request, Command("status", "root")))
                if service in ROOT:  # it is the argument that names none
                    near = nearest(str(missing), [name for name in names if name not in ROOT])
                    return None if near is None else quote(["herd", action, service, near])
                near = nearest(service, names)
                return None if near is None else quote(["herd", action, near])
            case ["error", ["version", 0, *_], "action-not-found", *_]:
                if action in LOADING and service not in ROOT:
                    return quote(["herd", action, "root", *([] if action == "reload" else [service])])
                words = _actions(_ask(request, Command("doc", service, ("list-actions",))))
                near = nearest(action, [*words, *(OF_ROOT if service in ROOT else (*OF_ALL, *_ways_in(request)))])
                return None if near in (None, action) else quote(["herd", str(near), service])
    except (Failure, OSError, ProtocolError, SexpError):
        pass  # there is nothing to be said but what was said
    return None


def _ask(request: Request, command: Command) -> Reply:
    reply = ask(request.socket_path, command, PATIENCE)
    if reply is None or reply.error is not False:
        raise Failure("")
    return reply


def _services(reply: Reply) -> list[str]:
    """All names by which a service may be called, that of the supervisor included."""
    names = [str(name) for service in parse_services(reply.result) for name in items(service, "provides")]
    return [*names, "root"]


def _actions(reply: Reply) -> list[str]:
    """What ``doc SERVICE list-actions`` tells in one line: ``NAME (ACTION ...)``."""
    _, _, words = "".join(reply.messages).partition("(")
    return words.rstrip(")").split()


def _ways_in(request: Request) -> list[str]:
    """Which of the actions that lead into a machine the service has."""
    reply = ask(request.socket_path, Command("reach", request.service), PATIENCE)
    match reply.result if reply is not None else None:
        case [["reach", *_] as answer]:
            fields = parse_fields(answer)
            return [
                *(("exec", "offload") if fields.get("ssh") else ()),
                *(("console",) if fields.get("console") else ()),
            ]
    return []
