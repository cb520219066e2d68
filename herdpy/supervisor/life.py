"""The life of one service: one task at a time, which alone changes the service's state.

Whoever wants something of a service puts a request into its inbox, and wakes its task, which is there only as long as
there is something in it: most services have nothing to do most of the time. Long work (starting, stopping, burying a
process that ended) is an *activity*, at most one at a time, which the task becomes when it has nothing else to do;
another takes what comes meanwhile. Its end comes back through the same inbox: every transition is made in one place,
:meth:`Life._take`, and there is no lock to forget.

    stopped ──start──▶ starting ──ready──▶ running ──stop──▶ stopping ──▶ stopped
                          │ ▲                 │                              │
                          │ └── respawn ──────┴── the process ended ─────────┘
                          └──── failed, or stopped meanwhile ────────────────▶
"""

import errno
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from herdpy.mistake import printable
from herdpy.service import ActionFailure, Attempt, Connection, End, Service, StartFailure
from herdpy.supervisor import incarnation, processes
from herdpy.supervisor.attendance import Attendance
from herdpy.supervisor.comparison import change
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.flag import Flag
from herdpy.supervisor.incarnation import Complaint, Incarnation, Spawned, attempt_of, is_simple
from herdpy.supervisor.line import Held, KeeperLine, Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.note import NOTE_VERSION, Change, Note, Status, key_of_declaration, key_of_state, read_note
from herdpy.supervisor.outcome import Outcome, Reply, Unmet
from herdpy.supervisor.recent import with_newest
from herdpy.supervisor.respawn import History, patient
from herdpy.supervisor.restart import forgo
from herdpy.supervisor.sockets import Sockets, are_left

if TYPE_CHECKING:
    from herdpy.supervisor.registry import Registry, Transaction

_Result = TypeVar("_Result")

NOTHING: Mapping[str, Held] = MappingProxyType({})
NO_DETAILS: Mapping[str, str] = MappingProxyType({})
SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
CHANGES_KEPT = 30
FAILURES_KEPT = 10
"""How many state changes and start failures are remembered: Shepherd's numbers."""

CLEARING_PATIENCE = 10.0
"""Seconds for clearing away what was prepared for a process that never was."""


LONGEST_TOLD = 1000
"""Characters of a stage or a detail that are kept: all of a service's have to fit into one packet to the keeper."""

SETTLING_PAUSE = 1.0
"""Seconds until a lazy service listens again after what should not happen."""


class _CalledOff(StartFailure):
    """A respawn that is not to be any more: why the service has ended is its reason still."""


class _Start(msgspec.Struct, frozen=True):
    arguments: tuple[str, ...]
    reply: Reply
    transaction: "Transaction | None" = None


class _Stop(msgspec.Struct, frozen=True):
    reply: Reply


class _Switch(msgspec.Struct, frozen=True):
    enabled: bool
    reply: Reply


class _Ended(msgspec.Struct, frozen=True):
    held: Held


class _Useless(msgspec.Struct, frozen=True):
    held: Held
    complaint: Complaint


class _Left(msgspec.Struct, frozen=True):
    attendance: Attendance


class _Replace(msgspec.Struct, frozen=True):
    service: Service | None
    at_once: bool
    reply: Reply


class _Waiting(msgspec.Struct, frozen=True):
    """Something waits at a socket of a lazy service that has no process."""


class _TakeSockets(msgspec.Struct, frozen=True):
    """It is declared with other sockets now."""

    reply: Reply


class _Owe(msgspec.Struct, frozen=True):
    """A start is owed to it, or is not any longer."""

    names: tuple[str, ...]


class _Restarted(msgspec.Struct, frozen=True):
    """A restart that it is part of is over, whatever came of it."""

    reply: Reply


class _Finished(msgspec.Struct, frozen=True):
    conclude: Callable[[], Awaitable[None]]


_Message = (
    _Start
    | _Stop
    | _Switch
    | _Replace
    | _TakeSockets
    | _Ended
    | _Useless
    | _Left
    | _Waiting
    | _Owe
    | _Restarted
    | _Finished
)


