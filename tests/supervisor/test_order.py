"""What is started with, before and once for other services; and what herdpy ends with."""

import json
import os
import signal
from pathlib import Path

import pytest

WAITS = "while [ ! -e {} ]; do sleep 0.02; done"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What a service waits for that must not end before the test has seen it run."""
    return tmp_path / "gate"


def says(trace: Path, name: str, then: str = "exec sleep 1000") -> str:
    """A command that writes down its start."""
    return f"command = {json.dumps(['sh', '-c', f'echo {name} >> {trace}; {then}'])}\n"


def test_a_one_shot_is_done_before_what_requires_it_starts(herdpy, trace):
    herdpy.declare("prepare", says(trace, "begin", f"sleep 0.3; echo end >> {trace}") + "one-shot = true\n")
    herdpy.declare("service", says(trace, "service") + 'requirement = ["prepare"]\n')
    herdpy.start()
    herdpy.ok("start", "service")
    status = herdpy.status("prepare")
    assert status["status"] == "stopped"
    assert status["one-shot"]
    assert status["last-respawns"] == []
    assert [change["status"] for change in status["status-changes"]] == ["stopped", "starting"]
    assert "One-shot:\n * prepare\n" in herdpy.ok("status")
    assert trace.read_text().split()[:2] == ["begin", "end"]


def test_a_one_shot_runs_once_in_a_start_and_again_in_the_next(herdpy, eventually, trace):
    herdpy.declare("once", says(trace, "once", "true") + "one-shot = true\n")
    for name in ("left", "right"):
        herdpy.declare(name, says(trace, name) + 'requirement = ["once"]\n')
    herdpy.declare("top", says(trace, "top") + 'requirement = ["left", "right"]\n')
    herdpy.start()
    herdpy.ok("start", "top")
    eventually(lambda: "top" in trace.read_text())
    assert trace.read_text().split().count("once") == 1
    herdpy.ok("stop", "left")
    herdpy.ok("start", "left")
    assert trace.read_text().split().count("once") == 2


def test_a_one_shot_that_fails_fails_what_requires_it(herdpy, trace):
    herdpy.declare("once", says(trace, "why it fails", "echo the reason; exit 3") + "one-shot = true\n")
    herdpy.declare("top", says(trace, "top") + 'requirement = ["once"]\n')
    herdpy.start()
    failed = herdpy.herd("start", "top")
    assert failed.returncode == 1
    assert "cannot start once: it exited with 3\n" in failed.stdout
    assert "the reason" in failed.stdout
    assert "Service top depends on once.\n" in failed.stdout
    assert " ! once\n" in herdpy.ok("status")
    assert not herdpy.status("once")["respawn"]
    assert "Will not be respawned." in herdpy.ok("status", "once")


def test_a_one_shot_under_way_outlives_the_supervisor(herdpy, eventually, trace, gate):
    wait = WAITS.format(gate)
    herdpy.declare(
        "once", says(trace, "begin", f"{wait}; echo end >> {trace}") + "one-shot = true\nauto-start = true\n"
    )
    herdpy.start()
    eventually(trace.exists)
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    gate.touch()
    eventually(lambda: herdpy.status("once")["status"] == "stopped")
    assert trace.read_text().split() == ["begin", "end"]
    assert herdpy.status("once")["startup-failures"] == []


def test_a_one_shot_that_ended_while_there_was_no_supervisor_is_not_repeated(herdpy, eventually, trace, gate):
    wait = WAITS.format(gate)
    herdpy.declare("once", says(trace, "begin", f"{wait}; echo end >> {trace}; exit 4") + "one-shot = true\n")
    herdpy.start()
    herdpy.herd("status", "once")
    client = herdpy.herd_in_background("start", "once")
    eventually(trace.exists)
    supervisor = herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    gate.touch()
    eventually(lambda: "end" in trace.read_text())
    os.kill(supervisor, signal.SIGKILL)
    client.wait(60)
    eventually(lambda: herdpy.status("once")["status"] == "stopped")
    assert trace.read_text().split() == ["begin", "end"]
    assert herdpy.status("once")["reason"] == "it exited with 4"


def test_what_is_wanted_is_started_and_may_fail_or_be_missing(herdpy, eventually, trace):
    herdpy.declare("friend", says(trace, "friend"))
    herdpy.declare("ghost", 'command = ["/nonexistent/program"]')
    herdpy.declare("top", says(trace, "top") + 'wants = ["friend", "ghost", "nobody"]\n')
    herdpy.start()
    assert herdpy.ok("start", "top") == "Service top has been started.\n"
    eventually(lambda: herdpy.status("friend")["status"] == "running")
    herdpy.ok("stop", "friend")
    assert herdpy.status("top")["status"] == "running"


def test_after_is_order_alone(herdpy, eventually, trace):
    herdpy.declare(
        "slow", says(trace, "begin", f"sleep 0.4; echo end >> {trace}") + "one-shot = true\nauto-start = true\n"
    )
    herdpy.declare("later", says(trace, "later") + 'after = ["slow", "nobody"]\nauto-start = true\n')
    herdpy.start()
    eventually(lambda: herdpy.status("later")["status"] == "running")
    eventually(lambda: "later" in trace.read_text())
    assert trace.read_text().split() == ["begin", "end", "later"]
    herdpy.ok("restart", "later")
    assert trace.read_text().split().count("begin") == 1, "what is only after another does not start it"


def test_after_is_order_whoever_of_many_is_asked_first(herdpy, eventually, trace):
    """Some before ("a..."), some after ("z...") what they come after, and more of them than are asked at a stretch."""
    herdpy.declare(
        "slow", says(trace, "begin", f"sleep 0.3; echo end >> {trace}") + "one-shot = true\nauto-start = true\n"
    )
    herdpy.declare("middle", says(trace, "middle") + 'after = ["slow"]\n')
    names = [f"{letter}{number}" for letter in "az" for number in range(30)]
    for name in names:
        needs = 'requirement = ["middle"]\n' if name in ("a0", "z0") else 'after = ["slow"]\n'
        herdpy.declare(name, says(trace, name) + needs + "auto-start = true\n")
    herdpy.start()
    eventually(lambda: {*names, "middle"} <= set(trace.read_text().split()))
    assert trace.read_text().split()[:2] == ["begin", "end"]


def test_a_cycle_of_afters_is_refused(herdpy):
    herdpy.declare("one", 'command = ["true"]\nafter = ["two"]')
    herdpy.declare("two", 'command = ["true"]\nrequirement = ["one"]')
    completed = herdpy.run(*herdpy.command())
    assert completed.returncode == 2
    assert "services that wait for one another can never start: one -> two -> one" in completed.stderr


@pytest.mark.parametrize(
    ("ending", "status"),
    [("exit 0", 0), ("exit 5", 5), ("kill -KILL $$", 137)],
)
def test_herdpy_ends_with_its_essential_service(herdpy, eventually, trace, gate, ending, status):
    script = f"trap 'echo stopped >> {trace}; exit' TERM; echo started >> {trace}; while :; do sleep 0.02; done"
    herdpy.declare("other", f"command = {json.dumps(['sh', '-c', script])}\nauto-start = true\n")
    more = 'essential = true\nrespawn = false\nauto-start = true\nrequirement = ["other"]\n'
    herdpy.declare("main", says(trace, "main", f"{WAITS.format(gate)}; {ending}") + more)
    herdpy.start()
    eventually(lambda: "started" in trace.read_text())
    gate.touch()
    assert herdpy.process.wait(60) == status
    assert trace.read_text().split()[-1] == "stopped"


def test_an_end_with_0_that_is_a_failure_is_told_as_one(herdpy, trace, gate):
    more = "essential = true\nrespawn = false\nauto-start = true\nsuccess-exit-codes = [7]\n"
    herdpy.declare("main", says(trace, "main", f"{WAITS.format(gate)}; exit 0") + more)
    herdpy.start()
    gate.touch()
    assert herdpy.process.wait(60) == 1


@pytest.mark.parametrize(
    "how", ["one-shot = true\n", 'ready = { log-line = "never" }\n'], ids=["one-shot", "not ready"]
)
def test_an_essential_service_that_fails_before_it_runs_gives_its_status(herdpy, trace, gate, how):
    more = f"essential = true\nrespawn = false\nauto-start = true\n{how}"
    herdpy.declare("main", says(trace, "main", f"{WAITS.format(gate)}; exit 6") + more)
    herdpy.start()
    gate.touch()
    assert herdpy.process.wait(60) == 6


def test_an_essential_service_is_given_up_after_its_respawns(herdpy, trace, gate):
    herdpy.declare(
        "main",
        says(trace, "main", f"{WAITS.format(gate)}; exit 9")
        + "essential = true\nauto-start = true\nrespawn-limit = 3\n",
    )
    herdpy.start()
    gate.touch()
    assert herdpy.process.wait(60) == 9
    assert trace.read_text().split().count("main") == 3


def test_what_many_wait_for_may_be_asked_for_last(herdpy, eventually):
    """Not all of many starts are asked for at once, nor all stops at the end."""
    names = [f"service-{number:03}" for number in range(250)]
    for name in names[:-1]:
        herdpy.declare(name, f'command = ["sleep", "1000"]\nauto-start = true\nrequirement = ["{names[-1]}"]\n')
    herdpy.declare(names[-1], 'command = ["sleep", "1000"]\nauto-start = true\n')
    herdpy.start()

    def running() -> int:
        described = json.loads(herdpy.ok("--json", "status"))
        return sum(one["status"] == "running" for one in described if one["provides"][0] in names)

    eventually(lambda: running() == len(names))
    assert herdpy.stop() == 0
    said = herdpy.said()
    last = said.index(f"service-stopped service={names[-1]}")
    assert all(said.index(f"service-stopped service={name}") < last for name in names[:-1])
