"""What the supervisor does for, and answers to, each command. The words are GNU Shepherd's where it has the command."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from herdpy import protocol
from herdpy.configuration import Declared
from herdpy.protocol import Command, write_reply
from herdpy.service import Action, ActionFailure, Fact, Service, StartFailure
from herdpy.sexp import Raw, Symbol
from herdpy.supervisor import loading, rights, usage
from herdpy.supervisor.comparison import change
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.life import Life
from herdpy.supervisor.line import Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.peer import described
from herdpy.supervisor.registry import NotRegistered, Registry
from herdpy.supervisor.reload import Reloading, Verdict, as_json, change_in_words, in_words
from herdpy.supervisor.restart import restart
from herdpy.supervisor.rights import Right
from herdpy.supervisor.shutdown import Shutdown
from herdpy.threads import in_thread

if TYPE_CHECKING:
    from herdpy.supervisor.control import Client
    from herdpy.supervisor.upgrading import Upgrading

ROOT = ("root", "shepherd")
"""The names under which the supervisor itself is asked."""

GENERAL_ACTIONS = ("start", "stop", "restart", "status", "enable", "disable", "doc")
"""What every service can be asked."""
OWN_ACTIONS = {
    "configuration": "Show what the service runs with.",
    "usage": "Show the processor time, the memory and the tasks of the running service.",
}
"""What every service of herdpy can be asked besides; and, only by a client of ours, ``progress``, ``reach`` and
``doctor``."""
AT_ONCE = ("status", "events", "progress")
"""Actions on root that wait for nothing, not even for the services' tasks to have begun."""
AT_A_STRETCH = 64
"""Services that are described before others have their turn: some milliseconds."""
WITHOUT_ARGUMENTS = ("status", "enable", "disable")
"""Those of the general actions for which Shepherd refuses arguments."""
TAKEN = {"stop": ("--force",), "restart": ()}
"""The only argument that others take, if any: a word that is passed over may have been meant."""

ROOT_DOCUMENTATION = "herdpy itself, which minds all other services."
ROOT_ACTIONS = {
    "help": "Name the actions.",
    "status": "Tell the state of every service.",
    "plan": "Tell what a reload would do.",
    "doctor": "Tell what services lack on this host, and how to get it.",
    "reload": "Let the declarations as they are now take effect; or load a file anew.",
    "load": "Load the services that a file declares.",
    "unload": "Stop a service, or all, and forget it.",
    "upgrade": "Let herdpy go on with the code that is installed by now; services notice nothing.",
    "halt": "Stop every service, and herdpy.",
    "power-off": "Stop every service, and herdpy; the host goes on.",
}
"""What ``doc root`` tells of: as for any service, not what all can be asked."""

HELP = """\
Usage: herd ACTION [SERVICE [ARGUMENT...]]

  status [SERVICE]                what runs, or how one service is
  start SERVICE [ARGUMENT...]     start a service and what it requires
  stop SERVICE [--force]          stop a service, and before it what requires it
  restart SERVICE                 stop and start again
  enable SERVICE                  let it be started again, and forget its failures
  disable SERVICE                 let nothing start it
  doc SERVICE [list-actions]      what it is, and what else it can do
  configuration SERVICE           what it runs with
  usage SERVICE                   its processor time, memory and tasks
  plan                            what a reload would do
  doctor [SERVICE]                what is missing on this host, and how to get it
  reload root [FILE]              let the declarations as they are now take effect; or load FILE anew
  load root FILE                  load the services that a file declares
  upgrade root [keeper]           go on with the code that is installed by now
  unload root SERVICE             stop a service and forget it; or all
  log [-f] [-n N] [SERVICE]       its output; or what happened to all services
  events [--follow] [SERVICE]     what happens, in lines of JSON
  tree [SERVICE]                  what requires what
  console SERVICE                 the serial console of a virtual machine
  exec SERVICE [-- COMMAND...]    a command, or a shell, in a virtual machine
  offload SERVICE [-C DIR] [--fetch PATH]... -- COMMAND...
                                  a command in a virtual machine, on a copy of a directory
  trigger SERVICE                 a timer's command, now
  runs SERVICE                    what a timer ran, and when it runs next
  spawn transient [OPTION...] -- COMMAND...
                                  a command in the background, as a service
  schedule timer at TIME|in DURATION [OPTION...] -- COMMAND...
                                  a command once, later
  stop root                       stop everything, and herdpy"""


