"""The journal of a keeper that was killed is cut: at the end of each line, and within some."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from herdpy.keeper.cgroup import Cgroup
from tests.keeper.conftest import HAS_CGROUPS, Running, Supervisor
from tests.processes import lives
from tests.waiting import until

WITHOUT_CGROUPS = (
    "unshare",
    *(() if os.geteuid() == 0 else ("--map-root-user",)),
    "--mount",
    "sh",
    "-c",
    'umount --lazy --all --types cgroup2; exec "$@"',
    "sh",
)
IDS = ("plain:main:0:1", "under_score:main:0:2", "long:" + 120 * "x" + ":0:3")


def begin(keeper: Running, prefix: tuple[str, ...]) -> tuple[Supervisor, dict[str, tuple[int, int]]]:
    """Start it; return its supervisor, and the processes that this is told of: PID and start time by their ids."""
    keeper.begin(prefix=prefix)
    supervisor = keeper.supervisor(greeted=False)
    told = supervisor.hello()
    supervisor.tell("ready")
    return supervisor, {
        one["id"]: (one["pid"], one["start_time"]) for one in told if one["kind"] == "process" and not one["exited"]
    }


def kill_all(keeper: Running) -> None:
    assert keeper.process is not None
    # A process that the keeper has just spawned has no command line for a moment: it is still executing its program.
    until(lambda: all(child.cmdline() for child in keeper.children()), "each of its processes executes a program")
    services = [child.pid for child in keeper.children() if child.cmdline()[:1] == ["sleep"]]
    programs = [keeper.pid, *(child.pid for child in keeper.children() if child.pid not in services)]
    pidfds = [os.pidfd_open(pid) for pid in programs]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pidfd in pidfds:
            signal.pidfd_send_signal(pidfd, number)
    for pidfd in pidfds:
        os.close(pidfd)
    keeper.process.communicate()
    until(lambda: not any(map(lives, programs)), "they have ended")
    supervisor = keeper.supervisors.pop()
    supervisor.drop_listener()  # else somebody answers there
    supervisor.close()


@pytest.mark.parametrize("prefix", [(), WITHOUT_CGROUPS], ids=["cgroups", "no cgroups"])
def test_what_runs_is_held_by_who_comes_next(keeper: Running, prefix: tuple[str, ...]) -> None:
    """It is always the same journal that is cut: what it says stays true. Without cgroups, those are held whose pipe
    the journal still tells."""
    has_cgroups = HAS_CGROUPS and not prefix
    if not HAS_CGROUPS:
        prefix = ()
    first, _ = begin(keeper, prefix)
    for name in IDS:
        log: dict[str, Any] = {"log": str(keeper.place / "log" / "service.log")}
        assert first.spawn(name, "sleep", "1000", output=log)["kind"] == "spawned"
    kill_all(keeper)
    _, before = begin(keeper, prefix)
    assert before.keys() == set(IDS)
    kill_all(keeper)
    path = keeper.place / "state" / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    pipes = {name: next(at for at, line in enumerate(lines) if f'"id":"{name}"'.encode() in line) for name in IDS}
    for at, end in enumerate(itertools.accumulate(map(len, lines), initial=0)):
        for more in (0, 1) if at % 3 == 0 and at < len(lines) else (0,):
            path.write_bytes(b"".join(lines)[: end + more])
            _, held = begin(keeper, prefix)
            known = {name for name in IDS if has_cgroups or pipes[name] < at}
            assert held == {name: before[name] for name in known}, f"cut at line {at}, {more}"
            kill_all(keeper)
    for pid, _ in before.values():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not HAS_CGROUPS, reason="no cgroups to be written to")
def test_what_was_let_go_is_left_alone_and_what_has_no_name_is_ended(keeper: Running) -> None:
    first, _ = begin(keeper, ())
    script = "sleep 1000 & exec sleep 1"
    first.spawn("let:main:go:1", "sh", "-c", script, scope="process")
    first.ended("let:main:go:1")
    assert first.ask("release", id="let:main:go:1")["kind"] == "released"
    nameless = first.spawn("x" * 120, "env", "-i", "sleep", "1000")["pid"]
    until(lambda: Path(f"/proc/{nameless}/environ").read_bytes() == b"", "its environment is empty")
    ours = keeper.cgroup()
    assert ours is not None
    (left,) = [pid for pid in ours.pids() if pid != nameless]
    kill_all(keeper)
    (keeper.place / "state" / "journal").unlink()
    _, held = begin(keeper, ())
    assert held == {}
    assert lives(left)
    until(lambda: not lives(nameless), "the one without a name is killed")
    keeper.logged(f"killed, for nobody knows which service they are of: PID {nameless}")
    keeper.logged(f"of what a former herdpy let go there still run, left alone: PID {left}")
    assert Cgroup(ours.path).kill()
