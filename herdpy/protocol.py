"""The control protocol: what a client and a supervisor say to each other, as GNU Shepherd 0.10 says it.

One connection carries one command and one reply, each an S-expression in UTF-8 with nothing around it; version 0. A
server closes the connection without a byte when the command is none. What herdpy adds are actions, and keys at the end
of a service (see docs/explanation/architecture.md): GNU's client takes no other change.

Everything that goes out is put together as text from a template, not as a tree that is then walked: the status of a
thousand services is one reply.
"""

from herdpy.sexp import Pair, Raw, SexpError, Symbol, read, write, write_string, write_symbol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COMMAND_SIZE = 4 * 1024 * 1024
"""Bytes of a command that a server should take."""
COMMAND_DEPTH = 32
"""Nested parentheses of a command that a server should take; a valid one has three."""


class ProtocolError(ValueError):
    """A command or a reply that the protocol does not know; ``str()`` says what is wrong with it."""


class Command:
    """What a client asks for.

    ``action`` and ``service`` are symbols in any sensible command. What is no :class:`herdpy.sexp.Symbol` is the name
    of nothing, although a plain string may compare equal to one: see :meth:`names`.
    """

    __slots__ = ("action", "arguments", "directory", "service")

    def __init__(
        self, action: object, service: object, arguments: "Sequence[str]" = (), directory: str | None = None
    ) -> None:
        self.action = action
        self.service = service
        self.arguments = tuple(arguments)
        self.directory = directory

    @property
    def names(self) -> tuple[str | None, str | None]:
        """The action's and the service's name; None for what is no symbol, and hence names nothing there is."""
        action = self.action if isinstance(self.action, Symbol) else None
        return action, self.service if isinstance(self.service, Symbol) else None


class Reply:
    """What a supervisor answers: ``result`` and ``error`` as values (False: none), ``messages`` as lines."""

    __slots__ = ("error", "messages", "result")

    def __init__(self, result: object, error: object = False, messages: "Sequence[str]" = ()) -> None:
        self.result = result
        self.error = error
        self.messages = messages


# What a client sends and a server takes


def write_command(command: Command) -> bytes:
    """Return the bytes that ask for ``command``; a string as action or service is sent as a symbol."""
    arguments = " ".join([write_string(argument) for argument in command.arguments])
    directory = "#f" if command.directory is None else write_string(command.directory)
    return (
        f"(shepherd-command (version 0) (action {write_symbol(str(command.action))})"
        f" (service {write_symbol(str(command.service))}) (arguments ({arguments})) (directory {directory}))"
    ).encode()


def parse_command(text: str) -> Command:
    """Return the command that ``text``, as :meth:`herdpy.sexp.Reader.feed` gives it, spells.

    As strict as Shepherd: these fields, in this order, and no other; of the version only the first number counts.

    Raises:
        ProtocolError: when it is none; the connection is then to be closed without a reply.
    """
    try:
        value = read(text, depth=COMMAND_DEPTH)
    except SexpError as error:
        raise ProtocolError(str(error)) from error
    match value:
        case [
            Symbol("shepherd-command"),
            [Symbol("version"), int(version), *_],
            [Symbol("action"), action],
            [Symbol("service"), service],
            [Symbol("arguments"), list(arguments)],
            [Symbol("directory"), (str() | False) as directory],
        ] if version == 0 and version is not False:
            if not all(type(argument) is str for argument in arguments):
                raise ProtocolError("an argument that is no string")
            return Command(action, service, arguments, directory or None)
    raise ProtocolError("not a command of version 0")


# What a server answers


