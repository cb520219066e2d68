"""A herdpy in directories of its own, the services that it minds, and whatever programs are herdpy at the moment."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.records import Records
from tests.processes import lives, programs
from tests.waiting import until

BIN = Path(sys.executable).parent
GENERATOR = str(Path(__file__).parent / "generator.py")
PATIENCE = 60.0
"""Seconds until what has to come by itself counts as never coming, on a machine with much else to do."""
PROGRAMS = ("keeper", "supervisor", "logger")


class Violation(Exception):  # noqa: N818 - it is what it is called everywhere
    """Something is not as it was promised."""


def eventually(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until it is so; other programs' files give no event to wait for.

    Raises:
        Violation: it is not so after ``patience`` seconds.
    """
    try:
        until(condition, what, patience)
    except AssertionError as error:
        raise Violation(str(error)) from None


class Kind(NamedTuple):
    """A service of the fleet."""

    generator: tuple[str, ...]
    """What its generator is told."""
    lines: tuple[str, ...] = ()
    """Of its declaration."""
    is_steady: bool = False
    """Whether it has one incarnation from the beginning to the end."""
    is_mortal: bool = False
    """Whether it may be killed, and is there again."""
    runs: bool = True
    """Whether it is running whenever all is well."""
    ends: str = "service-exited"
    """The event that tells the end of an incarnation; empty where none does."""


AUTO = "auto-start = true"
UNLIMITED = ("respawn-limit = 1000",)


def kinds(place: Path) -> dict[str, Kind]:
    """The fleet, by name."""
    run = place / "pids"

    def requires(*names: str) -> str:
        return f"requirement = {json.dumps(names)}"

    def pid_file(name: str) -> tuple[str, ...]:
        return "--pid-file", str(run / name), "--single"

    def sockets(name: str, *more: str) -> str:
        return f"sockets = {json.dumps(['unix:' + str(place / 'sockets' / name), *more])}"

    def ready_by_pid_file(name: str) -> tuple[str, ...]:
        return "[ready]", f"pid-file = {json.dumps(str(run / name))}"

    single = ("--single",)
    once = ("--run", "--lines", "3", "--single")
    return {
        "steady-plain": Kind(single, (AUTO,), is_steady=True),
        "steady-forking": Kind(pid_file("sf"), (AUTO, *ready_by_pid_file("sf")), is_steady=True),
        "steady-notify": Kind(
            ("--notify", "--single"), (AUTO, "watchdog = 300", "[ready]", "notify = true"), is_steady=True
        ),
        "plain": Kind(single, (AUTO, *UNLIMITED), is_mortal=True),
        "chatty": Kind((*single, "--most", "30"), (AUTO, *UNLIMITED), is_mortal=True),
        "forking": Kind(pid_file("f"), (AUTO, *UNLIMITED, *ready_by_pid_file("f")), is_mortal=True),
        "notify": Kind(
            ("--notify", "--single"), (AUTO, *UNLIMITED, "watchdog = 300", "[ready]", "notify = true"), is_mortal=True
        ),
        "restless": Kind(("--life", "3", "--single"), (AUTO, *UNLIMITED, "respawn-delay = 0.0")),
        "hasty": Kind(("--life", "1", "--codes", "7,7,0", "--single"), (AUTO, *UNLIMITED)),
        "eager": Kind(
            ("--sockets", "--single"), (AUTO, *UNLIMITED, sockets("eager"), 'activation = "eager"'), is_mortal=True
        ),
        "lazy": Kind(("--sockets", "--idle", "1.5", "--single"), (AUTO, *UNLIMITED, sockets("lazy"))),
        "inetd": Kind(("--connection", "--lines", "4"), ('type = "inetd"', AUTO, sockets("inetd")), ends=""),
        "often": Kind((*once, "--codes", "0,0,7"), ('type = "timer"', AUTO, "every = 1.5"), ends="timer-run-ended"),
        "long": Kind(
            ("--run", "--lines", "40", "--single"), ('type = "timer"', AUTO, "every = 3"), ends="timer-run-ended"
        ),
        "setup": Kind((*once, "--codes", "0"), (AUTO, "one-shot = true"), runs=False, ends="service-done"),
        "base": Kind(single, (AUTO, *UNLIMITED, requires("setup")), is_mortal=True),
        "middle": Kind(single, (AUTO, *UNLIMITED, requires("base")), is_mortal=True),
        "top": Kind(single, (AUTO, *UNLIMITED, requires("middle")), is_mortal=True),
        "failing": Kind(once, ("one-shot = true",), runs=False, ends="service-failed-to-start"),
        "unwanted": Kind(single, (), runs=False),
        "forbidden": Kind(single, (), runs=False),
        "quitter": Kind((*once, "--lines", "1"), (AUTO, "respawn-limit = 2", "respawn-delay = 0.0"), runs=False),
    }


