"""A process of a service, whether its own or one beside it: how it is spawned, how it is ended, how it ended."""

import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import trio

from herdpy.service import End, Process, Rotation, StartFailure, Stop
from herdpy.supervisor import accounts
from herdpy.supervisor.line import Held, KeeperLine, Packet, Refused, SpawnError
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first
from herdpy.supervisor.words import end_in_words

KILL_PATIENCE = 10.0
"""Seconds after SIGKILL until a process is said not to end; the kernel may hold it in an unkillable sleep."""
SOON = 1.0
"""Seconds from a signal that is to end a process until it is told what is waited for."""
LAST_WORDS_PATIENCE = 1.0
"""Seconds given to the logger to write the last lines of a process that has ended."""


class Identity(msgspec.Struct, frozen=True):
    """Whose process it is, as its id at the keeper says: ``SERVICE:KIND:KEY:N``, where N makes it unique."""

    service: str
    kind: str
    """``main``: the service's own. ``step``: what a step runs. ``run``: what its attendant runs, by a key."""
    key: str
    """The number of the service's attempt (``main``), or the attendant's key (``run``); empty for a step."""


def new_id(service: str, kind: str, key: str = "") -> str:
    """An id for a process about to be spawned."""
    return f"{service}:{kind}:{key}:{time.monotonic_ns()}"


def identity(held: Held) -> Identity:
    """Whose process it is."""
    service, kind, rest = held.id.split(":", 2)
    return Identity(service, kind, rest.rpartition(":")[0])


def spawn_of(held: Held) -> str:
    """What tells a process from every other that was or will be spawned (CLOCK_MONOTONIC, ns)."""
    return held.id.rpartition(":")[2]


def to_log(path: str, rotation: Rotation | None) -> Packet:
    """A process's output, as the keeper is told of it."""
    return {"log": path, "rotation": None if rotation is None else msgspec.structs.asdict(rotation)}


async def spawn(
    line: KeeperLine,
    process_id: str,
    process: Process,
    output: Packet | str,
    arguments: tuple[str, ...] = (),
    *,
    told: Mapping[str, str] | None = None,
    pid_variable: str | None = None,
    scope: str = "group",
    descriptors: Sequence[tuple[str, str]] = (),
    stdin: int | None = None,
    after: Held | None = None,
) -> tuple[Held, int | None]:
    """Spawn a process.

    Args:
        output: as :meth:`KeeperLine.spawn` takes it.
        arguments: what is added to its command line.
        told: environment variables of ours, over all others.
        scope, pid_variable: as :meth:`KeeperLine.spawn` takes them.
        descriptors: the sockets that it is given, and ``stdin`` a connection: likewise.
        after: a process that has ended, to be released before: likewise.

    Returns:
        The process, and the read end of its output when that goes to the supervisor.

    Raises:
        StartFailure: it cannot be executed, or its environment cannot be had.
        Left: as :meth:`KeeperLine.spawn` has it.
    """
    program = process.command[0]
    account = await accounts.resolve(process)
    environment = account.environment | process.environment
    for variables in process.variables:
        environment |= await variables.read()
    environment |= told or {}
    try:
        return await line.spawn(
            process_id,
            (*process.command, *arguments),
            environment,
            process.directory or account.directory,
            output,
            ids=account.ids,
            umask=process.umask,
            scope=scope,
            limits=[(limit.name, limit.soft, limit.hard) for limit in process.limits],
            nice=process.nice,
            oom_score_adjust=process.oom_score_adjustment,
            capabilities=process.ambient_capabilities or None,
            no_new_privileges=process.no_new_privileges,
            pid_variable=pid_variable,
            descriptors=descriptors,
            stdin=stdin,
            after=after,
        )
    except SpawnError as error:
        raise StartFailure(error.in_words(program)) from None
    except Refused as refusal:
        raise StartFailure(f"{program} cannot be executed: {refusal}") from None


async def terminate(
    line: KeeperLine,
    held: Held,
    stop: Stop,
    service: str,
    *,
    was_told: bool = False,
    show: Callable[[str], None] = lambda stage: None,
    patience: Callable[[float], trio.CancelScope] = trio.move_on_after,
) -> bool:
    """Send the signal to its processes, and after the grace period SIGKILL.

    Args:
        was_told: whether the signal has been sent.
        show: told what is waited for, in a few words, if that takes a while.
        patience: makes the scope of the grace period, which the process may ask to prolong.

    Returns:
        Whether it has ended; not even SIGKILL ends one that waits in the kernel.
    """
    if not held.has_ended:
        if not was_told:
            await line.signal(held, stop.signal, _reach(stop))
        with patience(stop.grace_period):
            with trio.move_on_after(SOON):
                await held.exited.wait()
            if not held.has_ended:
                show(_awaited(held, stop))
            await held.exited.wait()
    if not held.has_ended:
        await _kill(line, held, stop, service)
        with trio.move_on_after(KILL_PATIENCE):
            await held.exited.wait()
    return held.has_ended


