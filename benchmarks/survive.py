"""Killed with a thousand services: how long until a client is answered with all of them as they were; and a reload.

    python benchmarks/survive.py [--services 1000] [--rounds 5]

Each round kills the supervisor, then the keeper, and lets a declaration be changed; in turns with a bare
``python -c "import trio, msgspec"``, which no supervisor on trio can do without. Every round checks that all services
have the PIDs that they had. At the end, what the keeper's journal costs (benchmarks/journal.py). Exit status 1 when
something takes longer than was promised.
"""

import argparse
import json
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import journal  # noqa: E402
from contest.accounting import become_subreaper, end_all, end_with_us  # noqa: E402

from herdpy.protocol import Command, write_command  # noqa: E402

BIN = Path(sys.executable).parent
PROMISED = {"supervisor killed": 1.2, "keeper killed": 2.0, "one of them changed": 0.25}
"""Seconds."""
RUNNING = re.compile(rb"\(provides \((service-\d+)\)\).*?\(running (\d+)\)")
PATIENCE = 120.0


class Herdpy:
    """A herdpy with many services."""

    def __init__(self, place: Path, count: int) -> None:
        self._socket = place / "run" / "socket"
        self._pid_file = place / "pid"
        self._services = place / "services"
        self._services.mkdir()
        for number in range(count):
            self.declare(number, "As it was.")
        command = [BIN / "herdpy", "--services", self._services, "--socket", self._socket]
        command += ["--state-dir", place / "state", "--log-dir", place / "log", f"--pid={self._pid_file}"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with (place / "said").open("wb") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment
            )
        _until(self._pid_file.exists, "herdpy is ready")
        _until(lambda: len(self.running()) == count, "all services run")

    def declare(self, number: int, documentation: str) -> None:
        """Write a service's declaration."""
        text = f'command = ["sleep", "100000"]\nauto-start = true\ndocumentation = {json.dumps(documentation)}\n'
        beside = self._services / "beside"
        beside.write_text(text)
        beside.rename(self._services / f"service-{number}.toml")

    def ask(self, action: str, *arguments: str) -> bytes:
        """Ask something of root, and return the reply whole; empty when it was cut short."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._socket))
            connection.sendall(write_command(Command(action, "root", list(arguments), "/")))
            try:
                return b"".join(_chunks(connection))
            except ConnectionResetError:
                return b""

    def running(self) -> dict[bytes, int]:
        """PIDs of the services that run, by name."""
        reply = b""
        while not reply:
            reply = self.ask("status")
        parts = reply.split(b"(service (version 0)")[1:]
        return {found[1]: int(found[2]) for part in parts if (found := RUNNING.search(part)) is not None}

    def stop(self) -> None:
        """Stop it, and wait until it has ended and cleared away what it had made."""
        ended = select.poll()
        descriptor = os.pidfd_open(self.keeper)
        ended.register(descriptor, select.POLLIN)
        self.ask("stop")
        ended.poll(PATIENCE * 1000)
        os.close(descriptor)

    @property
    def keeper(self) -> int:
        return int(self._pid_file.read_text())

    def supervisor(self) -> int:
        """The PID of the supervisor, once there is one."""
        found: list[int] = []

        def look() -> bool:
            keeper = self.keeper
            for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if words[2:4] == [b"-m", b"herdpy.supervisor"]:
                    found.append(int(child))
            return bool(found)

        _until(look, "there is a supervisor")
        return found[0]


def _chunks(connection: socket.socket) -> Iterator[bytes]:
    while chunk := connection.recv(1 << 20):
        yield chunk


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"after {PATIENCE:g} s still not so: {what}")
        select.select([], [], [], 0.02)


def bare() -> float:
    """Seconds that the interpreter takes to import what the supervisor is made of, and to end."""
    begin = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-I", "-c", "import trio, msgspec"], check=True, env=environment)
    return time.perf_counter() - begin


def killed(herdpy: Herdpy, pid: int) -> float:
    """Kill one of its programs; returns seconds until a client knows that all services are as they were.

    What the old supervisor still answers, before it becomes the keeper, does not count.
    """
    before, keeper = herdpy.running(), herdpy.keeper
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    after = herdpy.running()
    while keeper == pid and herdpy.keeper == pid:
        after = herdpy.running()
    if keeper == pid:
        after = herdpy.running()
    took = time.perf_counter() - begin
    if after != before:
        sys.exit(f"{len(before)} services ran; of these, {len(before.items() & after.items())} are as they were")
    return took


def changed(herdpy: Herdpy, number: int) -> float:
    """Change a declaration; returns seconds that the reload takes, from the request to its answer."""
    herdpy.declare(number, f"Changed {time.time_ns()}.")
    begin = time.perf_counter()
    reply = herdpy.ask("reload")
    took = time.perf_counter() - begin
    if b"~ service-%d: takes effect now" % number not in reply or reply.count(b"~") != 1:
        sys.exit(f"a reload of one change answered {reply[:1000]!r}")
    return took


def settle(herdpy: Herdpy, old: int) -> None:
    """Wait until there is another supervisor, and it has nothing left to do."""
    _until(lambda: herdpy.supervisor() != old, "there is another supervisor")
    herdpy.running()
    pid = herdpy.supervisor()
    busy = [-1.0]

    def is_at_rest() -> bool:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = float(int(fields[11]) + int(fields[12]))
        is_same, busy[0] = used == busy[0], used
        select.select([], [], [], 0.3)
        return is_same

    _until(is_at_rest, "the supervisor is at rest")


def measure(herdpy: Herdpy, count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, by what was done."""
    took: dict[str, list[float]] = {name: [] for name in ("bare", *PROMISED)}
    for number in range(rounds):
        took["bare"].append(bare())
        settle(herdpy, 0)
        old = herdpy.supervisor()
        took["supervisor killed"].append(killed(herdpy, old))
        settle(herdpy, old)
        old = herdpy.supervisor()
        took["keeper killed"].append(killed(herdpy, herdpy.keeper))
        settle(herdpy, old)
        took["one of them changed"].append(changed(herdpy, number % count))
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    become_subreaper()
    end_with_us()
    with tempfile.TemporaryDirectory(prefix="herdpy-survive-", dir="/var/tmp") as place:
        herdpy = None
        try:
            herdpy = Herdpy(Path(place), options.services)
            took = measure(herdpy, options.services, options.rounds)
            herdpy.stop()
        finally:
            end_all(lambda line: print(line, file=sys.stderr))
    medians = {name: statistics.median(times) for name, times in took.items()}
    print(f"{options.services} services, {options.rounds} rounds; medians")
    print(f"{'import trio, msgspec':24} {medians['bare'] * 1e3:7.0f} ms")
    for name, promised in PROMISED.items():
        verdict = "kept" if medians[name] <= promised else "MISSED"
        ratio = medians[name] / medians["bare"]
        print(f"{name:24} {medians[name] * 1e3:7.0f} ms {ratio:6.1f} times that; promised {promised:g} s: {verdict}")
    with tempfile.TemporaryDirectory() as place:
        journal.main(place)
    return int(any(medians[name] > promised for name, promised in PROMISED.items()))


if __name__ == "__main__":
    sys.exit(main())
