"""The head may die, the hands hold; and so may the pen."""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from herdpy.keeper.journal import read
from herdpy.keeper.message import encode
from herdpy.protocol import Command, write_command
from tests.instants.strace import Call, Strace
from tests.keeper.conftest import PATIENCE, Running, Supervisor
from tests.waiting import until


def test_a_new_supervisor_is_told_what_there_is(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    log = {"log": str(keeper.place / "log" / "a.log")}
    running = first.spawn("running", "sleep", "1000", output=log)
    ended = first.spawn("ended", "sh", "-c", "exit 3", output=log, scope="process")
    first.ended("ended")
    first.spawn("released", "true")
    first.ended("released")
    first.ask("release", id="released")
    begin = psutil.Process(running["pid"]).create_time()
    first.kill()
    told = keeper.supervisor(greeted=False).hello()
    assert [message["kind"] for message in told] == ["process", "process", "listener", "state"]
    serial = told[-1]["serial"]
    assert told[0] == {
        "kind": "process",
        "serial": serial,
        "id": "running",
        "pid": running["pid"],
        "start_time": running["start_time"],
        "scope": "group",
        "exited": None,
        "drained": False,
    }
    assert told[1] == {
        "kind": "process",
        "serial": serial,
        "id": "ended",
        "pid": ended["pid"],
        "start_time": ended["start_time"],
        "scope": "process",
        "exited": {"exited": 3},
        "drained": True,
    }
    assert told[-1] == {
        "kind": "state",
        "serial": serial,
        "version": 1,
        "signal": None,
        "began_anew": False,
        "second": False,
    }
    assert psutil.Process(running["pid"]).create_time() == begin


def test_an_end_while_there_is_no_supervisor_is_told_to_the_next(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    pid = first.spawn("service", "sh", "-c", "exit 6", output={"log": str(keeper.place / "log" / "a.log")})["pid"]
    first.kill()
    second = keeper.supervisor(greeted=False)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the service's end")
    until(lambda: second.hello()[0]["drained"], "the last lines")
    assert second.hello()[0]["exited"] == {"exited": 6}
    assert second.ask("release", id="service")["kind"] == "released"


def test_a_supervisor_that_has_not_said_hello_is_told_nothing(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    pid = first.spawn("service", "sleep", "1000")["pid"]
    first.kill()
    second = keeper.supervisor(greeted=False)
    os.kill(pid, signal.SIGKILL)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the service's end")
    told = second.hello()
    assert told[0]["kind"] == "process"


def test_many_killed_supervisors_harm_no_service(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    supervisor.tell("ready")
    script = "i=0; while :; do echo $((i += 1)); sleep 0.01; done"
    told = supervisor.spawn("service", "sh", "-c", script, output={"log": str(log)})
    for _ in range(4):  # after a fifth one in a row, another program takes its place
        supervisor.kill()
        supervisor = keeper.supervisor(greeted=False)
        assert [message["pid"] for message in supervisor.hello() if message["kind"] == "process"] == [told["pid"]]
    supervisor.ask("signal", id="service", signal=9, scope="group")
    numbers = until(log.read_text, "output").splitlines()
    assert [int(line.split()[2]) for line in numbers] == list(range(1, len(numbers) + 1))
    assert keeper.logged("starting a new one").count("was killed by signal 9; starting a new one") == 4


def test_notes_come_back_as_they_were(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    notes = {"a": "state of a: ä \udcff", "b": "x" * 100_000, "c": ""}
    for key, text in notes.items():
        first.line.send(encode({"kind": "note", "key": key, "text": text}))
    first.line.send(encode({"kind": "note", "key": "gone", "text": "x"}))
    first.line.send(encode({"kind": "note", "key": "gone", "text": None}))
    first.line.send(encode({"kind": "note", "key": "never", "text": None}))
    first.kill()
    told = keeper.supervisor(greeted=False).hello()
    assert {message["key"]: message["text"] for message in told if message["kind"] == "note"} == notes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_told(keeper: Running, number: signal.Signals) -> None:
    keeper.begin()
    first = keeper.supervisor()
    os.kill(keeper.pid, number)
    first.expect("signal", signal=number)
    first.kill()
    # Who was asked to end is still asked when the one who was told has died.
    second = keeper.supervisor(greeted=False)
    assert second.hello()[-1]["signal"] == (None if number == signal.SIGHUP else number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_there_is_no_supervisor_is_remembered(keeper: Running, number: signal.Signals) -> None:
    keeper.begin()
    supervisor = keeper.supervisor(greeted=False)
    os.kill(keeper.pid, number)
    until(lambda: number not in pending(keeper.pid), "the signal is taken")
    assert until(lambda: supervisor.hello()[-1]["signal"], "the signal") == number
    assert supervisor.hello()[-1]["signal"] == (None if number == signal.SIGHUP else number)


def pending(pid: int) -> set[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("ShdPnd"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return set()


def test_requests_that_a_supervisor_sent_before_it_died_are_done_and_harm_nobody(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    uid = {"uid": 65534, "gid": 65534, "groups": []} if os.geteuid() == 0 else {}
    os.kill(keeper.pid, signal.SIGSTOP)
    first.tell_spawn("vfork", "sleep", "1000", output="supervisor")
    first.tell_spawn("fork", "sleep", "1000", output="supervisor", **uid)
    first.tell_spawn("failing", "/nowhere", output="supervisor", **uid)
    first.line.send(b"{")
    first.kill()
    os.kill(keeper.pid, signal.SIGCONT)
    second = keeper.supervisor(greeted=False)

    def all_is_known() -> dict[str, Any] | None:
        processes = {message["id"]: message for message in second.hello() if message["kind"] == "process"}
        return processes if processes.get("failing", {"exited": True})["exited"] is not None else None

    processes = until(all_is_known, "the exec that fails")
    assert {"vfork", "fork"} <= set(processes) <= {"vfork", "fork", "failing"}
    running = [psutil.Process(processes[name]["pid"]) for name in ("vfork", "fork")]
    until(lambda: all(process.cmdline() == ["sleep", "1000"] for process in running), "the execs")
    if "failing" in processes:
        assert processes["failing"]["exited"] == {"exited": 127}
        assert second.ask("release", id="failing")["kind"] == "released"
    assert len(os.listdir(f"/proc/{keeper.pid}/fd")) < 26


@pytest.mark.parametrize("has_unread", [False, True])
def test_everything_that_a_supervisor_said_before_it_died_counts(keeper: Running, has_unread: bool) -> None:
    keeper.begin()
    first = keeper.supervisor()
    if has_unread:  # then the end of the line is told by ECONNRESET, ahead of all that is still to be read
        first.tell("rest", id="nobody")
        assert select.select([first.line], [], [], 20)[0]
    os.kill(keeper.pid, signal.SIGSTOP)
    for number in range(150):
        first.line.send(encode({"kind": "note", "key": str(number), "text": ""}))
    first.kill()
    until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE, "the supervisor's end")
    os.kill(keeper.pid, signal.SIGCONT)
    told = keeper.supervisor(greeted=False).hello()
    assert sum(message["kind"] == "note" for message in told) == 150


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        b"{}",
        b'{"kind": "nonsense", "serial": 7}',
        b'{"kind": "hello"}',
        b'{"kind": "hello", "serial": 7, "version": 3}',
        b'{"kind": "spawn", "serial": 7}',
        b'{"kind": "release", "serial": 7}',
        b'{"kind": "release", "id": "service"}',
        b'{"kind": "release", "serial": 7, "id": "nobody"}',
        b'{"kind": "note"}',
        b'{"kind": "note", "key": "x", "text": 5}',
        b'{"kind": "exit"}',
        b'{"kind": "exit", "status": "bad"}',
        b"[" * 163_840,
        b"x" * 170_000,
    ],
)
def test_a_bad_request_is_answered_and_forgotten(supervisor: Supervisor, packet: bytes) -> None:
    supervisor.spawn("service", "sleep", "1000")
    supervisor.line.send(packet)
    told = supervisor.receive()
    assert told["kind"] == "error", told
    assert told["serial"] == (7 if b'"serial": 7' in packet else None)
    assert told["message"]
    assert "Error(" not in told["message"]
    assert supervisor.ask("signal", id="service", signal=0, scope="process")["delivered"] is True


def test_descriptors_that_a_supervisor_sends_are_not_kept(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    before = len(os.listdir(f"/proc/{keeper.pid}/fd"))
    for _ in range(10):
        socket.send_fds(supervisor.line, [encode({"kind": "ready", "serial": 1})], [0, 1, 2])
    assert supervisor.ask("release", id="nobody")["kind"] == "error"
    assert len(os.listdir(f"/proc/{keeper.pid}/fd")) == before


def test_a_supervisor_that_closes_its_line_is_replaced(keeper: Running) -> None:
    script = "import os, sys, time; print('closing', flush=True); os.close(int(sys.argv[1])); time.sleep(1000)"
    keeper.begin(supervisor=[sys.executable, "-c", script])
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.count("closing\n") == 5


def test_restarts_come_at_once_and_then_later_and_later(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.tell("ready")
    waits = []
    for _ in range(4):
        begin = time.monotonic()
        supervisor.kill()
        supervisor = keeper.supervisor()
        waits.append(time.monotonic() - begin)
    assert waits[3] > 0.4  # 0, 0.1, 0.2, 0.4 s
    assert waits[2] > 0.2


def test_a_killed_logger_is_replaced_and_goes_on(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    supervisor.spawn("service", "sh", "-c", "while :; do echo line; sleep 0.005; done", output={"log": str(log)})

    def has_grown_beyond(size: int) -> bool:
        return log.exists() and log.stat().st_size > size

    until(lambda: has_grown_beyond(0), "output")
    for _ in range(3):
        old = psutil.Process(keeper.logger())
        old.kill()
        until(lambda: not old.is_running(), "the logger's end")  # noqa: B023 - called before old changes
        size = log.stat().st_size
        until(lambda: has_grown_beyond(size), "output by a new logger")  # noqa: B023
    supervisor.ask("signal", id="service", signal=9, scope="group")
    while supervisor.receive()["kind"] != "drained":
        pass
    assert {line[20:] for line in log.read_text().splitlines()} == {"line"}
    assert keeper.logged("the logger").count("was killed by signal 9") == 3


@pytest.mark.parametrize("script", ["echo last words", "sleep 1000 & echo last words"], ids=["alone", "not alone"])
def test_a_service_that_ends_while_there_is_no_logger_is_drained_by_the_next(keeper: Running, script: str) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    logger = keeper.logger()
    os.kill(logger, signal.SIGSTOP)
    supervisor.spawn("service", "sh", "-c", script, output={"log": str(log)})
    supervisor.expect("exited")
    os.kill(logger, signal.SIGKILL)
    supervisor.expect("drained", id="service")
    assert log.read_text().endswith(" last words\n")


def test_what_the_supervisor_prints_goes_to_the_log_and_to_stderr(keeper: Running) -> None:
    keeper.begin(supervisor=["sh", "-c", 'echo "one line"; echo "another" >&2; exec python3 "$@"', "sh"])
    status, _, errors = keeper.wait()  # its arguments are no program: it ends, five times
    assert status == 1
    assert errors.count("one line\n") == 5
    assert errors.count("another\n") == 5
    lines = keeper.log.read_text().splitlines()
    assert sum(line.endswith(" one line") for line in lines) == 5
    assert all(line[:4].isdecimal() and line[19] == " " for line in lines)


def test_one_that_closes_its_line_has_time_to_end_and_not_more(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    first.tell("ready")
    first.line.shutdown(socket.SHUT_RDWR)
    keeper.logged(f"the supervisor (PID {first.pid}) was killed by signal 9; starting a new one")
    second = keeper.supervisor()
    second.tell("ready")
    second.line.shutdown(socket.SHUT_RDWR)
    second.end(4)
    keeper.logged(f"the supervisor (PID {second.pid}) ended with 4; starting a new one")


def test_supervisors_that_were_ready_may_be_killed_as_often_as_one_likes(keeper: Running) -> None:
    keeper.begin()
    for _ in range(6):  # of five crashes it would despair
        supervisor = keeper.supervisor()
        supervisor.tell("ready")
        supervisor.ask("signal", id="nobody", signal=9, scope="all")  # so that it was heard
        supervisor.kill()
    keeper.supervisor()
    assert "crashed" not in keeper.log.read_text()


def test_five_crashes_in_a_row_bring_the_minimal_supervisor(keeper: Running) -> None:
    keeper.begin()
    for number in range(5):
        supervisor = keeper.supervisor()
        if number < 2:
            supervisor.tell("ready")
        supervisor.end(7)
    keeper.logged("herdpy's supervisor has crashed 5 times in a row")

    def minimal() -> list[int]:
        found = []
        for child in keeper.children():
            with contextlib.suppress(psutil.Error):  # it ends meanwhile
                if any("minimal/__main__" in word for word in child.cmdline()):
                    found.append(child.pid)
        return found

    (pid,) = until(minimal, "the minimal supervisor")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(keeper.socket))
        client.sendall(write_command(Command("status", "root")))
        assert b"crashed 5 times in a row" in client.recv(65536)
    os.kill(pid, signal.SIGKILL)
    until(lambda: minimal() not in ([], [pid]), "the next one")


def test_what_a_killed_supervisor_asked_for_is_not_answered_to_the_next_one(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    before = keeper.logger()
    serial = first.tell("renew_logger", patience=20)

    def loggers() -> list[int]:
        found = []
        for child in keeper.children():
            with contextlib.suppress(psutil.Error):
                if "logger/__main__.py" in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    (new,) = until(lambda: [pid for pid in loggers() if pid != before], "the new logger")
    os.kill(new, signal.SIGSTOP)  # it is not ready before there is another supervisor
    first.kill()
    second = keeper.supervisor()
    os.kill(new, signal.SIGCONT)
    until(lambda: loggers() == [new], "the end of the old one")
    assert second.tell("rest", id="nobody") == serial
    told = second.receive()
    assert (told["kind"], told["serial"]) == ("error", serial), told
    assert "nobody" in told["message"]


def test_notes_that_say_why_are_in_the_journal_before_a_signal_is_sent(keeper: Running, tmp_path: Path) -> None:
    """The keeper is killed where it is about to send the signal: whoever comes next must not take it for a mishap."""
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.spawn("service", "sleep", "1000", scope="process")
    pid = keeper.pid
    strace = Strace([pid], Call("pidfd_send_signal", 1), tmp_path / "trace")
    os.kill(pid, signal.SIGSTOP)  # so that it takes both in one turn
    supervisor.line.send(encode({"kind": "note", "key": "supervisor", "text": "stopping"}))
    supervisor.tell("signal", id="service", signal=15, scope="process")
    os.kill(pid, signal.SIGCONT)
    assert keeper.process is not None
    assert keeper.process.wait(PATIENCE) == -signal.SIGKILL
    assert strace.end().is_killed
    records, _ = read(str(keeper.place / "state" / "journal"))
    assert [one["text"] for one in records if one["kind"] == "note"] == ["stopping"]
    (service,) = [one["pid"] for one in records if one["kind"] == "process"]
    os.kill(service, signal.SIGKILL)
