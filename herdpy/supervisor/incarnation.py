"""One process of a service, from its spawn to its burial, and what its companion learns meanwhile."""

from collections.abc import Callable
from functools import partial

import trio

from herdpy.service import Attempt, End, Service, StartFailure
from herdpy.supervisor import processes, tail
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.line import Held, KeeperLine
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first

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
    begin = {path: await tail.end_of(path) for path in _spoken_in(service, log_file)}
    held, _ = await processes.spawn(
        line,
        processes.new_id(service.name, "main", str(number)),
        service.attempts[number].process,
        processes.to_log(log_file, service.log_rotation),
        arguments,
    )
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
    return int(processes.identity(held).key)


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
        if not await processes.terminate(self._line, held, stop, name):
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
        return self._end or processes.end_of(self.held)

    async def _last_words(self) -> list[str]:
        lines = []
        for path in _spoken_in(self._service, self._log_file):
            last = await tail.last_lines(path, 10, since=self._begin.get(path, 0))
            if last:
                lines += [f"the last lines of {path}:", *(f"  {line}" for line in last)]
        return lines


def _spoken_in(service: Service, log_file: str) -> list[str]:
    console = service.reach.console_log if service.reach is not None else None
    return [*([] if console is None else [console]), log_file]
