"""The keeper executes itself anew, and holds all that it held."""

import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from herdpy.keeper import renewal
from herdpy.keeper.message import ancillary, encode
from tests.keeper.conftest import Running, Supervisor
from tests.waiting import until

COUNTING = "i=0; while :; do echo $((i += 1)); sleep 0.01; done"


def ready(keeper: Running, **options: Any) -> Supervisor:
    keeper.begin(**options)
    first = keeper.supervisor()
    first.tell("ready")
    return first


def renew(supervisor: Supervisor) -> dict[str, Any]:
    answer = supervisor.ask("renew_keeper", patience=20)
    assert answer["kind"] == "renewed", answer
    return answer


def is_renewed(keeper: Running) -> bool:
    return b"\0renewed\0" in Path(f"/proc/{keeper.pid}/cmdline").read_bytes()


def test_a_release_that_was_to_follow_is_to_be_asked_for_again(keeper: Running) -> None:
    supervisor = ready(keeper)
    supervisor.spawn("service", "sleep", "1000")
    serial = supervisor.tell("signal", id="service", signal=signal.SIGURG, scope="process", then="release")
    renewing = supervisor.tell("renew_keeper", patience=20)
    supervisor.expect("signalled", serial=serial)
    supervisor.expect("renewed", serial=renewing)
    assert supervisor.ask("signal", id="service", signal=9, scope="all")["delivered"]
    supervisor.expect("exited", id="service")
    assert supervisor.ask("release", id="service")["kind"] == "released"


