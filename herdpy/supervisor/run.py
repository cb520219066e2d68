"""The supervisor's life: learn what there is, go on with it, answer, and stop everything when told to."""

import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Container
from functools import partial

import trio

from herdpy.configuration import Declared
from herdpy.paths import Paths
from herdpy.supervisor import admission, announcing, control, events, kept_plan, restart, upgrading
from herdpy.supervisor import log as own_log
from herdpy.supervisor.answers import Answers
from herdpy.supervisor.declared import DeclaredPlan, Remake
from herdpy.supervisor.line import KeeperLine
from herdpy.supervisor.log import log
from herdpy.supervisor.note import key_of_state
from herdpy.supervisor.registry import Registry
from herdpy.supervisor.reload import Reloading
from herdpy.supervisor.rights import Groups
from herdpy.supervisor.shutdown import Shutdown
from herdpy.threads import TOO_MANY, in_thread, when_none_is_left

CALM = 2.0
"""Seconds until that is done which no start waits for, such as importing structlog, even if starts still go on."""
MADE = 10_000
"""So many objects more than were dropped until the collector looks for cycles among them: as the keeper has it."""
RETRY = 10
"""Seconds until the next try at what could not be done."""

MISTAKES_STATUS = 2
"""Exit status of herdpy when the configuration has mistakes, as of ``herdpy check``."""

AFTER_DEADLINE = 20.0
"""Seconds that herdpy may take to end once its shutdown has reached its deadline: what was killed is buried, last words
are written."""


async def supervise(
    descriptor: int,
    declare: Callable[[], DeclaredPlan],
    remake: Remake,
    read: Callable[[str], Declared],
    paths: Paths,
) -> None:
    """Supervise until everything is to be stopped; the keeper then ends too.

    Args:
        descriptor: the line to the keeper.
        declare: reads the configuration.
        remake: makes services from a declaration that one of them carried along; raises ValueError when it cannot.
        read: tells what a single file declares.
        paths: where things lie. When something changes in the layers, the configuration is read again.

    Raises:
        EOFError: the keeper is gone.
    """
    began = time.time()

    def on_signal(number: int) -> None:
        log("signal", signal=signal.Signals(number).name)
        if number in (signal.SIGTERM, signal.SIGINT):
            shutdown.ask()
        elif number == signal.SIGHUP:
            nursery.start_soon(reloading.reload_by_itself)

    when_none_is_left(lambda: log("no-thread", reason=f"whoever needs another thread waits for it; {TOO_MANY}"))
    shutdown = Shutdown()
    line = KeeperLine(descriptor, on_signal)
    registry = Registry(line, paths.log, shutdown)
    reloading = Reloading(registry, declare, paths.state, paths.layers)
    registry.tell_soon = lambda life: nursery.start_soon(reloading.tell, life)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own_log.write)
        nursery.start_soon(line.run)
        missed_signal = await line.hello()
        is_first = "supervisor" not in line.notes and not line.is_second
        was_second = line.is_second
        if not was_second:  # else it begins when it is in charge: until then, the other one says what happens
            log(events.BEGIN, pid=os.getpid())
        declared = reloading.asked_for(reloading.declared(), remake)
        if line.is_second and declared.plan is None:
            await line.unprepared(_refusal(declared))
            await trio.sleep_forever()  # the keeper ends us
        if declared.plan is None and is_first:
            lines = ["mistakes in the configuration, nothing is started:", *map(str, declared.mistakes)]
            await line.exit(MISTAKES_STATUS, "\n".join(lines))
            nursery.cancel_scope.cancel()
            return
        for mistake in declared.mistakes:
            log("configuration-mistake", mistake=mistake)
        settings = declared.settings
        shutdown.timeout = settings.shutdown_timeout
        groups = Groups(settings.read_gids, settings.operate_gids)
        reloading.mistakes = declared.mistakes
        plan = declared.plan or kept_plan.kept(paths.state, remake) or declared.sound
        unfinished = None
        if declared.plan is not None and line.notes.get("supervisor") == "started":
            unfinished = kept_plan.unfinished(paths.state, declared.plan, line.notes, remake)
        registry.take_plan(plan if unfinished is None else unfinished.plan, remake)
        if line.is_second:
            _prepare()
            missed_signal = await line.prepared()
            log(events.BEGIN, pid=os.getpid())
            registry.catch_up()
        if unfinished is not None:
            reloading.go_on_with(unfinished)
        answers = Answers(registry, reloading, read)
        door = control.Door(answers, groups, line)
        answers.upgrading = upgrading.Upgrading(line, door, shutdown)
        try:
            admission.admit(paths.socket, groups.read | groups.operate)
        except admission.NotAdmitted as problem:
            if is_first:
                await line.exit(1, str(problem))
                nursery.cancel_scope.cancel()
                return
            log("groups-not-admitted", reason=problem)
        await nursery.start(door.serve, line.listeners["control"])
        await line.ready()
        nursery.start_soon(announcing.announce_again_and_again, line, registry)
        opened = time.monotonic()
        log(
            "supervisor-ready" if is_first else "supervisor-took-over" if was_second else "supervisor-back",
            services=len(registry.lives),
        )
        state, *memory = line.notes.get("supervisor", "starting").split(" ")
        # A shutdown that was cut short ends with those it was asked of; what it has stopped by now is not noted.
        registry.closing = state == "stopping" and not line.began_anew
        await registry.begin(nursery)
        await upgrading.go_on(line, door, opened)
        if missed_signal is not None:
            on_signal(missed_signal)
        if registry.restarting:
            nursery.start_soon(restart.finish, registry)
        begun = trio.Event()
        deadline: float | None = None
        if registry.closing:
            registry.exit_status, deadline = int(memory[0]), float(memory[1])
            if not shutdown.asked.is_set():  # by the missed signal: it was asked for once
                shutdown.ask()
        elif state != "started":
            # Of what another supervisor has begun with, it has a note; some was stopped by hand since then.
            noted = line.notes if state == "starting" else {}
            await line.note("supervisor", "starting")
            nursery.start_soon(_start_automatic, registry, noted, begun)
        else:
            begun.set()
        later: list[Callable[[], Awaitable[None]]] = [
            reloading.remember_layers,
            own_log.start,
            partial(_let_read, paths.log, groups),
        ]
        if settings.automatic_reload:
            later.append(partial(_watch, began, reloading))
        if unfinished is not None:
            log("reload-goes-on")
            nursery.start_soon(reloading.reload_by_itself)
        else:
            for life in registry.lives.values():
                if life.is_to_be_told:
                    registry.tell_soon(life)
            if declared.plan is not None:
                later.append(partial(reloading.keep, declared.plan))
        nursery.start_soon(_do_later, begun, later)
        del declared, plan, unfinished  # what has come of them is in the registry, and may be replaced there
        await shutdown.asked.wait()
        registry.closing = True  # before the note: nobody may write "started" over it
        gc.disable()  # to find what nobody needs any more is no use now
        deadline = deadline or shutdown.deadline()
        await line.note("supervisor", f"stopping {registry.exit_status} {deadline}")
        left = deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
        await announcing.announce_stop(line, max(left, 0) + AFTER_DEADLINE)
        killed = await shutdown.carry_out(registry, deadline)
        log("exiting")
        await line.exit(registry.exit_status, killed)
        nursery.cancel_scope.cancel()
    # With a thousand services, trio and the interpreter would free for 30 ms what they have, object by object, and the
    # keeper waits for our end. All tasks are over, and nothing is left to be written.
    os._exit(0)


