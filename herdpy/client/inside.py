"""The ways into a running service that is a machine: ``console``, ``exec`` and ``offload``."""

import gc

from herdpy.client.connection import ask
from herdpy.client.main import Request
from herdpy.client.refused import describe_error
from herdpy.client.words import Failure
from herdpy.protocol import Command, parse_fields


class Reach:
    """How to get into a service, as the supervisor tells it."""

    __slots__ = ("console", "service", "ssh")

    def __init__(self, service: str, ssh: list[str], console: str | None) -> None:
        self.service = service
        self.ssh = ssh
        self.console = console


def run(request: Request) -> int:
    """Carry out the action and return the exit code: that of the command inside, 255 when ssh failed.

    Raises:
        Failure: when there is no way in.
    """
    gc.enable()  # bin/herd does without; this one may run for days
    if request.action == "console":
        from herdpy.client.console import converse

        return converse(reach(request))
    if request.action == "exec":
        from herdpy.client.ssh import execute

        arguments = request.arguments
        return execute(reach(request), arguments[1:] if arguments[:1] == ["--"] else arguments)
    from herdpy.client.offload import offload, parse

    job = parse(request.arguments)
    return offload(reach(request), job)


def reach(request: Request) -> Reach:
    """Ask the supervisor for the way into the service.

    Raises:
        Failure: when there is none, or the service does not run.
    """
    service = request.service
    reply = ask(request.socket_path, Command("reach", service))
    if reply is None:
        raise Failure("premature end-of-file while talking to herdpy")
    if reply.error is not False:
        match reply.error:
            case ["error", _, "action-not-found", *_]:
                raise Failure(f"service '{service}' is no machine that one could get into")
        raise Failure(describe_error(reply.error), error=reply.error)
    match reply.result:
        case [["reach", *_] as answer]:
            fields = parse_fields(answer)
        case _:
            raise Failure(f"cannot make out how to reach {service}: the supervisor's answer is of an unknown form")
    if fields.get("running?") is not True:
        raise Failure(f"{service} is not running; start it with: herd start {service}")
    ssh = fields.get("ssh")
    console = fields.get("console")
    found = Reach(
        service,
        [str(word) for word in ssh] if isinstance(ssh, list) else [],
        console if isinstance(console, str) else None,
    )
    if not (found.console if request.action == "console" else found.ssh):
        way = "console" if request.action == "console" else "way in by ssh"
        raise Failure(f"{service} has no {way}; its configuration says what it has: herd configuration {service}")
    return found
