"""Who belongs to a service: all go when they are to go, whatever they did to get away, and nobody else."""

import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from herdpy.keeper.cgroup import find
from tests.keeper.conftest import HAS_CGROUPS, Running, Supervisor, needs_cgroups
from tests.waiting import until

WAYS = ["cgroup", "proc"]
"""With a cgroup for each service where we can have that, and without: both must do the same."""


def write_protected() -> tuple[str, ...]:
    """What starts a keeper that may make no cgroup, as in most containers; there is nothing to protect elsewhere."""
    if not HAS_CGROUPS:
        return ()
    own = find()
    return ("unshare", "--mount", "sh", "-c", f'mount -o bind,ro {own} {own} && exec "$@"', "sh")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, keeper: Running) -> str:
    """A keeper has begun, with cgroups or without."""
    keeper.begin(prefix=write_protected() if request.param == "proc" else ())
    return str(request.param)


# Leaves a process behind that has done what the arguments say, and prints its PID. What is to be said goes to
# descriptor 9, so that 1 and 2 can be closed before.
LEAVE = """
import os, sys, time
os.dup2(1, 9)
if os.fork() == 0:
    if "setsid" in sys.argv:
        os.setsid()
    if "no-output" in sys.argv:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1); os.dup2(null, 2)
    if os.fork() == 0:
        os.write(9, b"%d\\n" % os.getpid())
        if "stubborn" in sys.argv:
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "no-output" in sys.argv:
            os.close(9)
        os.execve("/bin/sh", ["sh", "-c", "exec sleep 1000" if "no-output" in sys.argv else "exec sleep 1000 9>&-"],
            {} if "no-environment" in sys.argv else os.environ)
    os._exit(0)
os.wait()
if "stay" in sys.argv:
    time.sleep(1000)
sys.exit(3)
"""


def leave(supervisor: Supervisor, name: str, *what: str, **fields: Any) -> psutil.Process:
    """Spawn a service that leaves a process behind, and return that; wait for the service's end unless it stays."""
    told = supervisor.spawn(name, sys.executable, "-I", "-c", LEAVE, *what, output="supervisor", **fields)
    assert told["kind"] == "spawned", told
    os.set_blocking(supervisor.passed[0], True)
    left = psutil.Process(int(os.read(supervisor.passed[0], 20)))
    os.close(supervisor.passed[0])
    until(lambda: left.cmdline() == ["sleep", "1000"], "its program")
    if "stay" not in what:
        assert supervisor.ended(name) == {"exited": 3}
    return left


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def runs(process: psutil.Process, *command: str) -> bool:
    with contextlib.suppress(psutil.Error):  # it may end while we look
        return process.cmdline() == list(command)
    return False


GETTING_AWAY = [
    [],
    ["setsid"],
    ["setsid", "no-output"],
    ["setsid", "no-environment"],
    ["no-output", "no-environment"],
    ["setsid", "stubborn"],
]


@pytest.mark.parametrize("what", GETTING_AWAY, ids=" ".join)
def test_a_release_is_answered_when_all_are_gone(keeper: Running, way: str, what: list[str]) -> None:
    supervisor = keeper.supervisor()
    other = leave(supervisor, "other", "setsid")
    left = leave(supervisor, "service", *what)
    told = supervisor.ask("release", id="service")
    assert (told["kind"], told["left"]) == ("released", 0)
    assert not lives(left)
    assert lives(other)
    until(lambda: not left.is_running(), "it is reaped")


