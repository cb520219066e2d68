"""What the init system is told of herdpy, if it has started herdpy and wants to hear (sd_notify(3)): how many services
run, when it reloads and when it stops, and again and again that the supervisor is well.
"""

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from herdpy.supervisor.line import KeeperLine
    from herdpy.supervisor.registry import Registry

BEATS = 4
"""So often within the watchdog's time. When two were missed, the keeper ends us (herdpy/keeper/init_system.py)."""
NAMED = 3
"""So many of the services that have failed are named."""


async def announce_again_and_again(line: "KeeperLine", registry: "Registry") -> None:
    """Tell that we are well, as often as the watchdog wants it, and how the services are when that has changed; without
    a watchdog, return at once: nobody wakes up for the status alone."""
    if line.watchdog is None:
        return
    told = None
    while True:
        status = status_in_words(registry)
        await line.announce("WATCHDOG=1", *(() if status == told else (f"STATUS={status}",)))
        told = status
        await trio.sleep(line.watchdog / BEATS)


async def announce_status(line: "KeeperLine", registry: "Registry") -> None:
    """Tell how the services are."""
    await line.announce(f"STATUS={status_in_words(registry)}")


async def announce_reload(line: "KeeperLine") -> None:
    """Tell that the declarations are about to take effect; :func:`announce_reloaded` follows."""
    await line.announce("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


async def announce_reloaded(line: "KeeperLine", registry: "Registry") -> None:
    """Tell that they have."""
    await line.announce("READY=1", f"STATUS={status_in_words(registry)}")


async def announce_stop(line: "KeeperLine", seconds: float) -> None:
    """Tell that everything is being stopped, and how long that may take."""
    await line.announce(
        "STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", "STATUS=stopping every service, in order"
    )


def status_in_words(registry: "Registry") -> str:
    """Say how the services are: ``3 of 12 services run; failed: web``."""
    lives = registry.lives.values()
    running = sum(life.status == "running" for life in lives)
    failed = [life.name for life in lives if life.status == "stopped" and life.failures]
    words = f"{running} of {len(lives)} services run"
    if failed:
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        words += f"; failed: {', '.join(failed[:NAMED])}{more}"
    return words
