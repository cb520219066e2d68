"""What people suffer from in other supervisors, as far as it concerns control, the command line and status.

The numbers are those of the project's list of complaints; S1, S2, ... are defects of GNU Shepherd.
"""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from herdpy import protocol

SLEEP = 'command = ["sleep", "1000"]\n'
STUBBORN = 'command = ["sh", "-c", "trap : TERM; echo > ready; while :; do sleep 0.05; done"]\n'
IMPATIENT = """
import sys
from herdpy.client import main, waiting
waiting.PATIENCE = 0.5
sys.exit(main.main(sys.argv[1:]))
"""


def stubborn(herdpy, name: str, grace: float) -> None:
    directory = herdpy.directory / name
    directory.mkdir()
    herdpy.declare(name, f'{STUBBORN}grace-period = {grace}\ndirectory = "{directory}"\n')


def is_ready(herdpy, name: str) -> bool:
    return (herdpy.directory / name / "ready").exists()


def test_s3_what_takes_long_blocks_nobody_else(herdpy, eventually):
    gate = herdpy.directory / "gate"
    long = json.dumps(["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.02; done"])
    herdpy.declare("foo", f'{SLEEP}[actions.long]\ncommand = {long}\ndocumentation = "Take long."\n')
    herdpy.start()
    herdpy.ok("start", "foo")
    asking = herdpy.herd_in_background("long", "foo")
    eventually(lambda: "command action=long service=foo" in herdpy.said())
    herdpy.ok("status")
    herdpy.ok("status", "foo")
    assert asking.poll() is None
    gate.touch()
    assert asking.wait(60) == 0


def test_s8_the_graph_is_whole_whatever_is_required(herdpy):
    herdpy.declare("base", SLEEP)
    herdpy.declare("top", f'{SLEEP}requirement = ["base"]\n')
    herdpy.start()
    graph = herdpy.ok("graph")
    assert '"top" -> "base";' in graph
    assert graph.endswith("}\n")


def test_s9_and_4_stubborn_services_are_stopped_at_once_not_one_after_another(herdpy, eventually):
    names = [f"s{number}" for number in range(6)]
    for name in names:
        stubborn(herdpy, name, 1.5)
    herdpy.start()
    for name in names:
        herdpy.ok("start", name)
    eventually(lambda: all(is_ready(herdpy, name) for name in names))
    told = herdpy.herd("stop", "root")
    assert told.returncode == 0
    assert "waiting for s0, s1, s2, s3, s4 and 1 more to stop" in told.stderr
    assert re.findall(r"service-(stopping|stopped) service=s", herdpy.said())[:6] == ["stopping"] * 6
    assert (herdpy.log / "herdpy.log").read_text().count("grace-period-over") == 6


def test_s11_and_10_a_start_that_is_refused_says_why_and_a_start_by_hand_clears_the_counters(herdpy, eventually):
    gate = herdpy.directory / "gate"
    herdpy.declare("foo", f'command = ["sh", "-c", "[ -e {gate} ] && exec sleep 1000; exit 3"]\nrespawn-limit = 2\n')
    herdpy.start()
    herdpy.ok("start", "foo")
    eventually(lambda: not herdpy.status("foo")["enabled"])
    gate.touch()
    herdpy.ok("start", "foo")
    assert herdpy.status("foo")["last-respawns"] == []
    assert herdpy.status("foo")["enabled"]
    herdpy.ok("stop", "foo")
    herdpy.ok("disable", "foo")
    refused = herdpy.herd("start", "foo")
    assert refused.returncode == 1
    assert "cannot start foo: it is disabled; enable it with: herd enable foo" in refused.stdout


def test_s12_no_socket_is_left_behind_and_two_herdpys_do_not_share_one(herdpy):
    herdpy.start()
    done = herdpy.run(*[word for word in herdpy.command() if word != "--pid"])
    assert done.returncode == 1
    assert "another herdpy runs in" in done.stderr
    assert done.stderr.count("\n") == 1
    herdpy.ok("status")
    assert herdpy.stop() == 0
    assert not herdpy.socket.exists()


def test_s12_a_stale_socket_is_replaced(herdpy):
    herdpy.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(herdpy.socket))
    herdpy.start()
    herdpy.ok("status")


