"""``herd [OPTIONS] ACTION [SERVICE [ARGUMENTS]]``: options, the question, and what its answer means.

Everything on the way of ``herd status SERVICE`` is imported here; everything else when it is needed. Words and exit
codes are those of GNU Shepherd's client.
"""

import posix
import sys

from herdpy.client.connection import PATIENCE, connect, default_socket, receive, send
from herdpy.client.words import Failure, aside, clean, is_terminal, palette, report, say, warn
from herdpy.protocol import Command, ProtocolError, Reply, parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Sequence

ROOT = ("root", "shepherd")
DEFAULT_ROOT = (
    "status",
    "detailed-status",
    "help",
    "log",
    "graph",
    "tree",
    "events",
    "plan",
    "doctor",
    "reload",
    "upgrade",
)
"""Actions whose service may be left out."""
RENDERED_STATUS = ("detailed-status", "log", "graph")
"""Actions on root that are a status of all, shown in another way."""
VIEWS = ("status", "detailed-status", "log", "graph", "tree", "events", "plan", "doctor")
"""Actions for which no server takes arguments: options may stand after the service, too."""
WITHOUT_ARGUMENTS = ("detailed-status", "log", "graph", "tree", "events", "plan")
"""Those of them that the client carries out itself, or has to complain of itself."""
ROOT_ACTIONS = (
    "help",
    "halt",
    "power-off",
    "load",
    "eval",
    "unload",
    "reload",
    "plan",
    "daemonize",
    "restart",
    "upgrade",
)
SWAPPABLE = ("start", "stop", "status", "doc")
"""What is mistaken for a service when action and service are swapped."""
INSIDE = ("console", "exec", "offload")
"""Actions that the client carries out itself, once it knows how to reach the service."""
MAKING = ("spawn", "schedule")
"""Actions that make services, from options that name files of the client's."""
AS_JSON = ("configuration", "plan", "runs", "platforms", "lookup", "doctor")
"""Actions that answer in JSON themselves."""
LASTING = ("start", "restart", "stop", "upgrade")
"""Actions that go on when the client is interrupted."""
REPEATABLE = (
    *("enable", "disable", "doc", "configuration", "usage", "overview", "help", "reload"),
    *(*LASTING, *VIEWS),
)
"""Actions that may be asked for again when the supervisor was replaced before it answered. The next one finishes a
restart that was under way; asking it for a start waits for that, where asking for a restart would make another."""
ATTEMPTS = 4
"""So often such an action is asked for."""
OPTIONS = ("follow", "help", "json", "log-history", "since", "socket", "usage", "verbose", "version")
SHORT_OPTIONS = {"f": "follow", "n": "log-history", "s": "socket", "v": "verbose"}
WITH_VALUE = ("log-history", "since", "socket")


class Request:
    """What the command line asks for."""

    __slots__ = (
        *("action", "arguments", "history", "is_following", "is_json", "is_verbose", "problem", "service", "since"),
        "socket_path",
    )

    def __init__(self, action: str, service: str, arguments: "list[str]", options: "dict[str, str]") -> None:
        self.action = action
        self.service = service
        self.arguments = arguments
        self.socket_path = options.get("socket") or default_socket()
        self.is_json = "json" in options
        self.is_verbose = "verbose" in options
        self.is_following = "follow" in options
        self.since = options.get("since")
        self.problem: str | None = None
        """Why it makes no sense, if so."""
        history = options.get("log-history")
        if history is not None and not (history.isdecimal() and len(history) < 10):
            self.problem, history = f"-n takes a number of lines, and '{history}' is none", None
        self.history = None if history is None else int(history)
        """Lines of output, or None when the command line does not say."""


