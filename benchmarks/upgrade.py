"""How long nobody is answered while another supervisor takes over, with a thousand services.

    python benchmarks/upgrade.py [--services 1000] [--rounds 10]

A client asks for the status of one service after the other, without a pause, on a connection for each question, as
`herd status` does. Meanwhile `herd upgrade root` is carried out, then, as often, `herd upgrade root keeper`. What
counts is the longest time between two answers. Exit status 1 when the median of the first is above the limit, or when
any service has another PID than before.
"""

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from herdpy import protocol

BIN = Path(sys.executable).parent
LIMIT = 50.0
"""Milliseconds."""


class Asker(threading.Thread):
    """Asks all the time, and remembers the longest wait for an answer."""

    def __init__(self, control: Path, count: int) -> None:
        super().__init__()
        self._control = str(control)
        self._commands = [protocol.write_command(protocol.Command("status", f"service-{n}")) for n in range(count)]
        self.is_over = False
        self.answers = 0
        self.unanswered = 0
        self.longest = 0.0

    def run(self) -> None:
        last = time.perf_counter()
        while not self.is_over:
            reply = b""
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self._control)
                client.sendall(self._commands[self.answers % len(self._commands)])
                while chunk := client.recv(65536):
                    reply += chunk
            if not reply.endswith(b"(messages ()))"):
                self.unanswered += 1
            now = time.perf_counter()
            self.longest = max(self.longest, (now - last) * 1000)
            last = now
            self.answers += 1


def pids(control: Path, count: int) -> dict[str, str]:
    """The PID of each service, once all run."""
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(control))
            client.sendall(protocol.write_command(protocol.Command("status", "root")))
            reply = b""
            while chunk := client.recv(1 << 20):
                reply += chunk
        found = re.findall(r"\(provides \((service-\d+)\)\).*?\(running (\d+)\)", reply.decode())
        if len(found) == count:
            return dict(found)
        time.sleep(0.2)


def silence(control: Path, count: int, *what: str) -> float:
    """Milliseconds without an answer in one upgrade."""
    asker = Asker(control, count)
    asker.start()
    try:
        time.sleep(0.2)
        subprocess.run([BIN / "herd", "-s", control, "upgrade", "root", *what], check=True, stdout=subprocess.DEVNULL)
        time.sleep(0.5)
    finally:
        asker.is_over = True
        asker.join()
    if asker.unanswered:
        sys.exit(f"{asker.unanswered} questions of {asker.answers} were not answered")
    return asker.longest


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--services", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="herdpy-upgrade-", dir="/var/tmp"))
    try:
        return measure(directory, given.services, given.rounds)
    finally:
        shutil.rmtree(directory)


def measure(directory: Path, count: int, rounds: int) -> int:
    services, control = directory / "services", directory / "run" / "socket"
    services.mkdir()
    for number in range(count):
        (services / f"service-{number}.toml").write_text('command = ["sleep", "100000"]\nauto-start = true\n')
    places = ["--services", services, "--socket", control, "--state-dir", directory / "state"]
    subprocess.run([BIN / "herdpy", *places, "--log-dir", directory / "log", "--background"], check=True)
    try:
        before = pids(control, count)
        supervisors = [silence(control, count) for _ in range(rounds)]
        keepers = [silence(control, count, "keeper") for _ in range(rounds)]
        after = pids(control, count)
    finally:
        subprocess.run([BIN / "herd", "-s", control, "stop", "root"], check=True, stdout=subprocess.DEVNULL)
    median = statistics.median(supervisors)
    for what, found in (("supervisor", supervisors), ("keeper", keepers)):
        print(f"{what}, ms without an answer: median {statistics.median(found):.1f}, worst {max(found):.1f}")
    others = sum(before[name] != after[name] for name in before)
    print(f"limit of the first median: {LIMIT:g} ms; services whose PID is another: {others}")
    return int(median > LIMIT or before != after)


if __name__ == "__main__":
    sys.exit(main())
