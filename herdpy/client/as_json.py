"""The answers in JSON, for programs."""

import json
import time

from herdpy.client import status
from herdpy.client.main import AS_JSON, ROOT, Request
from herdpy.client.words import Failure
from herdpy.protocol import ProtocolError, Reply, parse_services
from herdpy.sexp import Keyword, Pair, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[str, object]


def answer(request: Request, reply: Reply) -> str:
    """Return the JSON, one document and a newline, that tells what the reply tells.

    The status of a service is an object, that of all an array; the log of all is an object a line; ``configuration``
    gives what the service gives; anything else is ``{"result": ..., "messages": [...], "error": ...}``.
    """
    is_log_of_all = request.action == "log" and request.service in ROOT
    if reply.error is False:
        if request.action in {"status", "detailed-status", "log", "graph"} and not is_log_of_all:
            try:
                services = [service(fields) for fields in parse_services(reply.result)]
            except ProtocolError:
                services = []
            if services and request.service not in ROOT:
                _add_what_was_asked_for(request, services[0], parse_services(reply.result))
                return _document(services[0])
            if request.service in ROOT:
                return _document(services)
        if request.action == "tree" or is_log_of_all:
            try:
                if is_log_of_all:
                    return _log_of_all(request, parse_services(reply.result))
                from herdpy.client import tree

                return tree.as_json(parse_services(reply.result), request.service)
            except ProtocolError as problem:
                raise Failure(f"cannot make out the supervisor's answer: {problem}") from None
        if request.action in AS_JSON:
            match reply.result:
                case [str(text)]:
                    return text if text.endswith("\n") else f"{text}\n"
    from herdpy.client.refused import describe_error

    error = None if reply.error is False else describe_error(reply.error)
    return _document({"result": plain(reply.result), "messages": reply.messages, "error": error})


def failure(error: str) -> str:
    """Return the JSON that tells why there is no answer."""
    return _document({"result": False, "messages": [], "error": error})


def _log_of_all(request: Request, services: "list[Fields]") -> str:
    from herdpy.client import overview

    lines = [
        {**moment(at), "service": status.name(service), "status": state}
        for at, service, state, _ in overview.changes(request, services)
    ]
    return "".join([f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines])


def _add_what_was_asked_for(request: Request, document: "Fields", services: "list[Fields]") -> None:
    """Add the service's usage when it was asked for by -v, and the end of its output by -n."""
    if request.is_verbose:
        from herdpy.client import usage

        found = usage.of(request.socket_path, services)
        document["usage"] = None if found is None else {key: plain(found[key]) for key in found if key != "version"}
    log_file = status.text(services[0], "log-file")
    if request.history is not None and log_file:
        from herdpy.client.log_file import Unreadable, last_lines

        try:
            document["recent-messages"] = last_lines(log_file, request.history)
        except Unreadable:
            document["recent-messages"] = None


def service(fields: "Fields") -> "dict[str, object]":
    """Return a service's status as JSON has it: times both as UNIX seconds and in ISO 8601, UTC."""
    running = fields.get("running", False)
    limit = fields.get("respawn-limit")
    pid, command = status.process(fields)
    if pid is None and isinstance(running, int) and not isinstance(running, bool):
        pid = running
    document: dict[str, object] = {
        "name": status.name(fields),
        "provides": plain(fields.get("provides", [])),
        "requires": plain(fields.get("requires", [])),
        "status": status.state(fields),
        "enabled": fields.get("enabled?") is not False,
        "failing": status.group(fields) == "failing",
        "running-value": None if running is False else plain(running),
        "pid": pid,
        "respawn": fields.get("respawn?") is True,
        "one-shot": fields.get("one-shot?") is True,
        "transient": fields.get("transient?") is True,
        "documentation": status.text(fields, "docstring"),
        "status-changes": [{"status": state, **moment(at)} for state, at in status.changes(fields)],
        "last-respawns": [moment(at) for at in status.items(fields, "last-respawns")],
        "startup-failures": [moment(at) for at in status.items(fields, "startup-failures")],
    }
    if isinstance(limit, Pair):
        document["respawn-limit"] = {"times": limit.head, "seconds": limit.tail}
    if "respawn-delay" in fields:
        document["respawn-delay"] = plain(fields["respawn-delay"])
    if "reason" in fields:
        document["respawn-count"] = len(status.items(fields, "last-respawns"))
        document["reason"] = status.text(fields, "reason") or None
        document["stage"] = status.text(fields, "stage") or None
        document["details"] = dict(status.details(fields))
        document["log-file"] = status.text(fields, "log-file") or None
        document["source"] = status.text(fields, "source") or None
    if "log-files" in fields:
        document["log-files"] = plain(fields["log-files"])
    if "pending-replacement?" in fields:
        document["pending-replacement"] = fields["pending-replacement?"] is True
    if "actions" in fields:
        document["actions"] = plain(fields["actions"])
        document["command"] = command or None
    if "members" in fields:
        document["members"] = plain(fields["members"])
    if "endpoints" in fields:
        document["activation"] = plain(fields.get("activation"))
        document["endpoints"] = [{"name": name, "address": address} for name, address in status.endpoints(fields)]
    return document


def moment(at: object) -> "dict[str, object]":
    """Return a time in UNIX seconds, in both notations."""
    if not isinstance(at, int):
        return {"time": plain(at), "iso": None}
    return {"time": at, "iso": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}


def plain(value: object) -> object:
    """Return any value of the protocol as JSON can hold it; what it cannot becomes the text that Guile would write."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Pair):
        return write(value)
    if isinstance(value, Keyword):
        return f"#:{value}"
    if isinstance(value, float) and value - value != 0:
        return write(value)
    if isinstance(value, (str, int, float)):
        return value
    return write(value)


def _document(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
