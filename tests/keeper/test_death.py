"""How ends are told, and what happens to numbers, groups and orphans."""

import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.keeper.conftest import ENVIRONMENT, Running, Supervisor, nobody_runs_in
from tests.waiting import until


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", {"exited": 0}),
        ("exit 42", {"exited": 42}),
        ("kill -KILL $$", {"killed": 9, "core": False}),
        ("kill -TERM $$", {"killed": 15, "core": False}),
    ],
)
def test_the_status_is_told(supervisor: Supervisor, script: str, status: object) -> None:
    assert supervisor.spawn("service", "sh", "-c", script)["kind"] == "spawned"
    assert supervisor.ended("service") == status


def test_a_process_that_ended_keeps_its_numbers_until_it_is_released(supervisor: Supervisor) -> None:
    pid = supervisor.spawn("service", "true")["pid"]
    supervisor.ended("service")
    assert state(pid) == "Z"
    assert supervisor.spawn("service", "true")["kind"] == "error"
    assert supervisor.ask("release", id="service")["kind"] == "released"
    assert not psutil.pid_exists(pid)
    assert supervisor.spawn("service", "true")["kind"] == "spawned"


def test_a_running_process_is_not_released(supervisor: Supervisor) -> None:
    pid = supervisor.spawn("service", "sleep", "1000")["pid"]
    told = supervisor.ask("release", id="service")
    assert told["kind"] == "error"
    assert "still runs" in told["message"]
    assert psutil.Process(pid).is_running()


BACKGROUND = "sleep 1000 & echo $!; exit 0"


def test_release_kills_what_is_left_of_the_group(supervisor: Supervisor) -> None:
    told = supervisor.spawn("service", "sh", "-c", BACKGROUND, scope="group", output="supervisor")
    os.set_blocking(supervisor.passed[0], True)
    left = psutil.Process(int(os.read(supervisor.passed[0], 20)))
    os.close(supervisor.passed[0])
    supervisor.ended("service")
    assert left.is_running()
    supervisor.ask("release", id="service")
    until(lambda: nobody_runs_in(told["pid"]), "the group's end")
    until(lambda: not left.is_running(), "the orphan is reaped")


def test_release_leaves_the_group_alone_when_only_the_process_is_meant(supervisor: Supervisor) -> None:
    told = supervisor.spawn("service", "sh", "-c", BACKGROUND, scope="process", output="supervisor")
    os.set_blocking(supervisor.passed[0], True)
    left = psutil.Process(int(os.read(supervisor.passed[0], 20)))
    os.close(supervisor.passed[0])
    supervisor.ended("service")
    assert supervisor.ask("release", id="service")["kind"] == "released"
    assert supervisor.ask("signal", id="service", signal=0, scope="process")["kind"] == "error"
    assert left.status() != psutil.STATUS_ZOMBIE
    assert os.getpgid(left.pid) == told["pid"]
    left.kill()


def test_a_signal_reaches_the_process_or_its_group(supervisor: Supervisor) -> None:
    child = "(trap 'echo child' USR1; echo ready; while :; do sleep 0.01; done) 2>/dev/null &"
    script = f"trap 'echo parent' USR1; {child} while :; do wait; done"
    supervisor.spawn("service", "sh", "-c", script, output="supervisor")
    os.set_blocking(supervisor.passed[0], True)
    with open(supervisor.passed[0], encoding="ascii") as output:
        assert output.readline() == "ready\n"
        assert supervisor.ask("signal", id="service", signal=signal.SIGUSR1, scope="process")["delivered"] is True
        assert output.readline() == "parent\n"
        assert supervisor.ask("signal", id="service", signal=signal.SIGUSR1, scope="group")["delivered"] is True
        assert {output.readline(), output.readline()} == {"parent\n", "child\n"}
        assert supervisor.ask("signal", id="service", signal=signal.SIGKILL, scope="group")["delivered"] is True
        assert output.readline() == ""
    supervisor.ended("service")
    assert supervisor.ask("signal", id="service", signal=signal.SIGTERM, scope="process")["delivered"] is False


