"""A herdpy of the test's own: the installed programs, in directories of its own, ended with the test."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from herdpy.keeper import cgroup
from tests.waiting import PATIENCE, until

BIN = Path(sys.executable).parent
CACHE = Path(os.environ.get("HERDPY_TEST_CACHE") or f"/var/tmp/herdpy-tests-{os.geteuid()}")
"""Where guests' images are kept from one run to the next. Not below a home: as root, QEMU runs as another user."""

SHARED = "tests/system/clock/"
"""What the node ids of tests begin with that share a guest which takes minutes."""

# What runs in a shell's background ignores SIGINT, what runs under nohup SIGHUP; whatever it starts would do so, too.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# A busy machine is no mistake. Where CI is set, hypothesis tries the same examples each time.
settings.register_profile(
    "herdpy",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("herdpy")


def wait_until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """See :func:`tests.waiting.until`."""
    until(condition, patience=patience)


def fail_what_was_skipped(report: Any) -> None:
    """In continuous integration everything is there: a test that is skipped there has not proved what it should."""
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and CI=true: {report.longrepr}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one worker have all tests that share what takes minutes to make, and first; all others are anyone's.

    pytest-xdist's own groups (3.8) are lost with pytest 9.2: it marks node ids with them, which stay as they are.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):  # type: ignore[misc,unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return SHARED if nodeid.startswith(SHARED) else nodeid

    return ByWhatIsShared(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of each test: marks, and what skips while it runs."""
    report = yield
    fail_what_was_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Of each module: what skips all of it."""
    report = yield
    fail_what_was_skipped(report)
    return report


@pytest.fixture
def eventually() -> Callable[..., None]:
    """The function :func:`wait_until`, for tests in folders that cannot import this file."""
    return wait_until


class Heir:
    """Another process than the one that was started: a supervisor that became the keeper. Its status is not ours."""

    stdout = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """0 if it has ended."""
        ready = select.poll()
        ready.register(self._pidfd, select.POLLIN)
        return 0 if ready.poll(0) else None

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; what it was is not known."""
        ready = select.poll()
        ready.register(self._pidfd, select.POLLIN)
        assert ready.poll(timeout * 1000), f"PID {self.pid} does not end"
        return 0


class Herdpy:
    """A running (or yet to be started) herdpy and its client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.services = directory / "services"
        self.state = directory / "state"
        self.log = directory / "log"
        self.own = directory / "herdpy.toml"
        """herdpy's own file, if it is there."""
        self.socket = directory / "run" / "socket"
        self.services.mkdir()
        self.process: subprocess.Popen[str] | Heir | None = None
        self.prefix: tuple[str, ...] = ()
        """What executes herdpy, such as ``unshare``."""
        self.environment = {**os.environ, "HERDPY_SOCKET": str(self.socket), "LC_ALL": "C.UTF-8"}

    def declare(self, name: str, text: str) -> Path:
        """Write a declaration."""
        path = self.services / f"{name}.toml"
        path.write_text(text)
        return path

    def configure(self, settings: str) -> Path:
        """Write herdpy's own file."""
        self.own.write_text(settings)
        return self.own

    def command(self) -> list[str]:
        return [
            *self.prefix,
            str(BIN / "herdpy"),
            *("--services", str(self.services)),
            *("--socket", str(self.socket)),
            *("--state-dir", str(self.state)),
            *("--log-dir", str(self.log)),
            *(("--config", str(self.own)) if self.own.exists() else ()),
            "--pid",
        ]

    def start(self) -> None:
        """Start herdpy and return once its control socket answers."""
        errors = (self.directory / "errors").open("w")
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == str(self.process.pid), self.said()

    def said(self) -> str:
        """What herdpy has said so far, for messages of failed tests."""
        texts = [self.directory / "errors", self.log / "herdpy.log"]
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in texts if path.exists())

    def herd(self, *arguments: str, timeout: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the client to its end."""
        return subprocess.run(
            [str(BIN / "herd"), *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def herd_in_background(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the client; what it says is lost."""
        return subprocess.Popen(
            [str(BIN / "herd"), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)

    def ok(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run the client, which must succeed, and return what it printed."""
        completed = self.herd(*arguments, timeout=timeout)
        assert completed.returncode == 0, f"{completed.stdout}{completed.stderr}\n{self.said()}"
        return completed.stdout

    def status(self, service: str) -> Mapping[str, Any]:
        """A service's state, as ``herd --json status`` tells it."""
        described: Mapping[str, Any] = json.loads(self.ok("--json", "status", service))
        return described

    def children(self, program: str) -> list[int]:
        """PIDs of the keeper's children whose command line holds a word."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (OSError, IndexError):
                continue
            if entry.name.isdecimal() and int(parent) == self.process.pid and program in line:
                found.append(int(entry.name))
        return found

    def supervisor(self) -> int:
        """The PID of the supervisor."""
        (pid,) = self.children("herdpy.supervisor")
        return pid

    def let_succeed(self, pid: int) -> None:
        """The keeper was killed; from now on this process, which was its supervisor, is the one that is meant."""
        assert self.process is not None
        self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = Heir(pid)

    def stop(self) -> int:
        """End it as an init would, and return its status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def can_have_cgroups() -> bool:
    """Whether cgroup v2 is mounted, and ours to write where we are."""
    cgroups = cgroup.Cgroups(f"test-{os.getpid()}")
    cgroups.remove()
    return cgroups.path is not None


def remove_cgroup(state: Path) -> None:
    """Remove what a herdpy that did not come to its own end has left of the services' cgroup, and who lives there."""
    own = cgroup.find()
    if own is not None and state.exists():
        left = cgroup.Cgroup(f"{own}/herdpy-{cgroup.key_of(str(state))}")
        left.kill()
        wait_until(left.remove)


H = TypeVar("H", bound=Herdpy)


@contextlib.contextmanager
def running(instance: Herdpy) -> Iterator[None]:
    """At the end a herdpy is stopped if it was started, and nothing of it may be left."""
    try:
        yield
        if instance.process is None:
            return
        if instance.process.poll() is None:
            assert instance.stop() == 0, instance.said()
    finally:
        _kill(instance)
    assert not instance.socket.exists()


def _kill(instance: Herdpy) -> None:
    """End what is left of it, whatever has become of the test."""
    if instance.process is None:
        return
    if instance.process.poll() is None:
        instance.process.kill()
        instance.process.wait()
    if instance.process.stdout is not None:
        instance.process.stdout.close()
    remove_cgroup(instance.state)


@contextlib.contextmanager
def running_for_guests(make: Callable[[Path], H]) -> Iterator[H]:
    """The same for one with guests, and the directory of its own that it is made for.

    That is not below pytest's own directory: as root, QEMU runs as a user who could not reach it there.
    """
    directory = Path(tempfile.mkdtemp(prefix="herdpy-", dir="/var/tmp"))
    directory.chmod(0o711)
    try:
        instance = make(directory)
        with running(instance):
            yield instance
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def herdpy(tmp_path: Path) -> Iterator[Herdpy]:
    """A herdpy that is not started yet."""
    instance = Herdpy(tmp_path)
    with running(instance):
        yield instance
