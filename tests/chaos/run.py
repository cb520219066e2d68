"""One run: faults in the order that a seed makes of them, and after each a look whether all is as it was promised."""

import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from herdpy.keeper.companion import FIRST_DELAY, LONGEST_DELAY, STEADY
from tests.chaos.ends import UNSEEN, Ends
from tests.chaos.fleet import PATIENCE, PROGRAMS, Fleet, Violation, eventually, signal_safely
from tests.chaos.lines import NO_END, Allowance, Lines
from tests.chaos.records import Record
from tests.processes import lives

PROMISED = 1.0
"""Seconds until a client is answered, on a machine that has nothing else to do."""
CRASHES = 3
"""So many young supervisors are killed in a row; then the next one is let live until its end counts as the first."""
TRIES = 100
"""So often a file system is made as small as what is in it, which may grow meanwhile."""
CHUNKS = 2000
"""Lines of ours that go into 64 KiB at most."""


def pause(seconds: float) -> None:
    """Let time pass, so that faults come at any moment of what goes on; nothing is waited for."""
    select.select([], [], [], seconds)


def await_death(pidfds: Iterable[int]) -> None:
    """Wait until processes that were killed have ended."""
    for descriptor in pidfds:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(30_000):
            raise Violation("a program that was killed does not end")
        os.close(descriptor)


