"""Who waits for what, and for how long, when starts fail, are slow, or come again and again."""

import json
import os
import signal

import pytest

from tests.processes import lives

SLEEP = 'command = ["sleep", "1000"]\n'
STARTED = SLEEP + "auto-start = true\n"
FOR_EVER = 'command = ["sh", "-c", "exec sleep 1000"]\none-shot = true\nauto-start = true\n'
"""A one-shot that is never done."""


@pytest.fixture
def gated(herdpy, tmp_path):
    """A service that gets ready as long as there is a file, and is respawned for ever; it has been ready, and killed
    after that has gone."""

    def make(delay: float) -> None:
        gate = tmp_path / "gate"
        gate.touch()
        herdpy.declare(
            "one",
            f"""command = ["sh", "-c", "test -e {gate} && echo up; exec sleep 1000"]
ready.log-line = "up"
start-timeout = 1
respawn-limit = 1000
respawn-interval = 1
respawn-delay = {delay}
""",
        )
        herdpy.declare("top", SLEEP + 'requirement = ["one"]\n')
        herdpy.declare("later", SLEEP + 'after = ["one"]\n')
        herdpy.start()
        herdpy.ok("start", "one")
        gate.unlink()
        os.kill(herdpy.status("one")["pid"], signal.SIGKILL)

    return make


def test_a_start_is_answered_when_it_has_failed_though_it_is_tried_again_and_again(herdpy, gated, eventually):
    gated(0.05)
    eventually(lambda: herdpy.status("one")["startup-failures"])
    for name in ("one", "top"):
        refused = herdpy.herd("start", name)
        assert refused.returncode == 1
        assert "cannot start one: it was not ready after 1 s" in refused.stdout
        assert "Service one is started again in 0.05 s." in refused.stdout
    herdpy.ok("start", "later")
    assert herdpy.status("one")["status"] == "starting", "somebody's giving up is none of its own"


def test_a_start_by_hand_does_not_wait_until_a_respawn_is_due(herdpy, gated, eventually):
    gated(600)
    eventually(lambda: (herdpy.status("one")["stage"] or "").startswith("to be respawned at "))
    herdpy.ok("start", "later")
    for name in ("one", "top"):
        refused = herdpy.herd("start", name)
        assert "cannot start one: it was not ready after 1 s" in refused.stdout
        assert "Service one is started again in 600 s." in refused.stdout


def test_a_delay_goes_on_in_the_next_supervisor_and_ends_by_hand_there(herdpy, gated, eventually):
    gated(600)
    eventually(lambda: (herdpy.status("one")["stage"] or "").startswith("to be respawned at "))
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: (herdpy.status("one")["stage"] or "").startswith("to be respawned at "))
    assert "Service one is started again in 600 s." in herdpy.herd("start", "one").stdout
    herdpy.ok("stop", "one")


def test_what_waits_for_another_says_so(herdpy, eventually):
    herdpy.declare("slow", FOR_EVER.replace("auto-start = true\n", ""))
    herdpy.declare("top", SLEEP + 'requirement = ["slow"]\n')
    herdpy.start()
    with herdpy.herd_in_background("start", "top") as client:
        eventually(lambda: herdpy.status("top")["stage"] == "waits for slow")
        assert "Stage: waits for slow\n" in herdpy.ok("status", "top")
        herdpy.ok("stop", "top")
        assert client.wait(60) == 1


