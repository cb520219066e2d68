"""The end of everything has one deadline, and whoever waits is told for what."""

import json
import os
import signal
import time

STUBBORN = 'command = ["sh", "-c", "trap : TERM; while :; do sleep 0.1; done"]\ngrace-period = 100\n'


def begin(herdpy, seconds: float) -> None:
    own = herdpy.directory / "herdpy.toml"
    own.write_text(f"shutdown-timeout = {seconds}\n")
    plain = herdpy.command()
    herdpy.command = lambda: [*plain, "--config", str(own)]
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
    assert done.stderr.startswith(
        "root: waiting for stubborn-1, stubborn-2 to stop; what still runs in 3 s is killed\n"
    ), done.stderr
    assert 2.5 < elapsed < 6
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert herdpy.process.wait(10) == 0
    said = herdpy.said()
    assert "stubborn-1, stubborn-2 had not stopped after 3 s, and what still ran was killed" in said
    assert 'shutdown-too-long services="stubborn-1 stubborn-2" seconds=3.0' in said


def test_the_deadline_stays_when_the_supervisor_is_replaced(herdpy, eventually):
    begin(herdpy, 5)
    begun = time.monotonic()
    client = herdpy.herd_in_background("stop", "root")
    eventually(lambda: "service-stopped service=quick" in herdpy.said())
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert client.wait(20) == 0
    assert 4 < time.monotonic() - begun < 9
    assert herdpy.process.wait(10) == 0
    assert "supervisor-back" in herdpy.said()


def test_it_is_told_again_and_again(herdpy):
    begin(herdpy, 8)
    done = herdpy.herd("stop", "root")
    told = done.stderr.splitlines()
    assert len(told) == 2, told
    assert told[1] == "root: waiting for stubborn-1, stubborn-2 to stop; what still runs in 3 s is killed"
    assert 'shutdown-waits services="stubborn-1 stubborn-2" seconds=3' in herdpy.said()


def test_a_shutdown_of_many_names_some(herdpy):
    own = herdpy.directory / "herdpy.toml"
    own.write_text("shutdown-timeout = 1\n")
    plain = herdpy.command()
    herdpy.command = lambda: [*plain, "--config", str(own)]
    for number in range(8):
        herdpy.declare(f"s{number}", f"{STUBBORN}auto-start = true\n")
    herdpy.start()
    while any(service["status"] != "running" for service in json.loads(herdpy.ok("--json", "status"))):
        pass
    told = herdpy.herd("stop", "root").stderr
    assert told == "root: waiting for s0, s1, s2, s3, s4 and 3 more to stop; what still runs in 1 s is killed\n"
