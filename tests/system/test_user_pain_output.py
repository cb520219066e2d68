"""What people suffer from in other supervisors, as far as it concerns respawns without end, output and environment.

The numbers are those of the project's list of complaints.
"""

import os
import re
import signal
from pathlib import Path

from tests.processes import programs
from tests.system.daemons import toml
from tests.waiting import until

COUNTING = """
trap 'echo line $((number += 1))' USR1
number=0
echo begins
while :; do sleep 1000 & wait; kill $!; done 2>/dev/null
"""
"""One more line for each SIGUSR1."""


def lines(path: Path) -> list[str]:
    """What a log file has, without the stamps."""
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()] if path.exists() else []


def used(pids: dict[str, int]) -> dict[str, list[str]]:
    """Ticks of CPU that each of herdpy's programs has used so far."""
    return {name: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for name, pid in pids.items()}


def test_8_a_tight_loop_of_respawns_ends_by_itself_and_costs_nothing_from_then_on(herdpy, tmp_path, eventually):
    """With the defaults, but for the delay: five ends within seven seconds are enough."""
    starts = tmp_path / "starts"
    herdpy.declare("one", toml(["sh", "-c", f"echo >> {starts}; exit 1"], "respawn-delay = 0"))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: not herdpy.status("one")["enabled"])
    assert starts.read_text().count("\n") == 5
    assert herdpy.status("one")["status"] == "stopped"
    about = [line for line in (herdpy.log / "herdpy.log").read_text().splitlines() if "service=one" in line]
    assert len(about) < 5 * 5
    pids = programs(herdpy.process.pid)

    def rests() -> bool:  # it may still have something to do after the boot
        before = used(pids)
        herdpy.run("sleep", "0.5")
        return used(pids) == before

    eventually(rests)
    assert starts.read_text().count("\n") == 5


def test_30_respawns_without_end_fill_no_log_of_herdpys(herdpy, eventually):
    """pebble wrote 37,485 lines in two seconds."""
    herdpy.declare("one", toml(["false"], "respawn-delay = 0\nrespawn-limit = 1000"))
    herdpy.start()
    herdpy.ok("start", "one")
    log = herdpy.log / "herdpy.log"
    eventually(lambda: log.read_text().count("service-respawning service=one") >= 100)
    herdpy.ok("stop", "one")
    said = log.read_text()
    respawns = said.count("service-respawning service=one")
    assert said.count("service=one") <= 4 * respawns + 20
    assert herdpy.status("one")["status"] == "stopped"


def test_10_with_a_limit_of_the_delay_it_is_tried_more_and_more_seldom_but_for_ever(herdpy, tmp_path, eventually):
    """systemd gives up for good; people want it to go on slowly."""
    gate, starts = tmp_path / "gate", tmp_path / "starts"
    script = f"echo >> {starts}; [ -e {gate} ] && exec sleep 1000; exit 1"
    more = "respawn-delay = 0.02\nrespawn-delay-limit = 0.2\nrespawn-limit = 5\nrespawn-interval = 0.2"
    herdpy.declare("one", toml(["sh", "-c", script], more))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: starts.exists() and starts.read_text().count("\n") > 10)
    assert herdpy.status("one")["enabled"]
    gate.touch()
    eventually(lambda: herdpy.status("one")["status"] == "running" and herdpy.status("one")["pid"])


def test_29_output_is_logged_after_a_stop_and_a_start_and_after_restarts(herdpy, tmp_path, eventually):
    """In circus and docker compose it got lost; and the last line without a newline, too."""
    herdpy.declare("one", toml(["sh", "-c", "trap 'printf ends; exit' TERM; echo begins; sleep 1000 & wait"]))
    herdpy.start()
    log = herdpy.log / "one.log"
    for number, actions in enumerate((["start"], ["stop", "start"], ["restart"], ["restart"]), 1):
        for action in actions:
            herdpy.ok(action, "one")
        eventually(lambda number=number: lines(log) == ["begins", "ends"] * (number - 1) + ["begins"])
    herdpy.ok("stop", "one")
    assert lines(log) == ["begins", "ends"] * 4


def test_28_logrotate_needs_no_signal_and_loses_no_line(herdpy, tmp_path):
    """It renames one service's log (create), and the next line goes into a new one; no other's is touched."""
    for name in ("one", "other"):
        herdpy.declare(name, toml(["sh", "-c", COUNTING]))
    herdpy.start()
    for name in ("one", "other"):
        herdpy.ok("start", name)
    one, other = herdpy.log / "one.log", herdpy.log / "other.log"
    until(lambda: lines(one) == ["begins"] and lines(other) == ["begins"])
    number = os.stat(other).st_ino
    pid = herdpy.status("one")["pid"]
    for count in (1, 2):
        os.kill(pid, signal.SIGUSR1)
        until(lambda count=count: f"line {count}" in lines(one))
        one.rename(one.with_name(f"one.log.{count}"))
    os.kill(pid, signal.SIGUSR1)
    until(lambda: lines(one) == ["line 3"])
    assert lines(one.with_name("one.log.1")) == ["begins", "line 1"]
    assert lines(one.with_name("one.log.2")) == ["line 2"]
    os.kill(herdpy.status("other")["pid"], signal.SIGUSR1)
    until(lambda: lines(other) == ["begins", "line 1"])
    assert os.stat(other).st_ino == number
    assert herdpy.ok("log", "one").count("line") == 1


def test_36_a_service_has_herdpys_environment_but_what_is_meant_for_herdpy(herdpy, tmp_path):
    herdpy.declare(
        "one", toml(["sh", "-c", "env; echo done"], 'one-shot = true\nenvironment = { OWN = "mine", TZ = "UTC" }')
    )
    herdpy.environment |= {"INHERITED": "from herdpy", "TZ": "Asia/Tokyo", "LISTEN_PID": "1", "WATCHDOG_PID": "1"}
    herdpy.start()
    herdpy.ok("start", "one")
    log = herdpy.log / "one.log"
    until(lambda: "done" in lines(log))
    told = dict(line.split("=", 1) for line in lines(log) if re.match(r"\w+=", line))
    assert (told["INHERITED"], told["OWN"], told["TZ"]) == ("from herdpy", "mine", "UTC")
    assert told["PATH"] == herdpy.environment["PATH"]
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID"} & set(told)
