"""What the supervisor does for, and answers to, each command. The words are GNU Shepherd's where it has the command."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from herdpy import protocol
from herdpy.protocol import Command, write_reply
from herdpy.service import ActionFailure, Fact, StartFailure
from herdpy.sexp import Raw, Symbol
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.life import Life, Outcome
from herdpy.supervisor.log import log
from herdpy.supervisor.registry import Registry

Send = Callable[[bytes], Awaitable[None]]

ROOT = ("root", "shepherd")
"""The names under which the supervisor itself is asked."""

GENERAL_ACTIONS = ("start", "stop", "restart", "status", "enable", "disable", "doc")
"""What every service can be asked."""
OWN_ACTIONS = ("configuration", "progress", "reach")
"""What every service of herdpy can be asked besides."""

HELP = """\
Usage: herd ACTION [SERVICE [ARGUMENT...]]

  status [SERVICE]                what runs, or how one service is
  start SERVICE [ARGUMENT...]     start a service and what it requires
  stop SERVICE                    stop a service, and before it what requires it
  restart SERVICE                 stop and start again
  enable SERVICE                  let it be started again, and forget its failures
  disable SERVICE                 let nothing start it
  doc SERVICE [list-actions]      what it is, and what else it can do
  configuration SERVICE           what it runs with
  console SERVICE                 the serial console of a virtual machine
  exec SERVICE [-- COMMAND...]    a command, or a shell, in a virtual machine
  offload SERVICE [-C DIR] [--fetch PATH]... -- COMMAND...
                                  a command in a virtual machine, on a copy of a directory
  stop root                       stop everything, and herdpy"""


class Answers:
    """Answers commands, of one registry."""

    def __init__(self, registry: Registry, shut_down: Callable[[], None]) -> None:
        self._registry = registry
        self._shut_down = shut_down

    async def give(self, command: Command, send: Send) -> None:
        """Carry out a command and send what there is to answer: one reply, before it a stream for ``progress``."""
        names = command.names
        if names is not None and names[1] in ROOT:
            await send(await self._of_root(command, names[0]))
            return
        life = self._registry.by_name.get(names[1]) if names else None
        if life is None or names is None:
            await send(write_reply(error=protocol.service_not_found(command.service)))
        elif names[0] == "progress":
            await _send_progress(life, send)
        else:
            await send(await self._of(life, names[0], command))

    async def _of_root(self, command: Command, action: str) -> bytes:
        match action:
            case "status":
                lives = self._registry.lives.values()
                return write_reply(protocol.write_services([self._root(), *map(describe, lives)]))
            case "help":
                return write_reply([HELP])
            case "stop" | "halt" | "power-off":
                log("shutdown-asked-for", action=action)
                self._shut_down()
                await trio.sleep_forever()  # Shepherd, too, ends without a reply
        return write_reply(error=protocol.action_not_found(command.action, command.service))

    def _root(self) -> Raw:
        return protocol.write_service(
            provides=ROOT,
            docstring="herdpy itself, which minds all other services.",
            running=True,
            status="running",
        )

    async def _of(self, life: Life, action: str, command: Command) -> bytes:
        try:
            return await self._act(life, action, command)
        except Exception as error:
            log("action-crashed", service=life.name, action=action, exc_info=error)
            text = f"a mistake in herdpy: {type(error).__name__}: {error}; herdpy's log has the details"
            return write_reply(error=protocol.action_exception(command.action, command.service, text))

    async def _act(self, life: Life, action: str, command: Command) -> bytes:
        match action:
            case "start":
                # GNU's client passes "--" on as it is.
                outcome = await life.start(command.arguments[command.arguments[:1] == ("--",) :])
                log_outcome("start", life, outcome)
                return write_reply(describe(life) if outcome.done else False, messages=outcome.lines)
            case "stop":
                outcome = await life.stop()
                log_outcome("stop", life, outcome)
                result = [Symbol(name) for name in outcome.stopped] if outcome.done else [False]
                return write_reply(result, messages=outcome.lines)
            case "restart":
                outcome = await self._registry.restart(life)
                log_outcome("restart", life, outcome)
                return write_reply([outcome.done], messages=outcome.lines)
            case "status":
                return write_reply([describe(life)])
            case "enable":
                await life.switch(True)
                return write_reply([None], messages=[f"Enabled service {life.name}."])
            case "disable":
                await life.switch(False)
                return write_reply([None], messages=[f"Disabled service {life.name}."])
            case "doc":
                return self._doc(life, command)
            case "configuration":
                return self._configuration(life, command)
            case "reach":
                reach = life.service.reach
                running = life.status == "running"
                if reach is None:
                    return write_reply(protocol.write_reach(running=running))
                described = protocol.write_reach(
                    running=running, ssh=reach.ssh, console=reach.console, console_log=reach.console_log
                )
                return write_reply(described)
        custom = next((custom for custom in life.service.actions if custom.name == action), None)
        if custom is None:
            return write_reply(error=protocol.action_not_found(command.action, command.service))
        context = _ActionContext(life, self._registry)
        try:
            value = await custom.operation.run(context, command.arguments)
        except (ActionFailure, StartFailure) as failure:
            error = protocol.action_exception(command.action, command.service, str(failure))
            return write_reply(error=error, messages=context.lines)
        return write_reply([value], messages=context.lines)

    def _doc(self, life: Life, command: Command) -> bytes:
        actions = {custom.name: custom.documentation for custom in life.service.actions}
        match command.arguments:
            case () | ("full",) | ("short",):
                lines = [life.service.documentation]
            case ("list-actions",):
                lines = [f"{life.name} ({' '.join(('configuration', *actions))})"]
            case ("action", *wanted):
                actions["configuration"] = "Show what the service runs with."
                unknown = next((name for name in wanted if name not in actions), None)
                if unknown is not None:
                    return write_reply(error=protocol.action_not_found(unknown, command.service))
                lines = [f"{name}: {actions[name] or '[No documentation.]'}" for name in wanted]
            case _:
                lines = ["Unknown keyword.  Try 'herd help'."]
        return write_reply([None], messages=lines)

    def _configuration(self, life: Life, command: Command) -> bytes:
        if command.arguments == ("--json",):
            values = {fact.key: _current(life, fact)[0] for fact in life.service.facts}
            return write_reply([msgspec.json.format(msgspec.json.encode(values)).decode()])
        if command.arguments:
            text = f"takes no arguments but --json, and {' '.join(command.arguments)} was given"
            return write_reply(error=protocol.action_exception(command.action, command.service, text))
        return write_reply(["\n".join(f"{fact.label}: {_current(life, fact)[1]}" for fact in life.service.facts)])


class _ActionContext(StepContext):
    def __init__(self, life: Life, registry: Registry) -> None:
        super().__init__(life, registry)
        self.is_running = life.status == "running"
        self.lines: list[str] = []

    def progress(self, stage: str, done: float | None = None) -> None:
        """An action is no start: its progress is not the service's."""

    def print(self, line: str) -> None:
        self.lines.append(line)


