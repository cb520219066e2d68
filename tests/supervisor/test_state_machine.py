"""Commands, deaths, changed declarations and dead supervisors in every order, against an oracle that knows no engine.

``make test`` takes about 20 s for it. To search longer, and elsewhere each time:

    HERDPY_STATE_MACHINE_EXAMPLES=2000 python -m pytest tests/supervisor/test_state_machine.py

A failure is shown as the shortest list of commands that hypothesis has found for it.
"""

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from herdpy import protocol
from tests import processes

EXAMPLES = os.environ.get("HERDPY_STATE_MACHINE_EXAMPLES")
PATIENCE = 60.0
LIMIT = 3
KILLS = 4
"""Of the supervisor, in one example: the keeper's pauses before the next one grow up to 5 s."""
STEADY = 4
"""So many times in a row, some milliseconds apart, what came of an interruption is to look the same."""

REQUIREMENTS = {
    "base": (),
    "left": ("base",),
    "right": ("base",),
    "top": ("left", "right"),
    "worker": (),
    "once": ("worker",),
}
NEVER_RESPAWNED = {"once"}
AT_ONCE = "base"
"""Requires nothing, and is respawned without a delay: its next process is asked for with the last one's burial."""
ON_FAILURE = {"worker"}
DEATHS = {"killed": signal.SIGKILL, "exit 0": signal.SIGUSR1, "exit 3": signal.SIGUSR2}
NAMES = st.sampled_from(list(REQUIREMENTS))


def declaration(name: str, version: int) -> str:
    """Sleepers die of any of the signals; the worker answers them, and leaves a child behind.

    Args:
        version: which of its declarations this is; the command line tells it.
    """
    lines = [
        f"requirement = {json.dumps(REQUIREMENTS[name])}",
        f"respawn-limit = {LIMIT}",
        "respawn-interval = 100000",
        f"respawn-delay = {0 if name == AT_ONCE else 0.01}",
    ]
    if name == "worker":
        script = f"trap 'exit 0' USR1; trap 'exit 3' USR2; sleep 1001 & echo up; wait; : {version}"
        lines += [f"command = {json.dumps(['sh', '-c', script])}", 'respawn = "on-failure"', 'ready.log-line = "up"']
    else:
        lines += [f'command = ["sleep", "1000", "{version}"]', f"respawn = {json.dumps(name not in NEVER_RESPAWNED)}"]
    return "\n".join(lines)


def requirements(name: str) -> list[str]:
    """All that a service needs, what others need first."""
    found = [one for required in REQUIREMENTS[name] for one in (*requirements(required), required)]
    return list(dict.fromkeys(found))


class Fate:
    """What the oracle knows of one service."""

    def __init__(self) -> None:
        self.is_up = False
        self.is_enabled = True
        self.is_given_up = False
        """Whether it is disabled because it died too often."""
        self.deaths = 0
        self.generation = 0
        """Grows with each process."""
        self.declared = 0
        """Which of its declarations is the last."""
        self.version = 0
        """Which of them its process is."""


class Oracle:
    """What has to come of commands, one after the other."""

    def __init__(self) -> None:
        self.fates = {name: Fate() for name in REQUIREMENTS}

    def copy(self) -> "Oracle":
        other = Oracle()
        for name, fate in self.fates.items():
            other.fates[name].__dict__.update(fate.__dict__)
        return other

    def looks(self) -> list[tuple[bool, bool, int]]:
        return [(fate.is_up, fate.is_enabled, fate.generation) for fate in self.fates.values()]

    def deaths(self) -> dict[str, int]:
        return {name: fate.deaths for name, fate in self.fates.items()}

    def dependents(self, name: str) -> list[str]:
        return [other for other, required in REQUIREMENTS.items() if name in required]

    def start(self, name: str, *, by_hand: bool = True) -> bool:
        fate = self.fates[name]
        if fate.is_up:
            return True
        if not fate.is_enabled and not (fate.is_given_up and by_hand):
            return False
        fate.is_enabled, fate.is_given_up = True, False
        fate.deaths = 0
        return self._raise(name)

    def _raise(self, name: str) -> bool:
        results = [self.start(required, by_hand=False) for required in REQUIREMENTS[name]]
        fate = self.fates[name]
        fate.is_up = all(results)
        fate.generation += fate.is_up
        fate.version = fate.declared
        return fate.is_up

    def stop(self, name: str) -> list[str]:
        if not self.fates[name].is_up:
            return []
        stopped = [other for dependent in self.dependents(name) for other in self.stop(dependent)]
        self.fates[name].is_up = False
        return [name, *dict.fromkeys(stopped)]

    def restart(self, name: str) -> bool:
        if not self.fates[name].is_enabled and not self.fates[name].is_given_up:
            return False
        stopped = self.stop(name)
        if not self.start(name):
            return False
        restarted = [self.start(other, by_hand=False) for other in stopped]
        return all(restarted)

    def enable(self, name: str) -> None:
        self.fates[name].is_enabled, self.fates[name].is_given_up = True, False
        self.fates[name].deaths = 0

    def disable(self, name: str) -> None:
        self.fates[name].is_enabled, self.fates[name].is_given_up = False, False

    def die(self, name: str, how: str) -> None:
        fate = self.fates[name]
        fate.is_up = False
        if not fate.is_enabled or name in NEVER_RESPAWNED or (name in ON_FAILURE and how == "exit 0"):
            return
        fate.deaths += 1
        if fate.deaths >= LIMIT:
            fate.is_enabled, fate.is_given_up = False, True
        else:
            self._raise(name)