class Life:
    """One service and its task. Everyone may read its attributes; only its own task changes them."""

    __slots__ = (
        "_actions",
        "_activity",
        "_arguments",
        "_attendance",
        "_begun",
        "_changed",
        "_complaint",
        "_due",
        "_end",
        "_given_up",
        "_has_run",
        "_history",
        "_hurry",
        "_inbox",
        "_incarnation",
        "_is_activating",
        "_is_asked_for",
        "_is_awake",
        "_is_over",
        "_left",
        "_left_beside",
        "_next_starts",
        "_noted_declaration",
        "_nursery",
        "_predecessor",
        "_registry",
        "_sockets",
        "_starters",
        "_stop_asked",
        "_stoppers",
        "_untold",
        "changes",
        "details",
        "done",
        "enabled",
        "failures",
        "is_waiting_on",
        "memory",
        "owed_to",
        "reason",
        "replacement",
        "respawns",
        "service",
        "stage",
        "status",
    )

    def __init__(self, service: Service, registry: "Registry") -> None:
        self.service = service
        self.status: Status = "stopped"
        self.enabled = True
        self.changes: tuple[Change, ...] = ()
        """Newest first, as the following ones."""
        self.respawns: tuple[float, ...] = ()
        """One that waits until it is due among them, by when that was decided."""
        self.failures: tuple[float, ...] = ()
        self.reason: str | None = None
        """Why it last ended or failed, in words that follow "It"."""
        self.details: Mapping[str, str] = NO_DETAILS
        self.memory = ""
        """What its attendant asked to be remembered."""
        self.replacement: Service | None = None
        """What it will be once it has stopped."""
        self.stage: str | None = None
        """What a start is doing, in a few words, and how much of that is done (0 to 1)."""
        self.done: float | None = None
        self.is_waiting_on = False
        """Whether a start is under way that nobody has to wait for, as it may take for ever."""
        self.owed_to: tuple[str, ...] = ()
        """Of one to which a start is owed, since nobody was there to be told that it failed for want of other services,
        their names: when one of them runs, it is started (:meth:`Registry.came_up`)."""
        self._changed: Flag | None = None
        self._registry = registry
        has_left = are_left(service.name, registry.line)
        self._sockets = Sockets(service.name, registry.line) if has_left else None
        self._inbox: tuple[_Message, ...] = ()
        self._is_awake = True
        """Whether its task runs; not yet :meth:`begin`, whose task it will be."""
        self._history = History()
        self._arguments: tuple[str, ...] = ()
        self._starters: tuple[Reply, ...] = ()
        self._stoppers: tuple[Reply, ...] = ()
        self._next_starts: tuple[_Start, ...] = ()
        """What was asked for while it was being stopped."""
        self._stop_asked = False
        self._complaint: str | None = None
        """Why its process is being ended although nobody asked."""
        self._due: float | None = None
        """When it is to be respawned, in seconds of CLOCK_BOOTTIME; None when it is not, or has begun to be."""
        self._hurry: Flag | None = None
        """Of one that waits until it is due: set when somebody does not want to wait for that."""
        self._given_up = False
        """Whether it is disabled because it was respawned too often: whoever starts it by hand enables it."""
        self._is_activating = False
        """Whether the process of a lazy service is under way."""
        self._has_run = True
        """Whether it has run since it was started, as far as is known."""
        self._is_asked_for = False
        """Whether somebody has asked for the start that is under way, and is told if it fails; else it is tried again,
        as a respawn is."""
        self._end: End | None = None
        """How its process ended, until that has been dealt with."""
        self._noted_declaration: str | None = None
        """What the keeper remembers of its declaration."""
        self._activity: trio.CancelScope | None = None
        self._begun: Callable[[], Awaitable[None]] | None = None
        """The activity, until the task has nothing else to do, and becomes it."""
        self._incarnation: Incarnation | None = None
        self._predecessor: Incarnation | None = None
        """What has ended, and is to be buried in the same request that its successor is spawned with."""
        self._untold: tuple[str, str] | None = None
        """The process of which the last supervisor was about to tell so, by its id, and how it ended."""
        self._attendance: Attendance | None = None
        self._actions: tuple[tuple[trio.CancelScope, Flag], ...] = ()
        """What its actions are doing; the flag is set when that is over."""
        self._is_over = False
        """Whether it is no longer registered."""
        self._left: Held | None = None
        """Its process, until the task begins, which takes it for its own."""
        self._left_beside: Mapping[str, Held] = NOTHING
        """The processes that its attendant was executing in the last supervisor, by their keys; until then, too."""
        self._nursery: trio.Nursery

    # What is made when somebody needs it: a thousand services mostly do not.

    @property
    def changed(self) -> Flag:
        """Set at the next change of status or stage."""
        if self._changed is None:
            self._changed = Flag()
        return self._changed

    @property
    def context(self) -> StepContext:
        """What its steps are given."""
        return StepContext(self, self._registry)

    @property
    def sockets(self) -> Sockets:
        """What it listens on."""
        if self._sockets is None:
            self._sockets = Sockets(self.name, self._line)
        return self._sockets

    @property
    def began(self) -> float:
        """When the start began that is under way, or the last respawn; in seconds since the epoch."""
        begun = next((change.at for change in self.changes if change.status == "starting"), 0.0)
        return max([begun, *self.respawns[:1]])

    @property
    def is_given_up(self) -> bool:
        """Whether it is disabled because it was respawned too often."""
        return self._given_up

    @property
    def endpoints(self) -> tuple[tuple[str, str], ...]:
        """Of its sockets: see :class:`Sockets`."""
        return () if self._sockets is None else self._sockets.endpoints

    @property
    def connections(self) -> tuple[Connection, ...]:
        """What was accepted at its sockets, and not dropped yet."""
        return () if self._sockets is None else self._sockets.connections

    @property
    def _is_bound(self) -> bool:
        """Whether any of its sockets is."""
        return self._sockets is not None and self._sockets.is_open

    def give_back(self) -> None:
        """Let another life have the sockets that this one found at the keeper."""
        if self._sockets is not None:
            self._sockets.give_back()

    # What follows from the above.

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def _line(self) -> KeeperLine:
        return self._registry.line

    # What others ask.

    async def start(
        self,
        arguments: Sequence[str] = (),
        transaction: "Transaction | None" = None,
        is_needed: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Start it and wait until it runs, or is done, or has failed.

        Args:
            arguments: further ones, for its command line.
            transaction: the start that this one is part of; None means that it is one by itself.
            is_needed: as of :class:`Reply`.
        """
        return await self.ask_to_start(arguments, transaction, is_needed).wait()

    def ask_to_start(
        self,
        arguments: Sequence[str] = (),
        transaction: "Transaction | None" = None,
        is_needed: Callable[[], bool] | None = None,
    ) -> Reply:
        """Do what :meth:`start` does, but for the waiting."""
        reply = Reply(is_needed)
        if self._is_over:
            reply.give(self._not_registered())
        else:
            self._put(_Start(tuple(arguments), reply, transaction))
        return reply

    async def stop(
        self, *, forced: bool = False, is_by_hand: bool = False, is_needed: Callable[[], bool] | None = None
    ) -> Outcome:
        """Stop it, its dependents first, and wait until it has stopped.

        Args:
            forced: whether its consent, and that of what is stopped along with it, is not asked for.
            is_by_hand: whether somebody means it, so that no restart is to undo it.
            is_needed: as of :class:`Reply`.
        """
        if self._is_over:
            return Outcome(True)
        if not forced and not self._registry.closing and (refusal := await self._refusal_to_stop()):
            return Outcome(False, (f"cannot stop {self.name}: {refusal}",))
        if not is_by_hand:
            return await self.ask_to_stop(is_needed).wait()
        self._registry.stopping_by_hand.append(self)
        try:
            await forgo(self._registry, self)
            return await self.ask_to_stop(is_needed).wait()
        finally:
            self._registry.stopping_by_hand.remove(self)

    def ask_to_stop(self, is_needed: Callable[[], bool] | None = None) -> Reply:
        """Do what :meth:`stop` does when it is forced, but for the waiting."""
        reply = Reply(is_needed)
        if self._is_over:
            reply.give(Outcome(True))
        else:
            self._put(_Stop(reply))
        return reply

    async def start_is_over(self) -> None:
        """Wait for what comes of the start that is under way, or that it was asked for before: what is to be respawned
        some time later has failed for now."""
        for message in (*self._inbox, *self._next_starts):
            if isinstance(message, _Start):
                await message.reply.arrived.wait()
        begun = self.changes[0] if self.changes else None
        while self.status == "starting" and self.changes[0] == begun and not self._may_be_long:
            await self.changed.wait()

    @property
    def _may_be_long(self) -> bool:
        """Whether it waits to be respawned, or for what may never come: nobody who wants to know need wait for that."""
        return self._hurry is not None or self.is_waiting_on

    def refusal_to_start(self, arguments: Sequence[str] = (), *, by_hand: bool = True) -> str | None:
        """Why it would not be started; None when nothing is against a start.

        Args:
            by_hand: whether somebody means it, and not another service's start.
        """
        if self._registry.closing:
            return "herdpy is shutting down"
        if not self.enabled and not self._given_up:
            return f"it is disabled; enable it with: herd enable {self.name}"
        if not self.enabled and not by_hand:
            why = f" ({self.reason})" if self.reason else ""
            return f"it was given up{why}; start it by itself with: herd start {self.name}"
        if arguments and not self.service.takes_arguments:
            return f"it takes no arguments, and {' '.join(arguments)} was given"
        return None

    async def switch(self, enabled: bool) -> Outcome:
        """Enable it (which forgets its failures) or disable it; a running one goes on running."""
        if self._is_over:
            return Outcome(True)
        reply = Reply()
        self._put(_Switch(enabled, reply))
        return await reply.wait()

    async def replace(self, service: Service | None, *, at_once: bool = False) -> None:
        """Let it be another service of the same name from its next stop on; at once when it is stopped, or if need be.

        Args:
            service: None means that it stays what it is.
        """
        if self._is_over:
            return
        reply = Reply()
        self._put(_Replace(service, at_once, reply))
        await reply.wait()

    async def take_sockets(self) -> Outcome:
        """Let a lazy service that has no process listen where it is declared to by now."""
        if self._is_over:
            return Outcome(True)
        reply = Reply()
        self._put(_TakeSockets(reply))
        return await reply.wait()

    async def end_restart(self) -> None:
        """Listen no longer, if a restart that is over now has left it stopped."""
        if not self._is_over:
            reply = Reply()
            self._put(_Restarted(reply))
            await reply.wait()

    async def ask(self, arguments: Sequence[str]) -> str:
        """Ask its attendant, once it has started if it is starting, and wait for the answer.

        Raises:
            ActionFailure: with its reason, or because the service does not run.
        """
        await self.start_is_over()
        if self._attendance is None or self.status != "running":
            raise ActionFailure(f"{self.name} is {self.status}; start it with: herd start {self.name}")
        return await self._attendance.ask(tuple(arguments))

    async def carry_out(self, operation: Callable[[], Awaitable[object]]) -> object:
        """Do what an action does, unless the service is stopped meanwhile; returns what that does.

        Raises:
            ActionFailure: it was stopped.
        """
        if self._registry.closing and self.status == "stopped":
            raise ActionFailure("herdpy is shutting down")
        doing = scope, is_over = trio.CancelScope(), Flag()
        self._actions += (doing,)
        try:
            with scope:
                return await operation()
        finally:
            self._actions = tuple(other for other in self._actions if other is not doing)
            is_over.set()
        raise ActionFailure(f"{self.name} was stopped meanwhile")

    @property
    def has_actions(self) -> bool:
        """Whether any of its actions is under way."""
        return bool(self._actions)

    def _cancel_actions(self) -> None:
        for scope, _ in self._actions:
            scope.cancel()

    async def _end_actions(self) -> None:
        """End what its actions are doing, and wait until no process of theirs is left."""
        self._cancel_actions()
        for _, is_over in self._actions:
            await is_over.wait()

    async def _end_actions_of_stopped(self, reply: Reply) -> None:
        await self._end_actions()
        reply.give(Outcome(True))

    async def renew(self, number: int, patience: float) -> None:
        """Send its process a signal, and wait until that has said READY=1 once more.

        Raises:
            StartFailure: as ``herdpy.service.Context.renew`` has it.
        """
        if self._incarnation is None or self.status != "running":
            raise StartFailure(f"{self.name} is {self.status}; start it with: herd start {self.name}")
        await self._incarnation.renew(number, patience)

    async def renew_instead(self) -> Outcome | None:
        """What its type does instead of a restart, if it can do something; None when it is to be restarted."""
        renewal, incarnation = self.service.renewal, self._incarnation
        if renewal is None or incarnation is None or self.status != "running":
            return None
        try:
            done = await renewal.run(incarnation.context)
        except StartFailure as failure:
            return Outcome(False, (f"cannot restart {self.name}: {failure}", *failure.details))
        return None if done is None else Outcome(True, (done,))

    async def _refusal_to_stop(self) -> str | None:
        """Why it, or what is stopped along with it, had better run on; None when nothing is against a stop."""
        if (refusal := await self.refusal()) is not None:
            return refusal
        for other in self._registry.stopped_with(self):
            if (refusal := await other.refusal()) is not None:
                return f"{other.name}, which would be stopped with it, had better run on: {refusal}"
        return None

    async def refusal(self) -> str | None:
        """Why it had better not be stopped, if it says so."""
        consent, incarnation = self.service.stop.consent, self._incarnation
        if consent is None or incarnation is None or self.status != "running":
            return None
        try:
            await consent.run(incarnation.context)
        except StartFailure as refusal:
            return str(refusal)
        return None

    def owe(self, *names: str) -> None:
        """Let a start be owed to it, as it is down for want of these services; without any, not any longer."""
        if not self._is_over:
            self._put(_Owe(names))

    @property
    def process(self) -> Held | None:
        """Its process, while there is one."""
        return self._left if self._incarnation is None else self._incarnation.held

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of its process, while there is one; nothing when its declaration is gone."""
        if self.process is None:
            return ()
        attempts = self.service.attempts[attempt_of(self.process) :]
        return (*attempts[0].process.command, *self._arguments) if attempts else ()

    @property
    def log_file(self) -> str:
        return self.service.log_file or f"{self._registry.log_dir}/{self.name}.log"

    # What its steps tell.

    def tell_stage(self, stage: str | None, done: float | None = None) -> None:
        stage = stage and _told(stage)
        if (stage, done) != (self.stage, self.done):
            self.stage, self.done = stage, done
            self._pulse()

    def wait_on(self, line: str) -> None:
        """Answer whoever waits for the start that is under way; it goes on."""
        self.is_waiting_on = True
        for reply in self._starters:
            reply.give(Outcome(False, (f"Service {self.name} has not started yet: {_told(line)}",)))
        self._starters = ()
        self._pulse()

    def tell_detail(self, key: str, value: str | None) -> None:
        others = {known: text for known, text in self.details.items() if known != key}
        self.details = others if value is None else {**others, key: _told(value)}

    async def keep_details(self) -> None:
        """Have the details known to the next supervisor, should this one be killed."""
        await self._remember()
        await self._line.settle()

    def _pulse(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    # The task.

    def begin(self, nursery: trio.Nursery) -> None:
        """Live: go on from what :meth:`recall` was told, then take what comes into the inbox, until unregistered."""
        self._nursery = nursery
        is_new = not self.changes and self.status == "stopped"
        if is_new and not (self._left or self._left_beside or self._inbox or self._is_bound):
            self._is_awake = False  # most have not done anything yet when herdpy begins
        else:
            nursery.start_soon(self._go_on_from_before)

    async def _go_on_from_before(self) -> None:
        try:
            await self._resume()
        except Exception as error:
            await self._settle(error)
        await self._work()

    def _put(self, message: _Message) -> None:
        """Put a message into the inbox."""
        self._inbox += (message,)
        if not self._is_awake:
            self._is_awake = True
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        """Be the task: take what is in the inbox, then be the activity, if one was begun; another task is begun for
        what comes into the inbox meanwhile."""
        while True:
            while self._inbox:
                message, self._inbox = self._inbox[0], self._inbox[1:]
                if self._is_over:
                    self._refuse(message)
                    continue
                try:
                    await self._take(message)
                except Exception as error:
                    await self._settle(error)
            self._is_awake = False
            activity, self._begun = self._begun, None
            if activity is None:
                return
            await activity()
            if self._is_awake:
                return
            self._is_awake = True

    def _refuse(self, message: _Message) -> None:
        """Answer who asked while it was being unregistered."""
        match message:
            case _Start(_, reply, _):
                reply.give(self._not_registered())
            case _Stop(reply) | _Switch(_, reply) | _Replace(_, _, reply) | _TakeSockets(reply) | _Restarted(reply):
                reply.give(Outcome(True))

    @property
    def _is_start_wanted(self) -> bool:
        """Whether anybody wants the start that is under way; one that nobody asked for is wanted by itself."""
        return not self._starters or any(reply.is_wanted for reply in self._starters)

    def _stopped_meanwhile(self) -> Outcome:
        lines = (f"cannot start {self.name}: it was stopped meanwhile",)
        return Outcome(False, lines, was_stopped=bool(self._registry.stopping_by_hand))

    def _not_registered(self) -> Outcome:
        return Outcome(False, (f"Service {self.name} is no longer registered.",))

    async def _take(self, message: _Message) -> None:
        match message, self.status:
            case _Finished(conclude), _:
                self._activity = None
                await conclude()
            case _Switch(enabled, reply), _:
                self.enabled, self._given_up = enabled, False
                if enabled:
                    self._history.deaths = self.failures = ()
                    self.reason = None
                elif self._hurry is not None:  # it need not wait any longer
                    self._hurry.set()
                if not enabled:
                    await self._change_owed(())
                await self._remember()
                log("service-enabled" if enabled else "service-disabled", service=self.name)
                reply.give(Outcome(True))
            case _Start(_, reply, _), _ if not reply.is_wanted:
                reply.give(self._stopped_meanwhile())
            case _Start(), "stopped":
                await self._begin_start(message)
            case _Start(arguments, reply, _), "starting" if not self._stoppers and arguments not in (
                (),
                self._arguments,
            ):
                given = " ".join(arguments)
                reply.give(Outcome(False, (f"cannot start {self.name} with {given}: it is starting already",)))
            case _Start(_, reply, transaction), "starting" if not self._stoppers:
                by_hand = transaction is None or transaction.is_by_hand
                self._is_asked_for = self._is_asked_for and by_hand
                self._starters += (reply,)
                reply.taken.set()
                if self._hurry is not None and by_hand:
                    await self._be_due_now()
            case _Start(_, reply, _), "running":
                reply.give(Outcome(True, (f"Service {self.name} is already running.",)))
            case _Start(), _:
                self._next_starts += (message,)
                self._refuse_next_starts_if_closing()
            case _Stop(reply), _ if not reply.is_needed:  # it was restarted meanwhile, as what requires something else
                reply.give(Outcome(True))
            case _Stop(reply), "stopped" if self._actions:
                self._nursery.start_soon(self._end_actions_of_stopped, reply)
            case _Stop(reply), "stopped":
                reply.give(Outcome(True))
            case _Stop(reply), "starting":
                self._stoppers += (reply,)
                if self._activity is not None:
                    self._activity.cancel()
            case _Stop(reply), "running" if self._activity is not None:  # about a lazy service's process
                self._stoppers += (reply,)
                self._activity.cancel()
            case _Stop(reply), "running":
                self._stoppers += (reply,)
                await self._stop()
            case _Stop(reply), "stopping":
                self._stoppers += (reply,)
                self._refuse_next_starts_if_closing()
            case _Waiting(), "running" if self._incarnation is None and self._activity is None:
                await self._activate()
            case _Waiting(), _:
                pass
            case _TakeSockets(reply), "running" if self._incarnation is None and self._activity is None:
                if not self._has_other_sockets:
                    reply.give(Outcome(True))
                    return
                self._starters += (reply,)
                await self._listen_otherwise()
            case _TakeSockets(reply), _:
                reply.give(Outcome(True))
            case _Ended(held), "running" if held is self.process and self._activity is None:
                await self._take_end(held)
            case _Useless(held, complaint), "running" if held is self.process and not held.has_ended:
                log("service-useless", service=self.name, reason=complaint.reason)
                self._note_failure()
                self._stop_asked, self._complaint = False, complaint.reason
                await self._enter("stopping")
                self._act(partial(self._end_useless, complaint), self._ended)
            case _Ended() | _Useless(), _:
                pass  # the activity that starts or stops it waits for its end itself
            case _Left(attendance), "running" if attendance is self._attendance:
                self._stop_asked = False
                await self._enter("stopping")
                self._act(self._dismiss, self._ended)
            case _Left(), _:
                pass
            case _Owe(names), status:
                # A start that is under way need not be repeated any more.
                self._is_asked_for = self._is_asked_for or (status == "starting" and not names)
                is_owed = self.enabled and status == "stopped" and _can_be_owed(self.service)
                await self._change_owed(names if is_owed else ())
            case _Restarted(reply), status:
                if status == "stopped" and not self._is_restarting:
                    await self._close_sockets()
                reply.give(Outcome(True))
            case _Replace(service, at_once, reply), status:
                names = self.names
                self.replacement = None if service == self.service else service  # it may have been restarted meanwhile
                if names != self.names:
                    self._registry.rename(self, self.service, names)
                if at_once or status == "stopped" or self._hurry is not None:  # as it waits to be respawned
                    before = self.service
                    self._take_replacement()
                    await self._attend_anew(before)
                    if self.changes:
                        await self._remember()
                self._see_to_replacement()
                reply.give(Outcome(True))

    async def _enter(self, status: Status, *, along: bool = False) -> None:
        self._note_change(status)
        # That a process is stopped in a shutdown is known from the note that it is being stopped, and from its absence.
        if not (status == "stopped" and self._registry.closing and self.service.attempts):
            await self._remember(along=along)
        self._pulse()

    def _note_change(self, status: Status) -> None:
        self.status = status
        self.is_waiting_on = False
        self._end = None
        self.changes = with_newest(Change(status, time.time()), self.changes, CHANGES_KEPT)
        if status in ("running", "stopped"):
            self.stage = self.done = None

    def _note_failure(self) -> None:
        self.failures = with_newest(time.time(), self.failures, FAILURES_KEPT)

    async def _remember(self, *, along: bool = False) -> None:
        """Have the keeper note the service's state.

        Args:
            along: with what it will be asked for next; whatever is begun before that calls :meth:`KeeperLine.settle`.
        """
        before = None if self._predecessor is None else self._predecessor.held
        note = Note(
            NOTE_VERSION,
            self.status,
            self.enabled,
            self._stop_asked,
            self._arguments,
            self.changes,
            self.respawns,
            self._history.deaths,
            self.failures,
            self.reason,
            dict(self.details),
            self._history.running_since,
            self._history.streak,
            self.memory,
            self._complaint,
            self._due,
            self._is_activating,
            self._end,
            self.service.stop.signal,
            self.service.stop.grace_period,
            self._given_up,
            None if before is None else (before.id, processes.end_of(before).reason),
            self._has_run,
            self.owed_to,
        )
        try:
            if self._noted_declaration != self.service.declaration:
                self._line.note_soon(key_of_declaration(self.name), self.service.declaration, along=along)
                self._noted_declaration = self.service.declaration
            self._line.note_soon(key_of_state(self.name), msgspec.json.encode(note).decode(), along=along)
        except (Refused, ValueError) as error:
            # Longer than a packet, or no UTF-8: the next supervisor will know less, but this one goes on.
            log("note-refused", service=self.name, reason=error)

    def _act(
        self,
        work: Callable[[], Awaitable[_Result]],
        conclude: Callable[[_Result | None], Awaitable[None]],
        *,
        settles: bool = True,
    ) -> None:
        """Run an activity; what it returned (None when it was cancelled) goes to ``conclude`` through the inbox.

        Nobody cancels one that stops or buries the service.

        Args:
            settles: whether what was noted has to be known before: not when the first thing to be done is the keeper's.
        """
        scope = self._activity = trio.CancelScope()
        can_be_cancelled = self.status != "stopping"

        async def activity() -> None:
            result: _Result | None = None
            try:
                with scope if can_be_cancelled else nullcontext():
                    if settles:
                        await self._line.settle()
                    result = await work()
            except Exception as error:
                self._inbox += (_Finished(partial(self._settle, error)),)
            else:
                self._inbox += (_Finished(partial(conclude, result)),)

        self._begun = activity

    # Starting.

    async def _begin_start(self, request: _Start, *others: _Start) -> None:
        requests = (request, *others)
        self._starters += tuple(start.reply for start in requests)
        by_hand = any(start.transaction is None for start in requests)
        refusal = self.refusal_to_start(request.arguments, by_hand=by_hand)
        if refusal is not None:
            self._answer_starters(Outcome(False, (f"cannot start {self.name}: {refusal}",)))
            return
        if self._given_up:
            log("service-enabled", service=self.name)
            self.enabled, self._given_up = True, False
            self.failures = ()
        self._arguments = request.arguments
        self._is_asked_for = all(start.transaction is None or start.transaction.is_by_hand for start in requests)
        self._has_run = False
        self._history.forget()
        self._due = None
        self.respawns = ()
        self.reason = None
        is_plain = self._is_plain
        await self._enter("starting", along=is_plain)
        for reply in self._starters:
            reply.taken.set()
        log("service-starting", service=self.name)
        transaction = request.transaction or self._registry.transaction()
        self._act(partial(self._bring_up, transaction), self._started, settles=not is_plain)

    async def _be_due_now(self) -> None:
        """Somebody starts what was to be respawned later: what was before does not count."""
        assert self._hurry is not None
        self._history.forget()
        self.respawns = ()
        self._due = _now()
        await self._remember()
        self._hurry.set()

    @property
    def past_respawns(self) -> tuple[float, ...]:
        """When it was respawned, newest first: without a respawn that is yet to come."""
        return self.respawns[1:] if self.status == "starting" and self._delay else self.respawns

    async def _await_due(self) -> None:
        """Wait until it is due, unless somebody hurries it."""
        delay = self._delay
        if not delay or not self.enabled:
            return
        at = time.strftime("%H:%M:%S", time.localtime(time.time() + delay))
        self._hurry = Flag()
        self.tell_stage(f"to be respawned at {at} (after {delay:.3g} s)")
        try:
            with trio.move_on_after(delay):
                await self._hurry.wait()
        finally:
            self._hurry = None
        if self.respawns:
            self.respawns = (time.time(), *self.respawns[1:])
        self.tell_stage(None)

    async def _bring_up(self, transaction: "Transaction | None" = None) -> Outcome:
        """Get it running, once it is due: what it requires, its sockets, its preparation, then the first way that gets
        ready.

        A lazy service runs when it listens.

        Args:
            transaction: the start that this one is part of; None when nobody has asked for it.
        """

        async def work() -> None:
            # What it wants is started when somebody starts it: stopped by hand since then, it stays so.
            is_respawn = self._due is not None
            wants = not (is_respawn or self.owed_to)
            await self._await_due()
            if is_respawn and not self.enabled:
                raise _CalledOff("it was disabled meanwhile")
            of = transaction or self._registry.transaction(is_by_hand=False, is_patient=is_respawn and self._has_run)
            await self._gather(of, wants=wants)
            if self.service.sockets or self._is_bound:
                await self.sockets.open(self.service, self.tell_stage)
            if self.service.lazy:
                return
            await self._prepare()
            await self._registry.start_members(self.service, of, lambda: self._is_start_wanted)
            await self._try_attempts()

        return await self._outcome(work)

    async def _bring_up_process(self) -> Outcome:
        """Get a lazy service, for which something waits, its process."""

        async def work() -> None:
            await self._gather(self._registry.transaction(is_by_hand=False), wants=False)
            await self._prepare()
            await self._try_attempts()

        return await self._outcome(work)

    async def _go_on_bringing_up(self) -> Outcome:
        """Get it running from where the last supervisor was: its process was spawned already."""
        return await self._outcome(self._try_attempts)

    async def _outcome(self, start: Callable[[], Awaitable[None]]) -> Outcome:
        try:
            await start()
        except Unmet as unmet:
            self.reason = str(unmet)
            lines = unmet.details
            return Outcome(False, lines, is_own=False, was_stopped=unmet.was_stopped, unmet=unmet.names)
        except _CalledOff as why:
            await self._bury_predecessor()
            return Outcome(False, (f"cannot start {self.name}: {why}",), is_own=False, is_failure=False)
        except StartFailure as failure:
            await self._bury_predecessor()
            self.reason = printable(str(failure))
            lines = (f"cannot start {self.name}: {self.reason}", *failure.details)
            return Outcome(False, lines, status=failure.status, code=failure.code)
        except Exception as error:
            lack = _lack(error)
            if lack is None:
                log("start-crashed", service=self.name, exc_info=error)
            await self._put_down(gracefully=False)
            mistake = f"a mistake in herdpy: {type(error).__name__}: {error}; herdpy's log has the details"
            self.reason = lack or mistake
            return Outcome(False, (f"cannot start {self.name}: {self.reason}",))
        return Outcome(True, (f"Service {self.name} has been started.",))

    async def _gather(self, transaction: "Transaction", *, wants: bool) -> None:
        """Wait for what has to be there, or gone, before it can begin.

        Args:
            wants: whether what it wants is started, too.

        Raises:
            Unmet: something it requires could not be started.
            StartFailure: it was disabled while it waited to be respawned.
        """
        if not self.enabled:
            raise StartFailure("it was disabled meanwhile")
        await self._registry.leftovers_gone(self.name)
        if self.service.requirement or self.service.after:
            self.tell_stage(self._registry.words_for_awaited(self.service))
        await self._registry.start_before(self.service, transaction, self._nursery, wants=wants)
        while True:
            try:
                await self._registry.start_requirements(self.service, transaction, lambda: self._is_start_wanted)
                break
            except Unmet:
                # Nobody waits for a respawn; so it waits, for what may fail again and again before it comes up.
                is_wanted = self._is_start_wanted and self.enabled
                if not (transaction.is_patient and is_wanted and self._registry.is_to_come(self.service.requirement)):
                    raise
                # Another one: in the same, a one-shot that has failed would fail at once, again and again.
                transaction = self._registry.transaction(is_by_hand=False, is_patient=True)
                await trio.lowlevel.checkpoint()
        self.tell_stage(None)

    async def _prepare(self) -> None:
        try:
            for step in self.service.prepare:
                await step.run(self.context)
        except BaseException:
            if not self.service.attempts:
                await self._clear_away()
            raise

    async def _try_attempts(self) -> None:
        """Try its ways to start until one gets ready; one that has a process already is the first.

        Raises:
            StartFailure: of the last one, or what kept a process from being spawned.
        """
        first = 0 if self.process is None else attempt_of(self.process)
        for number, attempt in list(enumerate(self.service.attempts))[first:]:
            if self._incarnation is None:
                await self._incarnate(number, attempt)
            try:
                await self._get_ready(attempt)
                return
            except StartFailure as failure:
                await self._put_down(gracefully=False)
                if number + 1 == len(self.service.attempts):
                    raise
                log("start-attempt-failed", service=self.name, reason=failure, **dict(attempt.details))

    async def _get_ready(self, attempt: Attempt) -> None:
        assert self._incarnation is not None
        await self._incarnation.get_ready(attempt)
        if self.service.one_shot:
            await self._incarnation.finish(attempt.timeout, self.service.respawn.success, self._keep_end)
            self._incarnation = None

    async def _clear_away(self) -> None:
        """Run the aftermath of what came to no process, whose burial would do it."""
        with trio.move_on_after(CLEARING_PATIENCE, shield=True):
            await incarnation.clear_away(self.service, self.context)

    async def _incarnate(self, number: int, attempt: Attempt) -> None:
        """Spawn its process.

        Raises:
            StartFailure: it cannot be executed, or the attempt's own preparation failed.
        """
        try:
            for step in attempt.prepare:
                await step.run(self.context)
            if attempt.details:
                self.details = {**self.details, **dict(attempt.details)}
            lent = () if self._sockets is None else self._sockets.lend()
            spawned = await incarnation.spawn(
                self._line, self.service, number, self._arguments, self.log_file, lent, self._predecessor
            )
        except BaseException:
            await self._clear_away()
            raise
        self._adopt(spawned)

    def _adopt(self, spawned: Spawned) -> None:
        """Take a process for the service's own: its end is told to the task."""
        self._tell_of_predecessor()
        self._incarnation = Incarnation(self, self._registry, spawned, self._nursery)
        spawned.held.owner = self

    def note_end(self, held: Held) -> None:
        """Its process has ended."""
        if self._activity is None or self._inbox:  # else it is for the activity, which waits for it itself
            self._put(_Ended(held))

    def _watch(self) -> None:
        """Have the process, which is ready, guarded; a complaint is told to the task."""
        if self._incarnation is not None:
            held = self._incarnation.held
            self._incarnation.watch(lambda complaint: self._put(_Useless(held, complaint)))

    async def _started(self, outcome: Outcome | None) -> None:
        was_respawn, self._due = self._due is not None, None
        if outcome is None or self._stoppers:
            self._answer_starters(self._stopped_meanwhile())
            await self._stop()
            return
        if not outcome.done:
            self.details = NO_DETAILS
            if outcome.is_failure:
                self._note_failure()
                log("service-failed-to-start", service=self.name, reason=self.reason)
            code = outcome.code if outcome.code in self.service.respawn.final else None
            end = End(reason=self.reason or "it could not be started", code=code)
            is_asked_for = self._is_asked_for and not was_respawn
            # Of an essential one who has started herdpy is to hear.
            is_tried_again = was_respawn or not (is_asked_for or self.service.one_shot or self.service.essential)
            # What is down for want of another is no reason to count against it, nor would it help to try again.
            if is_tried_again and outcome.is_own and await self._respawn_or_rest(end, outcome):
                return
            if outcome.was_stopped:
                self._set_owed(())
            elif outcome.unmet and self.enabled and not is_asked_for and _can_be_owed(self.service):
                self._set_owed(outcome.unmet)
            await self._rest()
            if self.owed_to:
                self._await_missing(starts=bool(outcome.unmet))
            self._answer_starters(outcome)
            if self.service.essential:
                self._registry.end_with(self, outcome.status)
            return
        if self.service.one_shot:
            log("service-done", service=self.name)
            self.failures = ()
            self._set_owed(())
            await self._rest()
            self._answer_starters(outcome)
            self._registry.came_up(self)
            return
        if not self._has_run:
            self._history.forget()  # what it took to get there is no ends of what ran
        self._has_run, self._history.running_since = True, _now()
        self._set_owed(())
        self._attend({})
        await self._enter("running")
        log("service-started", service=self.name, pid=self.process and self.process.pid, **self.details)
        self._answer_starters(outcome)
        self._registry.came_up(self)
        self._see_to_replacement()
        if self.service.lazy and self._incarnation is None:
            self._watch_sockets()
        self._watch()
        if self.process is not None and self.process.has_ended:
            self._put(_Ended(self.process))

    @property
    def _is_listening(self) -> bool:
        """Whether it is a lazy service that runs, with or without a process."""
        return self.status == "running" and self.service.lazy and self._is_bound

    @property
    def _delay(self) -> float:
        """Seconds until it is due."""
        return 0.0 if self._due is None else max(0.0, self._due - _now())

    def _watch_sockets(self) -> None:
        """Have the task told when something waits at a lazy service's sockets, once it is due."""
        self.sockets.watch(self._nursery, self._delay, lambda: self._put(_Waiting()))

    async def _activate(self) -> None:
        """Something waits at a lazy service's sockets."""
        if self.replacement is None:
            log("service-activated", service=self.name)
            self._due, self._is_activating = None, True
            await self._remember()
            self._act(self._bring_up_process, self._activated)
        else:  # its process is to be the one that is declared now
            await self._listen_otherwise()

    @property
    def _has_other_sockets(self) -> bool:
        """Whether it is lazy, and declared with other sockets than it has."""
        after = self.replacement
        return after is not None and self._is_listening and after.lazy and after.sockets != self.service.sockets

    async def _await_connection(self) -> None:
        """Have the next process of a lazy service spawned for who connects, at the sockets that it is declared with."""
        if self._has_other_sockets:
            await self._listen_otherwise()
        else:
            self._watch_sockets()

    async def _listen_otherwise(self) -> None:
        """Be what it is declared to be now: a lazy service that has no process."""
        await self.sockets.rest()
        self._take_replacement()
        self._is_asked_for = True  # a reload is told
        await self._enter("starting")
        self._act(self._bring_up, self._started)

    async def _activated(self, outcome: Outcome | None) -> None:
        """After a lazy service's process was to be spawned."""
        self._is_activating = False
        if outcome is None or self._stoppers:
            await self._stop(gracefully=False)
        elif not outcome.done:
            self._note_failure()
            log("service-failed-to-start", service=self.name, reason=self.reason)
            await self._go_on_after(End(reason=self.reason or "its process could not be started"))
        else:
            self._history.running_since = _now()
            await self._go_on_running()
            self._watch()
            if self.process is not None and self.process.has_ended:
                self._put(_Ended(self.process))

    async def _listen_again(self) -> None:
        """After the end of a lazy service's process, which is not that of the service."""
        self.details = NO_DETAILS
        await self._go_on_running()
        self._take_over_next_starts()
        self._answer_starters(Outcome(True, (f"Service {self.name} is already running.",)))
        await self._await_connection()

    async def _go_on_running(self) -> None:
        if self.status != "running":
            self._note_change("running")
        self.stage = self.done = None
        await self._remember()
        self._pulse()

    def _attend(self, left: Mapping[str, Held]) -> None:
        if self.service.attendant is None:
            return
        self._attendance = attendance = Attendance(
            self.service.attendant,
            self,
            self._registry,
            left,
            self._keep_memory,
            self._nursery,
            lambda: self._put(_Left(attendance)),
        )

    async def _attend_anew(self, before: Service) -> None:
        """Let its attendant be the one that it has as it is declared now, with what the last one remembered."""
        attendance, attendant = self._attendance, self.service.attendant
        if attendance is None or attendant == before.attendant:
            return
        if attendant is None or not attendance.become(attendant):
            self._attendance = None
            await attendance.leave()
            self._attend({})

    async def _keep_memory(self, text: str) -> None:
        self.memory = text
        await self._remember()

    async def _dismiss(self) -> End:
        """After its attendant has ended by itself."""
        assert self._attendance is not None
        assert self._attendance.end is not None
        end, self._attendance = self._attendance.end, None
        await self._clear_away()
        return end

    def _answer_starters(self, outcome: Outcome) -> None:
        if not outcome.done:
            lines = (*outcome.lines, f"Service {self.name} could not be started.")
            outcome = Outcome(False, lines, was_stopped=outcome.was_stopped)
        for reply in self._starters:
            reply.give(outcome)
        self._starters = ()

    async def _settle(self, error: Exception) -> None:
        """After what should not happen: answer everyone who waits, and come to a state that can be left again.

        A mistake of ours is this service's misfortune, not everybody's; and nobody must wait for ever.
        """
        self._is_activating = False
        if isinstance(error, Refused):  # the keeper's own words, such as: cannot send signal 15 to ...
            log("keeper-refused", service=self.name, reason=error)
            self.reason = str(error)
        else:
            log("service-task-crashed", service=self.name, exc_info=error)
            self.reason = f"a mistake in herdpy: {type(error).__name__}: {error}; herdpy's log has the details"
        if self._activity is None and self.status in ("starting", "stopping"):
            if self.process is not None and self.process.has_ended:
                self._incarnation = None  # the keeper holds it until the next supervisor buries it
            self._predecessor = None  # likewise
            await self._enter("stopped" if self.process is None else "running")
        elif self._activity is None and self._is_listening and (self.process is None or self.process.has_ended):
            self._incarnation = None
            self._due = _now() + SETTLING_PAUSE
            self._watch_sockets()
        self._take_over_next_starts()
        self._answer_starters(Outcome(False, (f"cannot start {self.name}: {self.reason}",)))
        self._answer_stoppers_early(f"cannot stop {self.name}: {self.reason}")

    # Stopping.

    async def _stop(self, *, gracefully: bool | None = None) -> None:
        self._stop_asked = True
        if gracefully is None:
            gracefully = self.status == "running"
        await self._enter("stopping")
        is_keepers = self._incarnation is not None and self._incarnation.is_ended_by_keeper(gracefully=gracefully)
        self._act(partial(self._bring_down, gracefully), self._stopped, settles=not is_keepers)

    async def _bring_down(self, gracefully: bool) -> Outcome:
        self._cancel_actions()  # they have the grace period of its process to end
        dependents = await self._registry.stop_dependents(self)
        log("service-stopping", service=self.name)
        held = self.process
        lines: tuple[str, ...] = ()
        if self.service.attempts:
            await self._put_down(gracefully=gracefully)
            if held is not None and held.was_killed:
                whom = "" if self.service.stop.scope == "process" else "-"  # Shepherd's words, for a process group
                seconds = f"{self.service.stop.grace_period:g}"
                lines = (f"Grace period of {seconds} seconds is over; sending {whom}{held.pid} SIGKILL.",)
        else:
            failure = await self._take_down(gracefully=gracefully)
            if failure is not None and not self._registry.closing:
                line = f"Service {self.name} might have failed to stop: {failure}"
                return Outcome(False, (line, *failure.details), dependents)
        await self._end_actions()
        members = await self._registry.stop_each(self.service.members, forced=True)
        if self.service.transient:
            lines = (*lines, f"Transient service {self.name} unregistered.")
        return Outcome(True, lines, stopped=(self.name, *dependents, *members))

    async def _take_down(self, *, gracefully: bool) -> StartFailure | None:
        """End what has no process of its own; returns why it could not be, and goes on running."""
        if self._attendance is not None:
            await self._attendance.leave()
            self._attendance = None
        stop = self.service.stop
        if gracefully and stop.graceful is not None:
            try:
                with trio.fail_after(stop.graceful_timeout):
                    await stop.graceful.run(self.context)
            except StartFailure as failure:
                return failure
            except trio.TooSlowError:
                return StartFailure(f"it was not done after {stop.graceful_timeout:g} s")
        await self._clear_away()
        return None

    async def _put_down(self, *, gracefully: bool) -> None:
        await self._bury_predecessor()
        if self._incarnation is not None:
            await self._incarnation.put_down(
                gracefully=gracefully, hurry=self._registry.shutdown.hurry, on_failure=self._answer_stoppers_early
            )
            self._incarnation = None

    def _answer_stoppers_early(self, line: str) -> None:
        self._answer_stoppers(Outcome(False, (line,)))

    async def _take_end(self, held: Held) -> None:
        """Its process has ended by itself, unless it had named another main process before."""
        assert self._incarnation is not None
        await self._incarnation.catch_up()
        if not held.has_ended:
            return
        self._stop_asked = False
        if not self.service.lazy:  # to be noted along with how it ended: the keeper has noted that it has
            self._note_change("stopping")
            self._pulse()
        if self._is_followed_at_once:
            self._predecessor, self._incarnation = self._incarnation, None
            await self._ended(processes.end_of(held))
        else:
            self._act(self._bury, self._ended, settles=False)

    @property
    def _is_followed_at_once(self) -> bool:
        """Whether its process, which has ended, has a successor that can be asked for along with its burial: a round
        trip less, which is more than one of a crowd would gain, since the keeper is busy all the time then."""
        incarnation, service = self._incarnation, self.service
        assert incarnation is not None
        return (
            self._line.is_at_leisure
            and service.respawn.enabled
            and self.enabled
            and not self._registry.closing
            and self.replacement is None
            and self._is_plain
            and not service.aftermath
            and incarnation.is_mute
            and all(is_simple(service, attempt) for attempt in service.attempts)
            and self._history.copy().judge(service.respawn, processes.end_of(incarnation.held), _now()).delay == 0
        )

    async def _end_useless(self, complaint: Complaint) -> End:
        assert self._incarnation is not None
        await self._incarnation.put_down(gracefully=False, hurry=self._registry.shutdown.hurry, number=complaint.signal)
        self._incarnation = None
        return End(reason=f"it {complaint.reason}")

    async def _bury(self) -> End:
        assert self._incarnation is not None
        end = await self._incarnation.bury(self._keep_end)
        self._incarnation = None
        return end

    async def _bury_predecessor(self) -> None:
        """What was to be buried along with the spawn of its successor, if that did not come to be."""
        if self._predecessor is not None:
            await self._predecessor.bury()
            self._tell_of_predecessor()

    def _tell_of_predecessor(self) -> None:
        """Its last lines are in its log, so that its end can be told."""
        if self._predecessor is not None:
            self._tell_end(processes.end_of(self._predecessor.held).reason)
            self._predecessor = None

    def _tell_end(self, reason: str) -> None:
        """Tell of an end that is followed at once."""
        log("service-exited", service=self.name, reason=reason)
        if self._due is not None:
            log("service-respawning", service=self.name, delay=0.0)

    async def _keep_end(self, end: End) -> None:
        """Have it remembered how the process ended: from now on nobody else knows."""
        self._end = end
        await self._remember(along=True)

    async def _bury_again(self, end: End) -> End:
        """The last supervisor has buried the process, but may not have come to the end of that."""
        await self._clear_away()
        return end

    async def _go_on_finishing(self, end: End) -> None:
        """Conclude a one-shot whose process the last supervisor has buried.

        Raises:
            StartFailure: it did not end with success.
        """
        await self._clear_away()
        if end.code not in self.service.respawn.success:
            raise StartFailure(end.reason, status=end.exit_status)

    async def _stopped(self, outcome: Outcome | None) -> None:
        assert outcome is not None
        if not outcome.done:
            self.reason = outcome.lines[0]
            self._attend({})
            await self._enter("running")
            self._answer_stoppers(outcome)
            return
        self.reason = None
        self.respawns = self.failures = ()
        await self._rest()
        log("service-stopped", service=self.name)
        self._answer_stoppers(outcome)
        await self._take_next_start()

    def _answer_stoppers(self, outcome: Outcome) -> None:
        for reply in self._stoppers:
            reply.give(outcome)
        self._stoppers = ()

    async def _rest(self) -> None:
        self.details = NO_DETAILS
        self.memory = ""
        self._take_replacement()
        if not self._is_restarting:
            await self._close_sockets()
        elif self._sockets is not None:
            await self._sockets.keep(self.service)
        await self._enter("stopped")
        if self.service.transient and not self._next_starts:
            await self._registry.unregister_spent(self)

    async def _close_sockets(self) -> None:
        if self._sockets is not None:
            await self._sockets.close()

    @property
    def _is_restarting(self) -> bool:
        """Whether it is about to be started again, and nobody who connects meanwhile is to be refused."""
        registry = self._registry
        is_part = any(self.name in restart.names for restart in registry.restarting)
        return is_part and not registry.closing and not self.service.transient

    def _set_owed(self, names: tuple[str, ...]) -> None:
        """Let a start be owed to it for want of these services, or not any longer; for the next note."""
        if names != self.owed_to:
            self.owed_to = names
            self._registry.note_owed(self)

    async def _change_owed(self, names: tuple[str, ...]) -> None:
        if names != self.owed_to:
            self._set_owed(names)
            if self.status == "stopped":
                self.tell_stage(None)
            if names:
                self._await_missing(starts=True)
            await self._remember()

    def _await_missing(self, *, starts: bool) -> None:
        """Tell what it is down for.

        Args:
            starts: whether it is started at once if that has come up meanwhile.
        """
        missing = self._registry.missing(self.owed_to)
        if missing:
            self.tell_stage(f"waits for {', '.join(missing)}")
        elif starts:
            self._registry.start_owed(self)

    def _take_replacement(self) -> None:
        replacement = self.replacement
        if replacement is not None:
            names, before = self.names, self.service
            self.service, self.replacement = replacement, None
            self._registry.rename(self, before, names)

    @property
    def is_to_be_told(self) -> bool:
        """Whether it runs, and is still to be told that it is declared otherwise: it was not running at the reload."""
        return (
            self.status == "running"
            and self.replacement is not None
            and change(self.service, self.replacement).effect.step is not None
        )

    def _see_to_replacement(self) -> None:
        if self.is_to_be_told:
            self._registry.tell_soon(self)

    @property
    def names(self) -> tuple[str, ...]:
        """What it is found by: as it is, and as it will be from its next start on."""
        provision = self.service.provision
        if self.replacement is None or self.replacement.provision == provision:
            return provision
        return tuple(dict.fromkeys((*provision, *self.replacement.provision)))

    def _become(self, service: Service) -> None:
        before, self.service = self.service, service
        self._registry.rename(self, before)

    @property
    def is_idle(self) -> bool:
        """Whether it is stopped, and nothing is under way."""
        return self.status == "stopped" and self._activity is None

    async def retire(self) -> None:
        """End the task of a service that is idle, and forget its note."""
        self._is_over = True
        self._cancel_actions()
        self._noted_declaration = None
        await self._line.note(key_of_state(self.name), None)
        await self._line.note(key_of_declaration(self.name), None)

    async def _take_next_start(self) -> None:
        wanted = [start for start in self._next_starts if start.reply.is_wanted]
        for start in self._next_starts:
            if not start.reply.is_wanted:
                start.reply.give(self._stopped_meanwhile())
        self._next_starts = ()
        if wanted:
            await self._begin_start(*wanted)
        elif self.service.transient and self.is_idle and not self._is_over:  # it was kept for them
            await self._registry.unregister_spent(self)

    def _refuse_next_starts_if_closing(self) -> None:
        """In a shutdown nobody need wait for the stop to be told that there is no start after it."""
        if self._registry.closing:
            self._take_over_next_starts()
            self._answer_starters(Outcome(False, (f"cannot start {self.name}: {self.refusal_to_start()}",)))

    def _take_over_next_starts(self) -> None:
        for start in self._next_starts:
            self._starters += (start.reply,)
            start.reply.taken.set()
        self._next_starts = ()

    # After a process ended by itself.

    async def _ended(self, end: End | None) -> None:
        self._end = None
        if end is None:  # the stop of a lazy service did not wait for it
            await self._stop()
            return
        if self._predecessor is None:
            log("service-exited", service=self.name, reason=end.reason)
        if self.service.lazy and end.code in self.service.respawn.success and self.sockets.has_waiting:
            # Without this, one that takes nothing would be spawned again and again.
            end = msgspec.structs.replace(end, reason=f"{end.reason} and left a connection waiting", code=None)
        self.reason, self._complaint = end.reason, None
        await self._go_on_after(end)

    async def _go_on_after(self, end: End) -> None:
        if self._stoppers:
            await self._stop()
        elif end.wanted or not await self._respawn_or_rest(end):
            await self._rest()
            self._give_up_if_essential(end)
            await self._take_next_start()

    def _give_up_if_essential(self, end: End) -> None:
        if self.service.essential:
            status = end.exit_status
            if end.code == 0 and 0 not in self.service.respawn.success:
                status = 1
            self._registry.end_with(self, status)

    async def _respawn_or_rest(self, end: End, failed: Outcome | None = None) -> bool:
        """Start it again if its policy says so; False when it is to stay stopped.

        Args:
            failed: what those are told who have asked for the start that came to this end.
        """
        policy = self.service.respawn
        if not policy.enabled or not self.enabled or self._registry.closing:
            return False
        is_yet_to_run = failed is not None and not self._has_run
        if is_yet_to_run and self.service.lazy:
            await self._close_sockets()  # those that it could have
        listens = self.service.lazy and self._is_bound
        if listens and end.code in policy.success and end.code not in policy.final and not policy.only_on_failure:
            await self._listen_again()
            return True
        verdict = self._history.judge(patient(policy) if is_yet_to_run else policy, end, _now())
        self.reason = verdict.reason
        if verdict.disables and is_yet_to_run:  # whoever starts it, or what requires it, may try
            self.reason = f"{end.reason} (tried {policy.limit} times)"
        elif verdict.disables:
            self.enabled, self._given_up = False, True
            log("service-disabled", service=self.name, reason=self.reason)
        if verdict.delay is None:
            return False
        self._due = _now() + verdict.delay
        if failed is not None:
            again = f"Service {self.name} is started again in {verdict.delay:.3g} s."
            self._answer_starters(Outcome(False, (*failed.lines, again)))
        if listens:
            await self._listen_again()
            return True
        self.respawns = with_newest(time.time(), self.respawns, CHANGES_KEPT)
        self._take_replacement()
        self._note_change("stopped")
        self._take_over_next_starts()
        is_plain = verdict.delay == 0 and self._is_plain
        await self._enter("starting", along=is_plain)
        if self._predecessor is None:
            log("service-respawning", service=self.name, delay=round(verdict.delay, 4))
        self._act(self._bring_up, self._started, settles=not is_plain)
        return True

    @property
    def _is_plain(self) -> bool:
        """Whether the first thing that a start of it does is to have the keeper spawn its process."""
        service = self.service
        return bool(service.attempts) and not (
            service.lazy
            or service.prepare
            or service.sockets
            or service.requirement
            or service.wants
            or service.after
            or service.members
            or service.attempts[0].prepare
            or service.attempts[0].notify is not None
        )

    # After the supervisor itself has died.

    def recall(
        self, text: str | None, declaration: str | None, held: Held | None, beside: Mapping[str, Held] | None = None
    ) -> None:
        """Be what it was in the last supervisor. Nothing is done about it before :meth:`begin`.

        Args:
            text: what the keeper kept of it for us.
            declaration: what it carried along of its declaration then.
            held: the service's process, if the keeper holds one.
            beside: the processes that its attendant was executing, by their keys.
        """
        self._left, self._left_beside = held, beside or NOTHING
        self._noted_declaration = declaration
        note = read_note(self.name, text)
        if note is not None:
            self._take_back(note)
            self.status, self.enabled, self.reason = note.status, note.enabled, note.reason
            self._arguments, self._stop_asked = note.arguments, note.stop_asked
            self.details = note.details or NO_DETAILS
            self._history.running_since, self._history.streak = note.running_since, note.streak
            self._history.deaths = note.deaths[: self.service.respawn.limit]
            self.memory, self._complaint, self._end = note.memory, note.complaint, note.end
            self._due, self._is_activating = note.due, note.activating and held is not None
            self._given_up, self._untold = note.given_up, note.untold
            self._has_run = note.has_run
            self._set_owed(note.owed)
            self.changes, self.respawns, self.failures = note.changes, note.respawns, note.failures
        if held is not None and self.status == "stopped":  # its note was refused, or is not understood
            self._note_change("running")
        if self.status != "stopped" and self.service.sockets:
            self.sockets.resume(self.service)

    async def _resume(self) -> None:
        held = self._left
        beside, self._left_beside = self._left_beside, NOTHING
        if held is not None:
            self._adopt(await incarnation.taken_up(self._line, self.service, held))
            self._left = None  # not before: whoever asks meanwhile is told of its process
        if self.status == "stopped" and not self._is_restarting:
            await self._close_sockets()
        listens_alone = held is None and (self.service.lazy or not self.service.attempts)
        if self.status == "running" and listens_alone and self.service.sockets and not self._is_bound:
            await self._listen_anew()
        if self.status == "running" and not self.service.attempts and self._end is None:
            self._attend(beside)
        else:
            for left in beside.values():
                self._nursery.start_soon(self._registry.be_rid_of, left)
        await self._go_on(held)

    async def _listen_anew(self) -> None:
        """Bind what was closed along with the keeper and the supervisor that had it; an end of the service if not."""
        try:
            await self.sockets.open(self.service, self.tell_stage)
        except StartFailure as failure:
            self._end = End(reason=f"it lost its sockets when herdpy was killed: {failure}")
        else:
            log("sockets-bound-anew", service=self.name)

    def _take_back(self, note: Note) -> None:
        """Be what was started, when it is declared otherwise by now in a way that waits for its next start."""
        noted = self._noted_declaration
        if note.status == "stopped" or noted is None or noted == self.service.declaration:
            return
        before = self._registry.remade(self.name, noted)
        if before is None:
            return
        effect = change(before, self.service).effect
        if effect.kind != "now" or effect.step is not None:
            self.replacement = self.service
            self._become(before)

    async def _go_on(self, held: Held | None) -> None:
        """Do what the last supervisor was doing when it ended."""
        ended = held is not None and held.has_ended
        untold, self._untold = self._untold, None
        if untold is not None and (held is None or held.id != untold[0]):
            self._tell_end(untold[1])
        left, self._end = self._end if held is None else None, None
        match self.status:
            case "starting" if left is not None and self.service.one_shot:
                self._act(partial(self._outcome, partial(self._go_on_finishing, left)), self._started)
            case "starting" if held is None:
                if left is not None:
                    log("start-begins-anew", service=self.name, reason=left.reason)
                self._act(self._bring_up, self._started)
            case "starting":
                assert self._incarnation is not None
                # What a one-shot has done is not done again; a daemon may have left its successor.
                if ended and not self.service.one_shot and not self._incarnation.is_succeeded:
                    end = await self._bury()
                    log("start-begins-anew", service=self.name, reason=end.reason)
                    self._act(self._bring_up, self._started)
                else:
                    self._act(self._go_on_bringing_up, self._started)
            case "stopping" if self._stop_asked:
                was_running = len(self.changes) > 1 and self.changes[1].status == "running"
                self._act(partial(self._bring_down, was_running), self._stopped)
            case "stopping" if self._complaint is not None:
                if held is not None:
                    self._act(partial(self._end_useless, Complaint(self._complaint)), self._ended)
                else:
                    self._act(partial(self._bury_again, End(reason=f"it {self._complaint}")), self._ended)
            case "running" | "stopping" if left is not None:
                self._act(partial(self._bury_again, left), self._ended)
            case "running" if self._is_activating and held is not None:
                self._act(self._go_on_bringing_up, self._activated)
            case "running" | "stopping" if held is not None:
                self.status = "running"
                self._watch()
                await self._take_end(held)
            case "running" if self.service.lazy and self._is_bound:
                await self._await_connection()
            case "running" | "stopping" if self.service.attempts or self.status == "stopping":
                self.status = "stopping"
                self._act(_already_gone, self._ended)


def _can_be_owed(service: Service) -> bool:
    """Tell whether a start may be owed to a service: with an essential one herdpy ends, and a transient one is
    forgotten."""
    return not (service.essential or service.transient)


def _lack(error: BaseException) -> str | None:
    """What there was nothing left of, when it is that; herdpy's own code, too, is read from files when it is used."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ImportError):
        return f"a part of herdpy cannot be loaded: {error}"
    if isinstance(error, OSError) and error.errno in SCARCE:
        return f"herdpy cannot do it: {error}"
    return None


def _told(text: str) -> str:
    """What a step tells, fit for the keeper's note and for a terminal, whatever names of files it was made of."""
    text = printable(text)
    return text if len(text) <= LONGEST_TOLD else f"{text[: LONGEST_TOLD - 1]}…"


def _now() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the host sleeps (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def _already_gone() -> End:
    return End(reason="it ended while herdpy's supervisor was being replaced")