def _current(life: Life, fact: Fact) -> tuple[Any, str]:
    """A fact's value and text, as this start has it."""
    if fact.detail is not None and fact.detail in life.details:
        return life.details[fact.detail], life.details[fact.detail]
    return fact.value, fact.text


def describe(life: Life) -> Raw:
    """A service and its state, for the wire."""
    service = life.service
    policy = service.respawn
    running: object = False
    if life.status in ("running", "stopping"):
        running = life.process.pid if life.process is not None else True
    return protocol.write_service(
        provides=service.provision,
        requires=service.requirement,
        respawn=policy.enabled,
        docstring=service.documentation,
        enabled=life.enabled,
        running=running,
        last_respawns=[int(at) for at in life.respawns],
        status_changes=[(status, int(at)) for status, at in life.changes],
        startup_failures=[int(at) for at in life.failures],
        status=life.status,
        respawn_limit=(policy.limit, round(policy.interval)),
        respawn_delay=policy.delay,
        reason=life.reason,
        details=life.details.items(),
        log_file=life.log_file,
        source=service.source or None,
        stage=life.stage,
    )


async def _send_progress(life: Life, send: Send) -> None:
    """What a start is doing, as it goes on, until no start is under way."""
    # The command that starts it may be behind us on its own connection, and the start not yet begun.
    with trio.move_on_after(1.0):
        while life.status == "stopped":
            await life.changed.wait()
    while life.status in ("starting", "stopping"):
        changed = life.changed
        if life.stage is not None:
            await send(protocol.write_progress(life.name, life.stage, life.done))
        await changed.wait()
    await send(write_reply([True]))


def log_outcome(action: str, life: Life, outcome: Outcome) -> None:
    """Log what came of a command that changes something."""
    log("command", action=action, service=life.name, done=outcome.done)
