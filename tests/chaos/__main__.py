"""Chaos: a herdpy with a fleet of services, faults at random, and after each a look whether all is as promised.

    python -m tests.chaos [--seed N] [--duration SECONDS] [--no-cgroups] [--user NAME] [--place DIRECTORY] [--keep]

Everything is in namespaces of its own (mounts, PIDs), and in a temporary directory; nothing is left of it, however it
ends. Exit status 1 on a violation: then the seed, the fault's number and the last events are printed, and the directory
is kept.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from herdpy.keeper import cgroup
from tests.chaos.fleet import eventually

ROOT = Path(__file__).parents[2]


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seed", type=int, help="which faults; any other each time if not given")
    options.add_argument("--duration", type=float, default=120.0, help="seconds")
    options.add_argument("--no-cgroups", action="store_true", help="as on a host whose cgroups cannot be written")
    options.add_argument("--user", help="whose herdpy it is; takes root")
    options.add_argument("--place", type=Path, help="the directory, instead of a temporary one in /var/tmp")
    options.add_argument("--keep", action="store_true", help="keep the directory")
    options.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.seed is None:
        given.seed = int.from_bytes(os.urandom(3), "big")
    if given.inside is not None:
        return inside(given)
    return jailed(given)


def jailed(given: argparse.Namespace) -> int:
    """Run it in namespaces of its own, and clear away whatever it leaves."""
    place = given.place or Path(tempfile.mkdtemp(prefix="herdpy-chaos-", dir="/var/tmp"))
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    command += ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "tests.chaos"]
    command += ["--inside", str(place), "--seed", str(given.seed), "--duration", str(given.duration)]
    command += ["--no-cgroups"] * given.no_cgroups + (["--user", given.user] if given.user else [])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    status = 1
    try:
        jail = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status = jail.wait()
        except KeyboardInterrupt:
            status = _wind_up(jail)
        finally:
            jail.kill()
            jail.wait()
    finally:
        _remove_cgroups(place)
        if given.keep or status == 1:
            print(f"kept: {place}")
        else:
            shutil.rmtree(place)
    return status


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _wind_up(jail: "subprocess.Popen[bytes]") -> int:
    """Let it print what it has come to, for some seconds at most."""
    for child in Path(f"/proc/{jail.pid}/task/{jail.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGINT)  # ours and not reaped: unshare waits for it
    try:
        return jail.wait(10)
    except subprocess.TimeoutExpired:
        return 130


def _remove_cgroups(place: Path) -> None:
    """Remove the services' cgroups; who lived there has ended along with the PID namespace."""
    own, key = cgroup.find(), place / "key"
    if own is not None and key.exists():
        left = cgroup.Cgroup(f"{own}/herdpy-{key.read_text()}")
        left.kill()
        eventually(left.remove, "nobody lives in the services' cgroups")


def inside(given: argparse.Namespace) -> int:
    """Be the init of the namespaces, which reaps; a child does the work."""
    child = os.fork()
    if child == 0:
        from tests.chaos.account import carry_out

        status = carry_out(given)
        sys.stdout.flush()
        os._exit(status)
    signal.signal(signal.SIGINT, lambda number, frame: os.kill(child, number))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


if __name__ == "__main__":
    sys.exit(main())