def test_only_a_cgroup_finds_one_that_has_left_nothing_to_be_known_by(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service", "setsid", "no-output", "no-environment")
    assert supervisor.ask("rest", id="service")["count"] == (1 if way == "cgroup" and HAS_CGROUPS else 0)
    supervisor.ask("release", id="service")
    assert lives(left) is not (way == "cgroup" and HAS_CGROUPS)
    if lives(left):
        left.kill()


def test_release_leaves_all_others_alone_when_only_the_process_is_meant(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service:main:0:1", "setsid", scope="process")
    assert supervisor.ask("release", id="service:main:0:1")["kind"] == "released"
    again = leave(supervisor, "service:main:0:2", "setsid", scope="group")
    told = supervisor.ask("release", id="service:main:0:2")
    assert (told["kind"], told["left"]) == ("released", 0)
    assert not lives(again)
    assert lives(left), "of an earlier start of the same service"
    supervisor.tell("exit", status=0)
    supervisor.end()
    keeper.wait()
    assert lives(left)
    left.kill()


def test_a_signal_to_all_reaches_whoever_left_the_group(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    other = leave(supervisor, "other", "setsid", "stay")
    left = leave(supervisor, "service", "setsid", "no-output", "stay")
    assert supervisor.ask("signal", id="service", signal=15, scope="group")["delivered"] is True
    assert supervisor.ended("service") == {"killed": 15, "core": False}
    assert lives(left)
    assert supervisor.ask("signal", id="service", signal=15, scope="all")["delivered"] is True
    until(lambda: not lives(left), "its end")
    assert supervisor.ask("signal", id="service", signal=15, scope="all")["delivered"] is False
    assert lives(other)
    assert supervisor.ask("signal", id="other", signal=9, scope="all")["delivered"] is True
    assert supervisor.ended("other") == {"killed": 9, "core": False}
    until(lambda: not lives(other), "its end")


def test_a_signal_to_all_reaches_the_only_one(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    supervisor.spawn("service", "sleep", "1000")
    assert supervisor.ask("signal", id="service", signal=15, scope="all")["delivered"] is True
    assert supervisor.ended("service") == {"killed": 15, "core": False}


def test_the_rest_is_counted_and_its_end_told(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service", "setsid", "stubborn")
    assert supervisor.ask("rest", id="service")["count"] == 1
    assert supervisor.ask("rest", id="service")["count"] == 1
    assert supervisor.ask("signal", id="service", signal=15, scope="all")["delivered"] is True
    assert lives(left)
    # Who comes next has to ask, and learns it, too.
    supervisor.kill()
    second = keeper.supervisor()
    assert second.ask("rest", id="service")["count"] == 1
    assert second.ask("signal", id="service", signal=9, scope="all")["delivered"] is True
    assert second.expect("alone")["id"] == "service"
    assert not lives(left)
    assert second.ask("rest", id="service")["count"] == 0
    assert second.ask("release", id="service")["kind"] == "released"


def test_alone_comes_after_what_the_rest_has_forked_meanwhile(keeper: Running, public: Path, way: str) -> None:
    supervisor = keeper.supervisor()
    fifo = public / "fifo"
    os.mkfifo(fifo)
    supervisor.spawn("service", "sh", "-c", f"(read line <{fifo}; setsid sleep 1000 & sleep 0.1) & exit 0")
    supervisor.ended("service")
    assert supervisor.ask("rest", id="service")["count"] == 1
    fifo.write_text("go\n")

    def only_the_late_one() -> bool:
        return any(runs(child, "sleep", "1000") for child in keeper.children())

    until(only_the_late_one, "the late one is an orphan")
    supervisor.tell("rest", id="service")
    assert supervisor.expect("rest")["count"] == 1  # and no event before it
    supervisor.tell("signal", id="service", signal=9, scope="all")
    supervisor.expect("signalled", delivered=True)
    supervisor.expect("alone", id="service")


# A process that is another one all the time: each forks the next and ends, in a session of its own and without output.
RESTLESS = """
import os, sys, time
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, 1); os.dup2(null, 2)
end = time.monotonic() + 30
while time.monotonic() < end and os.path.exists(sys.argv[1]):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.001)
"""


def test_the_rest_is_found_though_it_is_another_process_all_the_time(keeper: Running, public: Path, way: str) -> None:
    """It ends while the keeper looks at it, time and again, and what it has left behind is an orphan by then."""
    supervisor = keeper.supervisor()
    until_removed = public / "goes on"
    until_removed.touch()
    supervisor.spawn("service", sys.executable, "-I", "-S", "-c", RESTLESS, str(until_removed))
    assert supervisor.ended("service") == {"exited": 0}
    assert [supervisor.ask("rest", id="service")["count"] for _ in range(1500)].count(0) == 0
    until_removed.unlink()
    supervisor.expect("alone", id="service")
    assert supervisor.ask("release", id="service")["left"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="spawns a process that it may not signal then")
def test_a_release_does_not_wait_for_ever(keeper: Running) -> None:
    """For one that the keeper may not kill; and when who asked is gone meanwhile, the next supervisor asks again."""
    keeper.begin(prefix=("setpriv", "--bounding-set=-kill", *write_protected()))
    first = keeper.supervisor()
    told = first.spawn("service", "sh", "-c", "sleep 1000 & exit", uid=65534, gid=65534, groups=[])
    first.ended("service")
    assert first.ask("rest", id="service")["count"] == 1
    first.tell("release", id="service")
    assert "is being released" in first.ask("rest", id="service")["message"]
    assert "is being released" in first.ask("release", id="service")["message"]
    assert "is being released" in first.ask("adopt", id="service", pid=told["pid"])["message"]
    first.kill()
    second = keeper.supervisor(greeted=False)
    assert second.hello()[0]["id"] == "service"
    until(lambda: second.ask("rest", id="service").get("count") == 1, "the first release is given up")
    assert second.ask("release", id="service")["left"] == 1
    assert [message["kind"] for message in second.hello()] == ["listener", "state"]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == told["pid"]:
                process.kill()


def test_rest_is_refused_while_the_process_runs(supervisor: Supervisor) -> None:
    supervisor.spawn("service", "sleep", "1000")
    assert "still runs" in supervisor.ask("rest", id="service")["message"]
    assert supervisor.ask("rest", id="nobody")["kind"] == "error"
    assert supervisor.ask("rest")["kind"] == "error"


def test_a_release_whose_asker_dies_is_the_next_one_s(keeper: Running, way: str) -> None:
    first = keeper.supervisor()
    left = leave(first, "service", "setsid")
    os.kill(keeper.pid, signal.SIGSTOP)
    first.tell("release", id="service")
    first.kill()
    os.kill(keeper.pid, signal.SIGCONT)
    second = keeper.supervisor(greeted=False)
    until(lambda: not lives(left), "the end of the rest")
    told = second.hello()
    if told[0]["kind"] == "process":
        assert until(lambda: second.ask("release", id="service")["kind"] == "released", "the release")
    assert [message["kind"] for message in second.hello()] == ["listener", "state"]


def test_at_the_keeper_s_end_all_go(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    running = leave(supervisor, "running", "setsid", "stay", "stubborn")
    ended = leave(supervisor, "ended", "setsid")
    supervisor.tell("exit", status=0)
    supervisor.end()
    _, _, errors = keeper.wait()
    assert "killing what still runs: running, ended\n" in errors
    assert not lives(running)
    assert not lives(ended)
    assert keeper.cgroup() is None


# Forks without end, each child in a session of its own; the children fork, too.
STORM = """
import os
print("on", flush=True)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
    if os.getppid() == 1:
        os._exit(0)
"""


@needs_cgroups
def test_who_forks_without_end_is_gone_at_once(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    limit = {"uid": 64998, "gid": 65534, "groups": [], "limits": [["nproc", 50, 50]]} if os.geteuid() == 0 else {}
    told = supervisor.spawn("service", "/usr/bin/python3", "-I", "-c", STORM, output="supervisor", **limit)
    assert told["kind"] == "spawned", told
    os.set_blocking(supervisor.passed[0], True)
    assert os.read(supervisor.passed[0], 10)
    os.close(supervisor.passed[0])
    supervisor.ask("signal", id="service", signal=9, scope="process")
    supervisor.ended("service")
    told = supervisor.ask("release", id="service")
    assert (told["kind"], told["left"]) == ("released", 0)
    assert not [
        process for process in psutil.process_iter(["environ"]) if (process.info["environ"] or {}).get("HERDPY_SERVICE")
        == "service" and process.ppid() == keeper.pid and lives(process)
    ]  # fmt: skip


def test_waiting_for_the_rest_wakes_nobody_up(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service", "setsid")
    assert supervisor.ask("rest", id="service")["count"] == 1

    def switches() -> int:
        lines = Path(f"/proc/{keeper.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def rests() -> bool:
        before = switches()
        select.select([], [], [], 1.0)
        return switches() == before

    # Not at once: what the beginning left to do, such as the look for orphans.
    until(rests, "a while without a wake-up", patience=15)
    left.kill()
    supervisor.expect("alone", id="service")