class _Finished(Exception):  # noqa: N818
    """There is nothing to ask anybody: what to print, and the exit code."""

    def __init__(self, text: str, status: int = 0, is_option: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.is_option = is_option


def main(argv: "Sequence[str]") -> int:
    """Run the command; ``argv`` is without the program's name. Return the exit code: 0, 1, 130 after Ctrl-C, or for
    ``exec`` and ``offload`` that of the command inside."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _occupy()
    request = None
    try:
        try:
            request = parse(argv)
        except _Finished as finished:
            (say if finished.status == 0 or finished.is_option else aside)(finished.text)
            return finished.status
        try:
            return run(request)
        except Failure as failure:
            return _fail(request, failure)
    except Failure as failure:
        report(str(failure))
        return failure.status
    except BrokenPipeError:
        return 141  # the reader has seen enough (| head): as if SIGPIPE, which Python ignores, had ended us
    except KeyboardInterrupt:
        if request is not None and request.action in LASTING:
            name = clean(request.service, 2)
            warn(f"the {request.action} of {name} goes on; see: herd status {name}")
        return 130


def _fail(request: Request, failure: Failure) -> int:
    """Tell why it cannot be carried out, to programs as any other error; return the exit code."""
    report(str(failure))
    if request.is_json:
        from herdpy.client import as_json

        try:
            say(as_json.failure(str(failure)))
        except (Failure, BrokenPipeError):
            return failure.status
    if failure.error is not None:
        _tell_what_was_meant(request, failure.error)
    return failure.status


def _occupy() -> None:
    """Put /dev/null where the standard descriptors are closed, lest a connection take their place."""
    while (descriptor := posix.open("/dev/null", posix.O_RDWR)) < 3:
        pass
    posix.close(descriptor)


def parse(argv: "Sequence[str]") -> Request:
    """Return what ``argv`` asks for. What follows SERVICE belongs to the action, whatever it looks like, unless the
    action is one of :data:`VIEWS`.

    Raises:
        _Finished: when there is nothing to ask anybody.
    """
    options: dict[str, str] = {}
    operands: list[str] = []
    words = list(argv)
    words.reverse()
    while words and (len(operands) < 2 or operands[0] in VIEWS):
        word = words.pop()
        if word == "--":
            break
        if word == "-" or not word.startswith("-"):
            operands.append(word)
        elif word.startswith("--"):
            name, has_value, value = word.partition("=")
            option = _full_option(name, word)
            if option in WITH_VALUE:
                options[option] = value if has_value else _option_value(word, words)
            elif has_value:
                raise _Finished(f"Option `--{option}' takes no value.\nTry `--help'.\n", 1)
            elif option in {"help", "usage", "version"}:
                from herdpy.client import help_text

                raise _Finished(help_text.text(option))
            else:
                options[option] = ""
        else:
            _take_short_options(word, words, options)
    words.reverse()
    operands += words
    if operands[:1] == ["help"] and operands[-1] == "--json":
        options["json"] = operands.pop()
    if len(operands) < 2:
        if not operands or operands[0] not in DEFAULT_ROOT:
            raise _Finished("Usage: herd ACTION [SERVICE [OPTIONS...]]\n", 1, is_option=False)
        operands.append("root")
    request = Request(operands[0], operands[1], operands[2:], options)
    if request.action not in ("log", "events") and (request.is_following or request.since is not None):
        request.problem = f"--follow and --since are for herd log and herd events, not for herd {request.action}"
    if request.action in WITHOUT_ARGUMENTS and request.arguments:
        given = " ".join(request.arguments)
        request.problem = f"herd {request.action} takes no arguments but one service, and {given} was given besides"
    return request


def _take_short_options(word: str, words: "list[str]", options: "dict[str, str]") -> None:
    letters = word[1:]
    while letters:
        option = SHORT_OPTIONS.get(letters[0])
        if option is None:
            raise _Finished(f"Unknown option: `-{letters[0]}'.\nTry `--help'.\n", 1)
        letters = letters[1:]
        if option in WITH_VALUE:
            options[option] = letters or _option_value(word, words)
            return
        options[option] = ""


def _option_value(option: str, words: "list[str]") -> str:
    if not words:
        raise _Finished(f"Option `{option}' needs a value.\nTry `--help'.\n", 1)
    return words.pop()


def _full_option(option: str, word: str) -> str:
    """Return the option that ``--option``, maybe abbreviated, stands for."""
    name = option[2:]
    matches = [known for known in OPTIONS if known.startswith(name)] if option.startswith("--") and name else []
    if name in matches:
        return name
    if len(matches) > 1:
        raise _Finished(f"Option `{option}' is ambiguous.\nTry `--help'.\n", 1)
    if not matches:
        raise _Finished(f"Unknown option: `{word}'.\nTry `--help'.\n", 1)
    return matches[0]


def run(request: Request) -> int:
    """Carry out ``request`` and return the exit code.

    Raises:
        Failure: when it makes no sense, it cannot be asked, or the answer makes no sense.
    """
    if request.problem is not None:
        raise Failure(request.problem)
    if request.action in INSIDE and request.service not in ROOT:
        from herdpy.client import inside

        return inside.run(request)
    if request.action == "log":
        if request.service not in ROOT:
            from herdpy.client import log

            path = log.log_file(request)
            if path is not None:
                return log.show(request, path)
        elif request.is_following:
            raise Failure(
                "herd log -f is for a service's output: herd log -f SERVICE; what happens is told by: herd events -f"
            )
    if request.action == "events":
        from herdpy.client import events

        return events.show(request)
    action, service, arguments = request.action, request.service, request.arguments
    if (action in RENDERED_STATUS and service in ROOT) or action == "tree":
        action, service = "status", "root"
    elif request.is_json and action in AS_JSON:
        arguments = ["--json", *arguments]
    if action in MAKING:
        from herdpy.client.making import absolute

        arguments = absolute(arguments, _directory())
    if action == "status" and service in ROOT and request.action == "status" and not request.is_json:
        from herdpy.client import summary

        return summary.show(lambda command: answer(request, command), _directory())
    if action == "stop" and service in ROOT:
        from herdpy.client import ending

        reply = ending.stop(request.socket_path, Command(action, service, arguments, _directory()))
        if reply is None:
            return 0
    else:
        reply = answer(request, Command(action, service, arguments, _directory()))
    if request.is_json:
        from herdpy.client import as_json

        say(as_json.answer(request, reply))
    else:
        if reply.messages:
            say("".join([f"{clean(line)}\n" for line in reply.messages]))
        if reply.error is False:
            show(request, reply)
    if reply.error is not False:
        from herdpy.client.refused import report_error

        report_error(reply.error)
        _tell_what_was_meant(request, reply.error)
        return 1
    return exit_code(request, reply)


def _tell_what_was_meant(request: Request, error: object) -> None:
    """Name the command that may have been meant by one that names an action or a service that there is not."""
    if request.service in (*SWAPPABLE, *(ROOT_ACTIONS if request.action in ROOT else ())):
        report(f"Did you mean 'herd {request.service} {request.action}'?")
        return
    from herdpy.client.meant import command

    meant = command(request, error)
    if meant is not None:
        report(f"Did you mean '{meant}'?")


def answer(request: Request, command: Command) -> Reply:
    """Ask and return the reply, if need be that of the supervisor that replaces the one that was asked.

    Raises:
        Failure: there is no reply to be had.
    """
    watch = _watcher(request)
    for _ in range(ATTEMPTS):
        connection = connect(request.socket_path)
        send(connection, command)
        reply = receive(connection, watch, PATIENCE)
        connection.close()
        if reply is not None:
            return reply
        if command.action not in REPEATABLE:
            break
        if command.action == "restart":
            command = Command("start", command.service, command.arguments, command.directory)
    what = "it may be done or not" if command.action not in REPEATABLE else "its log may say why"
    raise Failure(f"premature end-of-file while talking to herdpy: it hung up without an answer, and {what}")


def _directory() -> str:
    try:
        return posix.getcwd()
    except OSError:
        return "/"  # it was removed; servers ignore the field anyway


def _watcher(request: Request) -> "Callable[[socket], None]":
    """Return what is to be done while the answer does not come: show the progress of a start, or only wait."""

    def watch(connection: "socket") -> None:
        if request.action in {"start", "restart"} and request.service not in ROOT:
            from herdpy.client.progress import watch

            watch(connection, request.socket_path, request.service)
        else:
            from herdpy.client.waiting import until_readable

            until_readable(connection, request.socket_path)

    return watch


def show(request: Request, reply: Reply) -> None:
    """Print what the result of a request without an error says beyond its messages."""
    is_root = request.service in ROOT
    result = reply.result
    try:
        if request.action == "status":
            from herdpy.client.status import description

            services = parse_services(result)
            usage = _usage(request, services)
            history = 10 if request.history is None else request.history
            say("".join([description(service, palette(1), history, usage) for service in services]))
        elif request.action == "tree":
            from herdpy.client import tree

            say(tree.render(parse_services(result), request.service, palette(1)))
        elif is_root and request.action in RENDERED_STATUS:
            from herdpy.client import overview

            say(overview.render(request, parse_services(result), palette(1)))
        elif request.action == "usage":
            from herdpy.client import usage as usage_of

            say(usage_of.lines(usage_of.parse(result)))
        elif request.action in {"configuration", "doctor"} or (is_root and request.action in {"help", "plan"}):
            match result:
                case [str(text)] if text != "#<unspecified>":
                    say(clean(text) if text.endswith("\n") else f"{clean(text)}\n")
        elif is_root and request.action == "eval":
            from herdpy.sexp import write

            if isinstance(result, list) and result:
                say(f"{clean(write(result[0]))}\n")
    except ProtocolError as error:
        raise Failure(f"cannot make out the supervisor's answer: {error}") from None


def _usage(request: Request, services: "list[dict[str, object]]") -> "dict[str, object] | None":
    """Return what a running service uses of the host, which takes a second request: a person waits that long, and
    whoever says so."""
    if not (request.is_verbose or is_terminal(1)):
        return None
    from herdpy.client import usage

    return usage.of(request.socket_path, services)


def exit_code(request: Request, reply: Reply) -> int:
    """Return the exit code for a reply without an error; tell of a start that failed."""
    if request.action == "start":
        if reply.result is False:
            report(f"failed to start service {request.service}")
            return 1
        return 0
    return 1 if reply.result is False or (isinstance(reply.result, list) and False in _booleans(reply.result)) else 0


def _booleans(values: "list[object]") -> "list[bool]":
    return [value for value in values if isinstance(value, bool)]
