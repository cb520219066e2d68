"""All services of the plan, each with its life."""

import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import msgspec
import trio

from herdpy.catalogue import ALWAYS
from herdpy.service import Fact, Respawn, Service
from herdpy.supervisor import processes, restart, sockets
from herdpy.supervisor.context import Making
from herdpy.supervisor.declared import Remake
from herdpy.supervisor.flag import Flag
from herdpy.supervisor.life import Life
from herdpy.supervisor.line import Held, KeeperLine, Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.note import key_of_declaration, key_of_state
from herdpy.supervisor.outcome import Outcome, Reply, Unmet
from herdpy.supervisor.plan import Plan, make_plan
from herdpy.supervisor.shutdown import Shutdown
from herdpy.threads import in_thread

_Item = TypeVar("_Item")

UNLOADED = "unloaded:"
"""What the keys of the notes begin with that tell what stays away although it is declared."""
AT_A_STRETCH = 20
"""Lives that begin, start or stop before others have their turn: some milliseconds."""


class Registry:
    """The lives of the plan's services, by every name they provide."""

    def __init__(self, line: KeeperLine, log_dir: str, shutdown: Shutdown) -> None:
        self.line = line
        self.log_dir = log_dir
        """Where the output of services goes that name no log file."""
        self.own_log = f"{log_dir}/herdpy.log"
        """herdpy's own."""
        self.lives: dict[str, Life] = {}
        """By canonical name, in the plan's order."""
        self.by_name: dict[str, Life] = {}
        """By every provided name."""
        self.makings: dict[str, Making] = {}
        """What services are making for each other at the moment, by its key."""
        self.shutdown = shutdown
        self.exit_status = 0
        """What herdpy ends with."""
        self.closing = False
        self.tell_soon: Callable[[Life], None] = lambda life: None
        """Has a service take that it is declared otherwise, which it could not be told before."""
        self._requirers: dict[str, list[Life]] = {}
        """Who requires a name."""
        self._owed: dict[str, Life] = {}
        """Those to which a start is owed, by canonical name."""
        self.registered: set[str] = set()
        """Canonical names of what is in no file of the plan, but was registered while herdpy runs."""
        self.restarting: list[restart.Restart] = []
        """The restarts that are under way: what is part of one keeps its sockets meanwhile."""
        self.stopping_by_hand: list[Life] = []
        """What somebody is stopping: no restart brings it back."""
        self.unloaded: dict[str, str] = {}
        """By canonical name, what is in a file of the plan, but was unloaded by hand, or is transient and has stopped;
        the checksum of the declaration that stays away, empty for any."""
        self.begun = trio.Event()
        """Set when every life goes on by itself: before, none can be asked for anything."""
        self._nursery: trio.Nursery
        self._plan: Plan
        self._remake: Remake
        self._found = _Found({}, {}, [])
        self._leftovers: list[tuple[Held, Flag]] = []
        """What the last supervisor's steps left behind, and is being ended; set when it is gone, and all of it."""

    def take_plan(self, plan: Plan, remake: Remake) -> None:
        """Give each service of the plan its life, as it was in the last supervisor, and what the keeper holds to the
        life that it belongs to. Nothing is done about any of it before :meth:`begin`.

        Args:
            remake: makes a service that runs but is not in the plan, from the declaration in its note.
        """
        self._plan, self._remake = plan, remake
        self.unloaded = {
            key.removeprefix(UNLOADED): text for key, text in self.line.notes.items() if key.startswith(UNLOADED)
        }
        for service in plan.services:
            if not self.is_away(service):
                self._add(service)
        self._add_registered()
        self.restarting = restart.begun(self)
        found = self._found = _sorted(self.line.held.values())
        for name in (found.processes.keys() | sockets.owners(self.line)) - self.lives.keys():
            main = found.processes.get(name)
            log("service-not-declared", service=name, pid=main and main.pid)
            self._add(self._undeclared(name))
        for name, life in self.lives.items():
            self._recall(name, life)

    def catch_up(self) -> None:
        """As a second supervisor that is in charge by now: take what has changed since :meth:`take_plan`."""
        names = _concerned(self.line.changed)
        if names is None or not names <= self.lives.keys():  # what there is, not only how it is
            for life in self.lives.values():
                life.give_back()
            self.lives, self.by_name, self._requirers, self.registered = {}, {}, {}, set()
            self._owed = {}
            self.take_plan(self._plan, self._remake)
            return
        self._found = _sorted(self.line.held.values())
        self.restarting = restart.begun(self)
        for name in names:
            before = self.lives[name]
            before.give_back()
            self._owed.pop(name, None)
            self._index(before, before.service, add=False)
            declared = before.replacement or before.service
            self._recall(name, self._add(declared))

    def _recall(self, name: str, life: Life) -> None:
        note = self.line.notes.get(key_of_state(name))
        declaration = self.line.notes.get(key_of_declaration(name))
        life.recall(note, declaration, self._found.processes.get(name), self._found.beside.get(name))

    async def begin(self, nursery: trio.Nursery) -> None:
        """Let every life go on from where it was; whoever asks how they are is answered meanwhile."""
        self._nursery = nursery
        del self._plan  # what there is, is in the lives from now on
        self._leftovers = [(held, Flag()) for held in self._found.leftovers]
        for held, is_gone in self._leftovers:
            nursery.start_soon(self.be_rid_of, held, is_gone)
        for name in self._found.beside.keys() - self.lives.keys():
            for held in self._found.beside[name].values():
                nursery.start_soon(self.be_rid_of, held)
        for number, life in enumerate(list(self.lives.values()), 1):
            life.begin(nursery)
            if number % AT_A_STRETCH == 0:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        self._found = _Found({}, {}, [])
        self.begun.set()
        if self._owed and not self.closing:  # what they waited for may have come up when nobody was there
            nursery.start_soon(self._start_owed, list(self._owed.values()), None)

    def _add_registered(self) -> None:
        """Add what was registered while the last supervisor ran, by the notes that say so."""
        for key, text in self.line.notes.items():
            if not key.startswith("registered:"):
                continue
            service = self.remade(key.removeprefix("registered:"), text)
            if service is not None and self.by_name.keys().isdisjoint(service.provision):
                self._add(service)
                self.registered.add(service.name)

    def remade(self, name: str, declaration: str) -> Service | None:
        """A service as it was made from a declaration that one carried along; None when this herdpy cannot."""
        try:
            made = self._remake(declaration)
        except ValueError as error:
            log("service-not-remade", service=name, reason=error)
            return None
        return next((service for service in made if service.name == name), None)

    async def facts(self, service: Service) -> tuple[Fact, ...]:
        """What ``herd configuration`` tells of a service; it is not kept, but made again from its declaration."""
        if service.facts or not service.declaration:
            return service.facts
        explain = partial(self._remake, service.declaration, explained=True)
        made = await in_thread(explain, abandon_on_cancel=True)  # it looks at the host
        return next((again.facts for again in made if again.name == service.name), ())

    def _undeclared(self, name: str) -> Service:
        """A service that runs although its declaration is gone, or is mistaken by now: as it was, else by its name."""
        declaration = self.line.notes.get(key_of_declaration(name))
        made = None if declaration is None else self.remade(name, declaration)
        return made or Service(
            provision=(name,), documentation="Running still, but no longer declared.", respawn=Respawn(enabled=False)
        )

    def add(self, service: Service) -> Life:
        """Give a service that is in the plan by now its life."""
        life = self._add(service)
        life.begin(self._nursery)
        return life

    async def register(self, services: Iterable[Service]) -> tuple[str, ...]:
        """Add services while everything runs; one that has the name of a registered one replaces it at its next stop.

        Each needs its declaration, by which the next supervisor makes it anew.

        Returns:
            The canonical names of those that replace one.

        Raises:
            NotRegistered: they do not go together with what there is; then none is added.
        """
        wanted = {service.name: service for service in services}
        others = [life.replacement or life.service for name, life in self.lives.items() if name not in wanted]
        plan, mistakes = make_plan([*others, *wanted.values()])
        if plan is None:
            raise NotRegistered(tuple(mistake.problem for mistake in mistakes))
        replaced = []
        for service in wanted.values():
            life = self.lives.get(service.name)
            if life is not None:
                await life.replace(service)
                replaced.append(service.name)
            else:
                self.add(service)
                self.registered.add(service.name)
            await self.line.note(f"registered:{service.name}", service.declaration)
        return tuple(replaced)

    async def register_new(self, name: str, declaration: str) -> Life:
        """Register the service that a declaration makes (``Service.declaration``), whose name must be free.

        Raises:
            NotRegistered: it is not, or the service does not go together with what there is.
            ValueError: the declaration is not right.
        """
        made = [service for service in self._remake(declaration) if service.name == name]
        if any(other in self.by_name for service in made for other in service.provision):
            raise NotRegistered((f"there is a service {name} already",))
        await self.register(made)
        return self.lives[name]

    def find(self, name: str) -> Life | None:
        """The service of a name. One that is always there (``herdpy.catalogue.ALWAYS``) comes to be when it is first
        looked for."""
        life = self.by_name.get(name)
        if life is None and name in ALWAYS:
            for service in self._remake(ALWAYS[name]):
                life = self.add(service)
                self.registered.add(service.name)
                self._nursery.start_soon(self.line.note, f"registered:{service.name}", service.declaration)
        return life

    def known(self, name: str) -> Service | None:
        """What :meth:`find` would find, without letting anything come to be."""
        life = self.by_name.get(name)
        if life is None and name in ALWAYS:
            return next(iter(self._remake(ALWAYS[name])), None)
        return None if life is None else life.service

    async def is_declared(self, name: str) -> None:
        """What was registered while herdpy runs is in a file of the plan by now."""
        if name in self.registered:
            self.registered.discard(name)
            await self.line.note(f"registered:{name}", None)

    def requirers(self, life: Life) -> list[str]:
        """The names of the services that require it."""
        return list(dict.fromkeys(other.name for other in self._dependents(life)))

    def _dependents(self, life: Life) -> Iterator[Life]:
        """Those that require a name of its that it is who provides: another may have come by it in a reload."""
        for name in life.names:
            if self.by_name.get(name) is life:
                yield from self._requirers.get(name, ())

    async def unload(self, life: Life) -> None:
        """Forget a service that is stopped, also if a file of the plan declares it.

        Raises:
            NotRegistered: it is not stopped, or others require it.
        """
        is_declared = life.name not in self.registered and not life.service.transient
        await self.unregister(life)
        if is_declared:
            await self._keep_away(life.name, "")

    async def unregister_spent(self, life: Life) -> None:
        """Forget a transient service that has stopped, also if a file of the plan declares it: then a reload does not
        bring it back by itself, unless it is declared otherwise by then."""
        is_declared = life.name not in self.registered and not self.requirers(life)
        await self.unregister(life)
        if is_declared:
            await self._keep_away(life.name, _checksum(life.service))

    async def _keep_away(self, name: str, checksum: str) -> None:
        self.unloaded[name] = checksum
        await self.line.note(f"{UNLOADED}{name}", checksum)

    def is_away(self, service: Service) -> bool:
        """Whether it stays away although it is declared."""
        away = self.unloaded.get(service.name)
        return away is not None and away in ("", _checksum(service))

    async def let_back(self, names: Iterable[str]) -> None:
        """Let come back with the next reload what stays away."""
        for name in names:
            if self.unloaded.pop(name, None) is not None:
                await self.line.note(f"{UNLOADED}{name}", None)

    async def unregister(self, life: Life) -> None:
        """Forget a service that is stopped.

        Raises:
            NotRegistered: it is not stopped, or others require it.
        """
        if not life.is_idle:
            raise NotRegistered((f"{life.name} is {life.status}; stop it first",))
        requirers = self.requirers(life)
        if requirers and not life.service.transient:
            raise NotRegistered((f"{', '.join(requirers)} requires {life.name}",))
        self._index(life, life.service, add=False)
        del self.lives[life.name]
        self._owed.pop(life.name, None)
        self.registered.discard(life.name)
        log("service-unregistered", service=life.name)
        await life.retire()
        await self.line.note(f"registered:{life.name}", None)

    def rename(self, life: Life, before: Service, names: Iterable[str] = ()) -> None:
        """Find a service that became another one, or is about to, by its present names.

        Args:
            before: what it was.
            names: what it was to be found by besides.
        """
        self._index(life, before, add=False)
        for name in names:
            self._forget(name, life)
        self._index(life, life.service, add=True)

    def _forget(self, name: str, life: Life) -> None:
        if self.by_name.get(name) is life:
            del self.by_name[name]

    def _index(self, life: Life, service: Service, *, add: bool) -> None:
        newest = (life.replacement or life.service).provision
        for name in dict.fromkeys((*service.provision, *life.names)):
            if not add:
                self._forget(name, life)
            elif name in newest or name not in self.by_name:  # what is declared now goes before what was
                self.by_name[name] = life
        for name in dict.fromkeys(service.requirement):
            if add:
                self._requirers.setdefault(name, []).append(life)
            else:
                self._requirers[name].remove(life)

    def _add(self, service: Service) -> Life:
        life = self.lives[service.name] = Life(service, self)
        self._index(life, service, add=True)
        return life

    def transaction(self, *, is_by_hand: bool = True, is_patient: bool = False) -> "Transaction":
        """A start by itself.

        Args:
            is_by_hand, is_patient: as of :class:`Transaction`.
        """
        return Transaction(is_by_hand=is_by_hand, is_patient=is_patient)

    def words_for_awaited(self, service: Service) -> str | None:
        """What a service's start waits for, in words; None when all that it requires runs."""
        required = (self.by_name.get(name) for name in service.requirement)
        earlier = (self.by_name.get(name) for name in service.after)
        names = dict.fromkeys(
            [
                *(life.name for life in required if life is not None and life.status != "running"),
                *(life.name for life in earlier if life is not None and life.status == "starting"),
            ]
        )
        return f"waits for {', '.join(names)}" if names else None

    def is_to_come(self, names: Iterable[str]) -> bool:
        """Tell whether all these services run, or are being started, if only when that is due."""
        lives = [self.by_name.get(name) for name in names]
        return all(life is not None and life.status in ("starting", "running") for life in lives)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Which of these services do not run."""
        return [name for name in names if (life := self.by_name.get(name)) is None or life.status != "running"]

    def start_owed(self, life: Life) -> None:
        """What a start of a service was owed to runs by now."""
        if not self.closing:
            self._nursery.start_soon(self._start_owed, [life], None)

    def note_owed(self, life: Life) -> None:
        """A start is owed to a service by now (:attr:`Life.owed_to`), or is not any longer."""
        if life.owed_to:
            self._owed[life.name] = life
        else:
            self._owed.pop(life.name, None)

    def came_up(self, life: Life) -> None:
        """A service runs, or is done: start what could not be without it."""
        if not self._owed or self.closing:
            return
        names = frozenset(life.names)
        found = [other for other in self._owed.values() if not names.isdisjoint(other.owed_to)]
        if found:
            self._nursery.start_soon(self._start_owed, found, life)

    async def _start_owed(self, lives: Iterable[Life], done: Life | None) -> None:
        """Start those that a start is owed to still.

        Args:
            done: as of :meth:`start_all`.
        """
        await self.start_all([life for life in lives if life.owed_to and life.status == "stopped"], done=done)

    async def leftovers_gone(self, name: str) -> None:
        """Wait until nothing is left of what the last supervisor's steps left of a service: its steps are repeated."""
        for held, is_gone in self._leftovers:
            if processes.identity(held).service == name:
                await is_gone.wait()

    async def be_rid_of(self, held: Held, is_gone: Flag | None = None) -> None:
        """End what a step, or an attendant, of the last supervisor was executing.

        Args:
            is_gone: set when nothing is left of it.
        """
        log("removing-what-a-step-left", process=held.id, pid=held.pid)
        try:
            if not held.has_ended:
                await self.line.signal(held, 15)
                with trio.move_on_after(5):
                    await held.exited.wait()
            if not held.has_ended:
                await self.line.signal(held, 9)
        except Refused as refusal:  # it became another user's, and has to end by itself
            log("cannot-remove-what-a-step-left", process=held.id, pid=held.pid, reason=refusal)
        await held.exited.wait()
        try:
            await self.line.release(held)
        finally:
            if is_gone is not None:
                is_gone.set()

    async def start_requirements(
        self, service: Service, transaction: "Transaction", is_needed: Callable[[], bool]
    ) -> None:
        """Start what a service requires, all at once.

        Args:
            transaction: the start that this one is part of; a one-shot service is run once in it.
            is_needed: whether the service's own start is still wanted.

        Raises:
            Unmet: not everything could be started.
        """
        failed = await self._start_each(service, service.requirement, "depends on", transaction, is_needed)
        if failed:
            raise _unmet(failed, "which it requires")

    async def start_members(self, service: Service, transaction: "Transaction", is_needed: Callable[[], bool]) -> None:
        """Start a service's members, all at once.

        Raises:
            Unmet: not everything could be started.
        """
        failed = await self._start_each(service, service.members, "has the member", transaction, is_needed)
        if failed:
            raise _unmet(failed, "which belongs to it")

    async def _start_each(
        self,
        service: Service,
        names: Iterable[str],
        relation: str,
        transaction: "Transaction",
        is_needed: Callable[[], bool],
    ) -> dict[str, Outcome]:
        """Start services at once; returns what came of those that could not be, by their names."""
        failed: dict[str, Outcome] = {}

        async def start(name: str) -> None:
            life = self.by_name.get(name)
            if life is None:  # of a service that runs although its declaration is gone
                failed[name] = Outcome(
                    False, (f"Service {service.name} {relation} {name}, which is no longer declared.",)
                )
                return
            outcome = await transaction.start(life, is_needed)
            if not outcome.done:
                lines = (*outcome.lines, f"Service {service.name} {relation} {life.name}.")
                failed[name] = msgspec.structs.replace(outcome, lines=lines)

        await _each(start, names)
        return failed

    async def stop_dependents(self, life: Life) -> tuple[str, ...]:
        """Stop what requires a service, all at once; returns the canonical names of what was stopped."""
        dependents = [other.name for other in self._dependents(life)]
        if not dependents:
            return ()

        def still_depends(other: Life) -> bool:
            return not set(life.names).isdisjoint(other.service.requirement)

        return await self.stop_each(dependents, forced=True, is_needed=still_depends)

    async def stop_each(
        self, names: Iterable[str], *, forced: bool = False, is_needed: Callable[[Life], bool] = lambda _: True
    ) -> tuple[str, ...]:
        """Stop services, all at once; returns the canonical names of what was stopped.

        Args:
            forced: whether their consent is not asked for, because it was when the stop was that entails theirs.
            is_needed: whether one has to be stopped once it comes to that.
        """
        stopped: list[str] = []

        async def stop(life: Life) -> None:
            stopped.extend((await life.stop(is_needed=partial(is_needed, life))).stopped)

        found = dict.fromkeys(self.by_name[name] for name in names if name in self.by_name)
        lives = [life for life in found if life.status != "stopped"]
        if forced:  # no task for each: there may be many
            replies = [life.ask_to_stop(partial(is_needed, life)) for life in lives]
            for reply in replies:
                stopped += (await reply.wait()).stopped
        else:
            await _each(stop, lives)
        return tuple(dict.fromkeys(stopped))

    async def start_before(
        self, service: Service, transaction: "Transaction", nursery: trio.Nursery, *, wants: bool
    ) -> None:
        """Start what a service wants, if that is to be, and wait for the start of what it comes after; nothing of that
        can fail it."""
        wanted = service.wants if wants else ()
        for name in wanted:
            life = self.by_name.get(name)
            if life is not None and name not in service.after:
                nursery.start_soon(transaction.start, life)

        async def await_start(name: str) -> None:
            life = self.by_name.get(name)
            if life is None:
                return
            if name in wanted:
                await transaction.start(life)
            await transaction.asked_whole.wait()
            await life.start_is_over()

        await _each(await_start, service.after)

    def end_with(self, life: Life, status: int) -> None:
        """An essential service is given up: stop everything, and end with its status."""
        if not self.closing:
            log("essential-service-given-up", service=life.name, reason=life.reason, status=status)
            self.exit_status = status
            self.shutdown.ask()

    async def start_all(
        self,
        services: Iterable[Life],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        *,
        done: Life | None = None,
    ) -> tuple[str, ...]:
        """Start services at once.

        Args:
            done: what they have waited for; a one-shot need not be run again for that.
            task_status: told when the next supervisor would go on with each of these starts.

        Returns:
            Why some failed, in sentences; nothing when none did.
        """
        transaction = Transaction(is_whole=False, is_by_hand=False, done=done)
        replies: list[Reply] = []
        try:  # no task for each: there may be many
            for number, life in enumerate(tuple(services), 1):
                replies.append(transaction.ask(life))
                if number % AT_A_STRETCH == 0:
                    await self.line.leisure()
                    # Those that have started have no more to say; kept, they would lie among what stays in memory.
                    replies = [reply for reply in replies if not reply.outcome.done]
            transaction.asked_whole.set()
            for reply in replies:
                await reply.taken.pass_by()
            task_status.started()
            for reply in replies:
                await reply.arrived.pass_by()
        except trio.Cancelled:
            for reply in replies:
                reply.abandon()
            raise
        finally:
            transaction.asked_whole.set()
        return tuple(line for reply in replies if not reply.outcome.done for line in reply.outcome.lines)

    def stopped_with(self, life: Life) -> tuple[Life, ...]:
        """What a stop of a service stops besides it, as things are."""
        found = [life]
        for one in found:
            dependents = self._dependents(one)
            members = (self.by_name[name] for name in one.service.members if name in self.by_name)
            found += [
                other
                for other in dict.fromkeys((*dependents, *members))
                if other.status != "stopped" and other not in found
            ]
        return tuple(found[1:])

    async def stop_all(self) -> None:
        """Stop every service, dependents first, what is independent at once; nothing can be started any more."""
        self.closing = True
        replies = []
        lives = [life for life in self.lives.values() if life.status != "stopped" or life.has_actions]
        for number, life in enumerate(lives, 1):
            replies.append(life.ask_to_stop())
            if number % AT_A_STRETCH == 0:
                await self.line.leisure()
        for reply in replies:
            await reply.arrived.pass_by()