def write_reply(result: object = False, error: str | bool = False, messages: "Iterable[str]" = ()) -> bytes:
    """Return the bytes of a reply.

    Args:
        result: a value, see :func:`as_result`. By convention: for ``start`` the service itself
            (:func:`write_service`), or False when it failed; for ``stop`` the list of the names (symbols) stopped, the
            service itself first; for everything else a list of one value.
        error: what one of the functions below returns; False when there is none.
        messages: the lines to be shown; one with newlines in it is sent as the lines it holds.
    """
    if isinstance(result, list) and len(result) == 1 and isinstance(result[0], Raw):  # a service, mostly
        result = Raw(f"({result[0]})")
    elif not isinstance(result, (Raw, bool)):
        result = as_result(result)
    lines = " ".join([write_string(line) for message in messages for line in message.split("\n")])
    problem = error if isinstance(error, str) else "#f"
    return f"(reply (version 0) (result {write(result)}) (error {problem}) (messages ({lines})))".encode()


def as_result(value: object) -> object:
    """Return ``value`` as a result can carry it: what has no S-expression becomes a string, as Shepherd has it.

    None is Guile's unspecified value, a mapping a list of dotted pairs.
    """
    if value is None:
        return "#<unspecified>"
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [as_result(item) for item in value]
    if isinstance(value, Pair):
        return Pair(as_result(value.head), as_result(value.tail))
    if isinstance(value, dict):
        return [
            [as_result(key), *tail] if isinstance(tail := as_result(item), list) else Pair(as_result(key), tail)
            for key, item in value.items()
        ]
    return str(value)


def service_not_found(service: object) -> Raw:
    """Return the error for a service that nobody provides."""
    return Raw(f"(error (version 0) service-not-found {write(service)})")


def action_not_found(action: object, service: object) -> Raw:
    """Return the error for an action that ``service`` does not have."""
    return Raw(f"(error (version 0) action-not-found {write(action)} {write(service)})")


def action_exception(
    action: object,
    service: object,
    text: str,
    *,
    key: str = "misc-error",
    subroutine: str | None = None,
    code: int | None = None,
) -> Raw:
    """Return the error for an action that failed, so that GNU's client, too, shows ``text``.

    Args:
        text: what went wrong, in words.
        key: Guile's name for the kind of exception; ``system-error`` when there is an errno.
        subroutine: the system call that failed; clients put ``In procedure SUBROUTINE:`` before the text.
        code: the errno.
    """
    procedure = _optional(subroutine)
    rest = "#f" if code is None else f"({code})"
    return Raw(
        f"(error (version 0) action-exception {write(action)} {write(service)} {write_symbol(key)}"
        f' ({procedure} "~A" ({write_string(text)}) {rest}))'
    )


def no_such_file(action: object, service: object, file: str) -> Raw:
    """Return the error for an action that was to read a file which is not there, as Guile's ``open-file`` puts it."""
    return Raw(
        f"(error (version 0) action-exception {write(action)} {write(service)} system-error"
        f' ("open-file" "~A: ~S" ("No such file or directory" {write_string(file)}) (2)))'
    )


def wrong_number_of_arguments(action: object, service: object) -> Raw:
    """Return the error for an action that was given arguments and takes none."""
    return Raw(
        f"(error (version 0) action-exception {write(action)} {write(service)} wrong-number-of-args"
        f' (#f "Wrong number of arguments to ~A" ({write_string(str(action))}) #f))'
    )


