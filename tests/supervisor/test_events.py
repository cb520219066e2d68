"""``herd events``: what is told of what happens, to whom, and what a follower that does not read costs."""

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy import protocol
from herdpy.supervisor import events

HERD = str(Path(sys.executable).parent / "herd")
PLAIN = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]*", fullmatch=True), PLAIN))
def test_a_line_of_the_log_is_read_as_what_was_logged(fields):
    words = [f"{key}={events.written(value)}" for key, value in fields.items()]
    read = events.parse(" ".join(["2026-01-31 23:59:59 something-happened", *words]))
    assert read is not None
    assert (read.name, read.fields) == ("something-happened", fields)
    assert [type(value) for value in read.fields.values()] == [type(value) for value in fields.values()]


@pytest.mark.parametrize(
    "line",
    ["", "Traceback (most recent call last):", "2026-01-31 23:59:59 keeper: the supervisor was killed", "2026-01-31"],
)
def test_what_is_no_event_is_passed_over(line):
    assert events.parse(line) is None


async def test_a_follower_that_does_not_read_is_told_how_many_it_missed():
    with events.Follower("foo") as follower:
        for number in range(events.QUEUE + 7):
            events.record("tick", {"service": "foo", "number": number})
            events.record("tick", {"service": "other"})
        missed, *told = await follower.next()
        assert (missed.name, missed.fields) == ("missed", {"count": 7})
        assert [event.fields["number"] for event in told] == list(range(7, events.QUEUE + 7))
        events.record("tick", {"service": "foo", "number": 0})
        assert [event.name for event in await follower.next()] == ["tick"]
    with trio.move_on_after(0):
        events.record("tick", {"service": "foo"})
        await follower.next()
        pytest.fail("it is told although it follows no longer")


def told(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def follow(herdpy) -> Iterator["subprocess.Popen[str]"]:
    processes = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [HERD, "events", "--follow", *arguments],
            env=herdpy.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def names(process: "subprocess.Popen[str]", until: str) -> list[str]:
    """The names of the events that a follower prints, up to one."""
    found = []
    while until not in found:
        line = process.stdout.readline()
        assert line, f"the follower ended after {found}: {process.stderr.read()}"
        found.append(json.loads(line)["event"])
    return found


@pytest.mark.parametrize("delay", [0, 0.01])
def test_the_last_lines_of_a_process_are_in_its_log_before_its_end_is_told(herdpy, follow, delay):
    script = json.dumps(["sh", "-c", "seq 20000; printf last"])
    herdpy.declare("one", f"command = {script}\nrespawn-delay = {delay}\nrespawn-limit = 8")
    herdpy.start()
    follower = follow("one")
    herdpy.ok("start", "one")
    log = herdpy.log / "one.log"
    for ends in range(1, 9):
        names(follower, "service-exited")
        assert log.read_text().count(" last\n") >= ends


def test_who_asked_for_what_is_told_and_logged(herdpy):
    herdpy.declare("foo", 'command = ["sleep", "1000"]')
    herdpy.start()
    begin = time.time()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(herdpy.socket))
        client.sendall(protocol.write_command(protocol.Command("start", "foo", (), "/somebody/lies")))
        while client.recv(65536):
            pass
    asked, *others = [event for event in told(herdpy.ok("events", "foo")) if event["time"] >= begin]
    own = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()[:200]
    assert {key: asked[key] for key in asked if key not in ("time", "iso")} == {
        "event": "command",
        "action": "start",
        "service": "foo",
        "by-uid": os.geteuid(),
        "by-user": pwd.getpwuid(os.geteuid()).pw_name,
        "by-pid": os.getpid(),
        "by-command": own,
    }
    assert [event["event"] for event in others] == ["service-starting", "service-started", "command-done"]
    assert others[1]["pid"] == herdpy.status("foo")["pid"]
    herdpy.ok("stop", "foo")
    text = (herdpy.log / "herdpy.log").read_text()
    assert f"command action=stop service=foo by-uid={os.geteuid()} " in text


