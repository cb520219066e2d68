"""Who takes part: for each supervisor its configuration, and the command lines that drive it.

All have the same services, their output captured and stamped as far as the supervisor can do that: s6 and runit have a
logger a service, as their documentation has it; systemd gives output to the journal, which its user instance here has
not got: it has no part in what concerns output. What is not said here is left at the program's default.
"""

import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Command = Sequence[str]
NOBODY = 65534


class Fleet(NamedTuple):
    """Which services there are."""

    count: int
    is_quick: bool = False
    """Whether a service that was killed is to come back at once, as often as it takes."""
    flood: tuple[int, int] | None = None
    """The first service writes so many lines of so many bytes, and begins when told to."""
    is_daemon: bool = False
    """Whether the one service is a daemon that forks and writes its PID file, and begins when told to."""

    def command(self, service: Path, fifo: Path, number: int) -> list[str]:
        """What a service executes."""
        words = [str(service), str(fifo), str(number)]
        if self.flood is not None and number == 0:
            words += ["flood", *map(str, self.flood)]
        if self.is_daemon:
            words.append(str(pid_file(fifo.parent)))
        return words

    def begins(self, number: int) -> bool:
        """Whether a service starts with its supervisor."""
        return not (number == 0 and self.flood is not None) and not self.is_daemon


def pid_file(place: Path) -> Path:
    """Where the daemon of a fleet that is one writes its number."""
    return place / "daemon.pid"


class Contestant:
    """A supervisor. Every path that it uses is below the directory ``place``."""

    name = ""
    forms: frozenset[str] = frozenset()
    """What it can do of ``quick`` (come back without delay), ``requests``, ``flood``, ``pid-file``."""
    has_client = True
    """Whether there is somebody to ask for its status, and to have a service stopped and started."""

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        """Write the configuration of these services, which are named s0, s1 and so on."""
        raise NotImplementedError

    def daemon(self, place: Path) -> Command:
        """The supervisor itself, in the foreground."""
        raise NotImplementedError

    def environment(self, place: Path) -> Mapping[str, str]:
        """What is added to the environment of the supervisor and of its client."""
        return {}

    def client(self, place: Path, verb: str, name: str) -> Command:
        """The client's command line; ``verb`` is status, stop, start, or status-all."""
        raise NotImplementedError

    def ending(self, place: Path) -> Command | None:
        """What ends it; None means SIGTERM."""
        return None

    def log_files(self, place: Path) -> list[Path]:
        """What the first service's output was written into."""
        return [place / "log" / "s0.log"]

    def request_rate(self, place: Path, seconds: float) -> float:
        """Status requests answered a second, one after the other, a connection each."""
        raise NotImplementedError

    def clean(self, place: Path) -> None:
        """Remove what it has elsewhere, once nothing of it runs."""


class Herdpy(Contestant):
    """Ours, as ``pip install`` leaves it."""

    name = "herdpy"
    forms = frozenset(("quick", "requests", "flood", "pid-file"))

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        services = place / "services"
        services.mkdir()
        for number, command in enumerate(commands):
            lines = ['type = "process"', f"command = [{', '.join(map(_quoted, command))}]"]
            if fleet.begins(number):
                lines.append("auto-start = true")
            if fleet.is_quick:
                lines += ["respawn-delay = 0", "respawn-limit = 1000"]
            if fleet.is_daemon:
                lines.append(f"ready.pid-file = {_quoted(str(pid_file(place)))}")
            (services / f"s{number}.toml").write_text("\n".join(lines) + "\n")

    def daemon(self, place: Path) -> Command:
        return [
            str(self._bin / "herdpy"),
            *("--services", str(place / "services")),
            *("--socket", str(place / "socket")),
            *("--state-dir", str(place / "state")),
            *("--log-dir", str(place / "log")),
        ]

    def client(self, place: Path, verb: str, name: str) -> Command:
        herd = [str(self._bin / "herd"), "-s", str(place / "socket")]
        return [*herd, "status"] if verb == "status-all" else [*herd, verb, name]

    def request_rate(self, place: Path, seconds: float) -> float:
        request = b'(shepherd-command (version 0) (action status) (service s0) (arguments ()) (directory "/"))\n'
        return _rate(place / "socket", request, seconds)