async def _kill(line: KeeperLine, held: Held, stop: Stop, service: str) -> None:
    log("grace-period-over", service=service, seconds=stop.grace_period, signal="SIGKILL", pid=held.pid)
    held.was_killed = True
    await line.signal(held, signal.SIGKILL, _reach(stop))


def _awaited(held: Held, stop: Stop) -> str:
    """What is waited for in the grace period."""
    at = time.strftime("%H:%M:%S", time.localtime(time.time() + stop.grace_period - SOON))
    return f"waiting for PID {held.pid} to end after {signal.Signals(stop.signal).name}; SIGKILL follows at {at}"


async def end(
    line: KeeperLine,
    held: Held,
    stop: Stop,
    service: str,
    *,
    show: Callable[[str], None],
    on_stuck: Callable[[], None] = lambda: None,
) -> bool:
    """Do what :func:`terminate` and then :func:`release` do, in one request if nothing is out of the ordinary, for a
    process that nobody hears or accompanies.

    Args:
        show: as of :func:`terminate`.
        on_stuck: called when not even SIGKILL ends it; it is waited for all the same.

    Returns:
        Whether it has ended and is released; else it is for them to go on, but the signal has been sent.

    Raises:
        Refused: it cannot be signalled.
    """
    ending = await line.end(held, stop.signal, _reach(stop), if_alone=stop.scope != "process")
    try:
        with trio.move_on_after(min(stop.grace_period, SOON)):
            await ending.arrival()
        if ending.packet is None and stop.grace_period > SOON:
            if not held.has_ended:
                show(_awaited(held, stop))
            with trio.move_on_after(stop.grace_period - SOON):
                await ending.arrival()
        if ending.packet is None and not held.has_ended:
            await _kill(line, held, stop, service)
            with trio.move_on_after(KILL_PATIENCE):
                await first(held.exited.wait, ending.arrival)
        if ending.packet is None and not held.has_ended:
            on_stuck()
        if ending.packet is None:
            await ending.arrival()  # once it has ended, the keeper waits for its last lines, but not for long
    finally:
        line.forget(ending)
    assert ending.packet is not None
    kind: str = ending.packet["kind"]
    if kind == "error":
        raise Refused(ending.packet["message"])
    return kind == "released"


async def release(
    line: KeeperLine,
    held: Held,
    stop: Stop,
    service: str,
    *,
    was_told: bool,
    show: Callable[[str], None],
    patience: Callable[[float], trio.CancelScope] = trio.move_on_after,
) -> None:
    """After the end of a main process: give what is left of its service the grace period; then it is released, and with
    it what does not end.

    Args:
        was_told: whether all were sent the signal already, along with the main process.
        show: told what is waited for, in a few words.
        patience: as of :func:`terminate`.
    """
    if stop.scope == "process":
        await line.release(held)
        return
    left = await line.release_if_alone(held)
    if not left:
        return
    log("processes-left", service=service, count=left)
    show(f"waiting for what is left of it: {left} {'process' if left == 1 else 'processes'}")
    if not was_told:
        await line.signal(held, stop.signal, _reach(stop))
    with patience(stop.grace_period) as waiting:
        await held.alone.wait()
    if waiting.cancelled_caught:
        log("grace-period-over", service=service, seconds=stop.grace_period, signal="SIGKILL")
        held.was_killed = True
    await line.release(held)


def _reach(stop: Stop) -> str:
    """Whom its signals are for, in the keeper's words."""
    return "process" if stop.scope == "process" else "all"


async def run_out(
    line: KeeperLine,
    held: Held,
    stop: Stop,
    service: str,
    on_end: Callable[[End], Awaitable[None]] | None = None,
) -> End:
    """Wait until a process beside the service has ended, and let go of it; cancelling ends it.

    Args:
        on_end: awaited before the keeper forgets the process.
    """
    try:
        await held.exited.wait()
        with trio.move_on_after(LAST_WORDS_PATIENCE):
            await held.drained.wait()
        held.drained.set()  # or has been waited for
    finally:
        was_stopped = not held.has_ended
        with trio.CancelScope(shield=True):  # each wait in there has its bound
            if await terminate(line, held, stop, service):
                if on_end is not None:
                    await on_end(msgspec.structs.replace(end_of(held), was_stopped=was_stopped))
                await line.release(held)
            else:
                log("process-does-not-end", service=service, pid=held.pid)
    return end_of(held)


def end_of(held: Held) -> End:
    """How a process that has ended did so."""
    assert held.status is not None
    return End(
        reason=f"it {end_in_words(held.status)}", code=held.status.get("exited"), signal=held.status.get("killed")
    )
