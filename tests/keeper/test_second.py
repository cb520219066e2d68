"""A second supervisor gets ready beside the first, and takes its place; or does not, and nothing has happened."""

import os
import signal
import socket
from typing import Any

import psutil
import pytest

from herdpy.keeper.message import ancillary, encode
from tests.keeper.conftest import Running, Supervisor, nobody_runs_in
from tests.waiting import until


def note(supervisor: Supervisor, key: str, text: str | None) -> None:
    supervisor.line.send(encode({"kind": "note", "key": key, "text": text}))


def hold(supervisor: Supervisor, name: str, descriptor: int) -> None:
    packet = encode({"kind": "hold", "serial": 900, "name": name})
    supervisor.line.sendmsg([packet], ancillary([descriptor]))
    supervisor.expect("held", name=name)


def ready(keeper: Running) -> Supervisor:
    """The first supervisor, which has said that it is ready."""
    keeper.begin()
    first = keeper.supervisor()
    first.tell("ready")
    return first


def second(keeper: Running, first: Supervisor, patience: int = 20) -> tuple[Supervisor, int]:
    """Ask for a second one; returns it, greeted, and the serial of the request."""
    serial = first.tell("upgrade", patience=patience)
    other = keeper.supervisor(greeted=False)
    told = other.hello()
    assert told[-1]["second"] is True
    return other, serial


def prepare(other: Supervisor, first: Supervisor, serial: int) -> int:
    """Let the second one be ready; returns the serial that its being in charge will answer."""
    prepared = other.tell("prepared", version="9.9")
    first.expect("prepared", serial=serial, pid=other.pid, version="9.9")
    return prepared


def test_it_is_told_only_what_has_changed_and_is_in_charge(keeper: Running) -> None:
    first = ready(keeper)
    for key in ("same", "changed", "forgotten"):
        note(first, key, "before")
    for name in ("service:main:0:1", "ended:main:0:2", "gone:main:0:3"):
        first.spawn(name, "sleep", "1000")
    with socket.socket() as one, socket.socket() as another:
        hold(first, "kept", one.fileno())
        hold(first, "dropped", one.fileno())
        hold(first, "replaced", one.fileno())
        other, serial = second(keeper, first)
        prepared = prepare(other, first, serial)
        note(first, "changed", "after")
        note(first, "forgotten", None)
        note(first, "new", "after")
        first.ask("signal", id="ended:main:0:2", signal=9, scope="group")
        first.ended("ended:main:0:2")
        first.ask("signal", id="gone:main:0:3", signal=9, scope="group")
        first.ended("gone:main:0:3")
        first.ask("release", id="gone:main:0:3")
        born = first.spawn("new:main:0:4", "sleep", "1000")
        for name in ("dropped", "replaced"):
            first.ask("let_go", name=name)
        hold(first, "replaced", another.fileno())
        inode = os.fstat(another.fileno()).st_ino
    assert first.ask("hand_over")["kind"] == "handed_over"
    told: list[dict[str, Any]] = []
    found = 0
    while not told or told[-1]["kind"] != "state":
        told.append(other.receive())
        for descriptor in other.passed:
            found = os.fstat(descriptor).st_ino
            os.close(descriptor)
    assert {one["key"]: one["text"] for one in told if one["kind"] == "note"} == {
        "changed": "after",
        "forgotten": None,
        "new": "after",
    }
    processes = {one["id"]: one for one in told if one["kind"] == "process"}
    assert processes.keys() == {"ended:main:0:2", "new:main:0:4"}
    assert processes["ended:main:0:2"]["exited"] == {"killed": 9, "core": False}
    assert processes["new:main:0:4"]["pid"] == born["pid"]
    assert [one["id"] for one in told if one["kind"] == "gone"] == ["gone:main:0:3"]
    assert {one["name"] for one in told if one["kind"] == "lost"} == {"dropped", "replaced"}
    assert [one["name"] for one in told if one["kind"] == "listener"] == ["replaced"]
    assert found == inode
    assert (told[-1]["serial"], told[-1]["second"]) == (prepared, False)
    # What the first one says from now on is not heard, and it is no longer told anything.
    first.tell_spawn("late", "sleep", "1000")
    assert other.ask("signal", id="late", signal=9, scope="group")["kind"] == "error"
    os.kill(keeper.pid, signal.SIGHUP)
    other.expect("signal", signal=signal.SIGHUP)
    first.end()
    until(lambda: not psutil.pid_exists(first.pid), "the first one is reaped")
    assert other.spawn("next", "true")["kind"] == "spawned"