class Supervisor(Contestant):
    """Supervisor, from PyPI."""

    name = "supervisor"
    forms = frozenset(("requests", "flood"))

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        text = f"""[supervisord]
nodaemon=true
logfile={place}/supervisord.log
pidfile={place}/supervisord.pid
childlogdir={place}/log
minfds=20000
[unix_http_server]
file={place}/socket
[supervisorctl]
serverurl=unix://{place}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        for number, command in enumerate(commands):
            text += f"[program:s{number}]\ncommand={shlex.join(command)}\nautorestart=true\nredirect_stderr=true\n"
            text += f"stdout_logfile={place}/log/s{number}.log\nstdout_logfile_maxbytes=0\n"
            text += f"autostart={'true' if fleet.begins(number) else 'false'}\n"
        (place / "log").mkdir()
        (place / "supervisord.conf").write_text(text)

    def daemon(self, place: Path) -> Command:
        return [str(self._bin / "supervisord"), "-c", str(place / "supervisord.conf")]

    def client(self, place: Path, verb: str, name: str) -> Command:
        control = [str(self._bin / "supervisorctl"), "-c", str(place / "supervisord.conf")]
        return [*control, "status"] if verb == "status-all" else [*control, verb, name]

    def request_rate(self, place: Path, seconds: float) -> float:
        body = (
            b"<?xml version='1.0'?><methodCall><methodName>supervisor.getProcessInfo</methodName><params>"
            b"<param><value><string>s0</string></value></param></params></methodCall>"
        )
        head = b"POST /RPC2 HTTP/1.0\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
        return _rate(place / "socket", head + body, seconds)


class Circus(Contestant):
    """Circus, from PyPI."""

    name = "circus"
    forms = frozenset(("flood",))

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        text = f"""[circus]
endpoint = ipc://{place}/endpoint
pubsub_endpoint = ipc://{place}/pubsub
statsd = false
logoutput = {place}/circus.log
{"check_delay = 0.05" if fleet.is_quick else ""}
"""
        for number, command in enumerate(commands):
            text += f"[watcher:s{number}]\ncmd = {shlex.join(command)}\nmax_retry = -1\nautostart = "
            text += f"{fleet.begins(number)}\nstdout_stream.class = FileStream\n"
            text += (
                f"stdout_stream.filename = {place}/log/s{number}.log\nstdout_stream.time_format = %Y-%m-%d %H:%M:%S\n"
            )
        (place / "log").mkdir()
        (place / "circus.ini").write_text(text)

    def daemon(self, place: Path) -> Command:
        return [str(self._bin / "circusd"), str(place / "circus.ini")]

    def client(self, place: Path, verb: str, name: str) -> Command:
        control = [str(self._bin / "circusctl"), "--endpoint", f"ipc://{place}/endpoint"]
        return [*control, "status"] if verb == "status-all" else [*control, verb, name]


class S6(Contestant):
    """s6, from Debian: its programs call one another by their names in /usr/bin,
    where the benchmark's mount namespace has them."""

    name = "s6"
    forms = frozenset(("flood",))

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        for number, command in enumerate(commands):
            log = place / "log" / f"s{number}"
            log.mkdir(parents=True)
            directory = place / "scan" / f"s{number}"
            _script(directory / "run", f"exec {shlex.join(command)} 2>&1")
            _script(directory / "log" / "run", f"exec s6-log t s268435455 n20 {log}")
            if not fleet.begins(number):
                (directory / "down").touch()

    def daemon(self, place: Path) -> Command:
        return ["s6-svscan", "-c", "5000", str(place / "scan")]

    def client(self, place: Path, verb: str, name: str) -> Command:
        if verb == "status-all":
            return ["sh", "-c", f'for one in {place}/scan/*; do s6-svstat "$one"; done']
        words = {"status": ["s6-svstat"], "stop": ["s6-svc", "-wd", "-d"], "start": ["s6-svc", "-wu", "-u"]}[verb]
        return [*words, str(place / "scan" / name)]

    def log_files(self, place: Path) -> list[Path]:
        return sorted((place / "log" / "s0").glob("[@c]*"))


class Runit(Contestant):
    """runit, from Debian."""

    name = "runit"
    forms = frozenset(("flood",))

    def __init__(self, root: Path) -> None:
        self._bin = root / "usr" / "bin"

    def environment(self, place: Path) -> Mapping[str, str]:
        return {"PATH": f"{self._bin}:{os.environ['PATH']}", "SVDIR": str(place / "scan")}

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        for number, command in enumerate(commands):
            log = place / "log" / f"s{number}"
            log.mkdir(parents=True)
            (log / "config").write_text("s268435455\nn20\n")
            directory = place / "scan" / f"s{number}"
            _script(directory / "run", f"exec {shlex.join(command)} 2>&1")
            _script(directory / "log" / "run", f"exec svlogd -tt {log}")
            if not fleet.begins(number):
                (directory / "down").touch()

    def daemon(self, place: Path) -> Command:
        return [str(self._bin / "runsvdir"), str(place / "scan")]

    def ending(self, place: Path) -> Command | None:
        return ["sh", "-c", f"exec sv -w 60 force-shutdown {place}/scan/*"]

    def client(self, place: Path, verb: str, name: str) -> Command:
        if verb == "status-all":
            return ["sh", "-c", f"exec sv status {place}/scan/*"]
        return [str(self._bin / "sv"), verb, str(place / "scan" / name)]

    def log_files(self, place: Path) -> list[Path]:
        return sorted((place / "log" / "s0").glob("[@c]*"))