def _refusal(declared: DeclaredPlan) -> str:
    """Why a second supervisor does not take over with these declarations."""
    first, *others = declared.mistakes
    more = f" (and {len(others)} more; see: herdpy check)" if others else ""
    return f"the declarations have mistakes: {first}{more}"


def _prepare() -> None:
    """As a second supervisor, do beforehand what would cost time once somebody waits for an answer."""
    from herdpy.supervisor import watching  # noqa: F401 - imported late elsewhere

    own_log.load()
    # What is here by now stays; to look through it again would take some tens of milliseconds.
    gc.collect()
    gc.freeze()


async def _do_later(begun: trio.Event, works: list[Callable[[], Awaitable[None]]]) -> None:
    """Do what no service waits for when those that start with herdpy run, or after a while.

    Args:
        works: is emptied: some of them hold much, and some never end.
    """
    gc.disable()  # a boot makes much, and drops next to nothing that only the collector would find
    with trio.move_on_after(CALM):
        await begun.wait()
    gc.freeze()
    gc.set_threshold(MADE)
    gc.enable()
    async with trio.open_nursery() as nursery:
        while works:
            nursery.start_soon(_persist, works.pop(0))


async def _persist(work: Callable[[], Awaitable[None]]) -> None:
    """Do it, however often: what it imports cannot be read without a descriptor, or while the package is replaced."""
    while True:
        try:
            await work()
            return
        except* (OSError, ImportError) as group:
            log("put-off", seconds=RETRY, reason=_first(group))
        await trio.sleep(RETRY)


def _first(error: BaseException) -> BaseException:
    """The first of the exceptions in a group, as far down as there are groups."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _let_read(log_dir: str, groups: Groups) -> None:
    """Let whoever may ask for a service's status read its log file, too: the client does that by itself."""
    try:
        await in_thread(admission.let_read, log_dir, groups.read | groups.operate, abandon_on_cancel=True)
    except OSError as error:
        log("groups-cannot-read-logs", directory=log_dir, reason=error.strerror)


async def _watch(since: float, reloading: Reloading) -> None:
    from herdpy.supervisor.watching import watch  # late: no boot waits for it

    async with trio.open_nursery() as nursery:
        await watch(reloading.states, since, partial(nursery.start, reloading.reload_by_itself))


async def _start_automatic(registry: Registry, noted: Container[str], begun: trio.Event) -> None:
    """Start what starts with herdpy. Done once: a supervisor that comes later only goes on with what was begun.

    Args:
        noted: the keys of the notes of those with which that was done before.
        begun: set when all of them run, or have failed.
    """
    lives = [
        life for life in registry.lives.values() if life.service.auto_start and key_of_state(life.name) not in noted
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(registry.start_all, lives)
        if not registry.closing:
            await registry.line.note("supervisor", "started")
    begun.set()
    await announcing.announce_status(registry.line, registry)