def test_it_may_change_nothing(keeper: Running) -> None:
    first = ready(keeper)
    other, _ = second(keeper, first)
    answer = other.spawn("service", "sleep", "1000")
    assert (answer["kind"], answer["message"]) == ("error", "spawn: a second supervisor may change nothing")
    note(other, "key", "text")
    assert other.receive()["kind"] == "error"
    assert first.ask("upgrade", patience=5)["message"].endswith("gets ready already")
    assert first.ask("hand_over")["kind"] == "error"


def test_one_that_is_late_is_ended_and_the_first_is_told(keeper: Running) -> None:
    first = ready(keeper)
    other, serial = second(keeper, first, patience=1)
    first.expect("error", serial=serial, message="the second supervisor was not ready within 1 s")
    until(lambda: not psutil.pid_exists(other.pid), "its end")
    other, serial = second(keeper, first)
    prepare(other, first, serial)
    assert first.ask("dismiss")["kind"] == "dismissed"
    until(lambda: not psutil.pid_exists(other.pid), "its end")


@pytest.mark.parametrize("how", ["refuses", "ends", "is killed"])
def test_one_that_will_not_is_told_why(keeper: Running, how: str) -> None:
    first = ready(keeper)
    other, serial = second(keeper, first)
    if how == "refuses":
        other.tell("unprepared", reason="the declarations have mistakes: a.toml:1: nonsense")
        reason = "the declarations have mistakes: a.toml:1: nonsense"
    elif how == "ends":
        other.end(3)
        reason = "the second supervisor ended with 3 before it was in charge; herdpy's log says why"
    else:
        os.kill(other.pid, signal.SIGKILL)
        reason = "the second supervisor was killed by signal 9 before it was in charge; herdpy's log says why"
    first.expect("error", serial=serial, message=reason)
    assert first.spawn("service", "true")["kind"] == "spawned"


def test_one_that_is_ready_follows_a_first_that_dies(keeper: Running) -> None:
    first = ready(keeper)
    note(first, "key", "before")
    other, serial = second(keeper, first)
    prepared = prepare(other, first, serial)
    note(first, "key", "last word")
    first.kill()
    other.expect("note", key="key", text="last word")
    other.expect("state", serial=prepared, second=False)
    assert other.spawn("service", "true")["kind"] == "spawned"
    other.kill()
    keeper.supervisor()  # and it is followed like any other


def test_one_that_is_not_ready_does_not(keeper: Running) -> None:
    first = ready(keeper)
    other, _ = second(keeper, first)
    first.kill()
    until(lambda: not psutil.pid_exists(other.pid), "its end")
    assert keeper.supervisor(greeted=False).hello()[-1]["second"] is False


def test_both_end_with_the_keeper(keeper: Running) -> None:
    first = ready(keeper)
    other, _ = second(keeper, first)
    service = first.spawn("service", "sleep", "1000")["pid"]
    first.tell("exit", status=0, message=None)
    first.end()
    assert keeper.wait()[0] == 0
    assert not psutil.pid_exists(other.pid)
    assert nobody_runs_in(service)


def test_the_logger_is_followed_in_the_middle_of_a_line(keeper: Running) -> None:
    first = ready(keeper)
    log = keeper.place / "log" / "service.log"
    script = "import sys\nfor number in range(200000): sys.stdout.write(f'line {number}' + ' ' * (number % 50) + '\\n')"
    first.spawn("service", "/usr/bin/python3", "-c", script, output={"log": str(log)})
    for _ in range(5):
        before = keeper.logger()
        answer = first.ask("renew_logger", patience=20)
        assert answer["kind"] == "renewed", answer
        assert answer["pid"] not in (None, before)
        assert psutil.pid_exists(answer["pid"])
        until(lambda before=before: not psutil.pid_exists(before), "the end of the old one")
    # Both may have been told by now: among what the answers were waited for.
    until(lambda: log.read_text().endswith(f"line 199999{' ' * 49}\n"), "the last line")
    numbers = [int(line.split()[3]) for line in log.read_text().splitlines()]
    assert numbers == list(range(200000))


def test_a_logger_that_does_not_begin_changes_nothing(keeper: Running) -> None:
    first = ready(keeper)
    before = keeper.logger()
    os.kill(before, signal.SIGSTOP)  # whatever it is doing: the old one is not asked before the new one is there
    try:
        # A limit that leaves no descriptors for another line.
        limits = psutil.Process(keeper.pid)
        soft = limits.rlimit(psutil.RLIMIT_NOFILE)
        limits.rlimit(psutil.RLIMIT_NOFILE, (limits.num_fds(), soft[1]))
        answer = first.ask("renew_logger", patience=20)
        limits.rlimit(psutil.RLIMIT_NOFILE, soft)
    finally:
        os.kill(before, signal.SIGCONT)
    assert answer["kind"] == "error"
    assert keeper.logger() == before
    assert first.ask("renew_logger", patience=20)["kind"] == "renewed"
