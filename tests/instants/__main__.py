"""``python -m tests.instants``: kill each of herdpy's programs at each of its system calls, and see what comes next.

First each operation is done a few times with strace attached to one program: these are its instants. Then it is done
again for each of them, and the program is killed there. What must be so then is in fleet.py: everything as if nobody
had been killed. How many calls there are varies a little from one run to the next (how often a program is woken up):
what came in most runs must be hit at some time; what did not come in many runs in a row is given up, and counted; and
what a later round shows for the first time is added.
"""

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tests.instants.fleet import PATIENCE, Fleet
from tests.instants.operations import AROUND, OPERATIONS, PROGRAMS, Operation
from tests.instants.series import TRIES, Series
from tests.instants.strace import Call, Strace, Trace

WAYS = ("cgroups", "no cgroups")
DOUBT = 1.0
"""Seconds in which it ends, if it was killed while strace was leaving."""
APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child=TERM", "--mount-proc")
"""What runs us where there are only our own processes: nothing can be left behind, and a program that looks through
/proc looks at no others (each would be some more instants)."""


def be_init() -> None:
    """As the first process of a PID namespace, run the rest in a child, and reap whatever ends without a parent."""
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main() -> int:
    """See the options' own words."""
    if os.getpid() != 1:
        as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        os.execvp(APART[0], [*APART, *as_root, sys.executable, "-m", "tests.instants", *sys.argv[1:]])
    be_init()
    parser = argparse.ArgumentParser(prog="python -m tests.instants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--way", choices=WAYS, action="append", help="only with, or without, a cgroup for each service")
    parser.add_argument("--operation", choices=[operation.name for operation in OPERATIONS], action="append")
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th instant")
    parser.add_argument("--offset", type=int, default=0, help="beginning with this one")
    parser.add_argument("--tries", type=int, default=TRIES, help="runs without it until an instant is given up")
    parser.add_argument("--jobs", type=int, default=2, help="herdpys at a time")
    parser.add_argument("--wrong", type=int, default=10, help="end after so many wrong outcomes")
    parser.add_argument("--report", type=Path, help="a file for the table of all instants")
    asked = parser.parse_args()
    series = [
        Series(way, operation.name, program, every=asked.every, offset=asked.offset, tries=asked.tries)
        for way in asked.way or WAYS
        for operation in OPERATIONS
        for program in operation.programs
        if (not asked.operation or operation.name in asked.operation)
        and (not asked.program or program in asked.program)
    ]
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had the first one ignored, in the background
        signal.signal(number, signal.default_int_handler)
    try:
        run(series, asked.jobs, asked.wrong)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        if asked.report is not None:
            asked.report.write_text("".join(report(series)))
    print("".join(summary(series)), end="")
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if is_wrong(series) else 0


def run(series: Sequence[Series], jobs: int, wrong: int) -> None:
    """Do all that the series ask for, with so many herdpys at a time, until so many outcomes are wrong. Ctrl-C ends
    them."""
    is_over = threading.Event()
    for way in dict.fromkeys(one.way for one in series):
        of_way = [one for one in series if one.way == way]
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for job in [pool.submit(_job, way, of_way, is_over, wrong) for _ in range(jobs)]:
                    job.result()
            except BaseException:
                for number in (signal.SIGINT, signal.SIGTERM):  # once is enough
                    signal.signal(number, signal.SIG_IGN)
                is_over.set()
                raise


def _job(way: str, series: Sequence[Series], is_over: threading.Event, wrong: int) -> None:
    """Be one herdpy after the other: a new one whenever something went wrong."""
    while not is_over.is_set() and not all(one.is_done() for one in series):
        directory = Path(tempfile.mkdtemp(prefix="instants-"))
        fleet = Fleet(directory / "herdpy", has_cgroups=way == "cgroups")
        try:
            fleet.start()
            if _rounds(fleet, series, is_over):
                fleet.stop()
                shutil.rmtree(directory)
            else:
                print(f"kept: {directory}", file=sys.stderr, flush=True)
                if sum(one.count_wrong() for one in series) >= wrong:
                    is_over.set()
        finally:
            fleet.kill()


def _rounds(fleet: Fleet, series: Sequence[Series], is_over: threading.Event) -> bool:
    """Do one operation after the other until nothing is left to do, or something is wrong; return whether it is not."""
    turn = 0
    while not is_over.is_set() and not all(one.is_done() for one in series):
        wanted = {one.operation for one in series if not one.is_done()}
        for operation in OPERATIONS:
            if operation.name not in wanted and not (operation in AROUND and wanted & {one.name for one in AROUND}):
                continue
            turn += 1
            of_operation = {one.program: one for one in series if one.operation == operation.name}
            chosen = None
            for step in range(len(operation.programs)):
                one = of_operation.get(operation.programs[(turn + step) % len(operation.programs)])
                if one is not None and (chosen := one.take()) is not None:
                    break
            if one is None or chosen is None:
                operation.prepare(fleet)
                operation.act(fleet, lambda: None)
                fleet.expect()
            elif not _round(fleet, operation, one, chosen[0]):
                return False
    return True