LOOK_PATIENCE = 5.0
"""Seconds for the facts that have to be looked for: a file system that hangs does not keep the others."""

STATUSES_KEPT = 64
"""So many services' statuses are remembered as they were told last."""


class Answers:
    """Answers commands, of one registry."""

    def __init__(self, registry: Registry, reloading: Reloading, read: Callable[[str], Declared]) -> None:
        """``read`` tells what a single file declares; it may wait for a disk."""
        self._registry = registry
        self._reloading = reloading
        self._read = read
        self.upgrading: Upgrading | None = None
        """Set before anybody is answered."""
        self._root_enabled = True
        """Told as Shepherd tells it, and of no consequence."""
        self._statuses: dict[str, tuple[Service, Service | None, tuple[object, ...], bytes]] = {}
        """The last replies of their kind, by service, and what they were made of."""

    def at_once(self, command: Command, client: "Client") -> bytes | None:
        """The reply to a command that takes no waiting; None when it has to be given by :meth:`give`."""
        action, name = command.names
        if client.right is not Right.FULL:
            refused = self._refused(command, client)
            if refused is not None:
                return refused
        if name in ROOT:
            return self._of_root(command, action)
        life = None if name is None else self._registry.find(name)
        if life is None:
            return write_reply(error=protocol.service_not_found(command.service))
        return self._of_life(life, action, command)

    def _refused(self, command: Command, client: "Client") -> bytes | None:
        """The reply to whoever may not ask this."""
        action, name = command.names
        if name in ROOT:
            needed = rights.OF_ROOT.get(action or "", Right.READ)
        else:
            service = self._registry.known(name or "")
            needed = Right.READ if service is None else self._needed(service, action, command.arguments)
        if needed <= client.right:
            return None
        log("command-refused", action=action, service=name, uid=client.peer.uid)
        text = rights.refusal(client.peer, client.right, needed)
        return write_reply(error=protocol.action_exception(command.action, command.service, text))

    def _needed(self, service: Service, action: str | None, arguments: Sequence[str]) -> Right:
        """What it takes to ask a service for an action."""
        if action == "start" and arguments:
            return Right.FULL  # they go to its command line, and it may well run as root
        custom = _custom(service, action)
        if custom is not None and action not in rights.OF_SERVICE:
            return Right[custom.right.upper()]
        return rights.OF_SERVICE.get(action or "", Right.OPERATE)

    async def give(self, command: Command, client: "Client") -> None:
        """Carry out a command and send what there is to answer: one reply, before it a stream for some actions."""
        reply = self.at_once(command, client)
        if reply is not None:
            await client.send(reply)
            return
        action, name = command.names
        if name not in ROOT or action not in AT_ONCE:
            await self._registry.begun.wait()
        if name in ROOT:
            await self._give_of_root(command, action, client)
            return
        life = self._registry.by_name.get(name or "")
        if life is None:  # it was unregistered meanwhile
            await client.send(write_reply(error=protocol.service_not_found(command.service)))
            return
        if action == "progress":
            await _send_progress(life, client)
        else:
            await client.send(await self._of(life, action, command, client))

    def _of_root(self, command: Command, action: str | None) -> bytes | None:
        service = Symbol(ROOT[0])
        match action:
            case "stop" | "halt" | "power-off" | "overview" if command.arguments:
                return write_reply(error=protocol.wrong_number_of_arguments(command.action, service))
            case "plan" if command.arguments not in {(), ("--json",)}:
                return write_reply(error=_no_such_argument(command, service))
            case "status" | "events" | "progress" | "plan" | "doctor" | "stop" | "halt" | "power-off":
                return None
            case "upgrade":
                if command.arguments in {(), ("keeper",)}:
                    return None
                text = (
                    f"there is no part of herdpy named {' '.join(command.arguments)}; try: herd upgrade root [keeper]"
                )
                return write_reply(error=protocol.action_exception(command.action, service, text))
            case "load" | "unload" | "reload":
                if len(command.arguments) == 1 or (action == "reload" and not command.arguments):
                    return None
                return write_reply(error=protocol.wrong_number_of_arguments(command.action, service))
            case "enable" | "disable":
                if command.arguments:
                    return write_reply(error=protocol.wrong_number_of_arguments(command.action, service))
                self._root_enabled = action == "enable"
                return write_reply([None], messages=[f"{action.capitalize()}d service {service}."])
            case "daemonize":
                if any(life.status != "stopped" for life in self._registry.lives.values()):
                    return write_reply([False], messages=["Services already running, so not daemonizing."])
                text = "herdpy goes to the background only when it starts: herdpy --background"
                return write_reply(error=protocol.action_exception(command.action, service, text))
            case "overview":
                return write_reply(self._overview(), messages=self._warnings())
            case "help":
                return write_reply([HELP])
            case "start":
                return write_reply(self._root(), messages=[f"Service {service} is already running."])
            case "restart":
                return write_reply([False], messages=["You must be kidding."])
            case "doc":
                return _doc(service, ROOT_DOCUMENTATION, ROOT_ACTIONS, command.arguments)
            case "eval":
                text = "herdpy evaluates no Scheme; herd help tells what can be asked of it"
                return write_reply(error=protocol.action_exception(command.action, service, text))
        return write_reply(error=protocol.action_not_found(command.action, service))

    async def _give_of_root(self, command: Command, action: str | None, client: "Client") -> None:
        match action:
            case "status":
                await client.send(await self._status_of_all())
            case "events":
                from herdpy.supervisor.event_stream import send_events

                await send_events(command, client, self._registry)
            case "progress":
                await _send_shutdown(self._registry.shutdown, client)
            case "load" | "unload" | "reload":
                asked = {"action": action, "service": ROOT[0], "what": " ".join(command.arguments)}
                log("command", **asked, **await described(client.peer))
                done, reply = await self._change(command, action)
                log("command-done", **asked, done=done)
                await client.send(reply)
            case "upgrade":
                log("command", action=action, service=ROOT[0], **await described(client.peer))
                assert self.upgrading is not None
                await self.upgrading.carry_out(command, client)
            case "plan":
                await client.send(self._plan(await self._reloading.look(), command))
            case "doctor":
                await client.send(await _examined([*self._registry.lives.values()], command))
            case "stop" | "halt" | "power-off":
                log("command", action=action, service=ROOT[0], **await described(client.peer))
                self._registry.shutdown.ask()
                await trio.sleep_forever()  # Shepherd, too, ends without a reply

    async def _change(self, command: Command, action: str) -> tuple[bool, bytes]:
        """Load, unload or reload; returns whether it is done, and the reply."""
        if not command.arguments:
            await self._registry.let_back([*self._registry.unloaded])
            done, words = await self._reloading.reload_on_request()
            return done, write_reply([done], messages=words.splitlines())
        service = Symbol(ROOT[0])
        (what,) = command.arguments
        done = True
        lines: list[str] = []
        try:
            if action == "unload":
                lines += await loading.unload(self._registry, what)
            else:
                lines.append(f"Loading {what}.")
                file = os.path.join(command.directory or "/", what)
                done, told = await loading.load(self._registry, self._read, file, again=action == "reload")
                lines += told
        except KeyError:
            error = protocol.service_not_found(Symbol(what))
        except FileNotFoundError:
            error = protocol.no_such_file(command.action, service, what)
        except loading.Refused as refusal:
            lines += refusal.lines
            error = protocol.action_exception(command.action, service, str(refusal))
        else:
            return done, write_reply([done], messages=lines)
        return False, write_reply(error=error, messages=lines)

    def _overview(self) -> Raw:
        """The names of all services, by their states as ``herd status`` groups them."""
        groups: dict[str, list[tuple[str, int]]] = {"running": [(ROOT[0], 0)]}
        for name, life in self._registry.lives.items():
            state: str = life.status
            if state == "stopped" and life.failures:
                state = "failing"
            elif state == "stopped" and life.service.one_shot:
                state = "one-shot"
            groups.setdefault(state, []).append((name, int(life.changes[0].at) if life.changes else 0))
        return protocol.write_overview(groups)

    def _plan(self, verdict: Verdict, command: Command) -> bytes:
        """What a reload would do, as a text, or as JSON."""
        if command.arguments == ("--json",):
            return write_reply([as_json(verdict)])
        return write_reply([in_words(verdict, is_done=False)])

    async def _status_of_all(self) -> bytes:
        services = [self._root()]
        for number, life in enumerate(list(self._registry.lives.values())):
            if number % AT_A_STRETCH == 0:
                await trio.lowlevel.checkpoint()
            services.append(describe(life))
        return write_reply(protocol.write_services(services), messages=self._warnings())

    def _warnings(self) -> list[str]:
        """What is wrong with herdpy itself, and what keeps the files from taking effect."""
        overdue, mistakes = self._registry.line.overdue, self._reloading.mistakes
        lines = [] if overdue is None else [overdue]
        if mistakes:
            lines += ["The declarations have mistakes, and do not take effect:", *map(str, mistakes)]
        return lines

    def _root(self) -> Raw:
        return protocol.write_service(
            provides=ROOT,
            docstring=ROOT_DOCUMENTATION,
            running=True,
            enabled=self._root_enabled,
            status="running",
        )

    async def _of(self, life: Life, action: str | None, command: Command, client: "Client") -> bytes:
        is_reading = self._needed(life.service, action, command.arguments) is Right.READ
        asked = {} if is_reading else {"action": action, "service": life.name}
        try:
            if asked:
                log("command", **asked, **await described(client.peer))
                if self._registry.lives.get(life.name) is not life:  # it was unregistered meanwhile
                    return write_reply(error=protocol.service_not_found(command.service))
            done, reply = await self._act(life, action, command)
            if asked:
                log("command-done", **asked, done=done)
        except Exception as error:
            log("action-crashed", service=life.name, action=action, exc_info=error)
            text = f"a mistake in herdpy: {type(error).__name__}: {error}; herdpy's log has the details"
            return write_reply(error=protocol.action_exception(command.action, Symbol(life.name), text))
        return reply

    def _of_life(self, life: Life, action: str | None, command: Command) -> bytes | None:
        """What is known at once."""
        service = Symbol(life.name)
        if command.arguments and action in WITHOUT_ARGUMENTS:
            return write_reply(error=protocol.wrong_number_of_arguments(command.action, service))
        if action in TAKEN and command.arguments not in {(), TAKEN[action]}:
            return _not_taken(command, *TAKEN[action])
        match action:
            case "status":
                return self._status(life)
            case "doc":
                actions = OWN_ACTIONS | {custom.name: custom.documentation for custom in life.service.actions}
                return _doc(service, life.service.documentation, actions, command.arguments)
            case "reach":
                return _reach(life)
            case (
                "start" | "stop" | "restart" | "enable" | "disable" | "usage" | "doctor" | "progress" | "configuration"
            ):
                return None
        if _custom(life.service, action) is None:
            return write_reply(error=protocol.action_not_found(command.action, service))
        return None

    def _status(self, life: Life) -> bytes:
        """A service's status; who waits for something asks for the same one again and again."""
        service, replacement, told = life.service, life.replacement, _told(life)
        last = self._statuses.get(life.name)
        if last is not None and last[0] is service and last[1] is replacement and last[2] == told:
            return last[3]
        reply = write_reply([describe(life)])
        if len(self._statuses) >= STATUSES_KEPT:
            self._statuses.clear()
        self._statuses[life.name] = service, replacement, told, reply
        return reply

    async def _act(self, life: Life, action: str | None, command: Command) -> tuple[bool, bytes]:
        """Do what takes a while; returns whether it is done, and the reply."""
        match action:
            case "start":
                # GNU's client passes "--" on as it is.
                outcome = await life.start(command.arguments[command.arguments[:1] == ("--",) :])
                return outcome.done, write_reply(describe(life) if outcome.done else False, messages=outcome.lines)
            case "stop":
                outcome = await life.stop(forced=command.arguments == ("--force",), is_by_hand=True)
                result = [Symbol(name) for name in outcome.stopped] if outcome.done else [False]
                return outcome.done, write_reply(result, messages=outcome.lines)
            case "restart":
                outcome = await restart(self._registry, life)
                return outcome.done, write_reply([outcome.done], messages=outcome.lines)
            case "enable":
                await life.switch(True)
                return True, write_reply([None], messages=[f"Enabled service {life.name}."])
            case "disable":
                await life.switch(False)
                return True, write_reply([None], messages=[f"Disabled service {life.name}."])
            case "usage":
                return True, await _usage(life)
            case "configuration":
                return True, await self._configuration(life, command)
            case "doctor":
                return True, await _examined([life], command)
        custom = _custom(life.service, action)
        assert custom is not None
        context = _ActionContext(life, self._registry)
        try:
            value = await life.carry_out(partial(custom.operation.run, context, command.arguments))
        except (ActionFailure, StartFailure) as failure:
            error = protocol.action_exception(command.action, Symbol(life.name), str(failure))
            return False, write_reply(error=error, messages=context.lines)
        return value is not False, write_reply([value], messages=context.lines)

    async def _configuration(self, life: Life, command: Command) -> bytes:
        """What a service runs with."""
        if command.arguments not in {(), ("--json",)}:
            return write_reply(error=_no_such_argument(command, Symbol(life.name)))
        facts = await self._registry.facts(life.service)
        looked = await _looked(facts)

        def current(fact: Fact) -> tuple[Any, str]:
            return looked[fact.key] if fact.key in looked else _current(life, fact)

        if command.arguments:
            values = {fact.key: current(fact)[0] for fact in facts}
            return write_reply([msgspec.json.format(msgspec.json.encode(values)).decode()])
        return write_reply(["\n".join(f"{fact.label}: {current(fact)[1]}" for fact in facts)])


