"""One process of a service, from its spawn to its burial, and what is beside it meanwhile."""

import math
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
import trio

from herdpy.service import Attempt, Companion, End, Guard, Process, Service, StartFailure
from herdpy.supervisor import hearing, notify, processes, tail
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.flag import Flag
from herdpy.supervisor.hearing import Heard, Hearing
from herdpy.supervisor.line import Held, KeeperLine, Left, Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.race import Patience, first

if TYPE_CHECKING:
    from herdpy.supervisor.life import Life
    from herdpy.supervisor.registry import Registry

LONGEST_STOP = 600.0
"""Seconds to which a process may prolong a wait for its end (EXTEND_TIMEOUT_USEC): nobody can stop a stop."""

LAST_WORDS_PATIENCE = 1.0
"""Seconds given to the logger, and to the companion, to tell their last after a process has ended."""


NOTHING: Mapping[str, int] = MappingProxyType({})


class Spawned(msgspec.Struct, frozen=True):
    """A process that a service's attempt has just got."""

    held: Held
    begin: Mapping[str, int]
    """The sizes that the files it speaks in, besides its log, had before, in bytes."""
    notifications: int | None
    """The descriptor of its notification socket, if it has one."""
    is_new: bool = True
    """Whether it was spawned just now, and has not said anything yet."""
    was_unheard: bool = False
    """Whether it may have said what nobody has heard: that it is ready, above all."""


async def spawn(
    line: KeeperLine,
    service: Service,
    number: int,
    arguments: tuple[str, ...],
    log_file: str,
    descriptors: Sequence[tuple[str, str]] = (),
    after: "Incarnation | None" = None,
) -> Spawned:
    """Spawn the process of a service's attempt.

    Args:
        number: which of the service's attempts.
        arguments: what is added to its command line.
        log_file: where its output goes.
        descriptors: the sockets that it is given, as :meth:`KeeperLine.spawn` takes them.
        after: the one that has ended and is buried before: in the same request, if nothing is left of it.

    Raises:
        StartFailure: it cannot be executed, or its environment or its notification socket cannot be had.
    """
    attempt = service.attempts[number]
    process, terms = attempt.process, attempt.notify
    begin = {path: await tail.end_of(path) for path in _read_later(service, attempt, log_file)}
    notifications = None
    try:
        if terms is not None:
            notifications = await hearing.prepare(line, service.name, terms, process)
        spawn = partial(
            processes.spawn,
            line,
            processes.new_id(service.name, "main", f"{number}@{begin.get(log_file, 0)}"),
            process,
            processes.to_log(log_file, service.log_rotation),
            arguments,
            told={} if terms is None else notify.given(terms),
            pid_variable=None if terms is None or terms.watchdog is None else "WATCHDOG_PID",
            scope=service.stop.scope,
            descriptors=descriptors,
        )
        try:
            held, _ = await spawn(after=None if after is None else after.held)
        except Left:
            assert after is not None
            await after.bury()
            held, _ = await spawn()
    except BaseException:
        if terms is not None and notifications is not None:
            os.close(notifications)
            with trio.CancelScope(shield=True):  # the keeper answers at once
                await hearing.forget(line, service.name, terms)
        raise
    begin.pop(log_file, None)  # that is in its id
    return Spawned(held, begin or NOTHING, notifications)


async def taken_up(line: KeeperLine, service: Service, held: Held) -> Spawned:
    """A process that an earlier supervisor has spawned. Its notification socket is lost when keeper and supervisor were
    both killed: it is made anew, where the process will look for it."""
    notifications, is_lost = hearing.left(line, service.name), False
    for attempt in service.attempts[attempt_of(held) :][:1]:
        if notifications is None and attempt.notify is not None and not held.has_ended:
            try:
                notifications, is_lost = (
                    await hearing.prepare(line, service.name, attempt.notify, attempt.process),
                    True,
                )
            except StartFailure as failure:
                log("not-heard-any-more", service=service.name, reason=failure)
    return Spawned(held, NOTHING, notifications, is_new=False, was_unheard=is_lost)


async def clear_away(service: Service, context: StepContext) -> None:
    """Run a service's aftermath, after its process has ended or when it never came to one."""
    for step in service.aftermath:
        try:
            await step.run(context)
        except Exception as error:
            log("aftermath-failed", service=service.name, step=type(step).__name__, reason=error)


