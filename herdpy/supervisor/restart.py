"""A restart: a service is stopped with its dependents, then all that was stopped is started again.

What is to be started again is noted at the keeper beforehand, so that a restart which the supervisor did not live to
see through still ends with everything running.
"""

import time
from collections.abc import Container, Iterable, Sequence
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


class _Note(msgspec.Struct, frozen=True):
    service: str
    process: str | None
    """The id of the process that is to end; None when the service has none."""
    others: tuple[str, ...]
    """What is stopped along with it."""


class Restart:
    """One that is under way.

    Attributes:
        service: the canonical name of the one that it was asked for; None when it has been stopped by hand meanwhile.
        others: those of what is to run again besides.
        process: the id of the process that is to end; None when the service has none.
    """

    def __init__(self, registry: "Registry", key: str, note: _Note) -> None:
        self._registry = registry
        self._key = key
        self.service: str | None = note.service
        self.process = note.process
        self.others = dict.fromkeys(name for name in note.others if name != note.service)

    @property
    def names(self) -> tuple[str, ...]:
        """All that is to run again."""
        return tuple(self.others) if self.service is None else (self.service, *self.others)

    async def remember(self) -> None:
        """Have the next supervisor see it through, as far as it has come."""
        first, *others = self.names or ("",)
        note = _Note(first, self.process, tuple(others))
        await self._registry.line.note(self._key, msgspec.json.encode(note).decode() if self.names else None)

    async def end(self) -> None:
        """It is over: what could not be started again need not listen any longer."""
        with trio.CancelScope(shield=True):  # it is sent at once
            await self._registry.line.note(self._key, None)
        self._registry.restarting.remove(self)
        for name in self.names:
            if name in self._registry.lives:
                await self._registry.lives[name].end_restart()


async def restart(
    registry: "Registry",
    life: "Life",
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    *,
    is_by_hand: bool = True,
) -> Outcome:
    """Stop a service with its dependents, then start again all that was stopped, itself in any case; unless it knows
    something better to do.

    Args:
        task_status: told when the next supervisor would see it through.
        is_by_hand: whether somebody has asked for it, who is told when something is not started again.
    """
    instead = await life.renew_instead()
    if instead is not None:
        task_status.started()
        return instead
    refusal = _refusal(registry, life)
    if refusal is not None:  # better now than when it is down
        task_status.started()
        return Outcome(False, (f"cannot restart {life.name}: {refusal}",))
    _, *others = entailed(registry, (life.name, *(other.name for other in registry.stopped_with(life))))
    unwanted = {name for stopping in registry.stopping_by_hand for name in _leaning(registry, stopping)}
    others = [name for name in others if name not in unwanted]
    process = None if life.process is None else life.process.id
    under_way = await _begin(registry, _Note(life.name, process, tuple(others)))
    task_status.started()
    try:
        stop = await life.stop()
        if not stop.done:
            needing = {life.name} if life.status == "running" else _owed_others(registry, life, under_way)
            lines = await _start_others(registry, under_way, needing)
            return Outcome(False, (*stop.lines, *lines))
        if under_way.service is None:
            lines = await _start_others(registry, under_way)
            return Outcome(False, (f"cannot start {life.name}: it was stopped meanwhile", *lines))
        # From now on a stop would undo what the restart is about.
        under_way.process = _ENDED
        # Others too: a start of theirs that waited for this one has failed meanwhile, and was nothing to stop.
        more = [name for name in stop.stopped if name not in others and name not in unwanted]
        under_way.others = dict.fromkeys((*under_way.others, *more))
        await under_way.remember()
        return await _start_again(registry, life, under_way, is_by_hand=is_by_hand)
    finally:
        await under_way.end()


def _refusal(registry: "Registry", life: "Life") -> str | None:
    """Why nothing is stopped for a restart: not all of it could be started again; None when all of it could."""
    if life.service.transient:
        return "it is transient, and a stop would be its end"
    if lost := [other.name for other in registry.stopped_with(life) if other.service.transient]:
        its, end = ("it is transient", "its end") if len(lost) == 1 else ("they are transient", "their end")
        return f"{', '.join(lost)} would be stopped with it; {its}, and a stop would be {end}"
    return life.refusal_to_start()


async def promise(registry: "Registry", names: Sequence[str]) -> Restart:
    """Note what is to be started again, although it is stopped by something else than a restart; it ends when that is
    done."""
    first, *others = names
    return await _begin(registry, _Note(first, _ENDED, tuple(others)))


async def _begin(registry: "Registry", note: _Note) -> Restart:
    begun = Restart(registry, f"{NOTE}{time.monotonic_ns()}", note)
    registry.restarting.append(begun)
    await begun.remember()
    return begun


def entailed(registry: "Registry", names: Iterable[str]) -> tuple[str, ...]:
    """These, and what else runs again only if a restart of these sees to it: it is down for the sake of another one,
    which is overtaken by this one."""
    found = dict.fromkeys(names)
    others = list(registry.restarting)
    while overtaken := [other for other in others if not found.keys().isdisjoint(other.names)]:
        found |= dict.fromkeys(name for other in overtaken for name in other.names)
        others = [other for other in others if other not in overtaken]
    return tuple(found)


