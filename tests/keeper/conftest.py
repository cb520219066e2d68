"""A real keeper whose supervisors are played by the test, each in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from herdpy.keeper.cgroup import Cgroup, Cgroups, find, key_of
from herdpy.keeper.message import ANCILLARY_SIZE, LIMIT, VERSION, apart, decode, descriptors, encode
from tests.conftest import can_have_cgroups
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
PEER = Path(__file__).parent / "peer.py"
PATIENCE = 60.0
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

RUN = """
import os, sys
sys.path.insert(0, os.environ["HERDPY"])
from herdpy.keeper import Options, run
place, pid_file, *supervisor = sys.argv[1:]
sys.exit(run(Options(
    socket=place + "/run/socket", state_directory=place + "/state", log_directory=place + "/log",
    pid_file=pid_file or None, supervisor=supervisor[:-1], arguments=supervisor[-1:], environment=dict(os.environ),
)))
"""


HAS_CGROUPS = can_have_cgroups()


def needs_cgroups(test: Callable[..., None]) -> Callable[..., None]:
    """Where none can be made, cgroup v2 not being mounted or not ours to write, a test tries just that."""
    if HAS_CGROUPS:
        return test

    @functools.wraps(test)
    def refused(**_: object) -> None:
        assert Cgroups("test").make("service") is None

    return refused


def read_to_end(reading: int) -> bytes:
    """Read a pipe to its end of file, bounded, and close it."""
    ready = select.poll()
    ready.register(reading, select.POLLIN)
    content = b""
    try:
        while ready.poll(PATIENCE * 1000):
            chunk = os.read(reading, 65536)
            if not chunk:
                return content
            content += chunk
        raise AssertionError(f"no end of file in {PATIENCE} s after {content[-200:]!r}")
    finally:
        os.close(reading)


def nobody_runs_in(group: int) -> bool:
    """Tell whether a process group has nobody left but zombies that wait for init."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


class Supervisor:
    """One supervisor process; the test speaks on its line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self.connection = connection
        pid, beside, _, _ = connection.recvmsg(64, 64)
        self.pid = int(pid)
        self.line = socket.socket(fileno=descriptors(beside)[0])
        self.line.settimeout(PATIENCE)
        self.passed: list[int] = []
        self.told: list[bytes] = []
        self.serial = 0
        self.listener: int | None = None

    def tell(self, kind: str, **fields: Any) -> int:
        self.serial += 1
        self.line.send(encode({"kind": kind, "serial": self.serial, **fields}))
        return self.serial

    def receive(self) -> dict[str, Any]:
        self.passed = []
        if not self.told:
            packet, beside, _, _ = self.line.recvmsg(LIMIT, ANCILLARY_SIZE)
            self.told, self.passed = apart(packet), descriptors(beside)
        told = decode(self.told.pop(0))
        if told["kind"] == "succession":  # only a real supervisor has a use for it
            for descriptor in self.passed:
                os.close(descriptor)
            return self.receive()
        return told

    def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Receive one message, and let it be this one."""
        told = self.receive()
        assert told["kind"] == kind, told
        assert {key: told.get(key) for key in fields} == fields, told
        return told

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Ask, and return the answer; events are left out."""
        serial = self.tell(kind, **fields)
        while (told := self.receive()).get("serial") != serial:
            pass
        return told

    def hello(self) -> list[dict[str, Any]]:
        """Say hello; return all that was told, the state last."""
        serial = self.tell("hello", version=VERSION)
        told: list[dict[str, Any]] = []
        while not told or told[-1]["kind"] != "state":
            message = self.receive()
            if message["kind"] == "listener":
                self.drop_listener()
                (self.listener,) = self.passed
            if message["kind"] not in ("exited", "drained", "signal"):  # events, if this is not the first hello
                told.append(message)
        assert told[-1]["serial"] == serial
        return told

    def tell_spawn(self, name: str, *command: str, **fields: Any) -> int:
        request: dict[str, Any] = {
            "id": name,
            "command": command,
            "environment": ENVIRONMENT,
            "directory": None,
            "uid": None,
            "gid": None,
            "groups": None,
            "umask": None,
            "scope": "group",
            "output": "null",
        }
        return self.tell("spawn", **{**request, **fields})

    def spawn(self, name: str, *command: str, **fields: Any) -> dict[str, Any]:
        """Spawn; return the answer."""
        serial = self.tell_spawn(name, *command, **fields)
        while (told := self.receive()).get("serial") != serial:
            pass
        return told

    def ended(self, name: str) -> Any:
        """Wait for the end of a process just spawned, and of its output; return its status."""
        status = self.expect("exited", id=name)["status"]
        self.expect("drained", id=name)
        return status

    def output(self, *command: str, **fields: Any) -> str:
        """Run a command to its end; return its output."""
        told = self.spawn("output", *command, output="supervisor", **fields)
        assert told["kind"] == "spawned", told
        text = read_to_end(self.passed[0])
        self.ended("output")
        assert self.ask("release", id="output")["kind"] == "released"
        return text.decode("utf-8", "replace")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    def end(self, status: int = 0) -> None:
        self.connection.send(str(status).encode())
        self.close()

    def close(self) -> None:
        self.line.close()
        self.connection.close()
        self.drop_listener()

    def take_listener(self) -> socket.socket:
        """Return that copy, which is the test's from then on."""
        taken, self.listener = self.listener, None
        return socket.socket(fileno=taken)

    def drop_listener(self) -> None:
        """Close the copy of the control socket that it was given."""
        if self.listener is not None:
            os.close(self.listener)
        self.listener = None