class _ActionContext(StepContext):
    def __init__(self, life: Life, registry: Registry) -> None:
        super().__init__(life, registry)
        self.is_running = life.status == "running"
        held = life.process
        self.pid = None if held is None or held.has_ended else held.pid
        self.lines: list[str] = []

    def progress(self, stage: str, done: float | None = None) -> None:
        """An action is no start: its progress is not the service's."""

    async def signal(self, number: int) -> None:
        held = self._life.process
        if held is None:
            return
        try:
            await self._registry.line.signal(held, number, "process")
        except Refused as refusal:
            raise ActionFailure(str(refusal)) from None

    async def ask(self, *arguments: str) -> str:
        return await self._life.ask(arguments)

    def is_registered(self, name: str) -> bool:
        return self._registry.find(name) is not None

    async def register(self, name: str, declaration: str) -> None:
        try:
            life = await self._registry.register_new(name, declaration)
        except (ValueError, NotRegistered) as problem:
            raise ActionFailure(f"cannot make {name}: {problem}") from None
        outcome = await life.start()
        if not outcome.done:
            raise StartFailure("; ".join(outcome.lines))

    def print(self, line: str) -> None:
        self.lines.append(line)


async def _examined(lives: Sequence[Life], command: Command) -> bytes:
    """What services lack, as a text, or as JSON."""
    from herdpy.supervisor import doctor  # late: few ask

    if command.arguments not in {(), ("--json",)}:
        return write_reply(error=_no_such_argument(command, command.service))
    examined = await doctor.examine(life.service for life in lives)
    return write_reply([doctor.as_json(examined) if command.arguments else doctor.in_words(examined)])


