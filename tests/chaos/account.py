"""A run from its beginning to its end, and what is printed of it."""

import argparse
import os
import pwd
import shutil
import subprocess
import time
import traceback
from pathlib import Path
from random import Random

from herdpy.keeper import cgroup
from tests.chaos.faults import ROOM, schedule
from tests.chaos.fleet import Fleet, Violation
from tests.chaos.run import Run


def carry_out(given: argparse.Namespace) -> int:
    """Run, print the account, and return the exit status."""
    place: Path = given.inside
    prefix = prepare(place, given.user, no_cgroups=given.no_cgroups)
    run = Run(Fleet(place, prefix))
    begin, status, number = time.monotonic(), 0, 0
    try:
        run.begin()
        for number, (fault, random) in enumerate(schedule(given.seed), 1):
            if time.monotonic() > begin + given.duration:
                break
            tell(place, f"{time.monotonic() - begin:8.2f} {number} {fault.__name__}")
            fault(run, random)
            run.settle()
            run.faults[fault.__name__] += 1
        run.end(Random(f"{given.seed}:end"))
    except Violation as violation:
        status = 1
        print(f"VIOLATION, seed {given.seed}, fault {number}: {violation}")
        print((place / "faults").read_text().splitlines()[-1] if number else "at the start")
        print(run.fleet.said(), flush=True)
    except KeyboardInterrupt:
        status = 130
    except Exception:
        status = 1
        traceback.print_exc()
        print(f"seed {given.seed}, fault {number}")
    if given.keep or status == 1:  # the file systems go with the namespace
        for name in ("state", "log"):
            subprocess.run(["cp", "-a", place / name, place / f"{name}.kept"], check=True)
    report(run, given.seed, time.monotonic() - begin, violations=int(status == 1))
    return status


def prepare(place: Path, user: str | None, *, no_cgroups: bool) -> list[str]:
    """Make the directories, on small file systems of their own; returns what herdpy is executed by."""
    if no_cgroups and (own := cgroup.find()) is not None:
        subprocess.run(["mount", "-o", "bind,ro", own, own], check=True)
    for name in ("services", "state", "log", "truth", "pids", "sockets", "run"):
        (place / name).mkdir(mode=0o700 if name == "run" else 0o755)
    for name in ("state", "log"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0755", "none", str(place / name)], check=True)
    (place / "key").write_text(cgroup.key_of(str(place / "state")))
    if user is None:
        return []
    for name in ("services", "state", "log", "truth", "pids", "sockets", "run", "."):
        shutil.chown(place / name, user)
    account = pwd.getpwnam(user)
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
    # The interpreter may lie where only root can look: that is no right over processes.
    look = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return ["setpriv", *ids, "--clear-groups", *look]


def tell(place: Path, words: str) -> None:
    """Add a line to the record of what was done."""
    with open(place / "faults", "a", encoding="utf-8") as file:
        file.write(f"{words}\n")
    if os.environ.get("CHAOS_VERBOSE"):
        print(words, flush=True)


def report(run: Run, seed: int, seconds: float, *, violations: int) -> None:
    """Print the one table."""
    print(f"seed {seed}, {seconds:.0f} s")
    for title, counted in (("faults", run.faults), ("kills", run.kills)):
        print(f"{title}: {sum(counted.values())}")
        for name, count in sorted(counted.items()):
            print(f"  {name:28} {count:6}")
    print(f"{'lines checked':30} {run.lines.checked:6}")
    print(f"{'lines lost or doubled, as said':30} {run.lines.excused:6}")
    print(f"{'ends told as they were':30} {run.ends.told:6}")
    print(f"{'ends unknown, as said':30} {run.ends.unknown:6}")
    print(f"{'answers, median and longest':30} {run.median_answer():6.2f} s {max(run.answers, default=0.0):.2f} s")
    print(f"{'violations':30} {violations:6}", flush=True)