class Machine(RuleBasedStateMachine):
    """A real herdpy beside its oracle. ``make`` makes one in a directory."""

    make = None

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.directory = tempfile.TemporaryDirectory(prefix="herdpy-machine-")
        self.herdpy = type(self).make(Path(self.directory.name))
        for name in REQUIREMENTS:
            self.herdpy.declare(name, declaration(name, 0))
        self.herdpy.start()
        self.kills = 0
        self.story: list[str] = []
        self.pids: dict[str, tuple[int, int]] = {}
        """Of each service that runs: its generation and its process."""

    def teardown(self) -> None:
        try:
            assert self.herdpy.stop() == 0, self.herdpy.said()
        finally:
            if self.herdpy.process.poll() is None:
                self.herdpy.process.kill()
            self.herdpy.process.stdout.close()
            self.directory.cleanup()

    # What is done.

    @rule(name=NAMES)
    def start(self, name: str) -> None:
        assert (self.ask("start", name).result is not False) == self.oracle.start(name)

    @rule(name=NAMES)
    def stop(self, name: str) -> None:
        assert sorted(map(str, self.ask("stop", name).result)) == sorted(self.oracle.stop(name))

    @rule(name=NAMES)
    def restart(self, name: str) -> None:
        assert self.ask("restart", name).result == [self.oracle.restart(name)]

    @rule(name=NAMES)
    def enable(self, name: str) -> None:
        self.ask("enable", name)
        self.oracle.enable(name)

    @rule(name=NAMES)
    def disable(self, name: str) -> None:
        self.ask("disable", name)
        self.oracle.disable(name)

    @rule(name=NAMES)
    def replace(self, name: str) -> None:
        """What runs notices nothing of another declaration until its next start."""
        fate = self.oracle.fates[name]
        fate.declared += 1
        self.herdpy.declare(name, declaration(name, fate.declared))
        assert self.ask("reload", "root").error is False

    # Which rules there are to choose from, and with what, must not hang on what came of others: hypothesis would lose
    # its way when a story is told again and comes out otherwise.

    @rule(name=NAMES, how=st.sampled_from(list(DEATHS)))
    def die(self, name: str, how: str) -> None:
        if name in self.pids:
            self.end(name, how)

    @precondition(lambda self: self.kills < KILLS)
    @rule(name=NAMES, how=st.sampled_from(list(DEATHS)))
    def die_unseen(self, name: str, how: str) -> None:
        """The process dies while there is no supervisor."""
        self.kill_supervisor()
        if name in self.pids:
            self.end(name, how)

    def end(self, name: str, how: str) -> None:
        _, pid = self.pids[name]
        self.story.append(f"{name}: {how}")
        os.kill(pid, DEATHS[how])
        self.oracle.die(name, how)
        self.settle(dead=pid)

    @precondition(lambda self: self.kills < KILLS)
    @rule()
    def kill_supervisor(self) -> None:
        self.kills += 1
        self.story.append("the supervisor is killed")
        os.kill(self.supervisor(), signal.SIGKILL)

    @precondition(lambda self: self.kills < KILLS)
    @rule(
        action=st.sampled_from(["start", "stop", "restart"]),
        name=NAMES,
        after=st.floats(0, 0.02, allow_subnormal=False),
    )
    def interrupt(self, action: str, name: str, after: float) -> None:
        """A command in whose middle the supervisor dies is carried out whole, or not at all."""
        self.kills += 1
        done = self.oracle.copy()
        getattr(done, action)(name)
        if done.looks() == self.oracle.looks() and done.deaths() != self.oracle.deaths():
            return  # nobody could tell which of the two came about
        supervisor = self.supervisor()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(self.herdpy.socket))
            client.sendall(protocol.write_command(protocol.Command(action, name)))
            select.select([client], [], [], after)
            os.kill(supervisor, signal.SIGKILL)
        self.story.append(f"the supervisor is killed within {action} {name}")
        self.become_one_of(self.oracle, done)

    @rule(name=NAMES, other=NAMES)
    def start_and_stop(self, name: str, other: str) -> None:
        """Two at once come to the same as one after the other, either way, or the stop breaks off the start."""
        if any(self.oracle.deaths().values()):
            return  # a start that is broken off forgets them, or not: nobody could tell
        with ThreadPoolExecutor() as threads:
            start = threads.submit(self.ask, "start", name)
            self.ask("stop", other)
            start.result()
        before, after = self.oracle.copy(), self.oracle.copy()
        before.start(name)
        before.stop(other)
        after.stop(other)
        after.start(name)
        broken_off = self.broken_off(name, other) if name == other or other in requirements(name) else []
        self.become_one_of(before, after, *broken_off)

    def broken_off(self, name: str, other: str) -> Iterator[Oracle]:
        """The stop comes in the middle of the start: some of what is required has been started already."""
        required = requirements(name)
        for number in range(len(required) + 1):
            for started in itertools.combinations(required, number):
                oracle = self.oracle.copy()
                for one in started:
                    oracle.start(one)
                oracle.stop(other)
                yield oracle

    # What has to be so, whatever was done.

    @invariant()
    def is_as_foretold(self) -> None:
        problem = self.difference(self.oracle)
        assert problem is None, self.message(problem)
        running = self.running()
        self.pids = {name: (self.oracle.fates[name].generation, pid) for name, pid in running.items()}
        self.wait_until(
            lambda: sorted(self.herdpy.children("sleep")) == sorted(running.values()), "nobody else is left"
        )

    def difference(self, oracle: Oracle) -> str | None:
        """What is otherwise than an oracle has it; None when nothing is."""
        services = self.services()
        for name, fate in oracle.fates.items():
            service = services[name]
            if service["status"] != ("running" if fate.is_up else "stopped"):
                return f"{name} is {service['status']}, and ought to be {'up' if fate.is_up else 'down'}"
            if bool(service["enabled?"]) != fate.is_enabled:
                return f"{name} ought to be {'enabled' if fate.is_enabled else 'disabled'}"
            generation, pid = self.pids.get(name, (None, None))
            if fate.is_up and generation == fate.generation and service["running"] != pid:
                return f"{name} has another process, though nothing has happened to it"
            if fate.is_up and generation is not None and generation != fate.generation and service["running"] == pid:
                return f"{name} has its old process, though it ought to have another"
            if fate.is_up and self.version(service["running"]) != str(fate.version):
                return f"{name} ought to be as it was declared the {fate.version + 1}. time"
        return None

    def version(self, pid: int) -> str | None:
        """The last word that a process was given; None when it has ended."""
        words: list[str] = []

        def is_clear() -> bool:
            # Who spawns by vfork goes on before the program that is executed has its command line.
            words[:] = processes.command_line(pid)
            return words != [] or not processes.lives(pid)

        self.wait_until(is_clear, f"process {pid} has a command line")
        return words[-1].split()[-1] if words else None

    def become_one_of(self, *oracles: Oracle) -> None:
        """Wait until things are, and stay, as one of the oracles has it, which is believed from now on."""
        problems: list[str | None] = []
        seen: list[Oracle] = []

        def is_decided() -> bool:
            problems[:] = map(self.difference, oracles)
            fitting = [oracle for oracle, problem in zip(oracles, problems, strict=True) if problem is None]
            if fitting:
                self.oracle = fitting[0]
            seen.append(self.oracle if fitting else None)
            return len(seen) > STEADY and fitting != [] and set(seen[-STEADY:]) == {self.oracle}

        self.wait_until(is_decided, f"one of {len(oracles)} outcomes", lambda: f" ({problems})")

    def message(self, problem: str) -> str:
        return "\n".join((problem, "this was done:", *self.story, self.herdpy.said()))

    # How to ask.

    def settle(self, dead: int | None = None) -> None:
        """Wait until nothing is under way, and a process that was killed is no longer anybody's."""

        def is_settled() -> bool:
            services = self.services().values()
            states = {service["status"] for service in services}
            return states <= {"running", "stopped"} and dead not in (service["running"] for service in services)

        self.wait_until(is_settled, "everything is settled")

    def wait_until(self, condition: Callable[[], bool], what: str, more: Callable[[], str] = str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.message(f"waited in vain until: {what}{more()}")
            select.select([], [], [], 0.005)

    def services(self) -> dict[str, dict[str, object]]:
        described = protocol.parse_services(self.ask("status", "root").result)
        services = {str(service["provides"][0]): service for service in described}
        return {name: {**services[name], "status": str(services[name]["status"])} for name in REQUIREMENTS}

    def running(self) -> dict[str, int]:
        services = self.services().items()
        return {name: service["running"] for name, service in services if type(service["running"]) is int}

    def supervisor(self) -> int:
        self.wait_until(lambda: len(self.herdpy.children("herdpy.supervisor")) == 1, "there is a supervisor")
        return self.herdpy.supervisor()

    def ask(self, action: str, service: str) -> protocol.Reply:
        if action != "status":
            self.story.append(f"{action} {service}")
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(self.herdpy.socket))
                with contextlib.suppress(ConnectionError):
                    client.sendall(protocol.write_command(protocol.Command(action, service)))
                    reply = b""
                    while chunk := client.recv(65536):
                        reply += chunk
                    if reply:
                        return protocol.parse_reply(reply.decode())


def test_every_order_of_events_comes_to_what_was_foretold(herdpy):
    Machine.make = type(herdpy)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(EXAMPLES or 7),
            stateful_step_count=25,
            deadline=None,
            derandomize=EXAMPLES is None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