class Running:
    """A keeper in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.log = place / "log" / "herdpy.log"
        self.socket = place / "run" / "socket"
        # Of its own and short: a socket's path has 107 bytes.
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(place / "test"))
        self.listener.listen()
        self.listener.settimeout(PATIENCE)
        self.process: subprocess.Popen[bytes] | None = None
        self.supervisors: list[Supervisor] = []

    def begin(
        self,
        *,
        supervisor: list[str] | None = None,
        pid_file: str = "",
        prefix: tuple[str, ...] = (),
        python: str = sys.executable,
    ) -> None:
        """Start it, with an interpreter that it will start its programs with, too."""
        command = supervisor or [sys.executable, str(PEER)]
        self.process = subprocess.Popen(
            [
                *prefix,
                python,
                "-I",
                "-S",
                "-c",
                RUN,
                str(self.place),
                pid_file,
                *command,
                str(self.place / "test"),
            ],
            env={**os.environ, "HERDPY": str(ROOT), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def supervisor(self, *, greeted: bool = True) -> Supervisor:
        """Return the next supervisor that the keeper starts."""
        connection, _ = self.listener.accept()
        new = Supervisor(connection)
        self.supervisors.append(new)
        if greeted:
            new.hello()
        return new

    def wait(self) -> tuple[int, str, str]:
        """Wait for its end; return its status, stdout and stderr."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode(), err.decode()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def logger(self) -> int:
        """Return the logger's PID."""

        def look() -> int | None:
            for child in self.children():
                with contextlib.suppress(psutil.Error):
                    if any("logger/__main__.py" in word for word in child.cmdline()):
                        return child.pid
            return None

        found: int = until(look, "a logger")
        return found

    def logged(self, words: str) -> str:
        """Wait until its own log holds these words; return the log."""
        text: str = until(
            lambda: self.log.exists() and words in (text := self.log.read_text()) and text, f"log: {words}"
        )
        return text

    def clean(self) -> None:
        """Leave nothing behind, whatever the test did."""
        self.listener.close()
        for supervisor in self.supervisors:
            supervisor.close()
        if self.process is not None:
            if self.process.poll() is None:
                left = psutil.Process(self.pid).children(recursive=True)
                self.process.kill()
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            self.process.communicate()
        cgroup = self.cgroup()
        if cgroup is not None:
            cgroup.kill()
            until(cgroup.remove, "the cgroup is empty")

    def cgroup(self) -> Cgroup | None:
        """Return the cgroup that holds the services' if there is one."""
        own, state = find(), self.place / "state"
        if own is None or not state.exists():
            return None
        cgroup = Cgroup(f"{own}/herdpy-{key_of(str(state))}")
        return cgroup if os.path.isdir(cgroup.path) else None


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one keeper; a short one, because the path of a socket in it must fit."""
    with tempfile.TemporaryDirectory(prefix="keeper-") as directory:
        yield Path(directory)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may look into."""
    with tempfile.TemporaryDirectory(prefix="public-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def keeper(place: Path) -> Iterator[Running]:
    """A keeper, not yet begun."""
    running = Running(place)
    yield running
    running.clean()


@pytest.fixture
def supervisor(keeper: Running) -> Supervisor:
    """The supervisor of a keeper that has begun."""
    keeper.begin()
    return keeper.supervisor()
