"""The state directory is full, read-only, gone or slow: services are started, and survive herdpy, all the same."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from herdpy.keeper import cgroup
from tests.keeper.conftest import HAS_CGROUPS
from tests.system.test_survival import COUNTING, PATIENCE, WITHOUT_CGROUPS, Fleet, identity, lives
from tests.system.test_survival import fleet as fleet  # noqa: PLC0414 - a fixture

MOUNT = 'mount -t tmpfs -o size=64k,mode=711 none "$0" && echo mounted && exec cat'


class Disk:
    """A small file system under a herdpy's directory, which only those see who are in its mount namespace."""

    def __init__(self, herdpy: Any, path: Path) -> None:
        root = os.geteuid() == 0
        path.mkdir()
        self.path = path
        self.holder = subprocess.Popen(
            ["unshare", *(() if root else ("--map-root-user",)), "--mount", "sh", "-c", MOUNT, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "mounted\n"
        entering = () if root else ("--user", "--preserve-credentials")
        self.enter = ("nsenter", f"--target={self.holder.pid}", *entering, "--mount", "--")
        herdpy.prefix = self.enter
        self.seen = Path(f"/proc/{self.holder.pid}/root{path}")

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True, timeout=PATIENCE)

    def fill(self) -> None:
        """Let no page be left."""
        with (self.seen / "filler").open("ab", buffering=0) as file:
            while self.free():
                file.write(bytes(4096 * self.free()))

    def free(self) -> int:
        return os.statvfs(self.seen).f_bfree

    def clear(self) -> None:
        (self.seen / "filler").unlink()

    def spoil(self, how: str) -> None:
        if how == "full":
            self.fill()
        elif how == "read-only":  # for whoever opens a file from now on
            self.run("mount", "--bind", str(self.path), str(self.path))
            self.run("mount", "-o", "remount,bind,ro", str(self.path))
        elif how == "gone":
            self.run("umount", "--lazy", str(self.path))

    def mend(self, how: str) -> None:
        if how == "full":
            self.clear()
        elif how == "read-only":
            self.run("mount", "-o", "remount,bind,rw", str(self.path))

    def end(self) -> None:
        self.holder.communicate(timeout=PATIENCE)


@pytest.fixture
def disk(herdpy: Any) -> Iterator[Disk]:
    found = Disk(herdpy, herdpy.state)
    yield found
    found.end()


def cgroup_of(state: Path) -> cgroup.Cgroup:
    """The one that has the services' of a herdpy with this state directory: it is left when that is another one."""
    return cgroup.Cgroup(f"{cgroup.find()}/herdpy-{cgroup.key_of(str(state))}")


def until_it_is_noticed(fleet: Fleet, eventually: Callable[..., None]) -> None:
    """Have things noted until that fails: the last page of a file is not full yet."""

    def is_noticed() -> bool:
        fleet.herdpy.ok("disable", "before")
        fleet.herdpy.ok("enable", "before")
        return "keeper: cannot write" in fleet.herdpy.said()

    eventually(is_noticed)


WHY = {"full": r"[nN]o space left.*", "read-only": "Read-only file system", "gone": "it was removed"}


@pytest.mark.parametrize("how", ["full", "read-only", "gone"])
def test_what_is_started_meanwhile_is_known_to_who_comes_next(
    disk: Disk, fleet: Fleet, eventually: Callable[..., None], how: str
) -> None:
    """Be it the supervisor, or one that is started anew."""
    fleet.declare("before", ["sh", "-c", COUNTING], "auto-start = true")
    fleet.declare("meanwhile", ["sh", "-c", COUNTING])
    fleet.declare("disabled", ["sleep", "1000"])
    fleet.start()
    before = identity(fleet.pid("before"))
    left = cgroup_of(disk.seen)
    disk.spoil(how)
    if how == "read-only":
        fleet.kill("keeper")
    ok = fleet.herdpy.ok
    ok("start", "meanwhile")
    ok("disable", "disabled")
    meanwhile = identity(fleet.pid("meanwhile"))
    until_it_is_noticed(fleet, eventually)
    said, *_ = re.findall("keeper: cannot write .*", (fleet.herdpy.log / "herdpy.log").read_text())
    path = f"{fleet.herdpy.state}/journal"
    assert re.fullmatch(
        f"keeper: cannot write {path}: {WHY[how]}; until that is mended, it is {fleet.herdpy.socket}.journal", said
    ), said
    for which in ("keeper", "keeper+logger+supervisor", "keeper"):
        fleet.kill(which)
        assert identity(fleet.pid("before")) == before
        assert identity(fleet.pid("meanwhile")) == meanwhile
        assert not fleet.herdpy.status("disabled")["enabled"]
    disk.mend(how)
    eventually(lambda: f"keeper: can write {path} again" in fleet.herdpy.said() or how == "gone")
    fleet.kill("keeper+logger+supervisor")
    assert identity(fleet.pid("meanwhile")) == meanwhile
    assert os.listdir(fleet.herdpy.socket.parent) == ["socket"]
    for name in ("before", "meanwhile"):
        numbers = fleet.numbers(name)
        assert len(set(numbers)) >= max(numbers) - 2 * 2 * 64
    for name in ("before", "meanwhile"):
        ok("stop", name)
    assert not lives(meanwhile[0])
    if how == "gone":
        eventually(left.remove)


@pytest.fixture
def both(herdpy: Any) -> Iterator[Disk]:
    """One with the control socket on it as well."""
    found = Disk(herdpy, herdpy.directory / "disk")
    herdpy.state = found.path / "state"
    herdpy.socket = found.path / "run" / "socket"
    herdpy.environment["HERDPY_SOCKET"] = f"{found.seen}/run/socket"
    yield found
    found.end()


@pytest.mark.parametrize("has_cgroups", [True, False])
def test_neither_journal_can_be_written(
    both: Disk, fleet: Fleet, eventually: Callable[..., None], *, has_cgroups: bool
) -> None:
    """All goes on while the keeper lives. Who comes next knows what was so before; and of what was spawned meanwhile,
    what the names of cgroups tell."""
    if not has_cgroups and HAS_CGROUPS:
        fleet.herdpy.prefix = (*both.enter, "sh", "-c", WITHOUT_CGROUPS, "sh")
    has_cgroups = has_cgroups and HAS_CGROUPS
    fleet.declare("before", ["sh", "-c", COUNTING], "auto-start = true")
    fleet.declare("meanwhile", ["sleep", "1234"])
    fleet.start()
    before = identity(fleet.pid("before"))
    both.fill()
    until_it_is_noticed(fleet, eventually)
    ok = fleet.herdpy.ok
    ok("start", "meanwhile")
    meanwhile = identity(fleet.pid("meanwhile"))
    os.kill(fleet.programs()["supervisor"], signal.SIGKILL)
    assert identity(fleet.pid("meanwhile")) == meanwhile
    fleet.kill("keeper")
    assert identity(fleet.pid("before")) == before
    assert lives(meanwhile[0])
    if has_cgroups:
        assert identity(fleet.pid("meanwhile")) == meanwhile
    both.clear()
    eventually(lambda: f"keeper: can write {fleet.herdpy.state}/journal again" in fleet.herdpy.said())
    fleet.kill("keeper+logger+supervisor")
    assert identity(fleet.pid("before")) == before
    if has_cgroups:
        assert identity(fleet.pid("meanwhile")) == meanwhile
        ok("stop", "meanwhile")
        assert not lives(meanwhile[0])
    else:
        assert fleet.herdpy.status("meanwhile")["status"] == "stopped"
        named = re.findall("keeper: left alone, .*: PID ([0-9, ]*); if", fleet.herdpy.said())[-1]
        assert str(meanwhile[0]) in named.split(", ")
        os.kill(meanwhile[0], signal.SIGKILL)


def test_one_that_is_removed_is_made_anew_and_still_nobody_s_else(
    fleet: Fleet, eventually: Callable[..., None]
) -> None:
    """As by ``rm -r``; a second herdpy finds the lock of the first again."""
    fleet.declare("service", ["sleep", "1000"], "auto-start = true")
    fleet.start()
    service = identity(fleet.pid("service"))
    left = cgroup_of(fleet.herdpy.state)
    shutil.rmtree(fleet.herdpy.state)
    fleet.herdpy.ok("disable", "service")
    eventually(lambda: f"keeper: can write {fleet.herdpy.state}/journal again" in fleet.herdpy.said())
    second = subprocess.run(
        [*fleet.herdpy.command(), f"--socket={fleet.herdpy.directory}/other"],
        capture_output=True,
        text=True,
        env=fleet.herdpy.environment,
        timeout=PATIENCE,
    )
    assert second.returncode == 1
    assert f"another herdpy runs in {fleet.herdpy.state}: PID {fleet.keeper};" in second.stderr
    fleet.kill("keeper+logger+supervisor")
    assert identity(fleet.pid("service")) == service
    assert not fleet.herdpy.status("service")["enabled"]
    fleet.herdpy.ok("stop", "service")
    eventually(left.remove)


@contextmanager
def traced(*options: str, pids: tuple[int, ...], end: int = signal.SIGINT) -> Iterator[None]:
    """Have these under strace(1), for a while.

    Args:
        end: what strace is ended with. For SIGINT it stops each of them, which does not work with one that waits for
            the child of its vfork, while strace delays that child.
    """
    strace = subprocess.Popen(
        ["strace", "-f", "-qq", *options, *(f"--attach={pid}" for pid in pids)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for pid in pids:
            while f"TracerPid:\t{strace.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
                assert strace.poll() is None
        yield
    finally:
        strace.send_signal(end)
        strace.wait(PATIENCE)


def test_neither_keeper_nor_supervisor_waits_for_a_disk(fleet: Fleet, tmp_path: Path) -> None:
    """What is to outlast the machine is synced by a thread of its own."""
    fleet.declare("service", ["sleep", "1000"])
    fleet.start()
    programs = fleet.programs()
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync"
    with traced("-e", calls, "-e", "signal=none", "-o", str(trace), pids=tuple(programs.values())):
        for action in ("start", "restart", "stop", "disable", "enable"):
            fleet.herdpy.ok(action, "service")
        fleet.declare("other", ["sleep", "1000"], "auto-start = true")
        fleet.herdpy.ok("reload", "root")
        fleet.pid("other")
    who = [int(line.split()[0]) for line in trace.read_text().splitlines() if "sync(" in line]
    assert who  # the plan is kept
    assert programs["supervisor"] not in who
    assert programs["keeper"] not in who
    assert programs["logger"] not in who


@pytest.mark.parametrize("program", ["keeper", "logger"])
def test_whoever_asks_is_answered_while_writes_take_long(
    fleet: Fleet, eventually: Callable[..., None], program: str
) -> None:
    fleet.declare("service", ["sh", "-c", COUNTING], "auto-start = true")
    fleet.declare("other", ["sleep", "1000"])
    fleet.start()
    fleet.pid("service")
    with traced("-e", "inject=write:delay_enter=3000000", pids=(fleet.programs()[program],)):
        starting = fleet.herdpy.herd_in_background("start", "other")
        eventually(lambda: fleet.herdpy.status("other")["status"] != "stopped")
        begin = time.monotonic()
        for _ in range(10):
            fleet.herdpy.ok("status", "service")
        assert time.monotonic() - begin < 3 * 10 - 3  # a busy machine, but not a write waited for each time
    assert starting.wait(PATIENCE) == 0
    assert fleet.herdpy.status("other")["status"] == "running"