def _no_such_argument(command: Command, service: object) -> Raw:
    """The error for whoever gave an argument to an action that takes --json alone."""
    text = f"takes no arguments but --json, and {' '.join(command.arguments)} was given"
    return protocol.action_exception(command.action, service, text)


def _not_taken(command: Command, *taken: str) -> bytes:
    """The reply to whoever gave an argument to an action that takes none, or one other."""
    but = f" but {taken[0]}" if taken else ""
    given = " ".join(command.arguments)
    line = f"cannot {command.action} {command.service}: it takes no arguments{but}, and {given} was given"
    return write_reply([False], messages=[line])


def _custom(service: Service, action: str | None) -> Action | None:
    """The action that a service's type adds, by its name."""
    return next((custom for custom in service.actions if custom.name == action), None)


def _reach(life: Life) -> bytes:
    reach = life.service.reach
    running = life.status == "running"
    if reach is None:
        return write_reply(protocol.write_reach(running=running))
    return write_reply(
        protocol.write_reach(running=running, ssh=reach.ssh, console=reach.console, console_log=reach.console_log)
    )


def _doc(service: Symbol, documentation: str, actions: Mapping[str, str], arguments: Sequence[str]) -> bytes:
    """What a service is, and what it can do besides what all can."""
    lines: list[str] = []
    match arguments:
        case () | ("full" | "short", *_):
            lines.append(documentation)
        case ("list-actions", *_):
            lines.append(f"{service} ({' '.join(actions)})")
        case ("action", *names):
            for name in names:
                if name not in actions:
                    return write_reply(error=protocol.action_not_found(name, service), messages=lines)
                lines.append(f"{name}: {actions[name] or '[No documentation.]'}")
        case _:
            lines.append("Unknown keyword.  Try 'herd help'.")
    return write_reply([None], messages=lines)