@pytest.mark.parametrize(
    "fields", [{"signal": 65}, {"signal": "TERM"}, {"scope": "everyone"}, {"id": "nobody"}, {"id": None}]
)
def test_a_bad_signal_request_is_answered(supervisor: Supervisor, fields: dict[str, object]) -> None:
    supervisor.spawn("service", "sleep", "1000")
    told = supervisor.ask("signal", **{"id": "service", "signal": 15, "scope": "process", **fields})
    assert told["kind"] == "error"
    assert supervisor.ask("signal", id="service", signal=0, scope="process")["delivered"] is True


# Ends at once, leaving a grandchild in a session of its own, which ends when told.
DAEMONIZE = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        open(sys.argv[1]).read()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("is_held", [True, False], ids=["beside a zombie that is held", "alone"])
def test_orphans_come_to_the_keeper_and_are_reaped(keeper: Running, public: Path, is_held: bool) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    fifo = public / "fifo"
    os.mkfifo(fifo)
    supervisor.spawn("service", sys.executable, "-c", DAEMONIZE, str(fifo), output="supervisor", scope="process")
    os.set_blocking(supervisor.passed[0], True)
    orphan = psutil.Process(int(os.read(supervisor.passed[0], 20)))
    os.close(supervisor.passed[0])
    supervisor.ended("service")
    assert orphan.ppid() == keeper.pid
    if not is_held:
        supervisor.ask("release", id="service")
    select.select([], [], [], 0.3)  # the look for orphans that the service's end brought about must not be the one
    fifo.write_text("end\n")
    until(lambda: not orphan.is_running(), "the orphan is reaped")
    if is_held:
        assert supervisor.ask("release", id="service")["kind"] == "released"