async def forgo(registry: "Registry", life: "Life") -> None:
    """A service is stopped by hand: no restart that is under way starts it again, nor what requires it."""
    names = _leaning(registry, life)
    pending = [other for other in registry.lives.values() if other.owed_to or other.status == "starting"]
    if pending:
        called_off = _concerned(registry, life)
        for other in pending:
            if other.name in called_off:
                other.owe()
    for under_way in registry.restarting:
        if names.isdisjoint(under_way.names):
            continue
        under_way.others = {name: None for name in under_way.others if name not in names}
        if under_way.service in names:
            under_way.service = None
        await under_way.remember()


def _concerned(registry: "Registry", life: "Life") -> set[str]:
    """Whose start a stop of a service by hand calls off: of what is stopped with it, and of what would start one of
    those; canonical names."""
    found: set[str] = set()
    more = {life.name}
    while more:  # what requires one of them, and their members
        found |= more
        leaning = _requirers(registry, more)
        lives = [registry.lives[name] for name in found | leaning if name in registry.lives]
        more = (leaning | _members(registry, lives)) - found
    containers: dict[str, set[str]] = {}
    for other in registry.lives.values():
        for name in other.service.members:
            if name in registry.by_name:
                containers.setdefault(registry.by_name[name].name, set()).add(other.name)
    more = set(found)
    while more:  # what requires one of those, and the targets that they are in
        found |= more
        more = _requirers(registry, more).union(*(containers.get(one, ()) for one in more)) - found
    return found


def _requirers(registry: "Registry", names: Iterable[str]) -> set[str]:
    lives = [registry.lives[name] for name in names if name in registry.lives]
    return {name for one in lives for name in registry.requirers(one)}


def _members(registry: "Registry", lives: Iterable["Life"]) -> set[str]:
    """The members of these, and so on; canonical names."""
    found: set[str] = set()
    more = list(lives)
    while more:
        names = {name for one in more for name in one.service.members if name in registry.by_name}
        more = [life for life in {registry.by_name[name] for name in names} if life.name not in found]
        found |= {life.name for life in more}
    return found


def _leaning(registry: "Registry", life: "Life") -> set[str]:
    """A service and what requires it, and so on; their canonical names."""
    found = [life]
    for one in found:
        requirers = [registry.lives[name] for name in registry.requirers(one)]
        found += [other for other in requirers if other not in found]
    return {one.name for one in found}


def begun(registry: "Registry") -> list[Restart]:
    """Each restart that the last supervisor left behind."""
    return [
        Restart(registry, key, msgspec.json.decode(text, type=_Note))
        for key, text in registry.line.notes.items()
        if key.startswith(NOTE)
    ]


async def finish(registry: "Registry") -> None:
    """See the restarts through that the last supervisor had begun."""
    async with trio.open_nursery() as nursery:
        for under_way in tuple(registry.restarting):
            nursery.start_soon(_finish, registry, under_way)


async def _finish(registry: "Registry", under_way: Restart) -> None:
    life = registry.lives.get(under_way.service or "")
    try:
        if life is not None and not registry.closing:
            log("restart-goes-on", service=life.name)
            before = None if under_way.process is None else registry.line.held.get(under_way.process)
            # Of what had no process, the state that it was left in tells: one that was stopping, or had stopped, did so
            # for this restart. By now whoever waits for it may have begun to start it.
            was = read_note(life.name, registry.line.notes.get(key_of_state(life.name)))
            is_yet_to_stop = under_way.process is None and was is not None and was.status in ("starting", "running")
            if is_yet_to_stop or (before is not None and not before.has_ended):
                await life.stop()
            await _start_again(registry, life, under_way, is_by_hand=False)
    finally:
        await under_way.end()


async def _start_again(registry: "Registry", life: "Life", under_way: Restart, *, is_by_hand: bool) -> Outcome:
    """Start all of it. When that fails of the first, what needs it is started as soon as it runs, whoever sees to that;
    the rest is started all the same."""
    outcome = await life.start(transaction=None if is_by_hand else registry.transaction(is_by_hand=False))
    tried = set() if outcome.done else _owed_others(registry, life, under_way) | _members(registry, [life])
    lines = await _start_others(registry, under_way, tried)
    return Outcome(outcome.done and not lines, (*outcome.lines, *lines))


def _owed_others(registry: "Registry", life: "Life", under_way: Restart) -> set[str]:
    """Have a start owed to what requires a service that does not run; returns it and those, by canonical names."""
    needing = _leaning(registry, life)
    for name in needing.intersection(under_way.others) - {life.name}:
        registry.lives[name].owe(life.name)
    return needing


async def _start_others(registry: "Registry", under_way: Restart, but: Container[str] = ()) -> tuple[str, ...]:
    """Start what is to run again besides; returns why some did not, in sentences."""
    names = [name for name in under_way.others if name in registry.lives and name not in but]
    return await registry.start_all(registry.lives[name] for name in names)
