"""A daemon that a service's first process forked becomes the one that is held."""

import os
import signal
import sys
from typing import Any

import psutil
import pytest
import trio

from herdpy.supervisor.line import KeeperLine, Refused
from herdpy.supervisor.words import end_in_words
from tests.keeper.conftest import ENVIRONMENT, Running, Supervisor
from tests.keeper.test_family import WAYS, leave, lives, write_protected
from tests.waiting import until


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, keeper: Running) -> str:
    """A keeper has begun, with cgroups or without."""
    keeper.begin(prefix=write_protected() if request.param == "proc" else ())
    return str(request.param)


def started(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def test_a_daemon_is_held_from_now_on(keeper: Running, way: str) -> None:
    first = keeper.supervisor()
    daemon = leave(first, "service", "setsid")
    parent = next(child.pid for child in keeper.children() if child.status() == "zombie")
    told = first.ask("adopt", id="service", pid=daemon.pid)
    assert told == {
        "kind": "adopted",
        "serial": first.serial,
        "id": "service",
        "pid": daemon.pid,
        "start_time": started(daemon.pid),
    }
    until(lambda: not psutil.pid_exists(parent), "its parent is reaped")
    assert first.ask("adopt", id="service", pid=daemon.pid)["kind"] == "adopted"
    assert "still runs" in first.ask("release", id="service")["message"]
    first.kill()
    second = keeper.supervisor(greeted=False)
    process = second.hello()[0]
    assert (process["pid"], process["start_time"]) == (daemon.pid, started(daemon.pid))
    assert (process["exited"], process["drained"]) == (None, False)
    assert second.ask("signal", id="service", signal=15, scope="group")["delivered"] is True
    assert second.ended("service") == {"killed": 15, "core": False}
    assert psutil.Process(daemon.pid).status() == psutil.STATUS_ZOMBIE
    assert second.ask("release", id="service") == {
        "kind": "released",
        "serial": second.serial,
        "id": "service",
        "left": 0,
    }
    assert not psutil.pid_exists(daemon.pid)


@pytest.mark.parametrize("scope", ["process", "group", "all"])
def test_a_child_of_the_first_process_tells_its_end_by_its_pidfd(keeper: Running, way: str, scope: str) -> None:
    """Its parent lives on, and reaps it or not: what the kernel tells is told, else that it is unknown."""
    supervisor = keeper.supervisor()
    script = "import os, time\npid = os.fork()\nif not pid: os.setsid(); time.sleep(1000)\nprint(pid, flush=True)\n"
    supervisor.spawn("service", sys.executable, "-I", "-c", script + "time.sleep(1000)", output="supervisor")
    os.set_blocking(supervisor.passed[0], True)
    daemon = psutil.Process(int(os.read(supervisor.passed[0], 20)))
    os.close(supervisor.passed[0])
    parent = daemon.ppid()
    until(lambda: os.getsid(daemon.pid) == daemon.pid, "its session")
    assert supervisor.ask("adopt", id="service", pid=daemon.pid)["kind"] == "adopted"
    assert supervisor.ask("signal", id="service", signal=15, scope=scope)["delivered"] is True
    assert supervisor.ended("service") == {"killed": 15, "core": False}
    if scope != "all":
        assert supervisor.ask("rest", id="service")["count"] == 1
        assert lives(psutil.Process(parent))
    assert supervisor.ask("release", id="service")["left"] == 0
    until(lambda: not psutil.pid_exists(parent), "the first process is killed and reaped")


def test_what_its_parent_has_reaped_is_known_or_said_to_be_unknown(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    supervisor.spawn("service", "sh", "-c", "sh -c 'trap \"exit 7\" TERM; echo $$; while :; do sleep 0.01; done'; sleep 1000", output="supervisor")  # fmt: skip  # noqa: E501
    os.set_blocking(supervisor.passed[0], True)
    daemon = int(os.read(supervisor.passed[0], 20))
    os.close(supervisor.passed[0])
    assert supervisor.ask("adopt", id="service", pid=daemon)["kind"] == "adopted"
    supervisor.ask("signal", id="service", signal=15, scope="process")
    status: Any = supervisor.ended("service")
    assert status in ({"exited": 7}, {"unknown": True})
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15):
        assert status == {"exited": 7}


def test_the_last_lines_of_an_adopted_one_are_waited_for(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    logger = keeper.logger()
    ready = keeper.place / "ready"
    script = f"(trap 'seq 2000; echo last; exit 0' TERM; >{ready}; while :; do sleep 0.01; done) & echo first"
    os.kill(logger, signal.SIGSTOP)  # so that what is asked of it for the first one is still unanswered
    supervisor.spawn("service", "sh", "-c", script, output={"log": str(log)})
    supervisor.expect("exited", id="service")
    until(ready.exists, "it is ready for the signal")
    (daemon,) = (child for child in keeper.children() if lives(child) and child.cmdline()[:1] == ["sh"])
    assert supervisor.ask("adopt", id="service", pid=daemon.pid)["kind"] == "adopted"
    supervisor.ask("signal", id="service", signal=15, scope="process")
    supervisor.expect("exited", id="service")
    os.kill(logger, signal.SIGCONT)
    supervisor.expect("drained", id="service")
    assert log.read_text().endswith(" last\n")
    assert supervisor.ask("release", id="service")["kind"] == "released"


def test_who_may_not_be_adopted(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    daemon = leave(supervisor, "service", "setsid")
    other = leave(supervisor, "other", "setsid")
    main = supervisor.spawn("main", "sleep", "1000")["pid"]

    def why(pid: Any, name: str = "service") -> str:
        told = supervisor.ask("adopt", id=name, pid=pid)
        assert told["kind"] == "error", told
        return str(told["message"])

    dead = leave(supervisor, "dead", "setsid")
    dead.kill()
    until(lambda: not psutil.pid_exists(dead.pid), "its end")
    assert why(dead.pid) == f"adopt: there is no process {dead.pid} (No such process)"
    parent = next(child.pid for child in keeper.children() if child.status() == "zombie")
    assert why(parent) == f"adopt: process {parent} has ended"
    for pid in (1, os.getpid(), keeper.pid, supervisor.pid, keeper.logger(), main, other.pid):
        assert why(pid) == f"adopt: process {pid} ({psutil.Process(pid).name()}) is not one of the service's"
    assert "pid must be a number from 1" in why(0)
    assert "pid must be a number from 1" in why(-5)
    assert "pid must be a number from 1" in why(2**40)
    assert "pid must be a number from 1" in why("1")
    assert "no process 'nobody'" in why(daemon.pid, "nobody")
    assert supervisor.ask("adopt", pid=daemon.pid)["kind"] == "error"
    assert lives(daemon)
    assert lives(other)
    assert supervisor.ask("adopt", id="service", pid=daemon.pid)["kind"] == "adopted"


def test_no_descriptor_is_left_of_what_was_refused_or_adopted(keeper: Running, way: str) -> None:
    supervisor = keeper.supervisor()
    keeper.logger()
    daemon = leave(supervisor, "service", "setsid")
    supervisor.ask("rest", id="service")
    before = len(os.listdir(f"/proc/{keeper.pid}/fd"))
    for _ in range(10):
        supervisor.ask("adopt", id="service", pid=os.getpid())
    assert len(os.listdir(f"/proc/{keeper.pid}/fd")) == before
    supervisor.ask("adopt", id="service", pid=daemon.pid)
    daemon.kill()
    supervisor.ended("service")
    supervisor.ask("release", id="service")
    assert len(os.listdir(f"/proc/{keeper.pid}/fd")) < before


async def test_the_supervisor_s_end(supervisor: Supervisor, keeper: Running) -> None:
    line = KeeperLine(os.dup(supervisor.line.fileno()), lambda number: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.run)
        held, _ = await line.spawn("a:main:0:1", ["sh", "-c", "setsid sleep 1000 & exit 4"], ENVIRONMENT, "/", "null")
        first = held.pid
        with trio.fail_after(60):
            await held.exited.wait()
        assert held.status == {"exited": 4}
        (daemon,) = (child for child in keeper.children() if lives(child) and child.pid not in (supervisor.pid, keeper.logger()))  # fmt: skip  # noqa: E501
        assert await line.rest(held) == 1
        with pytest.raises(Refused, match=r"\) is not one of the service's"):
            await line.adopt(held, os.getpid())
        await line.adopt(held, daemon.pid)
        assert (held.pid, held.status) == (daemon.pid, None)
        assert held.pid != first
        assert not held.exited.is_set()
        assert not held.drained.is_set()
        with pytest.raises(Refused, match="still runs"):
            await line.rest(held)
        await line.signal(held, 15, "all")
        with trio.fail_after(60):
            await held.exited.wait()
            await held.drained.wait()
        assert end_in_words(held.status or {}) == "was killed by SIGTERM"
        assert await line.rest(held) == 0
        assert await line.release(held) == 0
        # Who is left behind, and is told to go.
        held, _ = await line.spawn("b:main:0:2", ["sh", "-c", "setsid sleep 1000 & exit 4"], ENVIRONMENT, "/", "null")
        with trio.fail_after(60):
            await held.exited.wait()
            assert await line.rest(held) == 1
            assert not held.alone.is_set()
            await line.signal(held, 15, "all")
            await held.alone.wait()
        assert await line.release(held) == 0
        nursery.cancel_scope.cancel()


async def test_who_waits_for_the_end_waits_for_the_adopted_one_s(supervisor: Supervisor, keeper: Running) -> None:
    line = KeeperLine(os.dup(supervisor.line.fileno()), lambda number: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.run)
        held, _ = await line.spawn("a:main:0:1", ["sh", "-c", "sleep 1000 & wait"], ENVIRONMENT, "/", "null")
        await trio.to_thread.run_sync(lambda: until(psutil.Process(held.pid).children, "its child"))
        (daemon,) = psutil.Process(held.pid).children()
        exited = held.exited
        await line.adopt(held, daemon.pid)
        assert held.exited is exited
        daemon.kill()
        with trio.fail_after(60):
            await exited.wait()
        assert held.status == {"killed": 9, "core": False}
        await line.release(held)
        nursery.cancel_scope.cancel()


def test_an_unknown_end_has_words() -> None:
    assert end_in_words({"unknown": True}) == "ended, nobody knows how"