class Fleet:
    """The herdpy and its services.

    Args:
        prefix: what executes herdpy, such as ``setpriv``.
    """

    def __init__(self, place: Path, prefix: Sequence[str] = ()) -> None:
        self.place = place
        self.services = place / "services"
        self.state = place / "state"
        self.log = place / "log"
        self.socket = place / "run" / "socket"
        self.pid_file = place / "pid"
        self.records = Records(place / "truth")
        self.kinds = kinds(place)
        self.process: subprocess.Popen[bytes] | None = None
        self._prefix = tuple(prefix)
        self.environment = {**os.environ, "HERDPY_SOCKET": str(self.socket), "LC_ALL": "C.UTF-8"}
        for name, kind in self.kinds.items():
            self.declare(name, self.text(name, kind))

    def text(self, name: str, kind: Kind) -> str:
        """A service's declaration."""
        command = [sys.executable, "-I", "-S", GENERATOR, str(self.records.place), name, *kind.generator]
        return "\n".join([f"command = {json.dumps(command)}", *kind.lines, ""])

    def declare(self, name: str, text: str) -> None:
        """Write a declaration beside its place, and put it there."""
        beside = self.place / f"{name}.new"
        beside.write_text(text)
        beside.rename(self.services / f"{name}.toml")

    # herdpy itself.

    def begin(self) -> int:
        """Start herdpy, as an init does; returns its PID."""
        command = [*self._prefix, str(BIN / "herdpy"), "--services", str(self.services), "--socket", str(self.socket)]
        command += ["--state-dir", str(self.state), "--log-dir", str(self.log), f"--pid={self.pid_file}"]
        with (self.place / "said").open("ab") as said:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self.environment,
                start_new_session=True,
            )
        return self.process.pid

    def await_ready(self, pid: int) -> None:
        """Wait until a herdpy that was started is ready."""
        assert self.process is not None
        process = self.process
        eventually(lambda: self.keeper == pid or process.poll() is not None, "a herdpy that was started is ready")
        if self.keeper != pid:
            raise Violation(f"herdpy was started, and ended with {process.returncode}: {self.said()}")

    @property
    def keeper(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def programs(self) -> dict[str, int]:
        """PIDs of keeper, supervisor and logger, as far as there are such."""
        keeper = self.keeper
        return {} if keeper is None else programs(keeper)

    def await_whole(self, but: Sequence[int] = ()) -> dict[str, int]:
        """Wait until all three programs are there.

        Args:
            but: PIDs that they do not have.
        """
        found: dict[str, int] = {}

        def is_whole() -> bool:
            found.clear()
            found.update(self.programs())
            return found.keys() == set(PROGRAMS) and not set(found.values()) & set(but)

        eventually(is_whole, "herdpy has a keeper, a supervisor and a logger")
        return found

    # Its client.

    def herd(self, *arguments: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run the client to its end.

        Raises:
            Violation: it does not end.
        """
        try:
            return subprocess.run(
                [str(BIN / "herd"), *arguments],
                capture_output=True,
                text=True,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            raise Violation(f"herd {' '.join(arguments)} was not answered within {patience:g} s") from None

    def ok(self, *arguments: str) -> str:
        """Run the client, which has to succeed."""
        ran = self.herd(*arguments)
        if ran.returncode != 0:
            raise Violation(f"herd {' '.join(arguments)} ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def herd_in_background(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "herd"), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The state of every service."""
        text = self.ok("--json", "status", "root")
        return {service["name"]: service for service in json.loads(text)}

    def said(self) -> str:
        """The end of what herdpy has said, on its stderr and in its log."""
        texts = []
        for path in (self.place / "said", self.log / "herdpy.log"):
            with contextlib.suppress(OSError):
                texts.append(f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:]))
        return "\n".join(texts)

    # Processes.

    def generators(self) -> Iterator[tuple[str, int]]:
        """(name, PID) of each live process that runs the generator; the short-lived first one of a daemon too."""
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                try:
                    words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if len(words) > 5 and words[3] == GENERATOR.encode() and lives(int(entry.name)):
                    yield words[5].decode(), int(entry.name)


def signal_safely(pid: int, number: int) -> bool:
    """Send a signal to a process that may have ended; tells whether it was there."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