def write_service(
    *,
    provides: "Sequence[str]",
    requires: "Sequence[str]" = (),
    respawn: bool = False,
    docstring: str = "[No description.]",
    enabled: bool = True,
    running: object = False,
    last_respawns: "Iterable[int]" = (),
    status_changes: "Iterable[tuple[str, int]]" = (),
    startup_failures: "Iterable[int]" = (),
    status: str = "stopped",
    one_shot: bool = False,
    transient: bool = False,
    respawn_limit: tuple[int, int] = (5, 7),
    respawn_delay: float = 0.1,
    reason: str | None = None,
    details: "Iterable[tuple[str, str]]" = (),
    log_file: str | None = None,
    source: str | None = None,
    stage: str | None = None,
    actions: "Iterable[str]" = (),
    command: "Sequence[str]" = (),
    activation: str | None = None,
    endpoints: "Iterable[tuple[str, str]]" = (),
    given_up: bool = False,
    members: "Sequence[str]" = (),
) -> Raw:
    """Return a service as a status or a start tells it. Worth keeping until the service's state changes.

    The fields up to ``respawn_delay`` are Shepherd's, in its order; those after it are ours.

    Args:
        provides: its names, the canonical one first.
        running: its running value: mostly the PID; False unless it runs.
        last_respawns: when it was respawned, in UNIX seconds, newest first.
        status_changes: the states it entered (``stopped``, ``starting``, ``running``, ``stopping``), and when, newest
            first, at most 30.
        startup_failures: when it failed to start, newest first, at most 10; forgotten at a stop.
        respawn_limit: so many times within so many seconds.
        respawn_delay: seconds.
        reason: why it last ended or failed, in words.
        details: facts of this start, in the order they are to be shown.
        stage: what is going on while it starts.
        actions: what it can do besides what every service can.
        command: the command line of its main process, whose PID ``running`` is then.
        activation: of a service with sockets: ``lazy``, ``eager`` or ``inetd``; told with its endpoints.
        endpoints: where it listens: name and address of each socket.
        given_up: whether it is disabled because it ended too often, as ``reason`` says.
        members: what is started and stopped with it, of a target.
    """
    count, interval = respawn_limit
    return Raw(
        f"(service (version 0) (provides ({' '.join([write_symbol(name) for name in provides])}))"
        f" (requires ({' '.join([write_symbol(name) for name in requires])}))"
        f" (respawn? {_BOOLEANS[respawn]}) (docstring {write_string(docstring)}) (enabled? {_BOOLEANS[enabled]})"
        f" (running {write(running)}) (conflicts ()) (last-respawns ({' '.join([str(at) for at in last_respawns])}))"
        f" (status-changes ({' '.join([f'({state} . {at})' for state, at in status_changes])}))"
        f" (startup-failures ({' '.join([str(at) for at in startup_failures])})) (status {status})"
        f" (one-shot? {_BOOLEANS[one_shot]}) (transient? {_BOOLEANS[transient]})"
        f" (respawn-limit ({count} . {interval})) (respawn-delay {write(respawn_delay)})"
        f" (reason {_optional(reason)})"
        f" (details ({' '.join([f'({write_string(key)} . {write_string(text)})' for key, text in details])}))"
        f" (log-file {_optional(log_file)}) (source {_optional(source)}) (stage {_optional(stage)})"
        f" (actions ({' '.join([write_symbol(name) for name in actions])}))"
        f" (command ({' '.join([write_string(word) for word in command])}))"
        + ("" if activation is None else _sockets(activation, endpoints))
        + (" (given-up? #t)" if given_up else "")
        + (f" (members ({' '.join([write_symbol(name) for name in members])})))" if members else ")")
    )


def _sockets(activation: str, endpoints: "Iterable[tuple[str, str]]") -> str:
    told = " ".join([f"({write_string(name)} . {write_string(address)})" for name, address in endpoints])
    return f" (activation {write_symbol(activation)}) (endpoints ({told}))"


def write_services(services: "Iterable[Raw]") -> Raw:
    """Return the result of ``status root``: the list, in a list, of what :func:`write_service` returned for each."""
    return Raw(f"(({' '.join(services)}))")


def write_overview(groups: "Mapping[str, Iterable[tuple[str, int]]]") -> Raw:
    """Return the result of the action ``overview``: the services of each group by name, sorted.

    Args:
        groups: for ``running``, ``starting``, ``stopped``, ``stopping``, ``one-shot`` and ``failing`` the names, each
            with when the service entered the state (UNIX seconds): told of those that are starting or stopping.
    """
    fields = []
    for group, members in groups.items():
        ordered = sorted(members)
        fields.append(f"({group} ({' '.join([write_symbol(name) for name, _ in ordered])}))")
        if group in ("starting", "stopping"):
            fields.append(f"({group}-since ({' '.join([str(at) for _, at in ordered])}))")
    return Raw(f"((overview (version 0) {' '.join(fields)}))")


