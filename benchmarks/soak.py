"""Does anything leak? Thousands of starts and stops in a row, and what the three programs hold before and after.

    python benchmarks/soak.py [--count 24000] [--warm-up N]

A service is started and stopped over the control socket, one after the other; every tenth time it is killed instead of
stopped, comes back by itself, and is stopped then. Counted of keeper, supervisor and logger: file descriptors, threads,
memory of their own (RssAnon, proc(5)); the keeper's children, zombies among them; control groups; files in the state
directory. Tasks of trio's and notes cannot be seen from outside, but each is kilobytes, and memory may grow by
1 MiB at most. Exit status 1 when something is more than before.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from contest.accounting import become_subreaper, descendants, end_all, end_with_us  # noqa: E402

BIN = Path(sys.executable).parent
NAME = f"soak-{os.getpid()}"
"""The service's: no other herdpy on this machine has one of this name."""
GROWTH = 1024
"""KiB that a program may grow by: of 24,000 starts 43 bytes each, of 500 two kilobytes, less than a task of trio's."""
WARM_UP = 400
"""Starts before the first count: more than any list of what was last keeps."""


class Holding(NamedTuple):
    """What one of the programs holds."""

    descriptors: int
    threads: int
    memory: int
    """KiB."""


class Holdings(NamedTuple):
    """What all of herdpy holds."""

    programs: dict[str, Holding]
    children: int
    zombies: int
    cgroups: int
    files: int


class Herdpy:
    """A herdpy with one service, and its socket."""

    def __init__(self, place: Path) -> None:
        self._place = place
        services = place / "services"
        services.mkdir()
        (services / f"{NAME}.toml").write_text(
            'type = "process"\ncommand = ["sleep", "100000"]\nrespawn-delay = 0\nrespawn-limit = 1000\n'
            "respawn-interval = 0.001\n"
        )
        self._socket = place / "run" / "socket"
        command = [BIN / "herdpy", "--services", services, "--socket", self._socket]
        command += ["--state-dir", place / "state", "--log-dir", place / "log", "--pid"]
        with (place / "said").open("wb") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            said = (place / "said").read_text(errors="replace")
            sys.exit(f"herdpy does not start: status {self._process.wait()}: {said}")

    def ask(self, action: str) -> str:
        """Send a command and return the reply, read to its end."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self._socket))
            command = (
                f'(shepherd-command (version 0) (action {action}) (service {NAME}) (arguments ()) (directory "/"))\n'
            )
            connection.sendall(command.encode())
            return b"".join(_chunks(connection)).decode()

    def start(self) -> int:
        """Start the service; returns its PID."""
        self.ask("start")
        return self._pid()

    def stop(self) -> None:
        """Stop the service."""
        reply = self.ask("stop")
        if "(error #f)" not in reply:
            sys.exit(f"stop: {reply}")

    def kill(self, pid: int) -> None:
        """Kill the service's process and wait until it is back."""
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while self._pid() in (pid, 0):
            if time.monotonic() > end:
                sys.exit(f"PID {pid} was killed, and the service has not come back: {self.ask('status')}")

    def _pid(self) -> int:
        found = re.search(r"\(running \(process \(version 0\) \(id (\d+)\)|\(running (\d+)\)", self.ask("status"))
        return int(found[1] or found[2]) if found else 0

    def holdings(self) -> Holdings:
        """Count what is held now."""
        keeper = self._process.pid
        programs = {"keeper": keeper}
        below = descendants(keeper)
        for pid in below:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            for name in ("supervisor", "logger"):
                if b"herdpy" in words and name.encode() in words:
                    programs[name] = pid
        if len(programs) != 3:
            sys.exit(f"these are not keeper, supervisor and logger: {programs}")
        zombies = sum(_status(pid).get("State", "").startswith("Z") for pid in below)
        files = sum(len(found) for _, _, found in os.walk(self._place / "state"))
        held = {name: _holding(pid) for name, pid in programs.items()}
        return Holdings(held, len(below), zombies, _cgroups(keeper), files)

    def end(self) -> int:
        """End it as an init would; returns its status."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(60)
        return -1


def _chunks(connection: socket.socket) -> Iterator[bytes]:
    while chunk := connection.recv(65536):
        yield chunk


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _holding(pid: int) -> Holding:
    fields = _status(pid)
    memory = int(fields["RssAnon"].split()[0])
    return Holding(len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]), memory)


def _cgroups(keeper: int) -> int:
    """How many control groups of the v2 hierarchy (cgroups(7)) are called after our service."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    paths = [line[3:] for line in Path(f"/proc/{keeper}/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not mounts or not paths:
        return 0
    below = (name for _, names, _ in os.walk(mounts[0][4] + paths[0]) for name in names)
    return sum(NAME in name for name in below)


def soak(herdpy: Herdpy, count: int) -> None:
    """Start and stop so many times."""
    for number in range(count):
        pid = herdpy.start()
        if not pid:
            sys.exit(f"start number {number}: {herdpy.ask('status')}")
        if number % 10 == 9:
            herdpy.kill(pid)
        herdpy.stop()


def compare(before: Holdings, after: Holdings) -> list[str]:
    """Print both, and return what is more than it was."""
    print(f"{'':30} {'before':>10} {'after':>10}")
    leaks = []

    def show(what: str, was: int, now: int, allowed: int = 0) -> None:
        print(f"{what:30} {was:10} {now:10}")
        if now > was + allowed:
            leaks.append(f"{what}: {was}, then {now}")

    for name, was in before.programs.items():
        now = after.programs[name]
        show(f"{name}: file descriptors", was.descriptors, now.descriptors)
        show(f"{name}: threads", was.threads, now.threads, 1 if name == "supervisor" else 0)  # trio's, for 10 s each
        show(f"{name}: memory, KiB", was.memory, now.memory, GROWTH)
    show("processes below the keeper", before.children, after.children)
    show("zombies", before.zombies, after.zombies)
    show("control groups", before.cgroups, after.cgroups)
    show("files in the state directory", before.files, after.files)
    return leaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24_000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    options = parser.parse_args()
    become_subreaper()
    end_with_us()
    with tempfile.TemporaryDirectory(prefix="herdpy-soak-", dir="/var/tmp") as place:
        herdpy = None
        try:
            herdpy = Herdpy(Path(place))
            soak(herdpy, options.warm_up)
            before, begin = herdpy.holdings(), time.monotonic()
            soak(herdpy, options.count)
            took, after = time.monotonic() - begin, herdpy.holdings()
            status = herdpy.end()
        finally:
            if herdpy is not None:
                herdpy.end()  # by itself: who is killed leaves its control groups behind
            end_all(lambda line: print(line, file=sys.stderr))
    print(f"{options.count} starts and stops in {took:.0f} s, after {options.warm_up} to warm up")
    leaks = compare(before, after)
    if status != 0:
        leaks.append(f"herdpy ended with {status}")
    print("\n".join(f"LEAK: {leak}" for leak in leaks) or "nothing leaks")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