@pytest.mark.parametrize("crashed", [False, True])
def test_23_restart_starts_what_is_stopped_or_has_crashed_and_says_so(herdpy, eventually, crashed):
    herdpy.declare("foo", f"{SLEEP}respawn = false\n")
    herdpy.start()
    if crashed:
        herdpy.ok("start", "foo")
        os.kill(herdpy.status("foo")["pid"], signal.SIGSEGV)
        eventually(lambda: herdpy.status("foo")["status"] == "stopped")
    assert herdpy.ok("restart", "foo") == "Service foo has been started.\n"
    assert herdpy.status("foo")["status"] == "running"


def test_23_restart_with_dependents_is_not_refused_and_brings_them_back(herdpy):
    herdpy.declare("base", SLEEP)
    herdpy.declare("top", f'{SLEEP}requirement = ["base"]\n')
    herdpy.start()
    herdpy.ok("start", "top")
    before = herdpy.status("top")["pid"]
    herdpy.ok("restart", "base")
    after = herdpy.status("top")
    assert after["status"] == "running"
    assert after["pid"] != before


def test_24_a_slow_stop_of_one_service_blocks_no_command_on_others(herdpy, eventually):
    stubborn(herdpy, "slow", 1000)
    herdpy.declare("quick", SLEEP)
    herdpy.start()
    herdpy.ok("start", "slow")
    eventually(lambda: is_ready(herdpy, "slow"))
    stopping = herdpy.herd_in_background("stop", "slow")
    eventually(lambda: herdpy.status("slow")["status"] == "stopping")
    for action in ("start", "restart", "stop", "enable", "disable", "status"):
        herdpy.ok(action, "quick")
    assert herdpy.status("slow")["status"] == "stopping"
    os.kill(herdpy.status("slow")["pid"], signal.SIGKILL)
    assert stopping.wait(60) == 0


def test_25_what_could_not_be_started_at_boot_is_seen(herdpy, eventually):
    herdpy.declare("broken", 'command = ["/does/not/exist"]\nauto-start = true\n')
    herdpy.start()
    eventually(lambda: herdpy.status("broken")["failing"])
    assert "Failed to start:\n ! broken\n" in herdpy.ok("status")
    assert "No such file or directory" in herdpy.ok("status", "broken")
    told = [json.loads(line) for line in herdpy.ok("events", "broken").splitlines()]
    assert "/does/not/exist" in next(event["reason"] for event in told if event["event"] == "service-failed-to-start")


def test_25_a_daemon_that_hangs_does_not_hang_its_client(herdpy):
    """Ten seconds of silence, ten to answer another question: half a second of each here."""
    herdpy.declare("foo", SLEEP)
    herdpy.start()
    herdpy.ok("start", "foo")
    pid = herdpy.status("foo")["pid"]
    supervisor = herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    done = herdpy.run(sys.executable, "-c", IMPATIENT, "status", "foo")
    assert done.returncode == 1
    assert done.stderr.endswith(f"services going on: kill -KILL {supervisor}\n")
    assert done.stderr.count("\n") == 1
    os.kill(supervisor, signal.SIGKILL)
    assert herdpy.status("foo")["pid"] == pid


def test_31_more_than_1023_connections_are_served(herdpy):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    herdpy.declare("foo", SLEEP)
    herdpy.start()
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(60)
                client.connect(str(herdpy.socket))
                client.sendall(protocol.write_command(protocol.Command("events", "root", ("--follow", "--last=0"))))
                assert client.recv(8, socket.MSG_WAITALL) == b"(events "
            herdpy.ok("start", "foo")
            seen = b""
            while b"service-started" not in seen:
                seen += client.recv(65536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_31_and_32_no_connection_costs_anything_once_it_is_over(herdpy, eventually):
    herdpy.start()
    supervisor = herdpy.supervisor()
    descriptors = Path(f"/proc/{supervisor}/fd")
    eventually(lambda: any("inotify" in os.path.realpath(one) for one in descriptors.iterdir()))  # it is at rest
    before = len(list(descriptors.iterdir()))
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(herdpy.socket))
            client.sendall(protocol.write_command(protocol.Command("events", "root", ("--follow",))))
    eventually(lambda: len(list(descriptors.iterdir())) <= before)

    def rests_for_a_second() -> bool:  # it may still have something to do after the boot
        ticks = Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[11:13]
        subprocess.run(["sleep", "1"], check=True)
        return Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[11:13] == ticks

    eventually(rests_for_a_second)