def write_progress(service: str, stage: str, done: float | None = None) -> bytes:
    """Return one line of what the action ``progress`` streams; ``done`` is from 0 to 1, None when unknown."""
    share = "#f" if done is None else write(float(done))
    name = write_symbol(service)
    return f"(progress (version 0) (service {name}) (stage {write_string(stage)}) (done {share}))\n".encode()


def write_events_begin(time: float) -> bytes:
    """Return the line that begins what the action ``events`` streams, and tells that from then on nothing is missed."""
    return f"(events (version 0) (time {write(float(time))}))\n".encode()


def write_event(time: float, document: str) -> bytes:
    """Return one line of what the action ``events`` streams: an event as JSON, and when it happened (UNIX seconds)."""
    return f"(event (version 0) (time {write(float(time))}) (json {write_string(document)}))\n".encode()


def write_reach(
    *, running: bool, ssh: "Sequence[str]" = (), console: str | None = None, console_log: str | None = None
) -> Raw:
    """Return the result of the action ``reach``: how a client gets inside a service (:class:`herdpy.service.Reach`)."""
    return Raw(
        f"((reach (version 0) (running? {_BOOLEANS[running]})"
        f" (ssh ({' '.join([write_string(word) for word in ssh])}))"
        f" (console {_optional(console)}) (console-log {_optional(console_log)})))"
    )


def write_usage(*, cpu_seconds: float, memory: int, processes: int, threads: int) -> Raw:
    """Return the result of the action ``usage``: what a running service uses of the host; ``memory`` in bytes."""
    return Raw(
        f"((usage (version 0) (cpu-seconds {write(float(cpu_seconds))}) (memory {memory})"
        f" (processes {processes}) (threads {threads})))"
    )


_BOOLEANS = ("#f", "#t")


def _optional(text: str | None) -> str:
    return "#f" if text is None else write_string(text)


# What a client takes


def parse_reply(text: str) -> Reply:
    """Return the reply that ``text`` spells.

    Raises:
        ProtocolError: when it is none.
    """
    try:
        value = read(text)
    except SexpError as error:
        raise ProtocolError(str(error)) from error
    if isinstance(value, list) and len(value) >= 5 and value[0] == "reply" and _has_version_0(value):
        fields = parse_fields(value)
        messages = fields.get("messages")
        if isinstance(messages, list) and "result" in fields and "error" in fields:
            return Reply(fields["result"], fields["error"], [str(line) for line in messages])
    raise ProtocolError("not a reply of version 0")


def parse_fields(value: object) -> dict[str, object]:
    """Return what ``(NAME (version 0) (KEY VALUE) ...)`` says, by key; anything else in it is passed over.

    This reads services, progress and reach alike: unknown keys do no harm, and a missing one is for the caller to miss.
    """
    if not isinstance(value, list):
        return {}
    return {field[0]: field[1] for field in value if _is_field(field)}


def _is_field(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _has_version_0(value: list[object]) -> bool:
    version = value[1]
    return isinstance(version, list) and len(version) >= 2 and version[0] == "version" and version[1] == 0


def parse_services(result: object) -> list[dict[str, object]]:
    """Return the services in the result of ``status``, be it of one or of all, by the fields' names.

    Raises:
        ProtocolError: when there are none in it.
    """
    if isinstance(result, list):
        if len(result) == 1 and isinstance(result[0], list) and not _is_service(result[0]):
            result = result[0]
        if all(_is_service(service) for service in result):
            return [parse_fields(service) for service in result]
    raise ProtocolError("not the status of a service")


def _is_service(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and value[0] == "service"
