"""Parts of herdpy are killed, or all of it: its services do not notice, and whoever comes next knows them all."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from herdpy.keeper.journal import read, record
from herdpy.keeper.message import encode
from tests.keeper.conftest import HAS_CGROUPS
from tests.ports import free_port
from tests.processes import command_line, identity, lives, programs

COUNTING = 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.02; done'
PROGRAMS = ("keeper", "keeper+logger", "keeper+supervisor", "keeper+logger+supervisor")
PATIENCE = 60


class Fleet:
    """A herdpy with several kinds of services, and a PID file; whoever is its keeper."""

    def __init__(self, herdpy: Any, eventually: Callable[..., None]) -> None:
        self.herdpy = herdpy
        self.eventually = eventually
        self.pid_file = herdpy.directory / "pid"
        command = herdpy.command
        herdpy.command = lambda: [*command()[:-1], f"--pid={self.pid_file}"]

    def declare(self, name: str, command: list[str], *lines: str) -> None:
        self.herdpy.declare(name, "\n".join([f"command = {json.dumps(command)}", *lines]))

    def start(self) -> None:
        before = self.keeper
        errors = (self.herdpy.directory / "errors").open("a")
        self.herdpy.process = subprocess.Popen(
            self.herdpy.command(),
            stdin=subprocess.DEVNULL,
            stderr=errors,
            env=self.herdpy.environment,
            start_new_session=True,
            text=True,
        )
        errors.close()
        self.eventually(lambda: self.keeper not in (None, before), PATIENCE)

    @property
    def keeper(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def programs(self) -> dict[str, int]:
        """Once there are all of them."""
        found: dict[str, int] = {}

        def is_whole() -> bool:
            nonlocal found
            found = programs(self.keeper or 0)
            return {"keeper", "supervisor", "logger"} <= found.keys()

        self.eventually(is_whole, PATIENCE)
        return found

    def kill(self, which: str) -> None:
        """Kill these, all at once, and see to it that there is a herdpy again."""
        before = self.programs()
        victims = [before[name] for name in which.split("+")]
        pidfds = [os.pidfd_open(pid) for pid in victims]
        for pid in victims:  # so that none of them sees another one's end
            os.kill(pid, signal.SIGSTOP)
        for pidfd in pidfds:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self.herdpy.process.poll()
        if "supervisor" in which:
            self.start()
        else:
            self.eventually(lambda: self.keeper != before["keeper"], PATIENCE)

    def pid(self, name: str) -> int:
        self.eventually(lambda: self.herdpy.status(name)["pid"], PATIENCE)
        pid: int = self.herdpy.status(name)["pid"]
        return pid

    def numbers(self, name: str) -> list[int]:
        """Those of the lines in the log."""
        return [
            int(number)
            for number in re.findall(r"line (\d+)$", (self.herdpy.log / f"{name}.log").read_text(), re.MULTILINE)
        ]

    def stop(self) -> None:
        keeper = self.keeper
        if keeper is not None and lives(keeper):
            self.herdpy.ok("stop", "root")
            self.eventually(lambda: not lives(keeper), PATIENCE)
        assert not self.pid_file.exists(), self.herdpy.said()
        assert not (self.herdpy.state / "journal").exists()
        if self.herdpy.process is not None:
            self.herdpy.process.wait(PATIENCE)


@pytest.fixture
def fleet(herdpy: Any, eventually: Callable[..., None]) -> Iterator[Fleet]:
    found = Fleet(herdpy, eventually)
    yield found
    found.stop()


@pytest.mark.parametrize("which", PROGRAMS)
def test_services_go_on_and_are_known(fleet: Fleet, which: str) -> None:
    auto = "auto-start = true"
    fleet.declare("plain", ["sh", "-c", COUNTING], auto)
    fleet.declare("strays", ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], auto)
    fleet.declare("quitter", ["false"], auto, "respawn-limit = 2", "respawn-delay = 0.0")
    fleet.declare("once", ["echo", "line 1"], auto, "one-shot = true")
    fleet.declare("unwanted", ["sleep", "1000"])
    fleet.start()
    ok, eventually = fleet.herdpy.ok, fleet.eventually
    running = {name: identity(fleet.pid(name)) for name in ("plain", "strays")}
    eventually(lambda: not fleet.herdpy.status("quitter")["enabled"], PATIENCE)
    eventually(lambda: len(fleet.numbers("plain")) > 10, PATIENCE)
    for _ in range(2):
        at = len(fleet.numbers("plain"))
        fleet.kill(which)
        assert {name: identity(fleet.pid(name)) for name in running} == running
        assert not fleet.herdpy.status("quitter")["enabled"]
        assert fleet.herdpy.status("unwanted")["status"] == "stopped"
        assert fleet.numbers("once") == [1]
        eventually(lambda at=at: len(fleet.numbers("plain")) > at + 10, PATIENCE)
    numbers = fleet.numbers("plain")
    assert len(set(numbers)) >= max(numbers) - 2 * 64 * ("logger" in which), numbers
    if which != "keeper+logger+supervisor":
        assert numbers == list(range(1, len(numbers) + 1))
    # What was taken up can be stopped, whole, and started anew.
    before = running["strays"][0]
    cgroup = Path(f"/proc/{before}/cgroup").read_text()
    ok("restart", "strays")
    assert fleet.pid("strays") != before
    if "herdpy" in cgroup:
        for found in Path("/proc").glob("[0-9]*/cgroup"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # others come and go
                assert cgroup not in found.read_text()
    ok("stop", "plain")
    assert not lives(running["plain"][0])


@pytest.mark.parametrize("which", PROGRAMS)
def test_what_ended_unseen_is_respawned_and_an_end_seen_later_has_its_status(fleet: Fleet, which: str) -> None:
    fleet.declare("service", ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.02; done"], "auto-start = true")
    fleet.start()
    first = fleet.pid("service")
    fleet.kill(which)
    os.kill(first, signal.SIGTERM)
    fleet.eventually(lambda: fleet.herdpy.status("service")["pid"] not in (None, first), PATIENCE)
    assert "exited with 7" in fleet.herdpy.said(), fleet.herdpy.said()


def test_to_be_killed_when_it_was_ready_is_no_mistake_of_the_supervisors(fleet: Fleet) -> None:
    fleet.start()
    for _ in range(6):
        before = fleet.programs()["supervisor"]
        os.kill(before, signal.SIGKILL)
        fleet.eventually(lambda before=before: fleet.programs().get("supervisor") not in (None, before), PATIENCE)
        fleet.herdpy.ok("status", "root")
    assert "crashed" not in fleet.herdpy.said()


def test_a_logger_that_followed_a_killed_one_is_known_to_the_next_herdpy(fleet: Fleet) -> None:
    fleet.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    fleet.start()
    log = fleet.herdpy.log / "plain.log"
    fleet.eventually(lambda: log.exists() and fleet.numbers("plain"), PATIENCE)
    first = fleet.programs()["logger"]
    os.kill(first, signal.SIGKILL)
    fleet.eventually(lambda: fleet.programs().get("logger") not in (None, first), PATIENCE)
    second = fleet.programs()["logger"]
    at = len(fleet.numbers("plain"))
    fleet.eventually(lambda: len(fleet.numbers("plain")) > at, PATIENCE)
    fleet.kill("keeper+supervisor")
    assert not lives(second)
    fleet.eventually(lambda: len(fleet.numbers("plain")) > at + 50, PATIENCE)
    numbers = fleet.numbers("plain")
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_client_that_waits_for_a_start_is_answered(fleet: Fleet) -> None:
    fleet.declare("slow", ["sh", "-c", "sleep 2; echo is up; sleep 1000"], "[ready]", 'log-line = "is up"')
    fleet.start()
    with subprocess.Popen(
        [str(Path(sys.executable).parent / "herd"), "start", "slow"], env=fleet.herdpy.environment
    ) as waiting:
        fleet.eventually(lambda: fleet.herdpy.status("slow")["pid"], PATIENCE)
        first = identity(fleet.pid("slow"))
        fleet.kill("keeper")
        assert waiting.wait(PATIENCE) == 0
    assert identity(fleet.pid("slow")) == first
    assert fleet.herdpy.status("slow")["status"] == "running"


def test_a_second_herdpy_ends_at_once_and_names_the_first_also_after_a_takeover(fleet: Fleet) -> None:
    fleet.start()
    fleet.kill("keeper")
    second = subprocess.run(
        fleet.herdpy.command(), capture_output=True, text=True, env=fleet.herdpy.environment, timeout=PATIENCE
    )
    assert second.returncode == 1
    assert f"another herdpy runs in {fleet.herdpy.state}: PID {fleet.keeper};" in second.stderr


def test_nobody_who_connects_is_refused(fleet: Fleet) -> None:
    port = free_port()
    fleet.declare("web", ["sleep", "1000"], f'sockets = ["127.0.0.1:{port}"]', "auto-start = true")
    fleet.start()
    fleet.eventually(lambda: fleet.herdpy.status("web")["status"] == "running", PATIENCE)
    for _ in range(2):
        before = fleet.keeper
        assert before is not None
        os.kill(before, signal.SIGKILL)
        fleet.herdpy.process.poll()
        end = time.monotonic() + PATIENCE
        while fleet.keeper == before:
            assert time.monotonic() < end
            with socket.create_connection(("127.0.0.1", port), PATIENCE):
                pass
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(fleet.herdpy.socket))
        assert fleet.herdpy.status("web")["endpoints"]


@pytest.mark.skipif(os.geteuid() != 0, reason="who may trace processes of its own user depends on the host")
def test_sockets_that_a_process_was_given_are_kept_whatever_was_killed(fleet: Fleet, tmp_path: Path) -> None:
    address = str(tmp_path / "web")
    fleet.declare(
        "web", ["sleep", "1000"], f'sockets = ["unix:{address}"]', 'activation = "eager"', "auto-start = true"
    )
    fleet.start()
    first = fleet.pid("web")

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)

    connect()
    fleet.kill("keeper+logger+supervisor")
    connect()
    assert fleet.pid("web") == first
    os.kill(first, signal.SIGKILL)
    fleet.eventually(lambda: not lives(first), PATIENCE)
    connect()  # to nobody: it is in nobody's hands but herdpy's
    fleet.eventually(lambda: fleet.herdpy.status("web")["pid"] not in (None, first), PATIENCE)
    connect()


def test_sockets_that_nobody_has_any_more_are_bound_anew(fleet: Fleet, tmp_path: Path) -> None:
    address = str(tmp_path / "web")
    fleet.declare("web", ["cat"], f'sockets = ["unix:{address}"]', "auto-start = true", 'type = "inetd"')
    fleet.start()
    fleet.eventually(lambda: fleet.herdpy.status("web")["status"] == "running", PATIENCE)
    fleet.kill("keeper+supervisor")
    fleet.eventually(lambda: fleet.herdpy.status("web")["endpoints"], PATIENCE)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        client.sendall(b"words")
        assert client.recv(10) == b"words"
    assert "service-exited" not in fleet.herdpy.said()


def test_a_shutdown_that_was_cut_short_is_not_gone_on_with_by_who_is_started_next(fleet: Fleet) -> None:
    fleet.declare(
        "stubborn", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], "auto-start = true", "grace-period = 1"
    )
    fleet.start()
    fleet.pid("stubborn")
    stopping = fleet.herdpy.herd_in_background("stop", "root")
    fleet.eventually(lambda: "service-stopping service=stubborn" in fleet.herdpy.said(), PATIENCE)
    fleet.kill("keeper+logger+supervisor")
    stopping.wait(PATIENCE)
    # Its own stop is carried out, and then it is started, as it is with herdpy.
    fleet.eventually(lambda: fleet.herdpy.status("stubborn")["status"] == "running", PATIENCE)
    assert "stopping" not in fleet.herdpy.ok("status", "root")


def running(word: str) -> list[int]:
    """PIDs of those that live and have a word as their last one."""
    found = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [pid for pid in found if command_line(pid)[-1:] == [word] and lives(pid)]


@pytest.mark.parametrize("which", PROGRAMS)
def test_in_the_middle_of_restarts_and_respawns_nothing_is_lost_or_doubled(fleet: Fleet, which: str) -> None:
    words = {name: f"{os.getpid()}.{number}" for number, name in enumerate(("restarted", "respawned"), 1000)}
    for name, word in words.items():
        fleet.declare(name, ["sleep", word], "auto-start = true", "respawn-limit = 1000", "respawn-delay = 0.0")
    fleet.start()
    for name in words:
        fleet.pid(name)
    for milliseconds in (0, 30, 80):
        with subprocess.Popen(
            [str(Path(sys.executable).parent / "herd"), "restart", "restarted"],
            env=fleet.herdpy.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as restarting:
            (victim,) = running(words["respawned"])
            os.kill(victim, signal.SIGKILL)
            threading.Event().wait(milliseconds / 1000)  # any moment will do
            fleet.kill(which)
            _, said = restarting.communicate(timeout=PATIENCE)
            assert restarting.returncode == 0 or said.count("\n") == 1, said
        for name, word in words.items():
            fleet.eventually(lambda name=name: fleet.herdpy.status(name)["status"] == "running", PATIENCE)
            fleet.eventually(lambda name=name, word=word: running(word) == [fleet.herdpy.status(name)["pid"]], PATIENCE)


@pytest.mark.parametrize("has_cgroup", [True, False])
def test_a_process_whose_spawn_was_not_recorded_as_done_is_found(fleet: Fleet, has_cgroup: bool) -> None:
    fleet.declare("service", ["sh", "-c", "sleep 1000 & sleep 1000"], "auto-start = true")
    fleet.start()
    before = identity(fleet.pid("service"))
    programs = fleet.programs()
    for pid in programs.values():
        os.kill(pid, signal.SIGSTOP)
    for pid in programs.values():
        os.kill(pid, signal.SIGKILL)
    fleet.herdpy.process.wait(PATIENCE)
    fleet.eventually(lambda: not any(map(lives, programs.values())), PATIENCE)
    path = fleet.herdpy.state / "journal"
    records, damaged = read(str(path))
    assert not damaged
    left = [found for found in records if found["kind"] != "process"]
    assert len(left) == len(records) - 1
    for found in left:
        if found["kind"] == "intention" and not has_cgroup:
            found["cgroup"] = None
    path.write_bytes(b"".join(map(record, map(encode, left))))
    fleet.start()
    assert identity(fleet.pid("service")) == before
    assert fleet.herdpy.status("service")["status"] == "running"


WITHOUT_CGROUPS = 'umount --lazy --all --types cgroup2 && exec "$@"'
STRAY = "(setsid sh -c 'exec sleep {word} >/dev/null 2>&1' &); exec sleep 1000"


@pytest.mark.parametrize("which", PROGRAMS)
def test_a_stray_without_a_cgroup_is_its_service_s_still(
    fleet: Fleet, eventually: Callable[..., None], which: str
) -> None:
    """It has a session of its own and another output, and its keeper, to whom it came, was killed."""
    if HAS_CGROUPS:
        fleet.herdpy.prefix = ("unshare", "--mount", "sh", "-c", WITHOUT_CGROUPS, "sh")
    word = f"2{os.getpid()}.{PROGRAMS.index(which)}"
    fleet.declare("strays", ["sh", "-c", STRAY.format(word=word)], "auto-start = true")
    fleet.start()
    eventually(lambda: running(word))
    pid = fleet.pid("strays")
    assert "herdpy" not in Path(f"/proc/{pid}/cgroup").read_text()
    fleet.kill(which)
    assert fleet.pid("strays") == pid
    assert running(word)
    fleet.herdpy.ok("stop", "strays")
    eventually(lambda: not running(word))


@pytest.mark.parametrize("kind", ["journal", "program", "ledger", "ready", "pipe", "intention", "process", "note"])
def test_whichever_line_of_the_journal_is_hurt_no_service_is_doubled(fleet: Fleet, kind: str) -> None:
    """A bit of the line that tells most is flipped; what the others say still holds."""
    fleet.declare("service", ["sh", "-c", COUNTING], "auto-start = true")
    fleet.declare("disabled", ["sleep", "1000"])
    fleet.start()
    before = identity(fleet.pid("service"))
    fleet.herdpy.ok("disable", "disabled")
    path = fleet.herdpy.state / "journal"
    fleet.eventually(lambda: rb"\"enabled\":false" in path.read_bytes(), PATIENCE)
    programs = fleet.programs()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in programs.values():
            os.kill(pid, number)
    fleet.herdpy.process.wait(PATIENCE)
    fleet.eventually(lambda: not any(map(lives, programs.values())), PATIENCE)
    lines = path.read_bytes().splitlines(keepends=True)
    named = [number for number, line in enumerate(lines) if f'"kind":"{kind}"'.encode() in line]
    about = [number for number in named if b"service:" in lines[number]] or named
    hurt = bytearray(lines[about[-1]])
    hurt[len(hurt) // 2] ^= 4
    lines[about[-1]] = bytes(hurt)
    path.write_bytes(b"".join(lines))
    fleet.start()
    assert identity(fleet.pid("service")) == before
    assert "its journal is damaged: 1 lines" in fleet.herdpy.said()
    assert "Traceback" not in fleet.herdpy.said()
    if kind != "note":
        assert not fleet.herdpy.status("disabled")["enabled"]
    if kind != "pipe":
        count = len(fleet.numbers("service"))
        fleet.eventually(lambda: len(fleet.numbers("service")) > count + 5, PATIENCE)


@pytest.mark.parametrize("supervisor_too", [False, True])
def test_a_keeper_that_is_killed_in_a_shutdown_is_followed_by_one_that_finishes_it(
    fleet: Fleet, supervisor_too: bool
) -> None:
    """Its supervisor, or the one after that; and the client's answer comes when all is over, and not before."""
    word = f"4{os.getpid()}.{int(supervisor_too)}"
    stubborn = f"trap '' TERM; while :; do sleep {word}; done"
    fleet.declare("stubborn", ["sh", "-c", stubborn], "auto-start = true", "grace-period = 3")
    fleet.declare("plain", ["sleep", f"{word}1"], "auto-start = true")
    fleet.start()
    fleet.pid("stubborn")
    before = fleet.programs()
    stopping = fleet.herdpy.herd_in_background("stop", "root")
    fleet.eventually(lambda: "service-stopping service=stubborn" in fleet.herdpy.said(), PATIENCE)
    if supervisor_too:
        os.kill(before["supervisor"], signal.SIGKILL)
        fleet.eventually(lambda: fleet.programs()["supervisor"] != before["supervisor"], PATIENCE)
        before = fleet.programs()
        fleet.eventually(lambda: "supervisor-back" in fleet.herdpy.said(), PATIENCE)
    heir = os.pidfd_open(before["supervisor"])
    os.kill(before["keeper"], signal.SIGKILL)
    assert stopping.wait(PATIENCE) == 0, stopping.communicate()
    assert select.select([heir], [], [], 0)[0], "herd stop root ended before the heir did"
    os.close(heir)
    assert not running(word)
    assert not running(f"{word}1")
    assert not fleet.herdpy.socket.exists()
    fleet.herdpy.process.wait(PATIENCE)