def _current(life: Life, fact: Fact) -> tuple[Any, str]:
    """A fact's value and text, as this start has it."""
    if fact.detail is not None and fact.detail in life.details:
        return life.details[fact.detail], life.details[fact.detail]
    return fact.value, fact.text


async def _looked(facts: Sequence[Fact]) -> dict[str, tuple[Any, str]]:
    """Values and texts of the facts that have to be looked for, as far as they are found in time, by their keys."""
    found: dict[str, tuple[Any, str]] = {}
    with trio.move_on_after(LOOK_PATIENCE):
        for fact in facts:
            if fact.look is not None:
                found[fact.key] = await in_thread(fact.look.look, abandon_on_cancel=True)
    return found


async def _usage(life: Life) -> bytes:
    """What its processes use, as far as they are there to be asked."""
    held = life.process
    used = None if held is None or held.has_ended else await usage.of_session(held.pid)
    if used is None:
        text = f"{life.name} runs no process that one could measure; see: herd status {life.name}"
        return write_reply(error=protocol.action_exception(Symbol("usage"), Symbol(life.name), text))
    return write_reply(protocol.write_usage(**used))


def _pending(life: Life) -> Iterator[tuple[str, str]]:
    """What a service will be from its next start on."""
    if life.replacement is not None:
        keys = ", ".join(change_in_words(*key) for key in change(life.service, life.replacement).keys)
        yield "from its next start on", keys or "as it is declared now"


