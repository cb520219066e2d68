"""``herd events [--follow] [SERVICE]``: what happens, one JSON object a line."""

import select
import time

from herdpy.client.connection import connect, send
from herdpy.client.main import ROOT, Request
from herdpy.client.words import Failure, say, warn
from herdpy.protocol import Command, ProtocolError, parse_fields, parse_reply
from herdpy.sexp import Reader, SexpError, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

PATIENCE = 10.0
"""Seconds until the supervisor, or the next one after its death, must have begun to answer."""


def show(request: Request) -> int:
    """Print the events; with ``--follow`` until Ctrl-C, or until herdpy ends. Return the exit code.

    A supervisor that is replaced meanwhile is followed by the next one, which tells what it did before we were back.

    Raises:
        Failure: the supervisor refuses, or does not answer.
        BrokenPipeError: nobody reads what we write any more, maybe noticed before there is anything to write.
    """
    names = [] if request.service in ROOT else [request.service]
    arguments = list(names)
    if request.history is not None:
        arguments.append(f"--last={request.history}")
    if request.since is not None:
        from datetime import datetime

        from herdpy.client.log import moment

        arguments.append(f"--since={datetime.fromisoformat(moment(request.since, datetime.now())).timestamp()}")
    if not request.is_following:
        _stream(request, arguments)
        return 0
    seen = _stream(request, ["--follow", *arguments])
    while True:
        try:
            seen = _stream(request, ["--follow", f"--after={seen!r}", *names])
        except Failure:
            if _answers(request.socket_path):
                raise
            warn("herdpy has ended, and there is nothing more to follow")
            return 0


def _answers(path: str) -> bool:
    try:
        connect(path).close()
    except Failure:
        return False
    return True


def _stream(request: Request, arguments: "list[str]") -> float:
    """Print what one supervisor tells, until it has told all or ends; return the time of its last event.

    Raises:
        Failure: it hangs up, or says nothing for :data:`PATIENCE`, before it has begun.
    """
    connection = connect(request.socket_path)
    send(connection, Command("events", "root", arguments))
    reader = Reader()
    seen: float | None = None
    while True:
        data = _receive(connection, None if seen is not None else PATIENCE)
        if not data:
            if seen is None:
                raise Failure("premature end-of-file while talking to herdpy; its log may say why")
            return seen
        lines = []
        try:
            for text in reader.feed(data):
                if text.startswith("(reply "):
                    reply = parse_reply(text)
                    if reply.error is not False:
                        from herdpy.client.refused import describe_error

                        raise Failure(describe_error(reply.error), error=reply.error)
                    say("".join([f"{line}\n" for line in reply.messages]))
                    return time.time()
                fields = parse_fields(read(text))
                at, document = fields.get("time"), fields.get("json")
                if isinstance(at, float):
                    seen = at
                if isinstance(document, str):
                    lines.append(f"{document}\n")
        except (SexpError, ProtocolError) as error:
            raise Failure(f"cannot make out the supervisor's answer: {error}") from None
        say("".join(lines))


def _receive(connection: "socket", patience: float | None) -> bytes:
    """Return what comes next, nothing at the end.

    Raises:
        Failure: nothing has come within ``patience`` (seconds).
        BrokenPipeError: whoever read our stdout has gone.
    """
    ready = select.poll()
    ready.register(connection, select.POLLIN)
    ready.register(1, 0)
    seen = dict(ready.poll(None if patience is None else patience * 1000))
    if not seen:
        raise Failure(f"herdpy does not answer within {patience:g} s")
    if connection.fileno() not in seen:
        raise BrokenPipeError
    try:
        return connection.recv(262_144)
    except ConnectionResetError:
        return b""
