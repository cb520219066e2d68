"""herd and a herdpy of the test's own: what the prompt shows of real processes."""

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest


def test_status_tells_the_process_and_the_end_of_its_output(herdpy, eventually):
    script = "echo first; echo second; exec sleep 1000"
    herdpy.declare("talker", f"command = {json.dumps(['sh', '-c', script])}\nprovision = ['voice']\n")
    herdpy.start()
    herdpy.ok("start", "talker")
    log = herdpy.log / "talker.log"
    eventually(lambda: log.exists() and log.read_text().count("\n") == 2)
    shown = herdpy.ok("status", "voice", "-n", "1").splitlines()
    pid = herdpy.status("talker")["pid"]
    assert shown[0] == "● Status of talker:"
    assert f"  Main PID: {pid}" in shown
    assert f"  Command: sh -c '{script}'" in shown
    assert "  Provides: talker voice" in shown
    assert "  Custom actions: configuration usage" in shown
    assert shown[-1].endswith(" second")
    assert shown[-2] == "  Recent messages (use '-n' to view more or less):"
    assert herdpy.ok("log", "talker", "--since", "1h") == log.read_text()
    os.kill(herdpy.supervisor(), 9)
    assert f"  Command: sh -c '{script}'" in herdpy.ok("status", "talker").splitlines()
    herdpy.ok("stop", "talker")
    assert "Command" not in herdpy.ok("status", "talker")


@pytest.mark.parametrize(("theirs", "ours"), [(None, "Asia/Tokyo"), ("Asia/Tokyo", "UTC"), ("UTC", None)])
def test_so_long_ago_is_meant_by_the_clock_of_the_log(herdpy, eventually, theirs: str | None, ours: str | None):
    def live_in(zone: str | None) -> None:
        herdpy.environment.pop("TZ", None)
        if zone is not None:
            herdpy.environment["TZ"] = zone

    now = datetime.now(None if theirs is None else ZoneInfo(theirs))
    log = herdpy.log / "talker.log"
    log.parent.mkdir()
    log.write_text(f"{now - timedelta(hours=2):%Y-%m-%d %H:%M:%S} long ago\n")
    herdpy.declare("talker", """command = ["sh", "-c", "echo now; exec sleep 1000"]\n""")
    live_in(theirs)
    herdpy.start()
    herdpy.ok("start", "talker")
    eventually(lambda: log.read_text().endswith(" now\n"))
    live_in(ours)
    assert herdpy.ok("log", "talker", "--since", "1h") == log.read_text().splitlines(keepends=True)[-1]
    os.kill(herdpy.supervisor(), 9)
    assert herdpy.ok("log", "talker", "--since", "3h") == log.read_text()


def test_usage_counts_descendants_and_orphans_of_the_session(herdpy, tmp_path: Path, eventually):
    # A child, one that became the keeper's, and a thread and processor time of the main process's own.
    script = f"""
import subprocess, threading, time
child = subprocess.Popen(["sleep", "1000"])
subprocess.run(["sh", "-c", "sleep 1000 & echo $! > {tmp_path}/orphan"])
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
while time.process_time() < 0.3:
    pass
block = bytearray(b"x") * 40_000_000
open("{tmp_path}/ready", "w").close()
time.sleep(1000)
"""
    herdpy.declare("worker", f"command = {json.dumps(['python3', '-c', script])}\n")
    herdpy.declare("idle", 'command = ["sleep", "1000"]\nrequirement = ["worker"]\n')
    herdpy.start()
    herdpy.ok("start", "idle")
    eventually((tmp_path / "ready").exists)
    used = json.loads(herdpy.ok("--json", "-v", "status", "worker"))["usage"]
    assert (used["processes"], used["threads"]) == (3, 4)
    assert used["memory"] > 40_000_000
    assert used["cpu-seconds"] >= 0.3
    idle = json.loads(herdpy.ok("--json", "-v", "status", "idle"))["usage"]
    assert (idle["processes"], idle["threads"]) == (1, 1)
    assert idle["memory"] < 20_000_000
    assert herdpy.ok("tree", "idle", "--json").count('"name"') == 2
    herdpy.ok("stop", "idle")
    refused = herdpy.herd("usage", "idle")
    assert refused.returncode == 1
    assert refused.stderr.endswith("idle runs no process that one could measure; see: herd status idle\n")
    assert "usage: Show the processor time" in herdpy.ok("doc", "worker", "action", "usage")
