"""PID 1 of a PID namespace: gives the PIDs of what a killed herdpy has left to strangers, and sees what the next one
does to them. Run by tests/system/test_reused_pids.py, with an empty directory as its argument.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import Herdpy, wait_until

SERVICES = ("service", "other", "daemon")
"""The last one forks, and is known by its PID file."""
MAX = "/proc/sys/kernel/pid_max"
"""Of this namespace since Linux 6.14, of the whole host before, where it is left alone."""
FEW = 450
"""PIDs that there are then."""
FIRST = 300
"""Those below are not given again (kernel/pid.c, RESERVED_PIDS)."""
LAST = "/proc/sys/kernel/ns_last_pid"
"""The number after which the kernel looks for a free one, of this namespace (proc(5))."""
A_WHILE = 5
"""Seconds."""


def end(pids: Iterable[int]) -> None:
    """Kill these at once, and have them gone: they are ours, or orphans that came to us."""
    pids = tuple(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: reap() or not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def reap() -> None:
    """Let nobody stay a zombie."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def stranger(pid: int) -> int:
    """Return the PID of a process that has this one, and is none of herdpy's."""
    for _ in range(4 * FEW):
        if not has_few_pids():
            with open(LAST, "w", encoding="ascii") as file:
                file.write(str(pid - 1))
        given = os.fork()
        if not given:
            if os.getpid() == pid:
                os.setsid()
                os.execvp("sleep", ["sleep", "2000"])
            os._exit(0)
        if given == pid:
            wait_until(lambda: lives(pid))
            return pid
        os.waitpid(given, 0)
    raise AssertionError(f"nobody is given the number {pid}")


def has_few_pids() -> bool:
    """Whether the kernel lets a namespace have a limit of its own."""
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 14)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x002000")


def programs(herdpy: Herdpy) -> dict[str, int]:
    assert herdpy.process is not None
    (logger,) = herdpy.children("logger/__main__.py")
    return {"keeper": herdpy.process.pid, "supervisor": herdpy.supervisor(), "logger": logger}


def all_are_killed(herdpy: Herdpy) -> None:
    """Everyone's number is a stranger's when herdpy is started again."""
    before = {**programs(herdpy), **{name: herdpy.status(name)["pid"] for name in SERVICES}}
    end(before.values())
    strangers = {name: stranger(pid) for name, pid in before.items()}
    herdpy.start()
    check(herdpy, before)
    herdpy.ok("stop", "root")
    assert all(map(lives, before.values())), "after the end"
    end(strangers.values())
    herdpy.start()


def keeper_is_killed(herdpy: Herdpy) -> None:
    """The supervisor, which becomes the keeper, finds strangers where services were."""
    told = programs(herdpy)
    before = {name: herdpy.status(name)["pid"] for name in SERVICES}
    os.kill(told["supervisor"], signal.SIGSTOP)
    end([told["keeper"], *before.values()])
    strangers = [stranger(pid) for pid in before.values()]
    os.kill(told["supervisor"], signal.SIGCONT)
    check(herdpy, before)
    herdpy.ok("stop", "root")
    assert all(map(lives, before.values())), "after the end"
    end(strangers)


def check(herdpy: Herdpy, before: dict[str, int]) -> None:
    """Services run anew, are stopped, and no stranger notices."""
    for name in SERVICES:
        wait_until(lambda name=name: herdpy.status(name)["pid"] not in (None, before[name]))
        assert "nobody knows how" in herdpy.said(), herdpy.said()
        herdpy.ok("stop", name)
    assert all(map(lives, before.values())), herdpy.said()


def main(directory: Path) -> None:
    herdpy = Herdpy(directory)
    if has_few_pids():
        with open(MAX, "w", encoding="ascii") as file:
            file.write(str(FEW))
        for _ in range(FIRST):
            if not (pid := os.fork()):
                os._exit(0)
            os.waitpid(pid, 0)
    for name in SERVICES[:-1]:
        herdpy.declare(name, 'command = ["sleep", "1000"]\nauto-start = true')
    forks = f"sleep 1000 & echo $! >{directory}/daemon.new; mv {directory}/daemon.new {directory}/daemon"
    ready = f"[ready]\npid-file = {json.dumps(f'{directory}/daemon')}"
    herdpy.declare("daemon", f"command = {json.dumps(['sh', '-c', forks])}\nauto-start = true\n{ready}")
    herdpy.start()
    for scenario in (all_are_killed, keeper_is_killed):
        for name in SERVICES:
            wait_until(lambda name=name: herdpy.status(name)["status"] == "running")
        # As of a daemon that ran for a while: a process that is a second younger than the file may have written it.
        os.utime(directory / "daemon", (time.time() - A_WHILE,) * 2)
        scenario(herdpy)


main(Path(sys.argv[1]))
