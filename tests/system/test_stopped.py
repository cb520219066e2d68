"""Somebody stops a process (SIGSTOP): a service, one of herdpy's programs, a client. The others go on."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COUNTING = ["sh", "-c", "i=0; while :; do echo $((i += 1)); sleep 0.02; done"]
PATIENCE = 60


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Have these stand still, for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def declare(herdpy: Any, name: str, command: list[str], *lines: str) -> None:
    herdpy.declare(name, "\n".join([f"command = {json.dumps(command)}", *lines]))


def numbers(herdpy: Any, name: str) -> list[int]:
    """What it has counted, as its log has it."""
    path = herdpy.log / f"{name}.log"
    return [int(line.split()[2]) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_service_that_stands_still_is_stopped_all_the_same(herdpy: Any, eventually: Callable[..., None]) -> None:
    declare(herdpy, "still", COUNTING, "grace-period = 0.5")
    declare(herdpy, "other", COUNTING)
    herdpy.start()
    for name in ("still", "other"):
        herdpy.ok("start", name)
    pid = herdpy.status("still")["pid"]
    os.kill(pid, signal.SIGSTOP)
    seen = len(numbers(herdpy, "other"))
    eventually(lambda: len(numbers(herdpy, "other")) > seen + 5)
    assert herdpy.status("still")["status"] == "running"
    herdpy.ok("stop", "still")
    assert not os.path.exists(f"/proc/{pid}")
    assert "grace-period-over service=still" in herdpy.said()


def test_a_keeper_that_stands_still(herdpy: Any, eventually: Callable[..., None]) -> None:
    """Nothing can be started; how things are is told, and that it does not answer."""
    declare(herdpy, "counting", COUNTING)
    declare(herdpy, "other", ["sleep", "1000"])
    herdpy.start()
    herdpy.ok("start", "counting")
    pid = herdpy.status("counting")["pid"]
    keeper = herdpy.process.pid
    with stopped(keeper):
        starting = herdpy.herd_in_background("start", "other")
        eventually(lambda: herdpy.status("other")["status"] == "starting")
        seen = len(numbers(herdpy, "counting"))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "has not answered" in herdpy.ok("status"))
        assert herdpy.ok("status").startswith(f"The keeper (PID {keeper}) has not answered for 1")
        assert starting.poll() is None
    assert starting.wait(PATIENCE) == 0
    eventually(lambda: herdpy.status("counting")["pid"] not in (None, pid))
    eventually(lambda: len(numbers(herdpy, "counting")) > seen)
    assert "has not answered" not in herdpy.ok("status")
    assert herdpy.said().count("keeper-silent request=") >= 1


def test_a_supervisor_that_stands_still(herdpy: Any, eventually: Callable[..., None]) -> None:
    """Services run, and write; whoever asks waits, and is answered in the end; what has ended is respawned then."""
    for name in ("counting", "other"):
        declare(herdpy, name, COUNTING)
    herdpy.start()
    for name in ("counting", "other"):
        herdpy.ok("start", name)
    other = herdpy.status("other")["pid"]
    with stopped(herdpy.supervisor()):
        asking = herdpy.herd_in_background("status", "other")
        os.kill(other, signal.SIGKILL)
        seen = len(numbers(herdpy, "counting"))
        eventually(lambda: len(numbers(herdpy, "counting")) > seen + 20)
        assert asking.poll() is None
    assert asking.wait(PATIENCE) == 0
    eventually(lambda: herdpy.status("other")["pid"] not in (None, other))
    counted = numbers(herdpy, "counting")
    assert counted == list(range(1, len(counted) + 1))


def test_a_logger_that_stands_still(herdpy: Any, eventually: Callable[..., None], tmp_path: Any) -> None:
    """Lines wait in their pipes; services are started and stopped meanwhile."""
    for name in ("counting", "other"):
        declare(herdpy, name, COUNTING)
    flood = ["sh", "-c", f"seq 1 30000; : > {tmp_path}/written; sleep 1000"]
    declare(herdpy, "flood", flood)
    herdpy.start()
    for name in ("counting", "other"):
        herdpy.ok("start", name)
    (logger,) = herdpy.children("logger/__main__.py")
    with stopped(logger):
        herdpy.ok("start", "flood")
        herdpy.ok("restart", "other")
        herdpy.ok("stop", "other")
        assert not (tmp_path / "written").exists()  # a pipe takes 64 KiB
    eventually((tmp_path / "written").exists)
    for name in ("counting", "other", "flood"):
        herdpy.herd("stop", name)
    eventually(lambda: len(numbers(herdpy, "flood")) == 30000)
    for name in ("counting", "flood"):
        counted = numbers(herdpy, name)
        assert counted == list(range(1, len(counted) + 1))


def test_all_of_herdpy_stands_still(herdpy: Any, eventually: Callable[..., None]) -> None:
    declare(herdpy, "counting", COUNTING)
    herdpy.start()
    herdpy.ok("start", "counting")
    pid = herdpy.status("counting")["pid"]
    (logger,) = herdpy.children("logger/__main__.py")
    supervisor = herdpy.supervisor()
    with stopped(herdpy.process.pid, supervisor, logger):
        asking = herdpy.herd_in_background("restart", "counting")
    assert asking.wait(PATIENCE) == 0
    assert herdpy.status("counting")["pid"] != pid
    assert herdpy.supervisor() == supervisor


def test_clients_that_stand_still(herdpy: Any, tmp_path: Any) -> None:
    """One that has sent half of what it asks, and some that do not read what they asked for."""
    for number in range(100):
        declare(herdpy, f"s{number}", ["true"], f'documentation = "{"x" * 3000}"')
    herdpy.start()
    idle = [socket.socket(socket.AF_UNIX) for _ in range(9)]
    for client in idle:
        client.connect(str(herdpy.socket))
    idle[0].send(b"(shepherd-command (version 0) (action stat")
    for client in idle[1:]:
        client.send(b'(shepherd-command (version 0) (action status) (service root) (arguments ()) (directory "/"))')
    reading = subprocess.Popen(
        [str(Path(herdpy.command()[0]).with_name("herd")), "events", "--follow"],
        env=herdpy.environment,
        stdout=subprocess.PIPE,
    )
    with stopped(reading.pid):
        for _ in range(50):
            herdpy.herd("enable", "s1")
            assert herdpy.status("s1")["status"] == "stopped"
    reading.kill()
    reading.communicate()
    for client in idle:
        client.close()