def attempt_of(held: Held) -> int:
    """Which of its service's attempts a process is."""
    return int(processes.identity(held).key.partition("@")[0])


def _log_begin(held: Held) -> int:
    """The size that the service's log file had before a process was spawned, in bytes."""
    return int(processes.identity(held).key.partition("@")[2] or 0)


class Complaint(msgspec.Struct, frozen=True):
    """Why a process is of no use any more, though it runs."""

    reason: str
    """In words that follow "it"."""
    signal: int | None = None
    """What it is to be ended with; None means the service's own stop signal."""


class ProcessContext(StepContext):
    """What is offered beside a service's process (``herdpy.service.ProcessContext``)."""

    def __init__(self, life: "Life", registry: "Registry", incarnation: "Incarnation", process: Process) -> None:
        super().__init__(life, registry)
        self.spawn = processes.spawn_of(incarnation.held)
        self.process = process
        self.log_file = life.log_file
        self.log_begin = _log_begin(incarnation.held)
        self.log_since = life.began
        self._incarnation = incarnation

    @property
    def pid(self) -> int:
        return self._incarnation.held.pid

    async def adopt(self, pid: int) -> None:
        await self._incarnation.adopt(pid)


class Incarnation:
    """A service's process while there is one. Made by the service's task; its nursery runs what is beside it.

    Args:
        spawned: the process. Of one that the last supervisor spawned, the sizes are not known.
    """

    __slots__ = (
        "_adopted",
        "_attempt",
        "_begin",
        "_beside",
        "_buried",
        "_companion",
        "_companion_gone",
        "_end",
        "_hearing",
        "_is_adopted",
        "_life",
        "_nursery",
        "_patience",
        "_registry",
        "_was_told",
        "held",
    )

    def __init__(self, life: "Life", registry: "Registry", spawned: Spawned, nursery: trio.Nursery) -> None:
        self.held = spawned.held
        self._life = life
        self._registry = registry
        self._nursery = nursery
        service = life.service
        number = attempt_of(self.held)
        self._attempt = service.attempts[number] if number < len(service.attempts) else None
        self._begin = spawned.begin
        """The size that each file but its log had before, in bytes."""
        self._patience: Patience | None = None
        """The last that anybody had with it."""
        self._is_adopted = False
        self._was_told = False
        """Whether all its processes were sent the stop signal."""
        self._adopted: Flag | None = None
        """Set when another process becomes the main one, if anybody waits for that."""
        self._end: End | None = None
        self._buried: End | None = None
        self._beside: trio.CancelScope | None = None
        """Of the guards, if there are any."""
        self._companion: trio.CancelScope | None = None
        self._companion_gone: Flag | None = None
        if service.companion is not None:
            self._companion, self._companion_gone = trio.CancelScope(), Flag()
            nursery.start_soon(self._accompany, self._companion, self._companion_gone, service.companion)
        self._hearing: Hearing | None = None
        if spawned.notifications is not None and self._attempt is not None and self._attempt.notify is not None:
            # What it said to the last supervisor.
            heard = Heard() if spawned.is_new else hearing.remembered(self._line, service.name)
            heard.ready |= spawned.was_unheard
            self._hearing = Hearing(service.name, self._attempt.notify, spawned.notifications, self._line, self, heard)
            nursery.start_soon(self._hearing.run)

    @property
    def service(self) -> Service:
        """As it is by now: while the process runs, it may have become another one that is content with it."""
        return self._life.service

    @property
    def context(self) -> ProcessContext:
        """What is offered beside the process; made for whoever needs it, which is nobody for most."""
        process = Process(command=()) if self._attempt is None else self._attempt.process
        return ProcessContext(self._life, self._registry, self, process)

    @property
    def _line(self) -> KeeperLine:
        return self._registry.line

    async def _accompany(self, scope: trio.CancelScope, gone: Flag, companion: Companion) -> None:
        try:
            with scope:
                self._end = await companion.run(self.context)
        except Exception as error:
            log("companion-crashed", service=self.service.name, exc_info=error)
        finally:
            gone.set()

    def tell_stage(self, stage: str | None) -> None:
        """Show what it is doing."""
        self._life.tell_stage(stage)

    # Which process it is.

    async def adopt(self, pid: int) -> None:
        """Take another of the service's processes for the main one.

        Raises:
            StartFailure: there is no such process, or it is not one of this service's.
        """
        if pid != self.held.pid or self.held.has_ended:
            try:
                await self._line.adopt(self.held, pid)
            except Refused as refusal:
                raise StartFailure(str(refusal).removeprefix("adopt: ")) from None
            log("main-process-adopted", service=self.service.name, pid=pid)
        self._is_adopted = True
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            adopted.set()

    @property
    def _next_adoption(self) -> Flag:
        """Set when another process becomes the main one."""
        if self._adopted is None:
            self._adopted = Flag()
        return self._adopted

    async def catch_up(self) -> None:
        """Act upon what it has said of itself: it may have named another main process before it ended."""
        if self._hearing is not None:
            await self._hearing.catch_up()

    @property
    def is_succeeded(self) -> bool:
        """Whether it ended as the first process of a forking daemon does, whose successor is yet to be adopted.

        How it ended may be unknown, the keeper having been killed meanwhile: then it depends on whether there is one.
        """
        if self._attempt is None or not self._attempt.forking or self._is_adopted or self.held.status is None:
            return False
        return self.held.status.get("exited") == 0 or "unknown" in self.held.status

    # Its beginning.

    async def get_ready(self, attempt: Attempt) -> None:
        """Wait until it is ready, as its attempt says.

        Raises:
            StartFailure: it was not within the attempt's time, or ended before.
        """
        terms = attempt.notify
        if attempt.readiness is None and not attempt.forking and (terms is None or not terms.tells_ready):
            return
        winner = None
        self.tell_stage(None)  # its preparation is over
        try:
            with self._be_patient(attempt.timeout):
                winner = await first(partial(self._become_ready, attempt), self._end_early)
        except StartFailure as failure:
            raise StartFailure(
                str(failure), (*failure.details, *await self._last_words()), status=failure.status
            ) from None
        if winner is None:
            while_waiting = f": {self._life.stage}" if self._life.stage is not None else ""
            raise StartFailure(f"it was not ready after {attempt.timeout:g} s{while_waiting}", await self._last_words())
        if winner == 1 or self.held.has_ended:
            end = await self._hear_out()
            why = "and left no process behind" if self.is_succeeded else "before it was ready"
            raise StartFailure(f"{end.reason} {why}", await self._last_words(), status=end.exit_status, code=end.code)

    async def _become_ready(self, attempt: Attempt) -> None:
        # What a daemon answers, it answers once it has said that it is ready; but one that forks is listened to only
        # after the readiness step has found the process that speaks.
        if not attempt.forking:
            await self._hear_ready(attempt)
        if attempt.readiness is not None:
            await attempt.readiness.run(self.context)
        if attempt.forking:
            await self._hear_ready(attempt)
        while attempt.forking and not self._is_adopted:
            await self._next_adoption.wait()

    async def _hear_ready(self, attempt: Attempt) -> None:
        if self._hearing is not None and attempt.notify is not None and attempt.notify.tells_ready:
            self.tell_stage("waiting until it says READY=1")
            await self._hearing.ready.wait()

    async def _end_early(self) -> None:
        """Wait for an end that leaves nobody to get ready."""
        while True:
            await self.held.exited.wait()
            adopted = self._next_adoption
            await self.catch_up()
            if not self.held.has_ended:
                continue  # another is the main process by now
            if not self.is_succeeded:
                return
            try:
                has_rest = await self._line.rest(self.held)
            except Refused:
                if self.held.has_ended:
                    raise
                continue  # the readiness step has had another one adopted just before
            if has_rest:
                await first(adopted.wait, self.held.alone.wait)
            if not adopted.is_set():
                return

    async def finish(self, patience: float, success: tuple[int, ...], on_end: Callable[[End], Awaitable[None]]) -> None:
        """Wait until the process of a one-shot service has ended, and bury it.

        Args:
            patience: seconds.
            success: exit codes.
            on_end: as of :meth:`bury`.

        Raises:
            StartFailure: it did not end in time, or not with success.
        """
        with self._be_patient(patience) as waiting:
            await self.held.exited.wait()
        if waiting.cancelled_caught:
            raise StartFailure(f"it was not done after {patience:g} s", await self._last_words())
        end = await self.bury(on_end)
        if end.code not in success:
            raise StartFailure(end.reason, await self._last_words(), status=end.exit_status)

    # While it runs.

    def watch(self, complain: Callable[[Complaint], None]) -> None:
        """Let its guards watch it, and its watchdog, until it ends; ``complain`` is called once at most."""
        watchers: list[Callable[[], Awaitable[Complaint | None]]] = [
            partial(self._stand_guard, guard) for guard in self.service.guards
        ]
        if self._hearing is not None:
            watchers += [partial(self._await_silence, self._hearing), partial(self._await_stopping, self._hearing)]
        if watchers:
            self._beside = trio.CancelScope()
            self._nursery.start_soon(self._watch, self._beside, watchers, complain)

    async def _watch(
        self,
        scope: trio.CancelScope,
        watchers: list[Callable[[], Awaitable[Complaint | None]]],
        complain: Callable[[Complaint], None],
    ) -> None:
        complaints: list[Complaint | None] = []

        async def ask(watcher: Callable[[], Awaitable[Complaint | None]]) -> None:
            complaints.append(await watcher())

        with scope:
            await first(*(partial(ask, watcher) for watcher in watchers))
            complain(complaints[0] or await self._await_end())

    def _unguard(self) -> None:
        if self._beside is not None:
            self._beside.cancel()

    async def _stand_guard(self, guard: Guard) -> Complaint:
        try:
            return Complaint(await guard.run(self.context))
        except Exception as error:  # a mistake of herdpy's is no reason to end what runs
            log("guard-crashed", service=self.service.name, guard=type(guard).__name__, exc_info=error)
            return await trio.sleep_forever()

    async def _await_silence(self, heard: Hearing) -> Complaint:
        return Complaint(await heard.watch(), signal.SIGABRT)

    async def _await_stopping(self, heard: Hearing) -> None:
        await heard.stopping.wait()

    def _be_patient(self, seconds: float, most: float = math.inf) -> trio.CancelScope:
        self._patience = Patience(seconds, most)
        return self._patience.scope

    def _patience_for_end(self, seconds: float) -> trio.CancelScope:
        return self._be_patient(seconds, LONGEST_STOP)

    def extend_patience(self, seconds: float) -> None:
        """Wait for the process for at least so many seconds from now on, if anybody waits for it."""
        if self._patience is not None:
            self._patience.extend(seconds)

    async def _await_end(self) -> Complaint:
        """After STOPPING=1 nobody guards it any more, but it has to end."""
        with self._patience_for_end(self.service.stop.grace_period):
            await trio.sleep_forever()
        return Complaint("said STOPPING=1, and did not end")

    async def renew(self, number: int, patience: float) -> None:
        """Send it a signal, and wait until it has said READY=1 once more.

        Raises:
            StartFailure: as ``herdpy.service.Context.renew`` has it.
        """
        if self._hearing is None:
            raise StartFailure("it cannot say that it is ready again: it has no notification socket")
        name = signal.Signals(number).name
        async with self._hearing.renewing:
            with trio.move_on_after(patience):  # a predecessor of ours may have sent a signal
                await first(self._hearing.awaiting_nothing, self.held.exited.wait)
            if not self._hearing.heard.ready:
                raise StartFailure("it is not ready yet")
            if self.held.has_ended:
                raise StartFailure("it has ended")
            await self._hearing.expect()
            try:
                await self._line.signal(self.held, number, "process")
            except Refused as refusal:
                raise StartFailure(str(refusal)) from None
            with trio.move_on_after(patience) as waiting:
                await first(self._hearing.awaiting_nothing, self.held.exited.wait)
            if waiting.cancelled_caught:
                raise StartFailure(f"it has not said READY=1 for {patience:g} s after {name}")
            if self.held.has_ended:
                raise StartFailure(f"{processes.end_of(self.held).reason} after {name}")

    # Its end.

    async def put_down(
        self,
        *,
        gracefully: bool,
        hurry: trio.Event,
        number: int | None = None,
        on_failure: Callable[[str], None] = lambda line: None,
    ) -> None:
        """End it: its own graceful way, then the signal to its processes, then SIGKILL; then bury it.

        Args:
            gracefully: whether to try the graceful way, which takes a process that was ready.
            hurry: leaves the graceful way when set.
            number: the signal's; None means the service's own.
            on_failure: told, in a sentence, when not even SIGKILL ends it; it is waited for all the same.
        """
        self._unguard()
        held, stop, name = self.held, self.service.stop, self.service.name
        if gracefully and stop.graceful is not None and not held.has_ended:
            with self._patience_for_end(stop.graceful_timeout):
                try:
                    ask = partial(stop.graceful.run, self.context)
                    if await first(held.exited.wait, ask, hurry.wait) == 1:
                        await first(held.exited.wait, hurry.wait)
                except Exception as error:
                    log("graceful-stop-failed", service=name, reason=error)
        if number is not None:
            stop = msgspec.structs.replace(stop, signal=number)

        def on_stuck() -> None:
            log("service-does-not-end", service=name, pid=held.pid)
            on_failure(f"Service {name} might have failed to stop: PID {held.pid} does not end, not even by SIGKILL.")

        self._was_told = False
        if not held.has_ended:
            self._was_told = True
            if self.is_mute and await processes.end(
                self._line, held, stop, name, show=self.tell_stage, on_stuck=on_stuck
            ):
                await self._clear_away(processes.end_of(held))
                return
        if not await processes.terminate(
            self._line,
            held,
            stop,
            name,
            was_told=self.is_mute,
            show=self.tell_stage,
            patience=self._patience_for_end,
        ):
            on_stuck()
            await held.exited.wait()
        await self.bury()

    def is_ended_by_keeper(self, *, gracefully: bool) -> bool:
        """Tell whether the first thing to be done to end it (:meth:`put_down`) is the keeper's."""
        return self.is_mute and not (gracefully and self.service.stop.graceful is not None)

    @property
    def is_mute(self) -> bool:
        """Whether nobody hears or accompanies it: the keeper alone waits for its last lines."""
        return self._companion is None and self._hearing is None

    async def bury(self, on_end: Callable[[End], Awaitable[None]] | None = None) -> End:
        """After its end: let the keeper release it once its last lines are written, clear away; returns why it ended.

        Args:
            on_end: awaited before the keeper forgets it.
        """
        if self._buried is not None:
            return self._buried
        self._unguard()
        end = processes.end_of(self.held) if self.is_mute else await self._hear_out()
        if on_end is not None:
            await on_end(end)
        await processes.release(
            self._line,
            self.held,
            self.service.stop,
            self.service.name,
            was_told=self._was_told,
            show=self.tell_stage,
            patience=self._patience_for_end,
        )
        if self._hearing is not None:
            await self._hearing.leave()
        await self._clear_away(end)
        return end

    async def _clear_away(self, end: End) -> None:
        await clear_away(self.service, self._life.context)
        self._buried = end

    async def _hear_out(self) -> End:
        """After its end: wait until the logger and the companion have told their last, but not for long."""
        accompanied = self._companion_gone
        if not (self.held.drained.is_set() and (accompanied is None or accompanied.is_set())):
            with trio.move_on_after(LAST_WORDS_PATIENCE):
                await self.held.drained.wait()
                if accompanied is not None:
                    await accompanied.wait()
            self.held.drained.set()  # or has been waited for
            if self._companion is not None:
                self._companion.cancel()
            if accompanied is not None:
                await accompanied.wait()
        await self.catch_up()
        end = self._end or processes.end_of(self.held)
        if self._hearing is not None and self._hearing.heard.error:
            end = msgspec.structs.replace(end, reason=f"{end.reason} ({os.strerror(self._hearing.heard.error)})")
        return end

    async def _last_words(self) -> list[str]:
        lines = []
        if self._hearing is not None and self._hearing.heard.status is not None:
            lines.append(f"its last status: {self._hearing.heard.status}")
        for path in _spoken_in(self.service, self._life.log_file):
            is_log = path == self.context.log_file
            since = self.context.log_begin if is_log else self._begin.get(path, 0)
            last = await tail.last_lines(path, 10, since=since)
            if last:
                lines += [f"the last lines of {path}:", *(f"  {line}" for line in last)]
        return lines


def is_simple(service: Service, attempt: Attempt) -> bool:
    """Tell whether a process of it is ready at once, and nothing watches it."""
    is_waited_for = attempt.readiness is not None or attempt.forking or attempt.notify is not None or service.one_shot
    return not (is_waited_for or service.guards or service.companion is not None)


def _read_later(service: Service, attempt: Attempt, log_file: str) -> list[str]:
    """The files whose sizes matter."""
    return [] if is_simple(service, attempt) else _spoken_in(service, log_file)


def _spoken_in(service: Service, log_file: str) -> list[str]:
    console = service.reach.console_log if service.reach is not None else None
    return [*([] if console is None else [console]), log_file]