TRIES = 10


def test_a_keeper_that_is_killed_before_herdpy_was_ever_ready(fleet: Fleet) -> None:
    """herdpy is over, and whoever starts it next has nothing to fear of it."""
    word = f"5{os.getpid()}"
    fleet.declare("plain", ["sleep", word], "auto-start = true")
    for _ in range(TRIES):  # on a busy machine it may be ready before we have our turn
        command, environment = fleet.herdpy.command(), fleet.herdpy.environment
        with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as first:
            fleet.eventually(lambda first=first: len(programs(first.pid)) > 1, PATIENCE)
            ours = programs(first.pid)
            os.kill(ours.get("supervisor", ours["keeper"]), signal.SIGSTOP)
            if fleet.keeper is None:
                first.kill()
                first.wait(PATIENCE)
                break
            os.kill(ours.get("supervisor", ours["keeper"]), signal.SIGCONT)
            first.terminate()
            first.wait(PATIENCE)
    else:
        raise AssertionError("it was ready too soon each time")
    if "supervisor" in ours:
        os.kill(ours["supervisor"], signal.SIGCONT)
    fleet.eventually(lambda: not any(map(lives, ours.values())), PATIENCE)
    assert fleet.keeper is None
    fleet.start()
    fleet.eventually(lambda: running(word) == [fleet.pid("plain")], PATIENCE)