class Systemd(Contestant):
    """systemd, the host's own, as the user instance of an ordinary user: of nobody, whose PID 1 never is.

    It moves every process of the control group in which it finds itself into control groups that it makes. So it is put
    into one of its own, and into a mount and a control group namespace in which there is no other (systemd-user.sh).
    """

    name = "systemd"
    forms = frozenset(("quick", "pid-file"))
    TARGETS = ("basic", "sockets", "timers", "paths", "shutdown", "exit")
    UNITS = Path("/usr/lib/systemd/user")

    def __init__(self, cgroups: Path) -> None:
        self._cgroups = cgroups

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        units = place / "units"
        units.mkdir()
        for target in self.TARGETS:
            shutil.copy(self.UNITS / f"{target}.target", units)
        shutil.copy(self.UNITS / "systemd-exit.service", units)
        wanted = " ".join(f"s{number}.service" for number in range(len(commands)) if fleet.begins(number))
        (units / "default.target").write_text(f"[Unit]\nRequires=basic.target\nAfter=basic.target\nWants={wanted}\n")
        for number, command in enumerate(commands):
            # No limit: starts by hand count, too, and there are more of them than five in ten seconds.
            text = f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={shlex.join(command)}\nRestart=always\n"
            if fleet.is_quick:
                text += "RestartSec=0\n"
            if fleet.is_daemon:
                text += f"Type=forking\nPIDFile={pid_file(place)}\n"
            (units / f"s{number}.service").write_text(text)
        (place / "run").mkdir(mode=0o700)
        for path in (place, place / "fifo", place / "run"):
            os.chown(path, NOBODY, NOBODY)
        self._cgroup(place).mkdir()

    def daemon(self, place: Path) -> Command:
        return ["sh", str(Path(__file__).with_name("systemd-user.sh")), str(self._cgroup(place)), str(NOBODY)]

    def environment(self, place: Path) -> Mapping[str, str]:
        return {
            "XDG_RUNTIME_DIR": str(place / "run"),
            "SYSTEMD_UNIT_PATH": str(place / "units"),
            "HOME": str(place),
            "DBUS_SESSION_BUS_ADDRESS": "disabled:",
        }

    def client(self, place: Path, verb: str, name: str) -> Command:
        words = ["status", "-n0", name] if verb == "status" else [verb, name]
        control = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "systemctl", "--user"]
        return [*control, "--no-pager", *(["list-units", "s*.service"] if verb == "status-all" else words)]

    def clean(self, place: Path) -> None:
        below = sorted(self._cgroup(place).rglob("*/"), key=lambda path: len(path.parts), reverse=True)
        for cgroup in [*below, self._cgroup(place)]:
            cgroup.rmdir()

    def _cgroup(self, place: Path) -> Path:
        return self._cgroups / place.name


class Least(Contestant):
    """A keeper and a supervisor on trio that can do nothing else: what herdpy cannot be faster than."""

    forms = frozenset(("quick",))
    has_client = False

    def __init__(self, python: Path, way: str) -> None:
        self.name = f"least, {way}"
        self._python, self._way = python, way

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        (place / "commands.json").write_text(json.dumps(commands))

    def daemon(self, place: Path) -> Command:
        program = Path(__file__).with_name("least.py")
        return [str(self._python), "-I", str(program), str(place / "commands.json"), self._way]


class Loop(Contestant):
    """A C program that forks and executes, and nothing else: what no supervisor can be faster than."""

    name = "C loop"
    has_client = False

    def __init__(self, program: Path) -> None:
        self._program = program
        self._words: list[str] = []

    def lay_out(self, place: Path, fleet: Fleet, commands: Sequence[Command]) -> None:
        self._words = [str(len(commands)), *commands[0][:2]]

    def daemon(self, place: Path) -> Command:
        return [str(self._program), *self._words]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _rate(path: Path, request: bytes, seconds: float) -> float:
    count, begin = 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(request)
            reply = b""
            while chunk := connection.recv(65536):
                reply += chunk
        if b"s0" not in reply:
            sys.exit(f"{path} answers {reply[:200]!r}")
        count += 1
    return count / took