def test_all_is_as_it_was(keeper: Running) -> None:
    supervisor = ready(keeper, pid_file=str(keeper.place / "pid"))
    log = {"log": str(keeper.place / "log" / "a.log")}
    counting = supervisor.spawn("counting", "sh", "-c", COUNTING, output=log)["pid"]
    supervisor.spawn("ended", "sh", "-c", "exit 6", output=log)
    supervisor.ended("ended")
    supervisor.spawn("left", "sh", "-c", "sleep 1000 & exit 0", output=log)
    supervisor.ended("left")
    assert supervisor.ask("rest", id="left")["count"] == 1
    supervisor.line.send(encode({"kind": "note", "key": "key", "text": "text"}))
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        supervisor.line.sendmsg([encode({"kind": "hold", "serial": 900, "name": "held"})], ancillary([held.fileno()]))
    supervisor.expect("held")
    logger = keeper.logger()
    descriptors = psutil.Process(keeper.pid).num_fds()
    for _ in range(3):
        answer = renew(supervisor)
        assert answer["pid"] == keeper.pid
        assert 0 <= answer["pause"] < 20
    assert is_renewed(keeper)
    assert keeper.logger() == logger
    assert (keeper.place / "pid").read_text() == f"{keeper.pid}\n"
    until(lambda: psutil.Process(keeper.pid).num_fds() <= descriptors, "no more descriptors than before")
    assert psutil.Process(counting).ppid() == keeper.pid
    # The zombie is the keeper's still, and the end of what was left is told.
    assert psutil.Process(keeper.pid).children()
    assert supervisor.ask("release", id="ended") == {
        "kind": "released",
        "serial": supervisor.serial,
        "id": "ended",
        "left": 0,
    }
    left = supervisor.ask("signal", id="left", signal=9, scope="all")
    assert left["delivered"]
    supervisor.expect("alone", id="left")
    assert supervisor.ask("release", id="left")["kind"] == "released"
    supervisor.kill()
    following = keeper.supervisor(greeted=False)
    told = following.hello()
    assert {one["id"]: one["pid"] for one in told if one["kind"] == "process"} == {"counting": counting}
    assert [one["text"] for one in told if one["kind"] == "note"] == ["text"]
    assert following.ask("signal", id="counting", signal=15, scope="group")["delivered"]
    following.expect("exited", id="counting", status={"killed": 15, "core": False})
    assert following.ask("let_go", name="held")["kind"] == "let_go"
    assert inode not in {os.stat(path).st_ino for path in Path(f"/proc/{keeper.pid}/fd").iterdir() if path.exists()}
    numbers = [int(line.split()[2]) for line in (keeper.place / "log" / "a.log").read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_requests_that_come_meanwhile_are_taken_afterwards(keeper: Running) -> None:
    supervisor = ready(keeper)
    renewing = supervisor.tell("renew_keeper", patience=20)
    uid = {"uid": 65534, "gid": 65534, "groups": []} if os.geteuid() == 0 else {}
    spawns = {supervisor.tell_spawn(f"service {number}", "sleep", "1000", **uid) for number in range(20)}
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < 21:
        told = supervisor.receive()
        answers[told["serial"]] = told
    assert answers[renewing]["kind"] == "renewed"
    assert all(answers[serial]["kind"] == "spawned" for serial in spawns)
    assert len({answers[serial]["pid"] for serial in spawns}) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_meanwhile_is_not_lost(keeper: Running, number: signal.Signals) -> None:
    supervisor = ready(keeper)
    renewing = supervisor.tell("renew_keeper", patience=20)
    os.kill(keeper.pid, number)
    told = [supervisor.receive(), supervisor.receive()]
    assert {one["kind"] for one in told} <= {"signal", "renewed", "error"}
    assert [one["signal"] for one in told if one["kind"] == "signal"] == [number]
    assert [one["serial"] for one in told if one["kind"] != "signal"] == [renewing]


def test_an_end_meanwhile_has_its_status(keeper: Running) -> None:
    supervisor = ready(keeper)
    script = "read _; exit 5"
    fifo = keeper.place / "fifo"
    os.mkfifo(fifo)
    supervisor.spawn("service", "sh", "-c", f"exec < {fifo}; {script}")
    supervisor.tell("renew_keeper", patience=20)
    fifo.write_text("\n")
    told = [supervisor.receive() for _ in range(3)]
    (end,) = (one for one in told if one["kind"] == "exited")
    assert end["status"] == {"exited": 5}
    assert {one["kind"] for one in told} == {"exited", "drained", "renewed"}


def test_more_descriptors_than_a_child_may_have(keeper: Running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        assert hard >= 1024
    few = min(soft, 300)
    prefix = ("prlimit", f"--nofile={few}:{hard}")
    supervisor = ready(keeper, prefix=prefix)
    with socket.socket() as held:
        for number in range(few + 50):
            packet = encode({"kind": "hold", "serial": 900, "name": f"held {number}"})
            supervisor.line.sendmsg([packet], ancillary([held.fileno()]))
            supervisor.expect("held")
    renew(supervisor)
    uid = {"uid": 65534, "gid": 65534, "groups": []} if os.geteuid() == 0 else {"nice": 5}
    for options in ({}, uid):
        assert supervisor.output("sh", "-c", "ulimit -n", **options) == f"{few}\n"
    renew(supervisor)
    assert supervisor.output("sh", "-c", "ulimit -n") == f"{few}\n"


def test_a_keeper_that_is_killed_after_it_is_taken_over_from(keeper: Running) -> None:
    """What is in the journal is right, whoever has written it."""
    supervisor = ready(keeper)
    pid = supervisor.spawn("service", "sleep", "1000", output={"log": str(keeper.place / "log" / "a.log")})["pid"]
    renew(supervisor)
    logger = keeper.logger()
    for victim in (supervisor.pid, logger, keeper.pid):
        os.kill(victim, signal.SIGSTOP)
    for victim in (supervisor.pid, logger, keeper.pid):
        os.kill(victim, signal.SIGKILL)
    supervisor.drop_listener()  # a copy of the control socket, which nobody is to have any more
    supervisor.close()
    keeper.wait()
    keeper.begin()
    following = keeper.supervisor(greeted=False)
    told = following.hello()
    assert [one["pid"] for one in told if one["kind"] == "process"] == [pid]
    following.ask("signal", id="service", signal=9, scope="process")  # it is nobody's child that ends with this test
    following.expect("exited", id="service")


def test_a_table_that_makes_no_sense_is_refused() -> None:
    for records in ([], [{"kind": "table", "version": 99}], [{"kind": "process", "id": "a"}]):
        memory = renewal.write(records)
        with pytest.raises((ValueError, KeyError)):
            renewal.read(memory)
        os.close(memory)
    memory = renewal.write([{"kind": "unknown", "of": "a later release"}])
    with pytest.raises(ValueError, match="no head"):
        renewal.read(memory)
    os.close(memory)
