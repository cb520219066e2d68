"""herdpy against other supervisors: one run, one table, everything of one round side by side.

    python benchmarks/peers.py [--only PART ...] [--peers NAME ...] [--rounds N] [--quick]

Supervisor and circus come from PyPI, s6 and runit from Debian, each below a cache directory of its own
(/var/tmp/herdpy-benchmark-UID, or HERDPY_BENCHMARK_CACHE); this herdpy is installed there, too, not editable and
compiled, as make does it; systemd is the host's. Beside them a C loop of fork and exec, the bare interpreter, and the
least that a keeper with a supervisor on trio can be, without and with a control group for each service. A round does
each part on each contestant in turn, so that a busy machine slows all of them alike: compare ratios. Who cannot be
installed is said.

systemd takes part as the user instance of an ordinary user (nobody), which takes root to begin: it takes every process
of its control group into others, so it has one of its own, and sees no other.

Parts: one (boot, client, respawn after the default delay, shutdown), respawn (no delay), daemon (with a PID file),
hundred, thousand, flood, flood-respawn, idle.
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from contest import installation, table
from contest.accounting import become_subreaper, end_with_us
from contest.contestants import S6, Circus, Contestant, Herdpy, Least, Loop, Runit, Supervisor, Systemd
from contest.measures import FULL, PARTS, QUICK, interpreter, takes_part
from contest.stamps import TooSlow

MAKING: dict[str, Callable[[], Contestant]] = {
    "herdpy": lambda: Herdpy(installation.herdpy()),
    "C loop": lambda: Loop(installation.compiled("loop")),
    "least, vfork": lambda: Least(installation.herdpy() / "python", "vfork"),
    "least, cgroups": lambda: Least(installation.herdpy() / "python", "cgroups"),
    "supervisor": lambda: Supervisor(installation.from_pypi("supervisor")),
    "circus": lambda: Circus(installation.from_pypi("circus")),
    "s6": lambda: installation.from_debian("s6") and S6(),
    "runit": lambda: Runit(installation.from_debian("runit")),
    "systemd": lambda: Systemd(installation.cgroup_of_systemds()),
}


def go_to_jail() -> None:
    """Begin anew in a mount namespace of our own, where /usr has s6, too; the machine has it not."""
    if os.environ.get("HERDPY_BENCHMARK_JAILED"):
        return
    root = installation.from_debian("s6")
    layers = [
        (root / "usr" / "bin", "/usr/bin"),
        *((found, f"/usr/lib/{found.name}") for found in root.glob("usr/lib/*-linux-gnu")),
    ]
    script = "".join(f"mount -t overlay -o 'lowerdir={layer}:{path}' herdpy {path} && " for layer, path in layers)
    script += 'exec "$@"'
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    os.environ["HERDPY_BENCHMARK_JAILED"] = "1"
    os.execvp("unshare", ["unshare", *namespaces, "sh", "-c", script, "sh", sys.executable, *sys.argv])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--peers", nargs="+", choices=list(MAKING), default=list(MAKING), help="who takes part")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-rounds", type=int, default=5, help="rounds of the part idle, a minute a contestant")
    parser.add_argument("--services", type=int, metavar="N", help="how many services a thousand are")
    parser.add_argument("--quick", action="store_true", help="one round, less of everything: does it work at all")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    effort = QUICK if options.quick else FULL
    if options.services is not None:
        effort = effort._replace(thousand=options.services)
    if "s6" in options.peers:
        with contextlib.suppress(installation.Missing):  # said below
            go_to_jail()
    become_subreaper()
    end_with_us()
    try:
        service = installation.compiled("service")
        python = installation.herdpy() / "python"
    except installation.Missing as error:
        sys.exit(f"cannot measure anything: {error}")
    contestants, missing = [], []
    for name in options.peers:
        try:
            contestants.append(MAKING[name]())
        except installation.Missing as error:
            missing.append(f"{name} takes no part: {error}")
    for line in missing:
        print(line, flush=True)
    found: table.Found = defaultdict(list)
    commands: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        for number in range(rounds):
            for part in options.only:
                if part == "idle" and number >= options.idle_rounds:
                    continue
                if part == "one":
                    for figure, values in interpreter(python).items():
                        found[figure, "herdpy"].append(statistics.median(values))
                for contestant in contestants:
                    if not takes_part(contestant, part):
                        continue
                    print(f"round {number + 1}, {part}, {contestant.name}", file=sys.stderr, flush=True)
                    try:
                        figures, used = PARTS[part](contestant, service, effort)
                    except TooSlow as error:
                        print(f"not measured: {part}: {error}", flush=True)
                        continue
                    commands[contestant.name].update(used)
                    for figure, values in figures.items():
                        if values:
                            found[figure, contestant.name].append(statistics.median(values))
    except KeyboardInterrupt:
        print("interrupted: what was measured so far", flush=True)
    print(f"\nPython {platform.python_version()}, Linux {platform.release()}, {rounds} rounds, medians\n")
    kept = table.show(found, [contestant.name for contestant in contestants], effort)
    table.show_commands(commands)
    for line in missing:
        print(line)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