def test_who_shares_a_one_shot_with_what_is_stopped_goes_on_with_it(herdpy, eventually, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    herdpy.declare("once", f'command = ["cat", "{gate}"]\none-shot = true\n')
    for name in ("left", "right"):
        herdpy.declare(name, STARTED + 'requirement = ["once"]\n')
    herdpy.start()
    eventually(lambda: herdpy.status("once")["status"] == "starting" and herdpy.status("right")["stage"])
    for name in ("left", "right"):
        eventually(lambda name=name: herdpy.status(name)["stage"] == "waits for once")
    herdpy.ok("stop", "left")
    gate.write_text("done")
    eventually(lambda: herdpy.status("right")["status"] == "running")
    assert herdpy.status("left")["status"] == "stopped"


def test_what_was_stopped_by_hand_stays_so_although_the_boot_is_not_over(herdpy, eventually):
    herdpy.declare("job", FOR_EVER)
    herdpy.declare("other", STARTED)
    herdpy.declare("kept", STARTED)
    herdpy.start()
    eventually(lambda: herdpy.status("other")["status"] == herdpy.status("kept")["status"] == "running")
    herdpy.ok("stop", "other")
    job = herdpy.status("job")["pid"]
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert herdpy.status("job")["status"] == "starting"
    assert herdpy.status("job")["pid"] == job
    assert herdpy.status("kept")["status"] == "running"
    assert herdpy.status("other")["status"] == "stopped"


def test_a_slow_start_keeps_no_other_reload_waiting(herdpy, eventually):
    herdpy.start()
    herdpy.declare("job", FOR_EVER)
    eventually(lambda: herdpy.herd("status", "job").returncode == 0 and herdpy.status("job")["status"] == "starting")
    herdpy.declare("new", STARTED)
    eventually(lambda: herdpy.herd("status", "new").returncode == 0 and herdpy.status("new")["status"] == "running")
    (herdpy.services / "job.toml").unlink()
    eventually(lambda: herdpy.herd("status", "job").returncode == 1)


def test_what_is_declared_no_longer_is_stopped_at_once_not_one_after_another(herdpy, tmp_path, eventually):
    """Counted by what is there when the first of them ends, whatever the machine's speed."""
    names = [f"stubborn{number}" for number in range(4)]
    script = f"trap 'echo $$ >> {tmp_path}/asked' TERM; echo >> {tmp_path}/up; while :; do sleep 0.05; done"
    for name in names:
        herdpy.declare(name, f'command = ["sh", "-c", "{script}"]\nauto-start = true\ngrace-period = 3\n')
    herdpy.start()
    eventually(lambda: len((tmp_path / "up").read_text().splitlines()) == 4)
    pids = [herdpy.status(name)["pid"] for name in names]
    for name in names:
        (herdpy.services / f"{name}.toml").unlink()
    eventually(lambda: (tmp_path / "asked").exists() and len((tmp_path / "asked").read_text().split()) == 4)
    assert all(lives(pid) for pid in pids), "all are asked before the first one is given up"
    eventually(lambda: all(herdpy.herd("status", name).returncode == 1 for name in names))


def test_a_respawn_does_not_bring_back_what_it_wants_and_somebody_has_stopped(herdpy, eventually):
    herdpy.declare("friend", SLEEP)
    herdpy.declare("main", SLEEP + 'wants = ["friend"]\n')
    herdpy.start()
    herdpy.ok("start", "main")
    eventually(lambda: herdpy.status("friend")["status"] == "running")
    herdpy.ok("stop", "friend")
    before = herdpy.status("main")["pid"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: herdpy.status("main")["status"] == "running" and herdpy.status("main")["pid"] != before)
    assert herdpy.status("friend")["status"] == "stopped"
    herdpy.ok("restart", "main")
    eventually(lambda: herdpy.status("friend")["status"] == "running")


def test_a_restart_that_could_not_start_again_stops_nothing(herdpy):
    herdpy.declare("one", SLEEP)
    herdpy.start()
    herdpy.ok("start", "one")
    herdpy.ok("disable", "one")
    before = herdpy.status("one")["pid"]
    refused = herdpy.herd("restart", "one")
    assert refused.returncode == 1
    assert "cannot restart one: it is disabled; enable it with: herd enable one" in refused.stdout + refused.stderr
    assert herdpy.status("one")["pid"] == before
    herdpy.ok("spawn", "transient", "--name=passing", "--", "sleep", "1000")
    refused = herdpy.herd("restart", "passing")
    assert "cannot restart passing: it is transient, and a stop would be its end" in refused.stdout + refused.stderr
    assert herdpy.status("passing")["status"] == "running"


def test_further_arguments_of_a_start_under_way_are_not_dropped_silently(herdpy, eventually):
    herdpy.declare("one", FOR_EVER.replace("auto-start = true\n", ""))
    herdpy.start()
    with herdpy.herd_in_background("start", "one") as client:
        eventually(lambda: herdpy.status("one")["status"] == "starting")
        refused = herdpy.herd("start", "one", "--", "more")
        assert refused.returncode == 1
        assert "cannot start one with more: it is starting already" in refused.stdout + refused.stderr
        herdpy.ok("stop", "one")
        client.wait(60)


def test_the_graph_is_json_too(herdpy):
    herdpy.declare("one", SLEEP + 'requirement = ["two"]\n')
    herdpy.declare("two", SLEEP)
    herdpy.start()
    found = {service["name"]: service["requires"] for service in json.loads(herdpy.ok("--json", "graph"))}
    assert found["one"] == ["two"]
    assert found["two"] == []
