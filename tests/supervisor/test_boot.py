"""What starts with herdpy, and fails: nobody is there to start it again."""

import json
import os
import signal
from pathlib import Path

SLEEP = 'command = ["sleep", "1000"]\n'
AUTO = "auto-start = true\n"
GIVEN_UP = "respawn-limit = 2\nrespawn-interval = 1000\n"


def gated(gate: Path) -> str:
    """What gets ready when there is a file, and fails until then."""
    script = f"test -e {gate} || exit 7; echo up; exec sleep 1000"
    return f'command = {json.dumps(["sh", "-c", script])}\nready.log-line = "up"\n'


def often(delay: float) -> str:
    return f"respawn-limit = 1000\nrespawn-delay = {delay}\nrespawn-delay-limit = {delay}\n"


def test_it_is_tried_again_and_what_requires_it_comes_up_with_it(herdpy, eventually, tmp_path):
    gate = tmp_path / "gate"
    herdpy.declare("base", gated(gate) + AUTO + often(0.1))
    herdpy.declare("middle", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("top", SLEEP + 'requirement = ["middle"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["beside", "top"]\n' + AUTO)
    herdpy.declare("beside", SLEEP)
    herdpy.declare("done", 'command = ["false"]\none-shot = true\n' + AUTO)
    herdpy.start()
    eventually(lambda: len(herdpy.status("base")["startup-failures"]) > 3)
    assert herdpy.status("base")["status"] == "starting"
    assert herdpy.status("base")["startup-failures"]
    assert {herdpy.status(name)["status"] for name in ("middle", "top", "all")} == {"stopped"}
    assert herdpy.status("middle")["stage"] == "waits for base"
    assert herdpy.status("all")["stage"] == "waits for top"
    assert herdpy.status("beside")["status"] == "running"
    assert herdpy.status("done")["failing"], "a one-shot is not respawned"
    gate.touch()
    for name in ("base", "middle", "top", "all"):
        eventually(lambda name=name: herdpy.status(name)["status"] == "running")
    assert len(herdpy.status("done")["startup-failures"]) == 1


def test_who_waits_for_the_boot_is_told_that_it_is_tried_again(herdpy, eventually, tmp_path):
    herdpy.declare("base", gated(tmp_path / "gate") + AUTO + often(600))
    herdpy.start()
    eventually(lambda: (herdpy.status("base")["stage"] or "").startswith("to be respawned at "))
    assert herdpy.status("base")["reason"] == "it exited with 7 before it was ready"
    assert "\n  Failed to start at " in herdpy.ok("status", "base")
    (tmp_path / "gate").touch()
    herdpy.ok("start", "base")
    assert "Failed to start" not in herdpy.ok("status", "base")


def test_it_goes_on_in_the_next_supervisor(herdpy, eventually, tmp_path):
    herdpy.declare("base", gated(tmp_path / "gate") + AUTO + often(600))
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.start()
    eventually(lambda: (herdpy.status("base")["stage"] or "").startswith("to be respawned at "))
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: (herdpy.status("base")["stage"] or "").startswith("to be respawned at "))
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    (tmp_path / "gate").touch()
    herdpy.ok("start", "base")
    eventually(lambda: herdpy.status("top")["status"] == "running")


def test_it_is_tried_as_often_as_the_limit_allows_and_anybody_may_try_again(herdpy, eventually, tmp_path):
    gate = tmp_path / "gate"
    herdpy.declare("base", gated(gate) + AUTO + GIVEN_UP)
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.start()
    eventually(lambda: herdpy.status("top")["status"] == "stopped" and herdpy.status("base")["failing"])
    status = herdpy.status("base")
    assert (status["reason"], status["enabled"]) == ("it exited with 7 before it was ready (tried 2 times)", True)
    assert len(status["startup-failures"]) == 2
    eventually(lambda: herdpy.status("top")["reason"] == "base, which it requires, could not be started")
    gate.touch()
    herdpy.ok("start", "top")
    assert herdpy.status("base")["status"] == "running"


def test_what_has_run_is_given_up_as_ever(herdpy, eventually, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    herdpy.declare("base", gated(gate) + AUTO + GIVEN_UP)
    herdpy.start()
    eventually(lambda: herdpy.status("base")["status"] == "running")
    gate.unlink()
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    eventually(lambda: not herdpy.status("base")["enabled"])
    assert herdpy.status("base")["reason"].startswith("respawning too fast: it ended 2 times in 1000 s")


def test_an_exit_code_after_which_there_is_no_respawn_holds_before_it_is_ready_too(herdpy, eventually, tmp_path):
    herdpy.declare("base", gated(tmp_path / "gate") + AUTO + often(0.1) + "no-respawn-exit-codes = [7]\n")
    herdpy.start()
    eventually(lambda: herdpy.status("base")["failing"] and herdpy.status("base")["status"] == "stopped")
    assert herdpy.status("base")["reason"] == (
        "it exited with 7 before it was ready, after which it is not to be respawned"
    )


def test_what_is_never_to_be_respawned_is_tried_once(herdpy, eventually, tmp_path):
    herdpy.declare("base", gated(tmp_path / "gate") + AUTO + "respawn = false\n")
    herdpy.start()
    eventually(lambda: herdpy.status("base")["failing"] and herdpy.status("base")["status"] == "stopped")
    assert herdpy.status("base")["reason"] == "it exited with 7 before it was ready"


def test_a_start_by_hand_is_tried_once_with_what_it_entails(herdpy, tmp_path):
    herdpy.declare("base", gated(tmp_path / "gate") + often(0.1))
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n')
    herdpy.start()
    for name in ("base", "top"):
        refused = herdpy.herd("start", name)
        assert "cannot start base: it exited with 7 before it was ready" in refused.stdout
        assert "again" not in refused.stdout
        assert herdpy.status(name)["status"] == "stopped"


def test_an_essential_one_is_tried_once(herdpy, tmp_path):
    gate, tries = tmp_path / "gate", tmp_path / "tries"
    script = f"while ! test -e {gate}; do sleep 0.02; done; echo >>{tries}; exit 7"
    command = f'command = {json.dumps(["sh", "-c", script])}\nready.log-line = "up"\n'
    herdpy.declare("base", command + AUTO + "essential = true\n")
    herdpy.start()
    gate.touch()
    assert herdpy.process.wait(60) == 7
    assert len(tries.read_text()) == 1
