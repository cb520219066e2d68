"""A restart ends with everything running again, whatever happens to the supervisor meanwhile."""

import json
import os
import signal

SLOW = json.dumps(["sh", "-c", "trap 'sleep 0.5; exit 0' TERM; : > $READY; while :; do sleep 0.02; done"])


def declare(herdpy, tmp_path, name: str, more: str = "") -> None:
    herdpy.declare(name, f'command = {SLOW}\nenvironment = {{ READY = "{tmp_path}/{name}-ready" }}\n{more}')


def start_both(herdpy, tmp_path, eventually) -> dict[str, int]:
    declare(herdpy, tmp_path, "base")
    declare(herdpy, tmp_path, "top", 'requirement = ["base"]')
    herdpy.start()
    herdpy.ok("start", "top")
    eventually(lambda: (tmp_path / "base-ready").exists() and (tmp_path / "top-ready").exists())
    return pids(herdpy)


def pids(herdpy) -> dict[str, int]:
    return {name: herdpy.status(name)["pid"] for name in ("base", "top")}


def test_one_that_the_supervisor_did_not_live_to_see_through_ends_with_all_running(herdpy, tmp_path, eventually):
    before = start_both(herdpy, tmp_path, eventually)
    client = herdpy.herd_in_background("restart", "base")
    for name in ("top", "base"):  # each is killed in the middle of its stop
        eventually(lambda name=name: herdpy.status(name)["status"] == "stopping")
        os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: all(herdpy.status(name)["status"] == "running" for name in before))
    assert client.wait(60) == 0, "the next supervisors were not asked"
    after = pids(herdpy)
    assert after["base"] != before["base"]
    assert after["top"] != before["top"]
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert pids(herdpy) == after, "a restart that has ended is not remembered"


def test_one_of_what_had_no_process_stops_nothing_again(herdpy, tmp_path, eventually):
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    herdpy.start()
    client = herdpy.herd_in_background("restart", "base")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    log = herdpy.log / "herdpy.log"
    eventually(lambda: "command action=start service=base" in log.read_text())
    assert herdpy.status("base")["status"] == "starting"
    (tmp_path / "open").touch()
    assert client.wait(60) == 0, log.read_text()


def test_one_that_had_stopped_everything_is_finished_by_a_start(herdpy, tmp_path, eventually):
    """The supervisor dies while base, stopped, waits for a prepare step: here its new process's readiness."""
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    (tmp_path / "open").touch()
    herdpy.start()
    herdpy.ok("start", "base")
    (tmp_path / "open").unlink()
    before = herdpy.status("base")["pid"]
    client = herdpy.herd_in_background("restart", "base")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: herdpy.status("base")["status"] == "starting")
    (tmp_path / "open").touch()
    assert client.wait(60) == 0, "it asks the next supervisor"
    assert herdpy.status("base")["pid"] != before
    log = herdpy.log / "herdpy.log"
    eventually(lambda: log.read_text().count("service-started service=base") == 2)


def test_a_restart_of_what_was_stopped_starts_it(herdpy):
    herdpy.declare("lone", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("restart", "lone")
    assert herdpy.status("lone")["status"] == "running"


def test_one_that_cuts_a_start_short_starts_what_had_waited_for_that(herdpy, tmp_path, eventually):
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["base"]')
    herdpy.start()
    starting = herdpy.herd_in_background("start", "top")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    restarting = herdpy.herd_in_background("restart", "base")
    assert starting.wait(60) == 1
    (tmp_path / "open").touch()
    assert restarting.wait(60) == 0
    assert herdpy.status("top")["status"] == "running"
