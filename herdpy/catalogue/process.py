"""The type ``process``: one command, running as long as it does."""

import math
import os
import shlex
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue import command, health
from herdpy.catalogue import ready as readiness
from herdpy.catalogue.command import CommandConfiguration, signal_number
from herdpy.catalogue.common import (
    Declaration,
    ServiceType,
    Unsuitable,
    as_service,
    name_problem,
    rotation_facts,
    shared,
)
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.health import Health
from herdpy.catalogue.ready import Ready, command_mistakes
from herdpy.catalogue.sockets import SocketTable, declared_sockets, ports, socket_facts, socket_mistakes
from herdpy.service import Action, Attempt, Fact, Guard, Notify, Process, Service, Step, Stop, plain

CommandLine = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path (unix(7))."""
GENERAL_ACTIONS = frozenset(
    {
        *(
            "start",
            "stop",
            "restart",
            "status",
            "enable",
            "disable",
            "doc",
            "configuration",
            "usage",
            "progress",
            "doctor",
        ),
        *("reach", "log", "tree", "graph", "events", "console", "exec", "offload", "load", "unload", "trigger"),
        *("schedule", "spawn", "help", "eval", "halt", "power-off"),
    }
)
"""What herd makes something else of, whatever the service."""


class OwnAction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Something else that the service can do: ``herd NAME SERVICE``."""

    command: CommandLine
    """Program and arguments; run as the service itself is, with the number of its main process in MAINPID. What it
    writes is shown to whoever asked; another exit status than 0 is a failure."""
    documentation: str = ""
    """One sentence, for ``herd doc SERVICE action NAME``."""
    arguments: bool = False
    """Whether arguments that are given to the action are added to the command."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """Seconds after which it is ended."""


class ProcessConfiguration(CommandConfiguration, frozen=True, kw_only=True):
    """The fields of a declaration of type ``process``."""

    one_shot: bool = False
    """Whether it is done, and the service stopped again, when the process has ended with success: then what requires
    it is started. Without start-timeout it may take as long as it likes."""
    sockets: tuple[str | SocketTable, ...] = ()
    """Where the service listens from its start until it has stopped, whether it has a process or not: addresses such as
    ``"127.0.0.1:8080"`` or ``"unix:/run/NAME"``, or tables with an ``address`` and more. The process is given the
    sockets as sd_listen_fds(3) describes."""
    activation: Literal["lazy", "eager"] | None = None
    """When the process of a service with sockets is spawned: ``"lazy"``: when something waits at one of them, and again
    after the process's end; ``"eager"``: at the start. None means ``"lazy"``."""
    ready: Ready | None = None
    """How to tell that it is ready; None means: as soon as the program is executed."""
    health: Health | tuple[Health, ...] = ()
    """How to tell that it is still well; several probes in a list of tables."""
    watchdog: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Seconds within which it has to say WATCHDOG=1 again and again (sd_notify(3)), or it is ended by SIGABRT."""
    notify_access: Literal["main", "all"] = "main"
    """Whether only its main process is listened to, or any of its processes; for ``ready.notify`` and ``watchdog``."""
    notify_user: str | None = None
    """Name of the user who may write to that socket, root aside; None means: whom it runs as. For a daemon that changes
    its user by itself, and tells that it is ready only then. It takes root."""
    pre_start: tuple[CommandLine, ...] = ()
    """Commands that are run before it is started, one after the other, as the service itself is. One that fails fails
    the start, unless a ``-`` is written before its program; each has the time of start-timeout."""
    post_stop: tuple[CommandLine, ...] = ()
    """Commands that are run after each end of it, likewise; a failure is logged and changes nothing. Each has the time
    of stop-timeout."""
    stop_command: CommandLine | None = None
    """A command that asks it to end, run before the stop signal is sent; None means that the signal does."""
    stop_timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """Seconds from the beginning of ``stop-command`` to the stop signal, if it has not ended by then."""
    kill: Literal["all", "main-process"] = "all"
    """Whether a stop ends all of its processes, or the main one alone: for a daemon whose children are to live on."""
    reload_signal: str | int | None = None
    """The signal that makes it read its configuration anew, such as ``HUP``: sent by ``herd reload SERVICE``."""
    actions: dict[str, OwnAction] = msgspec.field(default_factory=dict)
    """What else it can do, by name: ``[actions.dump]``, then ``herd dump SERVICE``."""

    @property
    def probes(self) -> tuple[Health, ...]:
        return (self.health,) if isinstance(self.health, Health) else self.health

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from socket_mistakes(self.sockets)
        if self.activation is not None and not self.sockets:
            yield "activation", 'there is nothing to wait for; add sockets = ["ADDRESS"], or leave it out'
        if self.sockets and self.one_shot:
            yield "one-shot", "a service with sockets goes on listening; leave one of the two out"
        if self.one_shot:
            for key in ("ready", "health", "watchdog"):
                if getattr(self, key):
                    yield key, "a one-shot service is done when its process has ended; leave this out, or one-shot"
        elif self.ready is not None:
            yield from readiness.mistakes(self.ready)
        for index, probe in enumerate(self.probes):
            yield from health.mistakes("health" if isinstance(self.health, Health) else f"health[{index}]", probe)
        for key in ("pre_start", "post_stop"):
            for index, line in enumerate(getattr(self, key)):
                path = f"{key.replace('_', '-')}[{index}]"
                yield from command_mistakes(path, (line[0].removeprefix("-"), *line[1:]))
        if self.stop_command is not None:
            yield from command_mistakes("stop-command", self.stop_command)
        for key in ("watchdog", "stop_timeout"):
            seconds = getattr(self, key)
            if seconds is not None and not math.isfinite(seconds):
                yield key.replace("_", "-"), f"expected a number of seconds, got {seconds}"
        if self.reload_signal is not None and signal_number(self.reload_signal) is None:
            yield "reload-signal", f"no such signal: {self.reload_signal!r}; signal(7) names them, such as HUP"
        for name, action in self.actions.items():
            yield from _action_mistakes(name, action, has_reload=self.reload_signal is not None)


def _action_mistakes(name: str, action: OwnAction, *, has_reload: bool) -> Iterator[tuple[str, str]]:
    key = f'actions."{name}"'
    if problem := name_problem(name):
        yield "actions", f"{name!r}: " + problem.replace("a service's", "an action's")
        return
    if name in GENERAL_ACTIONS:
        yield key, f"herd {name} is there for every service; give this action another name"
    if name == "reload" and has_reload:
        yield key, "reload-signal makes an action of this name already; leave one of them out"
    if not math.isfinite(action.timeout):
        yield f"{key}.timeout", f"expected a number of seconds, got {action.timeout}"
    yield from command_mistakes(f"{key}.command", action.command)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs the command.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: ProcessConfiguration = declaration.configuration
    process = command.process(declaration, facts)
    if configuration.notify_user not in (None, facts.user) and not facts.is_root:
        raise Unsuitable("notify-user", "only root can give a socket to another user; leave it out")
    sockets = declared_sockets(declaration)
    ready = configuration.ready
    attempt = Attempt(
        process=process,
        prepare=(
            *command.preparation(declaration, facts),
            *(() if ready is None else readiness.preparation(ready, insists=True)),
            *_commands("pre-start", configuration.pre_start, process, configuration.start_timeout or 300.0),
        ),
        readiness=None if ready is None else readiness.readiness(ready, process),
        notify=_notify(configuration, facts.notification_socket(declaration.name)),
        forking=ready is not None and ready.pid_file is not None,
    )
    if configuration.start_timeout is not None or configuration.one_shot:
        attempt = msgspec.structs.replace(attempt, timeout=configuration.start_timeout or math.inf)
    return (
        as_service(
            declaration,
            documentation=shared(f"Run {os.path.basename(configuration.command[0])}."),
            one_shot=configuration.one_shot,
            attempts=(attempt,),
            aftermath=(
                *_commands("post-stop", configuration.post_stop, process, configuration.stop_timeout),
                *(() if ready is None else readiness.preparation(ready, insists=False)),
                *command.aftermath(declaration, facts),
            ),
            sockets=sockets,
            lazy=bool(sockets) and configuration.activation != "eager",
            ports=ports(sockets),
            guards=_guards(configuration, process),
            stop=_stop(configuration, process),
            actions=_actions(configuration, process),
            facts=tuple(_facts(declaration, facts)),
        ),
    )


def _commands(purpose: str, lines: tuple[tuple[str, ...], ...], process: Process, timeout: float) -> tuple[Step, ...]:
    if not lines:
        return ()
    from herdpy.commands import RunCommand

    return tuple(
        RunCommand(
            what=f"{purpose} command",
            process=msgspec.structs.replace(process, command=(line[0].removeprefix("-"), *line[1:])),
            timeout=timeout,
            may_fail=line[0].startswith("-"),
        )
        for line in lines
    )


def _notify(configuration: ProcessConfiguration, socket: str) -> Notify | None:
    tells_ready = configuration.ready is not None and configuration.ready.notify
    if not tells_ready and configuration.watchdog is None:
        return None
    return Notify(
        socket=socket,
        tells_ready=tells_ready,
        access=configuration.notify_access,
        user=configuration.notify_user,
        watchdog=configuration.watchdog,
    )


def _guards(configuration: ProcessConfiguration, process: Process) -> tuple[Guard, ...]:
    return tuple(health.guard(probe, process) for probe in configuration.probes)


def _stop(configuration: ProcessConfiguration, process: Process) -> Stop:
    stop = msgspec.structs.replace(
        command.stop(configuration), scope="process" if configuration.kill == "main-process" else "group"
    )
    if configuration.stop_command is None:
        return shared(stop)
    [graceful] = _commands("stop", (configuration.stop_command,), process, configuration.stop_timeout)
    return msgspec.structs.replace(stop, graceful=graceful, graceful_timeout=configuration.stop_timeout)


def _actions(configuration: ProcessConfiguration, process: Process) -> tuple[Action, ...]:
    if not configuration.actions and configuration.reload_signal is None:
        return ()
    from herdpy.commands import RunOnRequest, SendSignal

    own = tuple(
        Action(
            name=name,
            documentation=action.documentation,
            operation=RunOnRequest(
                process=msgspec.structs.replace(process, command=action.command),
                timeout=action.timeout,
                takes_arguments=action.arguments,
            ),
        )
        for name, action in configuration.actions.items()
    )
    if configuration.reload_signal is None:
        return own
    number = signal_number(configuration.reload_signal)
    assert number is not None  # check() has seen to it
    documentation = f"Have it read its configuration anew, by signal {configuration.reload_signal}."
    return (Action(name="reload", documentation=documentation, operation=SendSignal(signal=number)), *own)


def _facts(declaration: Declaration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""
    configuration: ProcessConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield from command.command_facts(declaration, facts)
    yield from socket_facts(declaration)
    if configuration.sockets:
        yield plain("activation", "activation", configuration.activation or "lazy")
    yield from _ways_facts(configuration)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


def _ways_facts(configuration: ProcessConfiguration) -> Iterator[Fact]:
    def lines(key: str, commands: tuple[tuple[str, ...], ...]) -> Fact:
        return Fact(key, key, [list(line) for line in commands], "; ".join(map(shlex.join, commands)))

    if configuration.ready is not None:
        yield Fact("ready", "ready", msgspec.to_builtins(configuration.ready), readiness.words(configuration.ready))
    if configuration.start_timeout is not None:
        yield Fact("start-timeout", "start-timeout", configuration.start_timeout, f"{configuration.start_timeout:g} s")
    if configuration.probes:
        texts = "; ".join(map(health.words, configuration.probes))
        yield Fact("health", "health", msgspec.to_builtins(configuration.probes), texts)
    if configuration.watchdog is not None:
        yield Fact("watchdog", "watchdog", configuration.watchdog, f"{configuration.watchdog:g} s")
    if configuration.notify_access != "main":
        yield plain("notify-access", "notify-access", configuration.notify_access)
    if configuration.notify_user is not None:
        yield plain("notify-user", "notify-user", configuration.notify_user)
    if configuration.pre_start:
        yield lines("pre-start", configuration.pre_start)
    if configuration.post_stop:
        yield lines("post-stop", configuration.post_stop)
    if configuration.stop_command is not None:
        yield Fact(
            "stop-command", "stop-command", list(configuration.stop_command), shlex.join(configuration.stop_command)
        )
        yield Fact("stop-timeout", "stop-timeout", configuration.stop_timeout, f"{configuration.stop_timeout:g} s")
    if configuration.kill != "all":
        yield plain("kill", "kill", configuration.kill)
    if configuration.reload_signal is not None:
        yield plain("reload-signal", "reload-signal", configuration.reload_signal)
    if configuration.actions:
        commands = "; ".join(f"{name}: {shlex.join(action.command)}" for name, action in configuration.actions.items())
        yield Fact("actions", "actions", msgspec.to_builtins(configuration.actions), commands)


TYPE = ServiceType(
    name="process",
    configuration=ProcessConfiguration,
    services=services,
    documentation="Runs a command and keeps it running.",
)
