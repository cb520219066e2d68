"""Reloading the declarations while everything runs: the plan is checked whole, compared, and only then acted upon."""

import os
from collections.abc import Callable, Iterable, Sequence

import msgspec
import trio

from herdpy.mistake import Mistake
from herdpy.service import Service, StartFailure
from herdpy.supervisor import kept_plan
from herdpy.supervisor.announcing import announce_reload, announce_reloaded
from herdpy.supervisor.comparison import Change, Comparison, compare
from herdpy.supervisor.comparison import change as change_of
from herdpy.supervisor.declared import DeclaredPlan, Remake
from herdpy.supervisor.life import Life
from herdpy.supervisor.log import log
from herdpy.supervisor.note import key_of_state
from herdpy.supervisor.plan import Plan, make_plan
from herdpy.supervisor.registry import NotRegistered, Registry
from herdpy.supervisor.restart import entailed, promise, restart
from herdpy.threads import in_thread

LAYERS = "layers"
"""The key of the note that tells which directories of declarations there were."""

UNDER_WAY = "reload"
"""The key of the note of a reload that is not over: the next supervisor has to finish it."""

FAILING = 5.0
"""Seconds that a start may take to fail, of which something required is gone."""

STOPPING = 5.0
"""Seconds that what is declared no longer may take to stop, and the rest of the reload and the next one wait for it."""

RECENT = 60.0
"""Seconds after which who asks for a reload is not told any more of what has taken effect by itself."""

State = tuple[int, int, int]
"""Of a directory: its device, its inode, and when its status last changed, in nanoseconds: when an entry came or went,
and on most file systems also when it was moved itself."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload does, or would do."""

    mistakes: tuple[Mistake, ...] = ()
    """When there is any, nothing is done."""
    plan: Plan | None = None
    """What is declared; None when there is a mistake."""
    comparison: Comparison | None = None
    problems: tuple[str, ...] = ()
    """What could not be done of it, in sentences."""


class Lately(msgspec.Struct, frozen=True, kw_only=True):
    """A reload that nobody waited for, for it came by itself or by a signal."""

    ended: float
    """Seconds, by trio's clock."""
    is_done: bool
    """Whether nothing went wrong."""
    words: str


