"""What somebody may have meant who named a service, or an action, that there is not."""

from herdpy.client.connection import ask
from herdpy.client.main import DEFAULT_ROOT, INSIDE, MAKING, ROOT, SWAPPABLE, Request
from herdpy.client.status import items
from herdpy.client.words import Failure, quote
from herdpy.nearest import nearest
from herdpy.protocol import Command, ProtocolError, Reply, parse_services
from herdpy.sexp import SexpError

OF_ALL = (*SWAPPABLE, "restart", "enable", "disable", "log", "usage")
"""What can be asked of each service, besides what it has of its own."""
OF_ROOT = (*DEFAULT_ROOT, *SWAPPABLE, "usage", *MAKING)
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
            case ["error", ["version", 0, *_], "service-not-found", _]:
                names = _services(_ask(request, Command("status", "root")))
                near = nearest(service, names)
                return None if near is None else quote(["herd", action, near])
            case ["error", ["version", 0, *_], "action-not-found", *_]:
                words = _actions(_ask(request, Command("doc", service, ("list-actions",))))
                near = nearest(action, [*words, *(OF_ROOT if service in ROOT else (*OF_ALL, *INSIDE))])
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
