"""PID 1 of a PID namespace: gives the PIDs of what a killed herdpy has left to strangers, and sees what the next one
does to them. Run by tests/system/test_reused_pids.py, with an empty directory as its argument.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import Herdpy, wait_until

LAST = "/proc/sys/kernel/ns_last_pid"
"""The number after which the kernel looks for a free one, of this namespace (proc(5))."""


def end(pids: Iterable[int]) -> None:
    """Kill these at once, and have them gone: they are ours, or orphans that came to us."""
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


def stranger(pid: int) -> "subprocess.Popen[bytes]":
    """A process of this PID that is none of herdpy's."""
    with open(LAST, "w", encoding="ascii") as file:
        file.write(str(pid - 1))
    taking = subprocess.Popen(["sleep", "2000"], start_new_session=True)
    assert taking.pid == pid, (taking.pid, pid)
    return taking


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x002000")


def programs(herdpy: Herdpy) -> dict[str, int]:
    assert herdpy.process is not None
    (logger,) = herdpy.children("logger/__main__.py")
    return {"keeper": herdpy.process.pid, "supervisor": herdpy.supervisor(), "logger": logger}


def all_are_killed(herdpy: Herdpy) -> None:
    """Everyone's number is a stranger's when herdpy is started again."""
    before = {**programs(herdpy), **{name: herdpy.status(name)["pid"] for name in ("service", "other")}}
    end(before.values())
    strangers = {name: stranger(pid) for name, pid in before.items()}
    herdpy.start()
    check(herdpy, before)
    herdpy.ok("stop", "root")
    assert all(map(lives, before.values())), "after the end"
    end([one.pid for one in strangers.values()])
    herdpy.start()


def keeper_is_killed(herdpy: Herdpy) -> None:
    """The supervisor, which becomes the keeper, finds strangers where services were."""
    told = programs(herdpy)
    before = {name: herdpy.status(name)["pid"] for name in ("service", "other")}
    os.kill(told["supervisor"], signal.SIGSTOP)
    end([told["keeper"], *before.values()])
    strangers = [stranger(pid) for pid in before.values()]
    os.kill(told["supervisor"], signal.SIGCONT)
    check(herdpy, before)
    herdpy.ok("stop", "root")
    assert all(map(lives, before.values())), "after the end"
    end([one.pid for one in strangers])


def check(herdpy: Herdpy, before: dict[str, int]) -> None:
    """Services run anew, are stopped, and no stranger notices."""
    for name in ("service", "other"):
        wait_until(lambda name=name: herdpy.status(name)["pid"] not in (None, before[name]))
        assert "nobody knows how" in herdpy.said(), herdpy.said()
        herdpy.ok("stop", name)
    assert all(map(lives, before.values())), herdpy.said()


def main(directory: Path) -> None:
    herdpy = Herdpy(directory)
    for name in ("service", "other"):
        herdpy.declare(name, 'command = ["sleep", "1000"]\nauto-start = true')
    herdpy.start()
    for scenario in (all_are_killed, keeper_is_killed):
        for name in ("service", "other"):
            wait_until(lambda name=name: herdpy.status(name)["pid"])
        scenario(herdpy)


main(Path(sys.argv[1]))