def test_an_end_is_told_with_its_reason_and_the_respawn(herdpy, follow):
    herdpy.declare("foo", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "foo")
    follower = follow("-n", "1", "foo")
    names(follower, "command-done")  # so it follows
    herdpy.ok("stop", "foo")
    assert names(follower, "service-stopped")[0] == "command"
    herdpy.ok("start", "foo")
    names(follower, "service-started")
    subprocess.run(["kill", "-SEGV", str(herdpy.status("foo")["pid"])], check=True)
    names(follower, "command-done")
    exited = json.loads(follower.stdout.readline())
    assert exited["event"] == "service-exited"
    assert exited["reason"].startswith("it was killed by SIGSEGV")
    assert names(follower, "service-started") == ["service-respawning", "service-started"]


def test_a_follower_goes_on_with_the_next_supervisor_and_the_past_is_not_forgotten(herdpy, follow, eventually):
    herdpy.declare("foo", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "foo")
    eventually(lambda: "command-done action=start" in herdpy.said())
    before = [event["event"] for event in told(herdpy.ok("events"))]
    follower = follow("-n", "1")
    assert names(follower, before[-1]) == before[-1:]
    supervisor = herdpy.supervisor()
    subprocess.run(["kill", "-KILL", str(supervisor)], check=True)
    herdpy.ok("stop", "foo")
    assert names(follower, "command-done")[:3] == ["supervisor-begins", "supervisor-back", "command"]
    after = [event["event"] for event in told(herdpy.ok("events"))]
    assert after[: len(before)] == before
    assert after[len(before) :][:3] == ["supervisor-begins", "supervisor-back", "command"]
    assert herdpy.stop() == 0
    rest = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert told(rest[0])[-1]["event"] == "exiting"
    assert rest[1] == "herd: herdpy has ended, and there is nothing more to follow\n"


def enable(herdpy, service: str, times: int) -> None:
    """Three events each time."""
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(herdpy.socket))
            client.sendall(protocol.write_command(protocol.Command("enable", service, ())))
            assert client.recv(65536).endswith(f'(messages ("Enabled service {service}.")))'.encode())


def test_what_is_no_longer_in_memory_is_told_from_the_log(herdpy, eventually):
    for name in ("foo", "bar"):
        herdpy.declare(name, 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "foo")
    own = [event["event"] for event in told(herdpy.ok("events", "foo"))]
    enable(herdpy, "bar", 120)
    eventually(lambda: (herdpy.log / "herdpy.log").read_text().count("command-done action=enable") == 120)
    assert len(told(herdpy.ok("events"))) == events.KEPT
    every = [(event["event"], event.get("service")) for event in told(herdpy.ok("events", "-n", "1000"))]
    assert every[0] == ("supervisor-begins", None)
    assert [name for name, service in every if service == "foo"] == own
    assert [name for name, service in every if service == "bar"] == ["command", "service-enabled", "command-done"] * 120
    assert [event["event"] for event in told(herdpy.ok("events", "foo", "-n", "2"))] == own[-2:]
    subprocess.run(["kill", "-KILL", str(herdpy.supervisor())], check=True)
    after = [(event["event"], event.get("service")) for event in told(herdpy.ok("events", "-n", "1000", "--since=1h"))]
    assert after[: len(every)] == every
    assert after[len(every)] == ("supervisor-begins", None)


def test_a_follower_that_never_reads_holds_nobody_up(herdpy):
    herdpy.declare("foo", 'command = ["sleep", "1000"]')
    herdpy.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(str(herdpy.socket))
        client.sendall(protocol.write_command(protocol.Command("events", "root", ("--follow",))))
        assert client.recv(20, socket.MSG_WAITALL) == b"(events (version 0) "
        enable(herdpy, "foo", 1200)
        seen = b""
        while b"missed" not in seen:
            seen += client.recv(65536)
    assert "Status of foo" in herdpy.ok("status", "foo")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nosuch"], "service 'nosuch' could not be found"),
        (["--since", "noon"], "--since: cannot make a time of 'noon'"),
        (["-n", "x"], "-n takes a number of lines"),
    ],
)
def test_what_makes_no_sense_is_one_line(herdpy, arguments, complaint):
    herdpy.start()
    done = herdpy.herd("events", *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_and_a_reader_that_leaves_end_it_quietly(herdpy, follow):
    herdpy.start()
    follower = follow("-n", "1")
    follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=60)[1] == ""
    assert follower.returncode == 130
    follower = follow("-n", "1")
    follower.stdout.readline()
    follower.stdout.close()
    assert follower.wait(60) == 141