def test_drained_comes_after_the_last_lines_are_in_the_file(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    for number in range(20):
        log = keeper.place / "log" / f"{number}.log"
        supervisor.spawn("service", "sh", "-c", "seq 2000; printf last", output={"log": str(log), "name": "service"})
        supervisor.ended("service")
        lines = log.read_text().splitlines()
        assert len(lines) == 2001
        assert lines[-1].endswith(" last")
        supervisor.ask("release", id="service")


def test_drained_does_not_wait_for_whoever_keeps_the_pipe_open(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    script = "(while echo more; do sleep 0.01; done) & echo mine"
    supervisor.spawn("service", "sh", "-c", script, output={"log": str(log)}, scope="process")
    supervisor.ended("service")
    assert " mine\n" in log.read_text()
    supervisor.ask("release", id="service")
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size, "output of a process that outlived the service")


def end_unheard(keeper: Running, supervisor: Supervisor, script: str) -> tuple[Path, int]:
    """Let a process end while the logger is stopped; returns the log that is lacking its last lines, and the logger."""
    log, fifo = keeper.place / "log" / "service.log", keeper.place / "fifo"
    os.mkfifo(fifo)
    supervisor.spawn("service", "sh", "-c", f"read _ < {fifo}; {script}", output={"log": str(log)})
    logger = keeper.logger()
    os.kill(logger, signal.SIGSTOP)
    fifo.write_text("end\n")
    supervisor.expect("exited", id="service")
    return log, logger


def test_a_release_waits_for_the_last_lines(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log, logger = end_unheard(keeper, supervisor, "seq 2000; printf last")
    serial = supervisor.tell("release", id="service", drained=True)
    assert supervisor.ask("rest", id="service") == {"kind": "rest", "serial": serial + 1, "id": "service", "count": 0}
    os.kill(logger, signal.SIGCONT)
    supervisor.expect("released", serial=serial, left=0)
    lines = log.read_text().splitlines()
    assert len(lines) == 2001
    assert lines[-1].endswith(" last")


def test_a_signal_and_the_release_that_follows_are_one_request(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    script = "trap 'seq 2000; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    supervisor.spawn("service", "sh", "-c", script, output={"log": str(log)})
    until(lambda: log.exists() and "ready" in log.read_text(), "its first line")
    serial = supervisor.tell("signal", id="service", signal=15, scope="all", then="release", if_alone=True)
    told = [supervisor.receive()]
    while told[-1]["kind"] != "released":
        told.append(supervisor.receive())
    # Its output may be at its end before it has ended itself.
    assert [one for one in told if one["kind"] != "drained"] == [
        {"kind": "exited", "id": "service", "status": {"exited": 3}},
        {"kind": "released", "serial": serial, "id": "service", "left": 0},
    ]
    assert log.read_text().splitlines()[-1].endswith(" 2000")
    assert supervisor.ask("release", id="service")["kind"] == "error"


def test_what_is_left_after_the_signal_is_told_instead_of_released(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    stubborn = "sh -c 'trap : TERM; echo ready; while :; do sleep 0.01; done' & exec sleep 1000"
    supervisor.spawn("service", "sh", "-c", stubborn, output={"log": str(log)})
    until(lambda: log.exists() and "ready" in log.read_text(), "its first line")
    serial = supervisor.tell("signal", id="service", signal=15, scope="all", then="release", if_alone=True)
    supervisor.expect("exited", id="service")
    told = supervisor.receive()
    while told["kind"] == "drained":
        told = supervisor.receive()
    assert told == {"kind": "rest", "serial": serial, "id": "service", "count": told["count"]}
    assert told["count"] >= 1
    assert supervisor.ask("release", id="service")["left"] == 0


def test_a_release_that_is_to_follow_is_the_next_supervisors_to_ask_for(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    fifo = keeper.place / "fifo"
    os.mkfifo(fifo)
    script = f"trap : TERM; echo ready; read _ < {fifo}; read _ < {fifo}"
    told = supervisor.spawn("service", "sh", "-c", script, output="supervisor")
    os.set_blocking(supervisor.passed[0], True)
    assert os.read(supervisor.passed[0], 100) == b"ready\n"
    supervisor.tell("signal", id="service", signal=15, scope="process", then="release")
    supervisor.ask("rest", id="service")  # refused, since it runs: so the signal has been sent
    supervisor.kill()
    second = keeper.supervisor()
    os.kill(told["pid"], signal.SIGKILL)
    second.expect("exited", id="service")
    second.tell("rest", id="service")
    told = second.receive()
    while told["kind"] == "drained":
        told = second.receive()
    assert told["kind"] == "rest", "it is not released"
    assert second.ask("release", id="service")["kind"] == "released"


def to_spawn(serial: int, name: str, *command: str) -> dict[str, Any]:
    """The request to spawn this."""
    ours = dict.fromkeys(("directory", "uid", "gid", "groups", "umask"))
    request = {"kind": "spawn", "serial": serial, "id": name, "command": command, "environment": ENVIRONMENT, **ours}
    return {**request, "scope": "group", "output": "null"}


def answers(supervisor: Supervisor, count: int) -> list[dict[str, Any]]:
    """The next so many answers; events are left out."""
    told: list[dict[str, Any]] = []
    while len(told) < count:
        message = supervisor.receive()
        if message["kind"] not in ("exited", "drained"):
            told.append(message)
    return told


def test_a_release_and_the_spawn_of_the_next_process_are_one_request(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log, logger = end_unheard(keeper, supervisor, "seq 2000; printf last")
    begun = keeper.place / "begun"
    then = to_spawn(1001, "next", "sh", "-c", f"tail -n 1 {log} > {begun}; exec sleep 1000")
    serial = supervisor.tell("release", id="service", drained=True, if_alone=True, then=then)
    assert supervisor.ask("rest", id="service")["count"] == 0
    assert not begun.exists(), "the logger is yet to write the last lines"
    os.kill(logger, signal.SIGCONT)
    released, spawned = answers(supervisor, 2)
    assert released == {"kind": "released", "serial": serial, "id": "service", "left": 0, "goes_on": True}
    assert (spawned["kind"], spawned["serial"], spawned["id"]) == ("spawned", 1001, "next")
    until(lambda: begun.exists() and begun.read_text().endswith(" last\n"), "the last line before the next process")
    assert supervisor.ask("release", id="service")["kind"] == "error"


def test_why_the_spawn_that_was_to_follow_a_release_is_not_possible_is_told(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    for number, (then, kind) in enumerate(
        [
            (to_spawn(1001, "next", "/nowhere/to/be/found"), "failed"),
            ({**to_spawn(1001, "next", "true"), "scope": "none"}, "error"),
            ({**to_spawn(1001, "next", "true"), "command": 5}, "error"),
        ]
    ):
        supervisor.spawn(str(number), "true")
        supervisor.ended(str(number))
        supervisor.tell("release", id=str(number), if_alone=True, then=then)
        released, refused = answers(supervisor, 2)
        assert released["goes_on"]
        assert (refused["kind"], refused["serial"]) == (kind, 1001)
    supervisor.spawn("last", "true")
    supervisor.ended("last")
    assert "goes_on" not in supervisor.ask("release", id="last", then="spawn"), "that is no request"


def test_nothing_is_spawned_while_others_of_the_service_live(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.spawn("service", "sh", "-c", "sleep 1000 & exit 3")
    supervisor.expect("exited", id="service")
    then = to_spawn(1001, "next", "sleep", "1000")
    rest = supervisor.ask("release", id="service", if_alone=True, then=then)
    assert (rest["kind"], rest["count"]) == ("rest", 1)
    assert supervisor.ask("rest", id="next")["kind"] == "error"
    released = supervisor.ask("release", id="service", then=then)  # kills them
    assert released["kind"] == "released"
    if released.get("goes_on"):  # they have ended by the time that it is looked for
        while (told := supervisor.receive())["kind"] != "spawned":
            pass
        assert (told["id"], told["serial"]) == ("next", 1001)
    else:
        assert supervisor.ask("rest", id="next")["kind"] == "error", "they were waited for"


def test_a_spawn_that_is_to_follow_is_the_next_supervisors_to_ask_for(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    _, logger = end_unheard(keeper, supervisor, "echo last")
    supervisor.tell("release", id="service", drained=True, if_alone=True, then=to_spawn(1001, "next", "sleep", "1000"))
    supervisor.ask("rest", id="service")  # so it has been asked for
    supervisor.kill()
    second = keeper.supervisor()
    os.kill(logger, signal.SIGCONT)
    second.expect("drained", id="service")
    assert second.ask("rest", id="next")["kind"] == "error"
    assert second.ask("release", id="service")["kind"] == "released"


def test_a_release_does_not_wait_long_for_a_logger_that_hangs(keeper: Running) -> None:
    """It has the lines still, and writes them when it goes on."""
    keeper.begin()
    supervisor = keeper.supervisor()
    log, logger = end_unheard(keeper, supervisor, "echo last")
    serial = supervisor.tell("release", id="service", drained=True)
    supervisor.expect("released", serial=serial, left=0)
    os.kill(logger, signal.SIGCONT)
    until(lambda: log.read_text().endswith(" last\n"), "the last line")


def test_a_release_that_waits_is_given_up_with_who_asked_for_it(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    log, logger = end_unheard(keeper, first, "echo last")
    first.ask("rest", id="service")
    first.tell("release", id="service", drained=True)
    first.kill()
    second = keeper.supervisor(greeted=False)
    told = second.hello()
    assert [one["id"] for one in told if one["kind"] == "process"] == ["service"]
    os.kill(logger, signal.SIGCONT)
    serial = second.tell("release", id="service", drained=True)
    while (answer := second.receive())["kind"] != "released":
        assert answer["kind"] == "drained"
    assert answer["serial"] == serial
    assert log.read_text().endswith(" last\n")


def test_the_keeper_is_not_renewed_while_a_release_waits(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.tell("ready")
    _, logger = end_unheard(keeper, supervisor, "echo last")
    release = supervisor.tell("release", id="service", drained=True)
    renewal = supervisor.tell("renew_keeper", patience=20)
    answers: dict[object, str] = {}
    while len(answers) < 2:
        told = supervisor.receive()
        if told["kind"] != "drained":
            answers[told["serial"]] = told["kind"]
    assert answers == {release: "released", renewal: "renewed"}
    os.kill(logger, signal.SIGCONT)