def waited_for_a_processor(pid: int) -> float:
    """Seconds that a process has been ready to run and another ran (Linux, Documentation/scheduler/sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Run:
    """A fleet under faults, and the account of it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lines = Lines(fleet.log)
        self.ends = Ends(fleet.log, fleet.kinds)
        self.faults: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.answers: list[float] = []
        self.hanging: list[socket.socket] = []
        self.extra = 0
        """Number of the last service that a reload has added."""
        self._quickest = min(self._python() for _ in range(3))
        self._queued: dict[int, float] = {}
        self._young_ends = 0

    # Beginning and end.

    def begin(self) -> None:
        """Start herdpy and its fleet."""
        self.fleet.await_ready(self.fleet.begin())
        self.fleet.await_whole()
        self.fleet.ok("disable", "forbidden")
        self.settle()

    def end(self, random: Random) -> None:
        """Stop herdpy; all that was ever written has to be in the logs then."""
        for connection in self.hanging:
            connection.close()
        self.settle()
        for name in self.fleet.kinds:
            self.ends.stops[name] = 1
        programs = self.fleet.await_whole()
        victim, delay = random.choice((None, "supervisor", "logger", "keeper")), random.random() ** 2 * 0.5
        stopping = self.fleet.herd_in_background("stop", "root")
        if victim is not None:
            pause(delay)
            signal_safely(programs[victim], signal.SIGKILL)
            self.kills[f"{victim}, in the shutdown"] += 1
        said, _ = stopping.communicate(timeout=PATIENCE)
        if stopping.returncode != 0:
            raise Violation(f"herd stop root, {victim} killed, ended with {stopping.returncode}: {said}")
        eventually(lambda: not any(map(lives, programs.values())), "herdpy has ended")
        left = [*self.fleet.generators()]
        if left:
            raise Violation(f"herdpy was stopped, and these run still: {left}")
        for name in self.fleet.kinds:
            self.lines.read(name)
            for record, _ in self.fleet.records.of(name):
                if not self.lines.is_complete(record):
                    raise Violation(f"{name}.log ends, of {record}, with {self.lines.last(record.label)}")
        for path in (self.fleet.socket, self.fleet.pid_file, self.fleet.state / "journal"):
            if path.exists() and victim != "keeper":  # that may have been killed when nothing was left to be done
                raise Violation(f"herdpy was stopped, and has left {path}")

    # What is looked at after each fault.

    def settle(self) -> None:
        """Wait until everything runs that is to run, and look whether all is as it was promised."""
        self._await_rest()
        self.ends.rest()
        self.lines.rest()
        for name in ("eager", "lazy", "inetd"):
            self._connect(name)

    def _await_rest(self) -> None:
        end = time.monotonic() + 60
        while (reason := self._unsettled()) is not None:
            if time.monotonic() > end:
                raise Violation(f"after 60 s still: {reason}")
            if self.ends.unknown_one_shots:
                self._start_what_required_it()
            pause(0.05)

    def _start_what_required_it(self) -> None:
        """What requires a one-shot whose end nobody saw has not been started: that is for its administrator to do."""
        statuses = self.fleet.statuses()
        for name in ("base", "middle", "top"):
            if statuses[name]["status"] == "stopped":
                self.fleet.ok("start", name)

    def _unsettled(self) -> str | None:
        """What is not yet as it has to be.

        Raises:
            Violation: something is as it must never be.
        """
        records = {name: self.fleet.records.of(name) for name in self.fleet.kinds}
        doubled = self.fleet.records.doubled()
        if doubled:
            raise Violation(f"these were started while another one of their service lived: {doubled}")
        self.ends.read()
        if b"Traceback" in (self.fleet.place / "said").read_bytes():
            raise Violation("a mistake of herdpy's is told on its stderr")
        for name, kind in self.fleet.kinds.items():
            self.lines.read(name)
            alive = [record for record, is_alive in records[name] if is_alive]
            if len(alive) > 1 and "--single" in kind.generator:
                raise Violation(f"{name} runs {len(alive)} times: {alive}")
            if kind.is_steady and (len(records[name]) > 1 or (records[name] and not alive)):
                raise Violation(f"{name} was to be left alone: {records[name]}")
            for record, is_alive in records[name][-50:]:
                if not is_alive and self.lines.overdone(record):
                    raise Violation(f"{name}.log has lines that {record} never wrote: {self.lines.last(record.label)}")
                if not is_alive and not self.lines.is_complete(record):
                    return f"{name}.log ends, of {record}, with {self.lines.last(record.label)}"
            if kind.ends and not self.ends.are_told(name, records[name]):
                return self.ends.untold(name, records[name])
        statuses = self.fleet.statuses()
        for name, kind in self.fleet.kinds.items():
            status = statuses.get(name)
            if status is None:
                if kind.runs:
                    return f"{name} is not registered"
                continue
            wanted = "running" if kind.runs else "stopped"
            if status["status"] != wanted:
                return f"{name} is {status['status']}, not {wanted}: {status.get('reason')}"
            if status["enabled"] == (name in ("forbidden", "quitter")):
                return f"{name} is {'enabled' if status['enabled'] else 'disabled'}: {status.get('reason')}"
            alive = self.fleet.records.alive(name)
            if not kind.runs and alive and name != "quitter":
                return f"{name} is {wanted}, and runs: {alive}"
            has_process = kind.runs and kind.ends == "service-exited" and name != "lazy"
            if has_process and [record.pid for record in alive] != [status["pid"]]:
                return f"{name} has PID {status['pid']}, it is said; it is {alive}"
        unknown = {name for name, _ in self.fleet.generators()} - self.fleet.kinds.keys()
        if unknown:
            raise Violation(f"{unknown} run, and are not of the fleet")
        return None

    def _connect(self, name: str) -> None:
        """Connect to a service, which has to answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(str(self.fleet.place / "sockets" / name))
                connection.sendall(b"chaos\n")
                answer = connection.recv(1000)
        except OSError as error:
            raise Violation(f"{name} was connected to, and did not answer: {error}") from None
        if not answer.startswith(name.encode()) or not answer.endswith(b" chaos\n"):
            raise Violation(f"{name} was connected to, and answered {answer!r}")

    # Whether a client is answered.

    def _python(self) -> float:
        begin = time.monotonic()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        return time.monotonic() - begin

    def answered(self, since: float, waits: float = 0.0, *, may_be_refused: bool = False) -> None:
        """See that a client is answered within the time that was promised, by the measure of how busy the machine is.

        Args:
            since: the moment of the fault (CLOCK_MONOTONIC).
            waits: seconds that herdpy may wait beforehand.
            may_be_refused: whether there is no herdpy for a moment.
        """
        before = self._python()
        while True:
            ran = self.fleet.herd("status")
            if ran.returncode == 0:
                break
            if not may_be_refused or time.monotonic() > since + 60:
                raise Violation(f"herd status ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
            pause(0.01)
        took = time.monotonic() - since - before - waits
        slowness = max(1.0, max(before, self._python()) / self._quickest)
        self._quickest = min(self._quickest, before)
        self.answers.append(took)
        programs = self.fleet.programs().values()
        queued = sum(waited_for_a_processor(pid) - self._queued.get(pid, 0.0) for pid in programs)
        if took - queued > PROMISED * slowness:
            raise Violation(
                f"herd status was answered after {took:.2f} s; for {queued:.2f} s of it herdpy had no processor, and "
                f"python -c pass takes {slowness:.1f} times as long as at best"
            )

    def is_answered(self) -> None:
        """See that a client is answered at any time."""
        self._remember_queues()
        self.answered(time.monotonic())

    def _remember_queues(self) -> None:
        """Remember how long herdpy's programs have waited for a processor until now."""
        self._queued = {pid: waited_for_a_processor(pid) for pid in self.fleet.programs().values()}

    def median_answer(self) -> float:
        return statistics.median(self.answers) if self.answers else 0.0

    # Kills.

    def await_age(self) -> None:
        """After several young supervisors were killed in a row, let the next one live long enough."""
        if self._young_ends >= CRASHES:
            supervisor = self.fleet.await_whole()["supervisor"]
            end = time.monotonic() + STEADY + 0.5
            while time.monotonic() < end:
                pause(0.5)
                if not lives(supervisor):
                    raise Violation(f"the supervisor (PID {supervisor}) has ended, and nobody has killed it")
            self._young_ends = 0

    def expected_pause(self) -> float:
        """Seconds that the keeper waits before it starts the next supervisor, one having been killed now."""
        ends, self._young_ends = self._young_ends, self._young_ends + 1
        return 0.0 if not ends else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (ends - 1))

    def kill(
        self, which: Sequence[str], *, is_stopped_first: bool, meanwhile: Callable[[], None], outage: float
    ) -> None:
        """Kill some of herdpy's programs at once, see to it that there is a herdpy again, and that it answers.

        Args:
            which: of :data:`~tests.chaos.fleet.PROGRAMS`.
            is_stopped_first: whether none of them sees another one's end.
            meanwhile: done when they have ended.
            outage: seconds until herdpy is started again, if it has to be.
        """
        programs = self.fleet.await_whole()
        victims = [programs[name] for name in which]
        pidfds = [os.pidfd_open(pid) for pid in victims]
        if is_stopped_first:
            for descriptor in pidfds:
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        before = self._alive()
        self._remember_queues()
        since = time.monotonic()
        for descriptor in pidfds:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        await_death(pidfds)
        self.kills["+".join(which)] += 1
        if len(which) == len(PROGRAMS):
            self._let_be_lost(before)
        meanwhile()
        waits = 0.0
        is_gone = {"keeper", "supervisor"} <= set(which)
        if "keeper" in which:
            self._young_ends = 0
        elif "supervisor" in which:
            waits = self.expected_pause()
        if is_gone:
            pause(outage)
            if self.fleet.process is not None:
                self.fleet.process.wait(30)
            began = time.monotonic()
            pid = self.fleet.begin()
            self.answered(began, may_be_refused=True)
            self.fleet.await_ready(pid)
        elif "supervisor" in which or "keeper" in which:
            self.answered(since, waits)
        self.fleet.await_whole(but=victims)
        if "keeper" in which:
            self.ends.nobody_saw(since, time.monotonic())
            self._let_young_be_lost(since)
        if {"keeper", "logger"} <= set(which):
            self._let_last_be_lost(before)

    def kill_young(self, count: int) -> None:
        """Kill the supervisor, and each next one as soon as it is there."""
        last = self.fleet.await_whole()["supervisor"]
        for number in range(count):
            self._remember_queues()
            since = time.monotonic()
            signal_safely(last, signal.SIGKILL)
            self.kills["supervisor"] += 1
            waits = self.expected_pause()
            if number + 1 == count:
                self.answered(since, waits)
            else:
                eventually(
                    lambda last=last: self.fleet.programs().get("supervisor") not in (None, last), "the next supervisor"
                )
                last = self.fleet.programs()["supervisor"]
        self.fleet.await_whole()

    def kill_until_minimal(self) -> None:
        """Kill each supervisor before it is ready, until the keeper starts none any more but the minimal one."""
        last = 0
        end = time.monotonic() + PATIENCE
        while "minimal" not in (programs := self.fleet.programs()):
            if time.monotonic() > end:
                raise Violation("supervisors were killed before they were ready, and there is no minimal one")
            if programs.get("supervisor", last) != last:
                last = programs["supervisor"]
                signal_safely(last, signal.SIGKILL)
                self.kills["supervisor"] += 1
            pause(0.01)
        self._young_ends = CRASHES

    def _alive(self) -> dict[str, list[Record]]:
        return {name: self.fleet.records.alive(name) for name in self.fleet.kinds}

    def _let_be_lost(self, alive: dict[str, list[Record]]) -> None:
        """Without its ledger, what the logger had taken and not written; what it was writing may be there twice."""
        why = "all of herdpy was killed"
        for name, records in alive.items():
            for record in records:
                now = next(found for found, _ in self.fleet.records.of(name) if found.label == record.label)
                low = max(1, self.lines.last(record.label) - CHUNKS)
                self.lines.allow(name, Allowance(record.label, low, now.begun, why))

    def _let_young_be_lost(self, since: float) -> None:
        """What was spawned just before the keeper was killed, so that its logger had not been given the pipe yet, and
        ended before there was a keeper again."""
        why = "the logger had not been given its pipe"
        for name in self.fleet.kinds:
            for record, is_alive in self.fleet.records.of(name)[-5:]:
                born = record.start_time / os.sysconf("SC_CLK_TCK")
                if not is_alive and since - UNSEEN <= born <= since + 0.1 and not self.lines.last(record.label):
                    self.lines.allow(name, Allowance(record.label, 1, NO_END, why))

    def _let_last_be_lost(self, alive: dict[str, list[Record]]) -> None:
        """What stood in a pipe whose writers ended before there was a keeper again."""
        for name, before in alive.items():
            labels = {record.label for record in before}
            for record, is_alive in self.fleet.records.of(name)[-50:]:
                if not is_alive and (record.label in labels or not self.lines.is_complete(record)):
                    low = max(1, self.lines.last(record.label) - CHUNKS)
                    self.lines.allow(name, Allowance(record.label, low, NO_END, "its pipe had no reader and no writer"))

    # Services.

    def end_services(self, ends: Sequence[tuple[str, bool]]) -> None:
        """End services' processes.

        Args:
            ends: names, and whether it is killed; else it is told to exit with 7.
        """
        for name, is_killed in ends:
            for record in self.fleet.records.alive(name):
                if is_killed:
                    self.ends.killed[record.label] = time.monotonic()
                    signal_safely(record.pid, signal.SIGKILL)
                    self.kills["service"] += 1
                elif record.ready:
                    signal_safely(record.pid, signal.SIGUSR1)

    def may_stop(self, name: str) -> None:
        """A stop of a service, and of what requires it, is asked for."""
        chain = ("base", "middle", "top")
        for other in chain[chain.index(name) :] if name in chain else (name,):
            self.ends.stops[other] = self.ends.stops.get(other, 0) + 1

    # The disk.

    def resize(self, directory: Path, size: str) -> None:
        """Give the file system of a directory another size."""
        # Without the options that it has: they say whose it is with the host's number (uid=), and in a user namespace
        # there is no such user.
        remount = ["mount", "--options-mode", "ignore", "-t", "tmpfs", "-o", f"remount,size={size}", "none"]
        subprocess.run([*remount, str(directory)], check=True, stderr=subprocess.PIPE)

    def fill(self, directory: Path) -> None:
        """Let there be no room left."""
        for left in reversed(range(TRIES)):
            used = os.statvfs(directory)
            try:
                self.resize(directory, str((used.f_blocks - used.f_bfree) * used.f_frsize))
            except subprocess.CalledProcessError:  # it has grown meanwhile
                if not left:
                    raise
            else:
                return