class Transaction:
    """A start as it was asked for, with all the starts that it entails: in it, a one-shot service is run once.

    Args:
        is_whole: whether everything that is asked for by itself has been asked for: not while more comes.
        is_by_hand: whether somebody has asked for just this, and does not want to wait until something is due.
        is_patient: whether it waits for what is tried again and again, however often that fails.
        done: what has been started already.
    """

    def __init__(
        self,
        *,
        is_whole: bool = True,
        is_by_hand: bool = True,
        is_patient: bool = False,
        done: Life | None = None,
    ) -> None:
        self.is_by_hand, self.is_patient = is_by_hand, is_patient
        self.asked_whole = Flag()
        """Set when it is: before, what does not start may be about to."""
        self._one_shots: dict[str, Reply] = {}
        if done is not None and done.service.one_shot:
            self._one_shots[done.name] = reply = Reply()
            reply.give(Outcome(True))
        if is_whole:
            self.asked_whole.set()

    def ask(self, life: Life, is_needed: Callable[[], bool] | None = None) -> Reply:
        """Ask a service to start; a one-shot that this transaction runs, or has run, is not asked again.

        Args:
            is_needed: whether the start that entails this one is still wanted.
        """
        if not life.service.one_shot:
            return life.ask_to_start(transaction=self, is_needed=is_needed)
        if life.name in self._one_shots:
            return self._one_shots[life.name].share()
        reply = self._one_shots[life.name] = life.ask_to_start(transaction=self)
        return reply

    async def start(self, life: Life, is_needed: Callable[[], bool] | None = None) -> Outcome:
        """Do what :meth:`ask` does, and wait for what comes of it."""
        return await self.ask(life, is_needed).wait()


