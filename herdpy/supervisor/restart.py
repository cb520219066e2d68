"""A restart: a service is stopped with its dependents, then all that was stopped is started again.

What is to be started again is noted at the keeper beforehand, so that a restart which the supervisor did not live to
see through still ends with everything running.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from herdpy.supervisor.log import log
from herdpy.supervisor.note import key_of_state, read_note
from herdpy.supervisor.outcome import Outcome

if TYPE_CHECKING:
    from herdpy.supervisor.life import Life
    from herdpy.supervisor.registry import Registry

NOTE = "restart:"
"""What the keys of these notes begin with; a number that makes them unique follows."""

_ENDED = ""
"""A process that is nobody's: there is none to be stopped."""


class _Restart(msgspec.Struct, frozen=True):
    service: str
    process: str | None
    """The id of the process that is to end; None when the service has none."""
    others: tuple[str, ...]
    """What is stopped along with it."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that is to run again."""
        return self.service, *(name for name in self.others if name != self.service)


async def restart(
    registry: "Registry", life: "Life", task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> Outcome:
    """Stop a service with its dependents, then start again all that was stopped, itself in any case; unless it knows
    something better to do.

    Args:
        task_status: told when the next supervisor would see it through.
    """
    instead = await life.renew_instead()
    if instead is not None:
        task_status.started()
        return instead
    refusal = "it is transient, and a stop would be its end" if life.service.transient else life.refusal_to_start()
    if refusal is not None:  # better now than when it is down
        task_status.started()
        return Outcome(False, (f"cannot restart {life.name}: {refusal}",))
    key = f"{NOTE}{time.monotonic_ns()}"
    _, *others = entailed(registry, (life.name, *(other.name for other in registry.stopped_with(life))))
    begun = _Restart(life.name, None if life.process is None else life.process.id, tuple(others))
    await registry.line.note(key, msgspec.json.encode(begun).decode())
    task_status.started()
    registry.restarting.append(begun.names)
    try:
        stop = await life.stop()
        if not stop.done:
            return stop
        # From now on a stop would undo what the restart is about.
        await registry.line.note(key, msgspec.json.encode(msgspec.structs.replace(begun, process=_ENDED)).decode())
        # Others too: a start of theirs that waited for this one has failed meanwhile, and was nothing to stop.
        return await _start_again(registry, life, dict.fromkeys((*stop.stopped, *others)))
    finally:
        with trio.CancelScope(shield=True):  # it is sent at once
            await registry.line.note(key, None)
        await _end(registry, begun)


async def promise(registry: "Registry", names: Sequence[str]) -> Callable[[], Awaitable[None]]:
    """Note what is to be started again, although it is stopped by something else than a restart.

    Returns:
        What is to be called when that is done.
    """
    key = f"{NOTE}{time.monotonic_ns()}"
    first, *others = names
    note = _Restart(first, _ENDED, tuple(others))
    await registry.line.note(key, msgspec.json.encode(note).decode())
    registry.restarting.append(note.names)

    async def keep() -> None:
        await registry.line.note(key, None)
        await _end(registry, note)

    return keep


def entailed(registry: "Registry", names: Iterable[str]) -> tuple[str, ...]:
    """These, and what else runs again only if a restart of these sees to it: it is down for the sake of another one,
    which is overtaken by this one."""
    found = dict.fromkeys(names)
    others = list(registry.restarting)
    while overtaken := [other for other in others if not found.keys().isdisjoint(other)]:
        found |= dict.fromkeys(name for other in overtaken for name in other)
        others = [other for other in others if other not in overtaken]
    return tuple(found)


def unfinished(registry: "Registry") -> bool:
    """Whether the last supervisor left any restart behind."""
    return any(key.startswith(NOTE) for key in registry.line.notes)


def begun(notes: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The names of what is part of each restart that the last supervisor left behind."""
    return [msgspec.json.decode(text, type=_Restart).names for key, text in notes.items() if key.startswith(NOTE)]


async def _end(registry: "Registry", begun: _Restart) -> None:
    """What could not be started again need not listen any longer."""
    registry.restarting.remove(begun.names)
    for name in begun.names:
        if name in registry.lives:
            await registry.lives[name].end_restart()


async def finish(registry: "Registry") -> None:
    """See the restarts through that the last supervisor had begun."""
    async with trio.open_nursery() as nursery:
        for key, text in registry.line.notes.items():
            if key.startswith(NOTE):
                nursery.start_soon(_finish, registry, key, text)


async def _finish(registry: "Registry", key: str, text: str) -> None:
    begun = msgspec.json.decode(text, type=_Restart)
    life = registry.lives.get(begun.service)
    try:
        if life is not None and not registry.closing:
            log("restart-goes-on", service=life.name)
            before = None if begun.process is None else registry.line.held.get(begun.process)
            # Of what had no process, the state that it was left in tells: one that was stopping, or had stopped, did so
            # for this restart. By now whoever waits for it may have begun to start it.
            was = read_note(life.name, registry.line.notes.get(key_of_state(life.name)))
            is_yet_to_stop = begun.process is None and was is not None and was.status in ("starting", "running")
            if is_yet_to_stop or (before is not None and not before.has_ended):
                await life.stop()
            await _start_again(registry, life, begun.others)
    finally:
        await _end(registry, begun)
    await registry.line.note(key, None)


async def _start_again(registry: "Registry", life: "Life", names: Iterable[str]) -> Outcome:
    outcome = await life.start()
    if not outcome.done:
        return outcome
    others = (registry.lives[name] for name in names if name != life.name and name in registry.lives)
    lines = await registry.start_all(others)
    return Outcome(not lines, (*outcome.lines, *lines))