def _round(fleet: Fleet, operation: Operation, series: Series, call: Call | None) -> bool:
    """Do an operation with a kill, or without; return whether all was right."""
    program = series.program.partition("'")[0].rpartition(" ")[2]
    trace = Trace((), is_killed=False)
    outcome, wrong = "", ""
    strace: Strace | None = None
    victim = -1

    def attach() -> None:
        nonlocal strace, victim
        if series.program.startswith(("second", "next")):
            threads = [fleet.newborn(program, before[program])]
        else:
            threads = _threads(series.program, before)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # the latter: a thread that has just ended
            victim = os.pidfd_open(threads[0] if len(threads) == 1 else before[program])
        strace = Strace(threads, call, fleet.directory / "trace")

    try:
        if fleet.ends[program] >= 2:
            fleet.replace_keeper()
        operation.prepare(fleet)
        before = fleet.programs()
        if series.program.startswith(("second", "next")):
            later = attach
        else:
            attach()
            later = _nothing
        try:
            outcome = operation.act(fleet, later)
            fleet.rest()
        finally:
            if strace is not None:
                trace = strace.end()
            if trace.is_doubtful and victim >= 0 and select.select([victim], [], [], DOUBT)[0]:
                trace = msgspec.structs.replace(trace, is_killed=True)
            if victim >= 0:
                if trace.is_killed:
                    select.select([victim], [], [], PATIENCE)
                os.close(victim)
        if trace.is_killed:
            fleet.ends[program] += 1
            if program == "keeper":
                fleet.ends.clear()
        fleet.expect()
        _see_who_was_replaced(operation, before, fleet.programs(), program if trace.is_killed else None)
    except Exception as error:
        wrong = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        at = "no kill" if call is None else f"{call.name} {call.number}"
        place = f"{series.way}, {operation.name}, {series.program}, {at}"
        print(f"WRONG: {place}{'' if trace.is_killed else ' (not hit)'}: {wrong}", file=sys.stderr, flush=True)
    series.seen(call, trace, outcome, wrong)
    if series.is_done():
        print("".join(summary([series])).splitlines()[0], file=sys.stderr, flush=True)
    return not wrong


def _threads(program: str, programs: dict[str, int]) -> list[int]:
    if program != "supervisor's threads":
        return [programs[program]]
    main = programs["supervisor"]
    return [int(thread.name) for thread in Path(f"/proc/{main}/task").iterdir() if int(thread.name) != main]


def _nothing() -> None:
    return


def _see_who_was_replaced(
    operation: Operation, before: dict[str, int], after: dict[str, int], killed: str | None
) -> None:
    """See that nobody has been replaced but who was killed, or was to be; a keeper that was killed, by a supervisor."""
    replaced = {name for name in before if before[name] != after[name]}
    if killed is None:
        assert replaced == operation.replaces, f"replaced were {replaced}"
    elif not operation.replaces:
        wanted = {"keeper", "supervisor", "logger"} if killed == "keeper" else {killed}
        assert replaced == wanted, f"replaced were {replaced}, killed was the {killed}"
        assert killed != "keeper" or after["keeper"] == before["supervisor"], f"who is the keeper: {before} {after}"
    elif killed != "keeper":  # what the operation replaces may have been replaced by then, or not
        assert replaced <= {*operation.replaces, killed}, f"replaced were {replaced}, killed was the {killed}"


def is_wrong(series: Iterable[Series]) -> bool:
    """Whether anything was wrong, or an instant was never hit."""
    return any(not one.is_done() or one.missed or one.count_wrong() for one in series)


def report(series: Iterable[Series]) -> Iterator[str]:
    """The table of all instants, tab-separated."""
    yield "way\toperation\tprogram\tindex\tcall\tnumber\tcame\toutcome\targuments\n"
    for one in series:
        for row in one.rows():
            yield "\t".join((one.way, one.operation, one.program, *row)) + "\n"


def summary(series: Iterable[Series]) -> Iterator[str]:
    """A line for each series, and the sum."""
    total = [0, 0, 0, 0, 0]
    for one in series:
        rows, kills = one.rows(), one.kills
        counts = (len(rows), len(kills), len(one.given_up), len(one.missed), one.count_wrong())
        total = [a + b for a, b in zip(total, counts, strict=True)]
        yield f"{one.way:11}{one.operation:8}{one.program:21}" + _counts(counts)
        for call in one.missed:
            yield f"    never hit: {call.name} {call.number}\n"
        if one.given_up:
            few = ", ".join(f"{call.name} {call.number}" for call in one.given_up[:10])
            yield f"    given up, for they came in few runs, and not in the last {one.tries}: {few}\n"
    yield f"{'in all':40}" + _counts(total)


def _counts(counts: Sequence[int]) -> str:
    return "{:5} instants {:5} kills {:4} given up {:3} never hit {:3} wrong outcomes\n".format(*counts)


if __name__ == "__main__":
    sys.exit(main())
