"""The supervisor's life: learn what there is, go on with it, answer, and stop everything when told to."""

import os
import signal
from collections.abc import Callable

import trio

from herdpy.service import Service
from herdpy.supervisor import control, events, restart
from herdpy.supervisor import log as own_log
from herdpy.supervisor.answers import Answers
from herdpy.supervisor.declared import DeclaredPlan
from herdpy.supervisor.line import KeeperLine
from herdpy.supervisor.log import log
from herdpy.supervisor.registry import Registry
from herdpy.supervisor.rights import Groups

MISTAKES_STATUS = 2
"""Exit status of herdpy when the configuration has mistakes, as of ``herdpy check``."""


async def supervise(
    descriptor: int, declare: Callable[[], DeclaredPlan], remake: Callable[[str], tuple[Service, ...]], log_dir: str
) -> None:
    """Supervise until everything is to be stopped; the keeper then ends too.

    Args:
        descriptor: the line to the keeper.
        declare: reads the configuration.
        remake: makes services from a declaration that one of them carried along; raises ValueError when it cannot.
        log_dir: where the output of services goes that name no log file.

    Raises:
        EOFError: the keeper is gone.
    """
    shutdown = trio.Event()

    def shut_down() -> None:
        if shutdown.is_set():
            log("shutdown-hurries")
            registry.hurry.set()
        shutdown.set()

    def on_signal(number: int) -> None:
        log("signal", signal=signal.Signals(number).name)
        if number in (signal.SIGTERM, signal.SIGINT):
            shut_down()

    log(events.BEGIN, pid=os.getpid())
    line = KeeperLine(descriptor, on_signal)
    registry = Registry(line, log_dir)
    registry.shut_down = shut_down
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.run)
        missed_signal = await line.hello()
        is_first = "supervisor" not in line.notes
        declared = declare()
        if declared.plan is None and is_first:
            lines = ["mistakes in the configuration, nothing is started:", *map(str, declared.mistakes)]
            await line.exit(MISTAKES_STATUS, "\n".join(lines))
            nursery.cancel_scope.cancel()
            return
        for mistake in declared.mistakes:
            log("configuration-mistake", mistake=mistake)
        registry.adopt_plan(declared.sound, remake, nursery)
        nursery.start_soon(control.serve, line.listeners["control"], Answers(registry, shut_down), Groups())
        await line.ready()
        log("supervisor-ready" if is_first else "supervisor-back", services=len(registry.lives))
        if missed_signal is not None:
            on_signal(missed_signal)
        if restart.unfinished(registry):
            nursery.start_soon(restart.finish, registry)
        state, _, exit_status = line.notes.get("supervisor", "").partition(" ")
        if state == "stopping":
            registry.exit_status = int(exit_status or 0)
            if not shutdown.is_set():  # by the missed signal: it was asked for once
                shut_down()
        elif state != "started":
            await line.note("supervisor", "starting")
            nursery.start_soon(_start_automatic, registry)
        nursery.start_soon(own_log.start)
        await shutdown.wait()
        registry.closing = True  # before the note: nobody may write "started" over it
        await line.note("supervisor", f"stopping {registry.exit_status}")
        await registry.stop_all()
        log("exiting")
        own_log.flush()
        await line.exit(registry.exit_status)
        nursery.cancel_scope.cancel()


async def _start_automatic(registry: Registry) -> None:
    """Start what starts with herdpy. Done once: a supervisor that comes later only goes on with what was begun."""
    await registry.start_all(life for life in registry.lives.values() if life.service.auto_start)
    if not registry.closing:
        await registry.line.note("supervisor", "started")
