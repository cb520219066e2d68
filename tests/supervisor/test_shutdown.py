"""The end of everything has one deadline, and whoever waits is told for what."""

import json
import os
import re
import signal
import time

import pytest

STUBBORN = 'command = ["sh", "-c", "trap : TERM; while :; do sleep 0.1; done"]\ngrace-period = 100\n'
TOLD = "root: waiting for {} to stop; what still runs in {} s is killed\n"


def begin(herdpy, seconds: float) -> None:
    herdpy.configure(f"shutdown-timeout = {seconds}\n")
    herdpy.declare("quick", 'command = ["sleep", "1000"]\n')
    for name in ("stubborn-1", "stubborn-2"):
        herdpy.declare(name, STUBBORN)
    herdpy.start()
    for name in ("quick", "stubborn-1", "stubborn-2"):
        herdpy.ok("start", name)


def test_what_has_not_stopped_at_the_deadline_is_killed_and_who_waits_is_told(herdpy):
    begin(herdpy, 3)
    pids = [herdpy.status(name)["pid"] for name in ("stubborn-1", "stubborn-2")]
    begun = time.monotonic()
    done = herdpy.herd("stop", "root")
    elapsed = time.monotonic() - begun
    assert done.returncode == 0
    assert done.stdout == ""
    assert re.match(TOLD.format("stubborn-1, stubborn-2", "[0-3]"), done.stderr), done.stderr
    assert elapsed > 2.5
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert herdpy.process.wait(60) == 0
    said = herdpy.said()
    assert "stubborn-1, stubborn-2 had not stopped after 3 s, and what still ran was killed" in said
    assert 'shutdown-too-long services="stubborn-1 stubborn-2" seconds=3.0' in said


def test_the_deadline_stays_when_the_supervisor_is_replaced(herdpy, eventually):
    begin(herdpy, 5)
    begun = time.monotonic()
    client = herdpy.herd_in_background("stop", "root")
    eventually(lambda: "service-stopped service=quick" in herdpy.said())
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert client.wait(60) == 0
    assert time.monotonic() - begun > 4
    assert herdpy.process.wait(60) == 0
    said = herdpy.said()
    assert "supervisor-back" in said
    assert 'shutdown-too-long services="stubborn-1 stubborn-2" seconds=5.0' in said


@pytest.mark.parametrize("first", ["the stop", "the start"])
def test_a_start_of_what_stops_is_refused_at_once(herdpy, eventually, first):
    begin(herdpy, 60)
    if first == "the start":
        stopping = herdpy.herd_in_background("stop", "stubborn-1")
        eventually(lambda: herdpy.status("stubborn-1")["status"] == "stopping")
        starting = herdpy.herd_in_background("start", "stubborn-1")
        eventually(lambda: herdpy.said().count("command action=start service=stubborn-1") == 2)
    client = herdpy.herd_in_background("stop", "root")
    eventually(lambda: herdpy.status("stubborn-1")["status"] == "stopping")
    begun = time.monotonic()
    if first == "the start":
        assert starting.wait(30) == 1
    else:
        refused = herdpy.herd("start", "stubborn-1")
        assert refused.returncode == 1
        assert "cannot start stubborn-1: herdpy is shutting down" in refused.stdout
    assert time.monotonic() - begun < 30
    assert herdpy.status("stubborn-1")["status"] == "stopping"
    for pid in [herdpy.status(name)["pid"] for name in ("stubborn-1", "stubborn-2")]:
        os.kill(pid, signal.SIGKILL)
    assert client.wait(60) == 0
    if first == "the start":
        assert stopping.wait(60) == 0


def test_it_is_told_again_and_again(herdpy):
    begin(herdpy, 7.5)
    done = herdpy.herd("stop", "root")
    assert re.fullmatch(2 * TOLD.format("stubborn-1, stubborn-2", "[0-7]"), done.stderr), done.stderr
    assert 'shutdown-waits services="stubborn-1 stubborn-2" seconds=' in herdpy.said()


def test_a_shutdown_of_many_names_some(herdpy):
    herdpy.configure("shutdown-timeout = 1\n")
    for number in range(8):
        herdpy.declare(f"s{number}", f"{STUBBORN}auto-start = true\n")
    herdpy.start()
    while any(service["status"] != "running" for service in json.loads(herdpy.ok("--json", "status"))):
        pass
    told = herdpy.herd("stop", "root").stderr
    assert re.fullmatch(TOLD.format("s0, s1, s2, s3, s4 and 3 more", "[01]"), told), told
