"""A daemon with a PID file, from the request to its being started, as a ratio to the same daemon started by hand.

    python benchmarks/ready.py [--rounds 25]

Each round does both, one after the other: a start asked for on the control socket, until the reply; and a fork and exec
of the same command, until its first process has ended, which is when the PID file is there. The daemon is a shell that
leaves a child behind and writes its number. Exit status 1 when the median of the first is above the limit.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from herdpy import protocol

BIN = Path(sys.executable).parent
LIMIT = 15.0
"""Milliseconds. GNU Shepherd, which looks once a second, took 1,028."""
DAEMON = "setsid sleep 1000 & echo $! > {path}.new; mv {path}.new {path}"


def timed(work: Callable[[], None]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def ask(control: Path, action: str, *names: str) -> None:
    """Send a command, and wait for the reply, which must be a success."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.sendall(protocol.write_command(protocol.Command(action, *names)))
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
    if b"(error #f)" not in reply or b"(result #f)" in reply:
        sys.exit(f"{action} {' '.join(names)}: {reply.decode()}")


def by_hand(path: Path) -> None:
    """Start the daemon; its first process's end is awaited."""
    subprocess.run(
        ["sh", "-c", DAEMON.format(path=path)], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def end(path: Path) -> None:
    os.kill(int(path.read_text()), 9)
    path.unlink()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=25)
    rounds = options.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="herdpy-ready-", dir="/var/tmp"))
    try:
        return measure(directory, rounds)
    finally:
        shutil.rmtree(directory)


def measure(directory: Path, rounds: int) -> int:
    services, control, path = directory / "services", directory / "run" / "socket", directory / "daemon.pid"
    services.mkdir()
    daemon = DAEMON.format(path=path)
    (services / "daemon.toml").write_text(f'command = ["sh", "-c", "{daemon}"]\nready.pid-file = "{path}"\n')
    places = ["--services", services, "--socket", control, "--state-dir", directory / "state"]
    subprocess.run([BIN / "herdpy", *places, "--log-dir", directory / "log", "--background"], check=True)
    herdpys: list[float] = []
    hands: list[float] = []
    try:
        for _ in range(rounds):
            herdpys.append(timed(lambda: ask(control, "start", "daemon")))
            ask(control, "stop", "daemon")
            hands.append(timed(lambda: by_hand(directory / "by-hand.pid")))
            end(directory / "by-hand.pid")
    finally:
        subprocess.run([BIN / "herd", "-s", control, "stop", "root"], check=True, stdout=subprocess.DEVNULL)
    median = statistics.median(herdpys)
    print(f"through herdpy, ms:   first {herdpys[0]:.1f}, median {median:.1f}, worst {max(herdpys):.1f}")
    print(f"fork and exec, ms:    median {statistics.median(hands):.1f}, worst {max(hands):.1f}")
    print(f"ratio of the medians: {median / statistics.median(hands):.2f}; limit of the first: {LIMIT:g} ms")
    return int(median > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
