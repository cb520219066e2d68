"""The host has no more descriptors, processes or memory: what was asked for fails with a reason, and nothing dies."""

import errno
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.keeper.conftest import HAS_CGROUPS
from tests.system.test_ordinary_user import BECOME_NOBODY, NOBODY

PATIENCE = 60
FEW = ["respawn-delay = 0.1", "respawn-limit = 1000"]


@contextmanager
def limited(pid: int, kind: int, most: int) -> Iterator[None]:
    """A process's limit (prlimit(2)), for a while."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


@contextmanager
def one_process(herdpy: Any) -> Iterator[None]:
    """The limit on a herdpy's user's processes, for a while; set as that user: root may lack the right."""
    set_limit = [*herdpy.prefix, "prlimit", "--pid", str(herdpy.process.pid)]
    subprocess.run([*set_limit, "--nproc=1:"], check=True)
    try:
        yield
    finally:
        subprocess.run([*set_limit, f"--nproc={resource.getrlimit(resource.RLIMIT_NPROC)[1]}:"], check=True)


def declare(herdpy: Any, name: str, *lines: str, command: list[str] | None = None) -> None:
    herdpy.declare(name, "\n".join([f"command = {json.dumps(command or ['sleep', '1000'])}", *lines]))


def refuses(herdpy: Any, name: str, why: str) -> None:
    """A start fails, and says so."""
    refused = herdpy.herd("start", name)
    assert refused.returncode == 1
    assert refused.stdout.startswith(f"cannot start {name}: {why}"), refused.stdout


@contextmanager
def fails(pid: int, calls: str, error: str) -> Iterator[None]:
    """A process's system calls of these names fail, for a while (strace(1))."""
    strace = subprocess.Popen(
        ["strace", "-qq", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        status = Path(f"/proc/{pid}/status")
        while f"TracerPid:\t{strace.pid}\n" not in status.read_text():
            assert strace.poll() is None, strace.communicate()[1]
        yield
    finally:
        strace.terminate()
        strace.communicate()


def test_a_keeper_without_descriptors(herdpy: Any, eventually: Callable[..., None]) -> None:
    for name in ("old", "new"):
        declare(herdpy, name, *FEW)
    herdpy.start()
    herdpy.ok("start", "old")
    old = herdpy.status("old")["pid"]
    keeper = herdpy.process.pid
    with limited(keeper, resource.RLIMIT_NOFILE, 3):
        refuses(herdpy, "new", "there is no output pipe for sleep: Too many open files; raise the limit on open files")
        os.kill(old, signal.SIGKILL)
        eventually(lambda: len(herdpy.status("old")["last-respawns"]) > 2)
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        eventually(lambda: "keeper: cannot start the supervisor: Too many open files" in herdpy.said())
        client = herdpy.herd_in_background("status")
    assert client.wait(PATIENCE) == 0
    herdpy.ok("start", "new")
    eventually(lambda: herdpy.status("old")["pid"] not in (None, old))
    assert herdpy.said().count("Traceback") == 0, herdpy.said()


def test_a_supervisor_that_never_had_any_to_spare(herdpy: Any, eventually: Callable[..., None]) -> None:
    """What it imports once everything runs, or after a while, has to be read from files."""
    herdpy.declare("slow", 'command = ["sleep", "1000"]\nauto-start = true\nready.log-line = "never"\n')
    herdpy.start()
    supervisor = herdpy.supervisor()
    with limited(supervisor, resource.RLIMIT_NOFILE, 3):
        eventually(lambda: "put-off" in herdpy.said())
        assert herdpy.supervisor() == supervisor
    (herdpy.services / "new.toml").write_text('command = ["sleep", "1000"]\nauto-start = true\n')
    eventually(lambda: herdpy.herd("status", "new").returncode == 0)  # the directory is watched after all
    assert herdpy.supervisor() == supervisor
    assert "Traceback" not in herdpy.said()


def test_a_supervisor_without_descriptors(herdpy: Any, eventually: Callable[..., None]) -> None:
    declare(herdpy, "service", *FEW)
    herdpy.start()
    supervisor = herdpy.supervisor()
    herdpy.ok("start", "service")
    pid = herdpy.status("service")["pid"]
    with limited(supervisor, resource.RLIMIT_NOFILE, 3):
        client = herdpy.herd_in_background("status", "service")
        eventually(lambda: "connections-wait" in herdpy.said())
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: herdpy.said().count("service-started service=service") >= 4)  # in two files
        assert client.poll() is None
    assert client.wait(PATIENCE) == 0
    assert herdpy.status("service")["pid"] != pid
    assert (herdpy.log / "herdpy.log").read_text().count("connections-wait") == 1
    assert herdpy.supervisor() == supervisor


def test_a_logger_without_descriptors(herdpy: Any, eventually: Callable[..., None]) -> None:
    for name in ("old", "new"):
        declare(herdpy, name, *FEW, command=["sh", "-c", "i=0; while :; do echo $((i += 1)); sleep 0.02; done"])
    herdpy.start()
    herdpy.ok("start", "old")
    (logger,) = herdpy.children("logger/__main__.py")
    log = herdpy.log / "old.log"
    eventually(log.exists)
    with limited(logger, resource.RLIMIT_NOFILE, 3):
        herdpy.ok("start", "new")
        eventually(lambda: "the logger has no descriptor left for what goes to" in herdpy.said())
        size = log.stat().st_size
        eventually(lambda: log.stat().st_size > size)
    eventually((herdpy.log / "new.log").exists)
    assert (herdpy.log / "new.log").read_text().split()[2] == "1"


@pytest.mark.parametrize("error", ["ENOMEM", "EAGAIN"])
def test_forks_that_fail(herdpy: Any, eventually: Callable[..., None], error: str) -> None:
    """The kernel has no memory for a process, or no number: by vfork, and where it takes a fork."""
    declare(herdpy, "old", *FEW)
    declare(herdpy, "new", *FEW)
    declare(herdpy, "fork", *FEW, "nice = 3")
    herdpy.start()
    herdpy.ok("start", "old")
    old = herdpy.status("old")["pid"]
    with fails(herdpy.process.pid, "clone,clone3,vfork,fork", error):
        for name in ("new", "fork"):
            # By vfork, the kernel's lack of memory may have been the exec's.
            is_unclear = error == "ENOMEM" and name == "new" and not HAS_CGROUPS
            what = "sleep cannot be executed" if is_unclear else "there is no process for sleep"
            refuses(herdpy, name, f"{what}: {os.strerror(getattr(errno, error))}")
        os.kill(old, signal.SIGKILL)
        eventually(lambda: len(herdpy.status("old")["last-respawns"]) > 2)
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        eventually(lambda: "keeper: cannot start the supervisor: " in herdpy.said())
    for name in ("new", "fork"):
        herdpy.ok("start", name)
    eventually(lambda: herdpy.status("old")["pid"] not in (None, old))
    assert herdpy.said().count("Traceback") == 0, herdpy.said()


def test_an_ordinary_user_with_too_many_processes(herdpy: Any, eventually: Callable[..., None], tmp_path: Path) -> None:
    """The kernel counts all that the user runs; root is exempt (setrlimit(2), RLIMIT_NPROC)."""
    if os.geteuid() == 0:
        for path in (tmp_path, herdpy.services):
            os.chown(path, NOBODY, NOBODY)
        herdpy.prefix = BECOME_NOBODY
    declare(herdpy, "service", *FEW)
    herdpy.start()
    with one_process(herdpy):
        why = "there is no process for sleep: Resource temporarily unavailable; too many processes: see ulimit -u"
        refuses(herdpy, "service", why)
    herdpy.ok("start", "service")


@pytest.fixture
def box() -> Iterator[Path]:
    """A cgroup that counts processes and threads, of whichever version; to be entered, and to be limited."""
    for above in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        directory = above / f"herdpy-test-{os.getpid()}"
        with suppress(OSError):
            directory.mkdir()
        if (directory / "pids.max").exists():
            break
    else:
        pytest.skip("no cgroup counts processes here")
    yield directory
    for path in sorted((path.parent for path in directory.rglob("pids.max")), reverse=True):
        path.rmdir()


@contextmanager
def full(box: Path) -> Iterator[None]:
    """Nobody in a cgroup can have another process, or thread, for a while."""
    (box / "pids.max").write_text("0")
    try:
        yield
    finally:
        (box / "pids.max").write_text("max")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make cgroups there")
def test_a_cgroup_that_is_full(box: Path, herdpy: Any, eventually: Callable[..., None]) -> None:
    """Neither the keeper has a process, nor the supervisor a thread more (pids.max)."""
    for name in ("old", "new"):
        declare(herdpy, name, *FEW)
    herdpy.prefix = ("sh", "-c", f'echo 0 >{box}/cgroup.procs && exec "$@"', "sh")
    herdpy.start()
    herdpy.ok("start", "old")
    old = herdpy.status("old")["pid"]
    supervisor = herdpy.supervisor()
    threads = Path(f"/proc/{supervisor}/task")
    eventually(lambda: len(list(threads.iterdir())) == 1)  # those that are idle end after a while
    with full(box):
        refuses(herdpy, "new", "there is no process for sleep: Resource temporarily unavailable")
        os.kill(old, signal.SIGKILL)
        eventually(lambda: len(herdpy.status("old")["last-respawns"]) > 2)
        declare(herdpy, "new", *FEW, command=["sleep", "999"])
        reload = herdpy.herd_in_background("reload", "root")
        eventually(lambda: "no-thread reason=" in herdpy.said())
        assert herdpy.status("new")["status"] == "stopped"
    assert reload.wait(PATIENCE) == 0
    herdpy.ok("start", "new")
    assert herdpy.status("new")["command"] == ["sleep", "999"]
    eventually(lambda: herdpy.status("old")["pid"] not in (None, old))
    assert herdpy.supervisor() == supervisor
    assert herdpy.said().count("Traceback") == 0, herdpy.said()