class Reloading:
    """Reloads, one at a time.

    Args:
        declare: reads the declarations; may take long, and is called in a thread.
        state: the state directory, where the plan is kept.
        layers: the directories that are read.
    """

    def __init__(
        self, registry: Registry, declare: Callable[[], DeclaredPlan], state: str, layers: Iterable[str]
    ) -> None:
        self.mistakes: tuple[Mistake, ...] = ()
        """What kept the last reload from doing anything."""
        self._registry = registry
        self._declare = declare
        self._state = state
        self._layers = tuple(layers)
        self.states: dict[str, State | None] = {}
        """The state that each of the directories was in when they were read last; None for what was not there."""
        self._there: frozenset[str] = frozenset()
        """Those that there were when they were read last, by this supervisor or the one before."""
        self._lock = trio.Lock()
        self._added: frozenset[str] = frozenset()
        """The canonical names of what has its life, but counts as added: the last supervisor had not begun with it."""
        self._going: set[Life] = set()
        """What is declared no longer, and being stopped."""
        self._is_behind = False
        """Whether the kept plan is another one than what is carried out."""
        self._by_itself: set[trio.Event] = set()
        """Set at the end of each of the reloads that nobody waits for."""
        self._lately: Lately | None = None
        """The last one of these that had anything to do."""

    def go_on_with(self, unfinished: kept_plan.Unfinished) -> None:
        """Let the next reload do what the last supervisor had left to do."""
        notes = self._registry.line.notes
        self._added = frozenset(name for name in unfinished.added if key_of_state(name) not in notes)
        self._is_behind = True

    def asked_for(self, declared: DeclaredPlan, remake: Remake) -> DeclaredPlan:
        """What a supervisor is to go on with when nothing takes effect by itself: not with what was written since the
        last reload.

        Args:
            declared: what the files say.
            remake: as of :func:`~herdpy.supervisor.kept_plan.kept`.
        """
        line = self._registry.line
        is_successor = "supervisor" in line.notes and not line.began_anew
        if declared.settings.automatic_reload or not is_successor or UNDER_WAY in line.notes:
            return declared
        plan = kept_plan.kept(self._state, remake)
        return declared if plan is None else msgspec.structs.replace(declared, plan=plan)

    def declared(self) -> DeclaredPlan:
        """What the files say. A directory that was there and is gone is a mistake. It may wait for a disk."""
        self.states = {layer: state_of(layer) for layer in self._layers}
        declared = self._declare()
        there = frozenset(layer for layer in self._layers if os.path.lexists(layer))
        known = self._there or _known(self._registry.line.notes.get(LAYERS))
        gone = sorted(known.intersection(self._layers) - there)
        if gone:
            mistakes = (*map(_is_gone, gone), *declared.mistakes)
            return msgspec.structs.replace(declared, plan=None, mistakes=mistakes)
        self._there = there
        return declared

    async def remember_layers(self) -> None:
        """Tell the next supervisor which directories there are."""
        if self._there:
            await self._registry.line.note(LAYERS, msgspec.json.encode(sorted(self._there)).decode())

    async def look(self) -> Verdict:
        """What a reload would do now."""
        declared = await in_thread(self.declared, abandon_on_cancel=True)
        if declared.plan is None:
            return Verdict(mistakes=declared.mistakes)
        registry = self._registry
        services = tuple(service for service in declared.plan.services if not registry.is_away(service))
        names = {service.name for service in services}
        kept = [registry.lives[name] for name in registry.registered - names]
        if kept:
            plan, mistakes = make_plan([*services, *(life.replacement or life.service for life in kept)])
            if plan is None:
                return Verdict(mistakes=mistakes)
        before = {
            name: life.service for name, life in registry.lives.items() if life not in kept and name not in self._added
        }
        return Verdict(plan=declared.plan, comparison=compare(before, services))

    async def reload_on_request(self) -> tuple[bool, str]:
        """Reload for somebody who waits for it; returns whether all of it is done, and what, in words.

        Whoever has written a file and asks for a reload may find that it has taken effect by itself meanwhile; that is
        what is waited for, then, and told.
        """
        verdict = await self.reload()
        is_done = not verdict.mistakes and not verdict.problems
        words = in_words(verdict, is_done=True)
        if not is_done or verdict.comparison is None or not verdict.comparison.is_empty:
            return is_done, words
        for over in [*self._by_itself]:
            await over.wait()
        lately = self._lately
        if lately is None or (age := trio.current_time() - lately.ended) > RECENT:
            return is_done, words
        return lately.is_done, f"nothing has changed since a reload by itself, {age:.0f} s ago:\n{lately.words}"

    async def reload_by_itself(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reload for nobody, and remember what was done."""
        over = trio.Event()
        self._by_itself.add(over)
        try:
            verdict = await self.reload(task_status)
            if verdict.comparison is not None and not verdict.comparison.is_empty:
                self._lately = Lately(
                    ended=trio.current_time(), is_done=not verdict.problems, words=in_words(verdict, is_done=True)
                )
        finally:
            self._by_itself.remove(over)
            over.set()

    async def reload(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Verdict:
        """Do what :meth:`look` says. Nothing else is changed by it, and nothing at all when there is a mistake.

        Args:
            task_status: told when the next reload may begin: what is started or restarted may take its time.
        """
        problems: list[str] = []
        async with trio.open_nursery() as nursery:
            async with self._lock:
                verdict = await self._carry_out(nursery, problems)
            task_status.started()
        return msgspec.structs.replace(verdict, problems=tuple(problems))

    async def tell(self, life: Life) -> None:
        """Have a service that could not be told before that it is declared otherwise, for it did not run, take that."""
        problems: list[str] = []
        async with trio.open_nursery() as nursery, self._lock:
            if life.replacement is None or not life.is_to_be_told:
                return
            of_life = change_of(life.service, life.replacement)
            problem = await self._change(life, of_life)
            if problem is None:
                log("service-changed", service=life.name, words=of_life.effect.words)
                if of_life.effect.kind == "restart":
                    await nursery.start(self._restart, life, problems)

    async def _carry_out(self, nursery: trio.Nursery, problems: list[str]) -> Verdict:
        """Reload, one at a time; see :meth:`_apply`."""
        verdict = await self.look()
        self.mistakes = verdict.mistakes
        for mistake in verdict.mistakes:
            log("configuration-mistake", mistake=mistake)
        if verdict.plan is None or verdict.comparison is None:
            log("reload-refused", mistakes=len(verdict.mistakes))
            return verdict
        comparison = verdict.comparison
        names = {service.name for service in verdict.plan.services}
        spent = [name for name, checksum in self._registry.unloaded.items() if checksum and name not in names]
        await self._registry.let_back(spent)  # a file that is put back is a new one
        await self.remember_layers()
        if not comparison.is_empty:
            await self._registry.line.note(UNDER_WAY, "")
            await announce_reload(self._registry.line)
        await self._apply(comparison, nursery, problems)
        self._added = frozenset()
        if not comparison.is_empty:
            await announce_reloaded(self._registry.line, self._registry)
            added, removed, changed = comparison.added, comparison.removed, comparison.changed
            log("reloaded", added=len(added), removed=len(removed), changed=len(changed))
        if self._is_behind or not comparison.is_empty:
            await self.keep(verdict.plan)
        return verdict

    async def keep(self, plan: Plan) -> None:
        """It is carried out: let the next supervisor go on with it."""
        line = self._registry.line
        self._is_behind = not await kept_plan.keep(line, self._state, plan)
        if not self._is_behind:
            await line.note(UNDER_WAY, None)

    async def _apply(self, comparison: Comparison, nursery: trio.Nursery, problems: list[str]) -> None:
        """Carry it out; in the nursery go on starts that the next supervisor would finish.

        Args:
            problems: where what cannot be done is added, in sentences.
        """
        registry = self._registry
        for name in comparison.unchanged:
            if name in registry.lives:  # by now a transient one may be gone, or another one unloaded
                await registry.lives[name].replace(None)  # what was to replace it is declared no longer
        for change in comparison.changed:
            await registry.is_declared(change.name)
        gone = [registry.lives[name] for name in comparison.removed if name in registry.lives]
        gone = [life for life in gone if life not in self._going]  # a reload before this one sees to those
        # As they are still: one that requires it no longer may be starting, and wait for it; or another one is about to
        # provide what it requires.
        down = [other.name for life in gone for other in (life, *registry.stopped_with(life))]
        leaning = [registry.lives[name] for name in entailed(registry, down) if name in registry.lives]
        leaning = [life for life in leaning if life not in gone]
        await registry.let_back(service.name for service in comparison.added)
        added = [registry.lives.get(service.name) or registry.add(service) for service in comparison.added]
        restarted: list[Life] = []
        for change in comparison.changed:
            life = registry.lives.get(change.name)
            if life is None:
                continue
            problem = await self._change(life, change)
            if problem is not None:
                problems.append(problem)
            elif change.effect.kind == "restart" and life.status != "stopped":
                restarted.append(life)
            elif change.before.sockets != change.after.sockets:
                nursery.start_soon(self._take_sockets, life, problems)
        declared = [
            registry.lives.get(name) for name in (*comparison.unchanged, *(one.name for one in comparison.changed))
        ]
        back = [life for life in declared if life in self._going]
        self._going -= {*back}
        to_start = [life for life in (*back, *added) if life.service.auto_start]
        # Whatever kept them from starting: as they are declared now, they may.
        for change in comparison.changed:
            life = registry.lives.get(change.name)
            if life is None or not life.owed_to or life.status != "stopped":
                continue
            if change.before.auto_start and not change.after.auto_start:
                life.owe()
            else:
                to_start.append(life)
        promised = None
        if gone and (leaning or to_start):
            promised = await promise(registry, [life.name for life in (*leaning, *to_start)])
        for life in gone:
            if life.service.members:  # whether they run on is not its business any more
                await life.replace(msgspec.structs.replace(life.service, members=()), at_once=True)
        stopped: list[str] = []
        are_gone = trio.Event()
        nursery.start_soon(self._remove, gone, leaning, problems, stopped, are_gone)
        with trio.move_on_after(STOPPING):
            await are_gone.wait()
        for life in restarted:
            await nursery.start(self._restart, life, problems)

        async def start(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            # They may be the successors of what is gone, at the same port: they wait for its end, but nobody else does.
            await are_gone.wait()
            # Of those that lean on what is gone, one may have been starting: no stop tells of it.
            names = dict.fromkeys([*(life.name for life in leaning), *stopped])
            again = [registry.lives[name] for name in names if name in registry.lives]
            async with trio.open_nursery() as starts:
                await starts.start(self._start_all, [*again, *to_start], problems)
                task_status.started()
                if promised is not None:
                    await promised.end()

        if are_gone.is_set():
            await nursery.start(start)
        else:
            nursery.start_soon(start)

    async def _start_all(
        self, lives: Iterable[Life], problems: list[str], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        problems += await self._registry.start_all(lives, task_status)

    async def _take_sockets(self, life: Life, problems: list[str]) -> None:
        outcome = await life.take_sockets()
        problems += outcome.lines if not outcome.done else ()

    async def _restart(
        self, life: Life, problems: list[str], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if life.replacement is None:  # it was restarted meanwhile, whoever asked for that
            task_status.started()
            return
        outcome = await restart(self._registry, life, task_status, is_by_hand=False)
        problems += outcome.lines if not outcome.done else ()

    async def _remove(
        self,
        gone: Sequence[Life],
        leaning: Iterable[Life],
        problems: list[str],
        stopped: list[str],
        are_gone: trio.Event,
    ) -> None:
        """Stop services that are declared no longer, at once, and forget those that have stopped.

        Args:
            leaning: what the starts fail of that wait for those.
            problems: where what cannot be done is added, in sentences.
            stopped: where the canonical names of what was stopped are added.
            are_gone: set when that is done.
        """
        lines: dict[str, tuple[str, ...]] = {}
        self._going.update(gone)

        async def stop(life: Life) -> None:
            outcome = await life.stop()
            stopped.extend(outcome.stopped)
            lines[life.name] = outcome.lines

        with trio.move_on_after(self._registry.shutdown.timeout):
            async with trio.open_nursery() as nursery:
                for life in gone:
                    nursery.start_soon(stop, life)
        # Else it is declared again by now, or transient, and was forgotten when it had stopped.
        left = [life for life in gone if life in self._going and self._registry.lives.get(life.name) is life]
        while left:  # what requires others before those
            reasons: dict[Life, NotRegistered] = {}
            for life in left:
                try:
                    await self._registry.unregister(life)
                except NotRegistered as reason:
                    reasons[life] = reason
            if len(reasons) == len(left):
                for life, why in reasons.items():
                    log("service-stays", service=life.name, reason=f"it is no longer declared, but {why}")
                    stays = f"{life.name} is no longer declared, but stays: {why}"
                    problems += lines.get(life.name) or (stays,)
                break
            left = list(reasons)
        self._going -= {*gone}
        await self._registry.let_back(life.name for life in gone if life.name not in self._registry.lives)
        with trio.move_on_after(FAILING):
            for life in leaning:
                await life.start_is_over()
        are_gone.set()

    async def _change(self, life: Life, change: Change) -> str | None:
        """Let a service become what it is declared to be now; returns why it did not, in a sentence."""
        effect = change.effect
        is_told = effect.step is None or life.status == "running"  # else when it runs, or it begins as the new one
        if effect.step is not None and is_told:
            try:
                await effect.step.run(life.context)
            except StartFailure as failure:
                log("service-stays", service=life.name, reason=failure)
                return f"{life.name} stays as it is: {failure}"
        await life.replace(change.after, at_once=effect.kind == "now" and is_told)
        return None


def state_of(directory: str) -> State | None:
    """The state that a directory is in; None when it is not there, or cannot be looked at."""
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _known(note: str | None) -> frozenset[str]:
    return frozenset() if note is None else msgspec.json.decode(note, type=frozenset[str])


def _is_gone(layer: str) -> Mistake:
    """Somebody may be about to put another in its place, or has lost it: no reason to stop all that it declared."""
    return Mistake(file=layer, problem="it was there, and is gone; put it back, empty if nothing is to be declared")


def in_words(verdict: Verdict, *, is_done: bool) -> str:
    """What a reload does, or has done, as a person reads it; a line or more for each service that it concerns."""
    lines = []
    if verdict.mistakes:
        lines.append("nothing is changed, for there are mistakes:")
        lines += [f"  {mistake}" for mistake in verdict.mistakes]
    comparison = verdict.comparison
    if comparison is not None:
        lines += _rows(comparison)
        lines.append(f"{len(comparison.unchanged)} unchanged")
    if verdict.problems:
        lines.append("what could not be done:" if is_done else "what would be in the way:")
        lines += [f"  {problem}" for problem in verdict.problems]
    return "\n".join(lines)


def _rows(comparison: Comparison) -> Iterable[str]:
    for service in comparison.added:
        yield f"+ {service.name}: added{' and started' if service.auto_start else ''} ({service.source})"
    for name in comparison.removed:
        yield f"- {name}: stopped, and no longer there"
    for change in comparison.changed:
        yield f"~ {change.name}: {change.effect.words}"
        for key, before, after in change.keys:
            yield f"    {change_in_words(key, before, after)}"


def change_in_words(key: str, before: object, after: object) -> str:
    """``memory-size: 512 -> 1024``."""
    return f"{key}: {_value(before)} -> {_value(after)}"


def _value(value: object) -> str:
    return "(unset)" if value is None else msgspec.json.encode(value).decode()


def as_json(verdict: Verdict) -> str:
    """The same for a program."""
    comparison = verdict.comparison
    told: dict[str, object] = {"mistakes": [str(mistake) for mistake in verdict.mistakes]}
    if comparison is not None:
        told |= {
            "added": [_added(service) for service in comparison.added],
            "removed": comparison.removed,
            "changed": [
                {
                    "name": change.name,
                    "effect": change.effect.kind,
                    "keys": [{"key": key, "before": before, "after": after} for key, before, after in change.keys],
                }
                for change in comparison.changed
            ],
            "unchanged": comparison.unchanged,
        }
    told["problems"] = verdict.problems
    return msgspec.json.format(msgspec.json.encode(told)).decode()


def _added(service: Service) -> dict[str, object]:
    return {"name": service.name, "auto-start": service.auto_start, "source": service.source}
