"""What herdpy is doing while it is killed. Each operation is done, and changes what is expected of the fleet."""

import os
import signal
import subprocess
from collections.abc import Callable

import msgspec

from tests.conftest import wait_until
from tests.instants.fleet import PATIENCE, Fleet


class Operation(msgspec.Struct, frozen=True):
    """What is asked of a fleet.

    Attributes:
        act: asks it, and returns what the client was answered; changes ``fleet.expected``.
        prepare: what must be so before, such as a thread that waits for work.
        replaces: the programs that it has followed by others.
    """

    name: str
    act: Callable[[Fleet], str]
    prepare: Callable[[Fleet], None] = lambda fleet: None
    replaces: frozenset[str] = frozenset()


def _herd(fleet: Fleet, *arguments: str) -> str:
    """Run the client as a user does; what it says on either side."""
    done: subprocess.CompletedProcess[str] = fleet.herdpy.herd(*arguments, timeout=2 * PATIENCE, start_new_session=True)
    assert done.returncode == 0, f"herd {' '.join(arguments)} ends with {done.returncode}: {done.stdout}{done.stderr}"
    return f"{done.stderr}{done.stdout}".strip()


def _start(fleet: Fleet) -> str:
    worker = fleet.expected["worker"]
    worker.status, worker.begun = "running", worker.begun + 1
    said = _herd(fleet, "start", "worker")
    assert "Service worker has been started." in said or "is already running" in said, f"a start is answered: {said}"
    return said


def _stop(fleet: Fleet) -> str:
    worker = fleet.expected["worker"]
    worker.status, worker.ended = "stopped", worker.ended + 1
    return _herd(fleet, "stop", "worker")


def _respawn(fleet: Fleet) -> str:
    worker = fleet.expected["worker"]
    worker.begun, worker.ended = worker.begun + 1, worker.ended + 1
    os.kill(fleet.running("worker"), signal.SIGUSR1)
    wait_until(lambda: fleet.begun("worker") == worker.begun, PATIENCE)
    return _herd(fleet, "status", "worker").splitlines()[0]


def _reload(fleet: Fleet) -> str:
    goes, comes = ("even", "odd")[:: 1 if fleet.variant == 0 else -1]
    expected = fleet.expected
    expected[goes].status, expected[goes].ended = None, expected[goes].ended + 1
    expected[comes].status, expected[comes].begun = "running", expected[comes].begun + 1
    for name in ("renewed", "leaning"):
        expected[name].begun, expected[name].ended = expected[name].begun + 1, expected[name].ended + 1
    expected["changed"].pending = not expected["changed"].pending
    fleet.configure(1 - fleet.variant)
    return _herd(fleet, "reload", "root")


def _warm(fleet: Fleet) -> None:
    """Let the supervisor have a thread that waits for work: it reads declarations in one."""
    _herd(fleet, "plan")


def _upgrade(fleet: Fleet) -> str:
    return _herd(fleet, "upgrade", "root")


def _upgrade_keeper(fleet: Fleet) -> str:
    return _herd(fleet, "upgrade", "root", "keeper")


OPERATIONS = (
    Operation("start", _start),
    Operation("respawn", _respawn),
    Operation("stop", _stop),
    Operation("reload", _reload, _warm),
    Operation("upgrade", _upgrade, replaces=frozenset({"supervisor", "logger"})),
    Operation("renewal", _upgrade_keeper),
)
"""In an order in which each finds what it needs."""
AROUND = OPERATIONS[:3]
"""Those that are done together, or not at all: each leaves what the next one needs."""