def _told(life: Life) -> tuple[object, ...]:
    """What :func:`describe` is made of, besides the service and its replacement."""
    process = life.process
    return (
        life.status,
        life.enabled,
        life.is_given_up,
        None if process is None else (process.id, process.pid),
        life.reason,
        life.stage,
        *life.changes,
        None,
        *life.past_respawns,
        None,
        *life.failures,
        *life.details.items(),
        *life.endpoints,
    )


def describe(life: Life) -> Raw:
    """A service and its state, for the wire. What is told of here is told of in :func:`_told`."""
    service = life.service
    policy = service.respawn
    running: object = False
    if life.status in ("running", "stopping"):
        running = life.process.pid if life.process is not None else True
    return protocol.write_service(
        provides=service.provision,
        requires=service.requirement,
        respawn=policy.enabled and service.has_processes and not service.one_shot,
        docstring=service.documentation,
        enabled=life.enabled,
        running=running,
        last_respawns=tuple([int(at) for at in life.past_respawns]),
        status_changes=tuple([(change.status, int(change.at)) for change in life.changes]),
        startup_failures=tuple([int(at) for at in life.failures]),
        status=life.status,
        one_shot=service.one_shot,
        transient=service.transient,
        respawn_limit=(policy.limit, round(policy.interval)),
        respawn_delay=policy.delay,
        reason=life.reason,
        details=(*life.details.items(), *_pending(life)),
        log_file=life.log_file if service.has_processes else None,
        source=service.source or None,
        stage=life.stage,
        actions=(*OWN_ACTIONS, *(custom.name for custom in service.actions)),
        command=life.command,
        activation=_activation(service),
        endpoints=life.endpoints,
        given_up=life.is_given_up,
        members=service.members,
    )


def _activation(service: Service) -> str | None:
    """How a service's processes come by its sockets; None when it has none."""
    if not service.sockets:
        return None
    return "inetd" if service.attendant is not None else "lazy" if service.lazy else "eager"


async def _send_progress(life: Life, client: "Client") -> None:
    """What a start is doing, as it goes on, until no start is under way."""
    # The command that starts it may be behind us on its own connection, and the start not yet begun.
    with trio.move_on_after(1.0):
        while life.status == "stopped":
            await life.changed.wait()
    while life.status in ("starting", "stopping"):
        changed = life.changed
        if life.stage is not None:
            await client.send(protocol.write_progress(life.name, life.stage, life.done))
        await changed.wait()
    await client.send(write_reply([True]))


async def _send_shutdown(shutdown: Shutdown, client: "Client") -> None:
    """What a shutdown waits for, until herdpy ends; nothing when none is under way."""
    with trio.move_on_after(1.0):  # it may be asked for a moment after us
        await shutdown.asked.wait()
    while shutdown.asked.is_set():
        changed = shutdown.changed
        if shutdown.stage is not None:
            await client.send(protocol.write_progress(ROOT[0], shutdown.stage))
        await changed.wait()
    await client.send(write_reply([True]))
