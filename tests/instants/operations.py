"""What herdpy is doing while it is killed. Each operation is done, and changes what is expected of the fleet."""

import os
import select
import signal
import subprocess
from collections.abc import Callable

import msgspec

from tests.conftest import BIN, wait_until
from tests.instants.fleet import PATIENCE, Fleet
from tests.processes import lives

Attach = Callable[[], None]


class Operation(msgspec.Struct, frozen=True):
    """What is asked of a fleet.

    Attributes:
        act: asks it, and returns what the client was answered; changes ``fleet.expected``. It calls its second argument
            when a program comes to be that may be the one to be killed.
        prepare: what must be so before, such as a thread that waits for work.
        programs: which may be killed in it. The second, or next, one is the one that comes to be in it.
        replaces: the programs that it has followed by others.
    """

    name: str
    act: Callable[[Fleet, Attach], str]
    prepare: Callable[[Fleet], None] = lambda fleet: None
    programs: tuple[str, ...] = ("supervisor", "logger", "keeper")
    replaces: frozenset[str] = frozenset()


def _herd(fleet: Fleet, *arguments: str, attach: Attach = lambda: None, refusal: str | None = None) -> str:
    """Run the client as a user does; what it says on either side.

    Args:
        refusal: what it may say when it ends with 1.
    """
    herd = subprocess.Popen(
        [str(BIN / "herd"), *arguments],
        env=fleet.herdpy.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    with herd:
        try:
            attach()
            said, _ = herd.communicate(timeout=2 * PATIENCE)
        except BaseException:
            herd.kill()
            raise
    is_refused = herd.returncode == 1 and refusal is not None and refusal in said
    assert herd.returncode == 0 or is_refused, f"herd {' '.join(arguments)} ends with {herd.returncode}: {said}"
    return said.strip()


BY_HAND = ("worker", "teller")
"""Those that do not start with herdpy."""


def _begin(fleet: Fleet, name: str) -> str:
    expected = fleet.expected[name]
    expected.status, expected.begun = "running", expected.begun + 1
    said = _herd(fleet, "start", name)
    assert f"Service {name} has been started." in said or "is already running" in said, f"a start is answered: {said}"
    return said


def _start(fleet: Fleet, _: Attach) -> str:
    return _begin(fleet, "worker")


def _silence(fleet: Fleet) -> None:
    """Let the one that says it is ready be stopped, however often it was started."""
    teller = fleet.expected["teller"]
    if teller.status == "running":
        teller.status, teller.ended = "stopped", teller.ended + 1
        _herd(fleet, "stop", "teller")


def _tell(fleet: Fleet, _: Attach) -> str:
    """Start a service that says by itself that it is ready, once."""
    return _begin(fleet, "teller")


def _stop(fleet: Fleet, _: Attach) -> str:
    worker = fleet.expected["worker"]
    worker.status, worker.ended = "stopped", worker.ended + 1
    return _herd(fleet, "stop", "worker")


def _respawn(fleet: Fleet, _: Attach) -> str:
    worker = fleet.expected["worker"]
    worker.begun, worker.ended = worker.begun + 1, worker.ended + 1
    os.kill(fleet.running("worker"), signal.SIGUSR1)
    wait_until(lambda: fleet.begun("worker") == worker.begun, PATIENCE)
    return _herd(fleet, "status", "worker").splitlines()[0]


def _configure(fleet: Fleet) -> None:
    """Declare everything otherwise, and expect what follows: one goes, one comes, three change each in its own way."""
    goes, comes = ("even", "odd")[:: 1 if fleet.variant == 0 else -1]
    expected = fleet.expected
    expected[goes].status, expected[goes].ended = None, expected[goes].ended + 1
    expected[comes].status, expected[comes].begun = "running", expected[comes].begun + 1
    for name in ("renewed", "leaning"):
        expected[name].begun, expected[name].ended = expected[name].begun + 1, expected[name].ended + 1
    expected["changed"].pending = not expected["changed"].pending
    fleet.configure(1 - fleet.variant)


def _reload(fleet: Fleet, _: Attach) -> str:
    _configure(fleet)
    return _herd(fleet, "reload", "root")


def _warm(fleet: Fleet) -> None:
    """Let the supervisor have a thread that waits for work: it reads declarations in one."""
    _herd(fleet, "plan")


def _upgrade(fleet: Fleet, attach: Attach) -> str:
    return _herd(fleet, "upgrade", "root", attach=attach, refusal="; nothing is changed")


def _upgrade_keeper(fleet: Fleet, _: Attach) -> str:
    return _herd(fleet, "upgrade", "root", "keeper")


def _take_over(fleet: Fleet, attach: Attach) -> str:
    """Kill the supervisor before it has begun with a reload: the next one does all of it."""
    supervisor = fleet.programs()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    _configure(fleet)
    os.kill(supervisor, signal.SIGKILL)
    fleet.ends["supervisor"] += 1
    attach()
    fleet.rest()
    return _herd(fleet, "status", "steady").splitlines()[0]


def _succeed(fleet: Fleet, _: Attach) -> str:
    """Kill the keeper: the supervisor becomes the next one. When that is killed, too, start another herdpy."""
    programs = fleet.programs()
    heir = os.pidfd_open(programs["supervisor"])
    os.kill(programs["keeper"], signal.SIGKILL)
    fleet.ends.clear()

    def is_over() -> bool:
        return bool(select.select([heir], [], [], 0)[0]) and fleet.is_gone()

    wait_until(lambda: is_over() or fleet.is_answered_after(programs["keeper"]), PATIENCE)
    needs_another = is_over()
    os.close(heir)
    if needs_another:
        fleet.start()
        return "herdpy was over, and started again"
    return _herd(fleet, "status", "steady").splitlines()[0]


def _shut_down(fleet: Fleet, _: Attach) -> str:
    """Stop everything, whoever has to finish it, and start another herdpy."""
    programs = fleet.programs()
    for name, expected in fleet.expected.items():
        if expected.status == "running":
            expected.ended, expected.pending = expected.ended + 1, False
            if name in BY_HAND:
                expected.status = "stopped"
            else:
                expected.begun += 1
    said = _herd(fleet, "stop", "root")
    wait_until(fleet.is_gone, PATIENCE)
    assert not fleet.has_services(), "herdpy was stopped, and services run"
    fleet.ends.clear()
    fleet.pid_file.unlink(missing_ok=True)  # of a keeper that was killed when all else was done
    wait_until(lambda: not any(map(lives, programs.values())), PATIENCE)
    fleet.start()
    return said


OPERATIONS = (
    Operation("start", _start),
    Operation("respawn", _respawn),
    Operation("stop", _stop),
    Operation("readiness", _tell, _silence),
    Operation("reload", _reload, _warm, ("supervisor", "logger", "keeper", "supervisor's threads")),
    Operation(
        "upgrade",
        _upgrade,
        programs=("supervisor", "logger", "keeper", "second supervisor", "second logger"),
        replaces=frozenset({"supervisor", "logger"}),
    ),
    Operation("renewal", _upgrade_keeper),
    Operation("takeover", _take_over, programs=("next supervisor",), replaces=frozenset({"supervisor"})),
    Operation("succession", _succeed, programs=("supervisor",), replaces=frozenset({"supervisor", "logger", "keeper"})),
    Operation("shutdown", _shut_down, replaces=frozenset({"supervisor", "logger", "keeper"})),
)
"""In an order in which each finds what it needs."""
AROUND = OPERATIONS[:3]
"""Those that are done together, or not at all: each leaves what the next one needs."""
PROGRAMS = tuple(dict.fromkeys(program for operation in OPERATIONS for program in operation.programs))
