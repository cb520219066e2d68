"""From nothing to a command in the machine, as a ratio to the same QEMU started by hand.

    python benchmarks/boot.py [--rounds 9]

Each round does both, one after the other: ``herd start build-vm`` and ``herd exec build-vm -- true``; and the same
command line as the same user, its secrets handed over at once, ssh tried again and again until it answers. The image is
built before the first round. Exit status 1 when the ratio of the medians is above the limit.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from herdpy.qemu.secrets import SendSecrets

BIN = Path(sys.executable).parent
LIMIT = 1.15
IMAGES = Path(os.environ.get("HERDPY_TEST_CACHE") or f"/var/tmp/herdpy-tests-{os.geteuid()}") / "images"


class Silent:
    """A step's context that tells nobody."""

    name = "build-vm"

    def progress(self, stage: str, done: float | None = None) -> None:
        pass

    def detail(self, key: str, value: str | None) -> None:
        pass


def timed(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_hand(command: Sequence[str], ssh: Sequence[str], rooms: Path, secrets: Path, user: str | None) -> float:
    """Boot the machine without herdpy, until ssh answers; returns seconds."""
    rooms.mkdir(parents=True, mode=0o700)
    if user is not None:
        shutil.chown(rooms, user, user)
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    qemu: list[subprocess.Popen[bytes]] = []

    def boot() -> None:
        environment = {**os.environ, "TMPDIR": str(rooms)}
        qemu.append(subprocess.Popen([*become, *command], env=environment, stderr=subprocess.DEVNULL))
        trio.run(SendSecrets(str(rooms / "secrets"), str(secrets)).run, Silent())
        while subprocess.run([*ssh, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            pass

    try:
        return timed(boot)
    finally:
        qemu[0].kill()
        qemu[0].wait()
        shutil.rmtree(rooms)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    rounds = options.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="herdpy-boot-", dir="/var/tmp"))
    directory.chmod(0o711)
    try:
        return measure(directory, rounds)
    finally:
        shutil.rmtree(directory)


def measure(directory: Path, rounds: int) -> int:
    services, state, secrets = directory / "services", directory / "state", directory / "secrets"
    services.mkdir()
    state.mkdir(mode=0o711)
    IMAGES.mkdir(parents=True, exist_ok=True)
    (state / "images").symlink_to(IMAGES)
    (services / "build-vm.toml").write_text(
        'type = "virtual-build-machine"\n'
        f"port-forwardings = [{{ host = {free_port()}, guest = 22 }}]\n"
        f'secret-root = "{secrets}"\n'
    )
    control = directory / "run" / "socket"
    environment = {**os.environ, "HERDPY_SOCKET": str(control)}
    places = ["--services", services, "--socket", control, "--state-dir", state, "--log-dir", directory / "log"]
    subprocess.run([BIN / "herdpy", *places, "--background"], check=True)

    def herd(*arguments: str) -> str:
        completed = subprocess.run(
            [BIN / "herd", *arguments], env=environment, check=True, text=True, stdout=subprocess.PIPE
        )
        return completed.stdout

    def through_herdpy() -> None:
        herd("start", "build-vm")
        herd("exec", "build-vm", "--", "true")

    try:
        through_herdpy()
        configuration = json.loads(herd("--json", "configuration", "build-vm"))
        reach = json.loads(herd("--json", "reach", "build-vm"))["result"][0]
        ssh = next(field[1] for field in reach[1:] if field[0] == "ssh")
        herd("stop", "build-vm")
        user = configuration["user"] if os.geteuid() == 0 else None
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(timed(through_herdpy))
            herd("stop", "build-vm")
            theirs.append(by_hand(configuration["command"], ssh, state / "machines" / "build-vm", secrets, user))
            print(f"round {number + 1}: herd {ours[-1]:.2f} s, by hand {theirs[-1]:.2f} s", flush=True)
    finally:
        herd("stop", "root")
    ratio = statistics.median(ours) / statistics.median(theirs)
    print("\nherd start build-vm && herd exec build-vm -- true")
    print(" ".join(configuration["command"]))
    print(f"medians of {rounds}: {statistics.median(ours):.2f} s and {statistics.median(theirs):.2f} s")
    print(f"ratio {ratio:.3f} (at most {LIMIT})")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
