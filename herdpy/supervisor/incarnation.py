"""One process of a service, from its spawn to its burial, and what its companion learns meanwhile."""

import time
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from herdpy.service import Attempt, End, Service, StartFailure
from herdpy.supervisor import accounts, tail
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.line import Held, KeeperLine, Refused, SpawnError
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first
from herdpy.supervisor.words import end_in_words

KILL_PATIENCE = 10.0
"""Seconds after SIGKILL until a stop is answered as failed; the kernel may hold a process in an unkillable sleep."""
LAST_WORDS_PATIENCE = 1.0
"""Seconds given to the logger, and to the companion, to tell their last after a process has ended."""


async def spawn(
    line: KeeperLine, service: Service, number: int, arguments: tuple[str, ...], log_file: str
) -> tuple[Held, dict[str, int]]:
    """Spawn the process of a service's attempt.

    Args:
        number: which of the service's attempts.
        arguments: what is added to its command line.
        log_file: where its output goes.

    Returns:
        The process, and the sizes that the files it speaks in had before.

    Raises:
        StartFailure: it cannot be executed, or its environment cannot be had.
    """
    process = service.attempts[number].process
    program = process.command[0]
    account = await accounts.resolve(process)
    environment = account.environment | process.environment
    for variables in process.variables:
        environment |= await variables.read()
    begin = {path: await tail.end_of(path) for path in _spoken_in(service, log_file)}
    try:
        held, _ = await line.spawn(
            f"{service.name}:main:{number}:{time.monotonic_ns()}",
            (*process.command, *arguments),
            environment,
            process.directory or account.directory,
            {"log": log_file, "rotation": _rotation(service)},
            ids=account.ids,
            umask=process.umask,
            limits=[(limit.name, limit.soft, limit.hard) for limit in process.limits],
            nice=process.nice,
            oom_score_adjust=process.oom_score_adjustment,
            capabilities=process.ambient_capabilities or None,
            no_new_privileges=process.no_new_privileges,
        )
    except SpawnError as error:
        raise StartFailure(error.in_words(program)) from None
    except Refused as refusal:
        raise StartFailure(f"{program} cannot be executed: {refusal}") from None
    return held, begin


async def clear_away(service: Service, context: StepContext) -> None:
    """Run a service's aftermath, after its process has ended or when it never came to one."""
    for step in service.aftermath:
        try:
            await step.run(context)
        except Exception as error:
            log("aftermath-failed", service=service.name, step=type(step).__name__, reason=error)


def attempt_of(held: Held) -> int:
    """Which of its service's attempts a process is."""
    return int(held.id.split(":")[2])


class Incarnation:
    """A service's process while there is one. Made by the service's task; its nursery runs the companion."""

    def __init__(
        self,
        service: Service,
        held: Held,
        begin: dict[str, int],
        log_file: str,
        line: KeeperLine,
        context: StepContext,
        nursery: trio.Nursery,
    ) -> None:
        self.held = held
        self._service = service
        self._begin = begin
        self._log_file = log_file
        self._line = line
        self._context = context
        self._end: End | None = None
        self._companion = trio.CancelScope()
        self._companion_gone = trio.Event()
        if service.companion is None:
            self._companion_gone.set()
        else:
            nursery.start_soon(self._accompany)

    async def _accompany(self) -> None:
        assert self._service.companion is not None
        try:
            with self._companion:
                self._end = await self._service.companion.run(self._context)
        except Exception as error:
            log("companion-crashed", service=self._service.name, exc_info=error)
        finally:
            self._companion_gone.set()

    async def get_ready(self, attempt: Attempt) -> None:
        """Wait until it is ready, as its attempt says.

        Raises:
            StartFailure: it was not within the attempt's time, or ended before.
        """
        if attempt.readiness is None:
            return
        winner = None
        with trio.move_on_after(attempt.timeout):
            winner = await first(partial(attempt.readiness.run, self._context), self.held.exited.wait)
        if winner is None:
            raise StartFailure(f"it was not ready after {attempt.timeout:g} s", await self._last_words())
        if winner == 1:
            end = await self._hear_out()
            raise StartFailure(f"{end.reason} before it was ready", await self._last_words())

    async def finish(self, patience: float, success: tuple[int, ...]) -> None:
        """Wait until the process of a one-shot service has ended, and bury it.

        Args:
            patience: seconds.
            success: exit codes.

        Raises:
            StartFailure: it did not end in time, or not with success.
        """
        with trio.move_on_after(patience) as waiting:
            await self.held.exited.wait()
        if waiting.cancelled_caught:
            raise StartFailure(f"it was not done after {patience:g} s", await self._last_words())
        end = await self.bury()
        if end.code not in success:
            raise StartFailure(end.reason, await self._last_words())

    async def put_down(
        self, *, gracefully: bool, hurry: trio.Event, on_failure: Callable[[str], None] = lambda line: None
    ) -> None:
        """End it: its own graceful way, then the signal to its group, then SIGKILL; then bury it.

        Args:
            gracefully: whether to try the graceful way, which takes a process that was ready.
            hurry: leaves the graceful way when set.
            on_failure: told, in a sentence, when not even SIGKILL ends it; it is waited for all the same.
        """
        held, stop, name = self.held, self._service.stop, self._service.name
        if gracefully and stop.graceful is not None and not held.exited.is_set():
            with trio.move_on_after(stop.graceful_timeout):
                try:
                    ask = partial(stop.graceful.run, self._context)
                    if await first(held.exited.wait, ask, hurry.wait) == 1:
                        await first(held.exited.wait, hurry.wait)
                except Exception as error:
                    log("graceful-stop-failed", service=name, reason=error)
        if not held.exited.is_set():
            await self._line.signal(held, stop.signal)
            with trio.move_on_after(stop.grace_period):
                await held.exited.wait()
        if not held.exited.is_set():
            log("grace-period-over", service=name, seconds=stop.grace_period, signal="SIGKILL", pid=held.pid)
            await self._line.signal(held, 9)
            with trio.move_on_after(KILL_PATIENCE):
                await held.exited.wait()
        if not held.exited.is_set():
            log("service-does-not-end", service=name, pid=held.pid)
            on_failure(f"Service {name} might have failed to stop: PID {held.pid} does not end, not even by SIGKILL.")
            await held.exited.wait()
        await self.bury()

    async def bury(self) -> End:
        """After its end: wait for its last lines, let the keeper release it, clear away; returns why it ended."""
        end = await self._hear_out()
        await self._line.release(self.held)
        await clear_away(self._service, self._context)
        return end

    async def _hear_out(self) -> End:
        """After its end: wait until the logger and the companion have told their last, but not for long."""
        with trio.move_on_after(LAST_WORDS_PATIENCE):
            await self.held.drained.wait()
            await self._companion_gone.wait()
        self._companion.cancel()
        await self._companion_gone.wait()
        assert self.held.status is not None
        status = self.held.status
        own = End(reason=f"it {end_in_words(status)}", code=status.get("exited"), signal=status.get("killed"))
        return self._end or own

    async def _last_words(self) -> list[str]:
        lines = []
        for path in _spoken_in(self._service, self._log_file):
            last = await tail.last_lines(path, 10, since=self._begin.get(path, 0))
            if last:
                lines += [f"the last lines of {path}:", *(f"  {line}" for line in last)]
        return lines


def _rotation(service: Service) -> dict[str, object] | None:
    return None if service.log_rotation is None else msgspec.structs.asdict(service.log_rotation)


def _spoken_in(service: Service, log_file: str) -> list[str]:
    console = service.reach.console_log if service.reach is not None else None
    return [*([] if console is None else [console]), log_file]