class NotRegistered(Exception):  # noqa: N818 - it says what the services are not
    """Services that could not be registered, or one that could not be unregistered; ``problems`` say why."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Found(msgspec.Struct, frozen=True):
    """What the keeper held when this supervisor began."""

    processes: dict[str, Held]
    """The services' own, by the name."""
    beside: dict[str, dict[str, Held]]
    """What their attendants were executing, by the name and the key."""
    leftovers: list[Held]
    """What their steps left behind."""


def _sorted(held_ones: Iterable[Held]) -> _Found:
    found = _Found({}, {}, [])
    for held in sorted(held_ones, key=lambda held: held.has_ended):  # what runs comes first
        whose = processes.identity(held)
        if whose.kind == "main" and whose.service not in found.processes:
            found.processes[whose.service] = held
        elif whose.kind == "run":
            found.beside.setdefault(whose.service, {})[whose.key] = held
        else:
            found.leftovers.append(held)
    return found


def _checksum(service: Service) -> str:
    return f"{zlib.crc32(service.declaration.encode()):08x}"


def _concerned(changed: Iterable[str]) -> set[str] | None:
    """The services that what the keeper told anew (``KeeperLine.changed``) is about; None when it says which there
    are."""
    names = set()
    for key in changed:
        kind, first, rest = (*key.split(":", 2), "")[:3]
        if kind == "note" and first in ("registered", "unloaded"):
            return None
        if kind == "process":
            names.add(first)
        elif (kind == "note" and first in ("service", "declaration", "heard")) or (
            kind == "held" and first == "notify"
        ):
            names.add(rest)
        elif kind == "held" and rest.partition(":")[0] in ("socket", "connection"):
            names.add(first)
    return names


async def _each(function: Callable[[_Item], Awaitable[None]], items: Iterable[_Item]) -> None:
    items = tuple(items)
    if not items:  # most services require nothing, and a nursery is not free
        return
    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(function, item)


def _unmet(failed: Mapping[str, Outcome], which: str) -> Unmet:
    """What a service is told of others, by their names, that it cannot start without."""
    lines = [line for outcome in failed.values() for line in outcome.lines]
    return Unmet(tuple(failed), which, lines, was_stopped=any(outcome.was_stopped for outcome in failed.values()))
