"""Timers of a real herdpy: what runs, when, how often, and what becomes of it when things go wrong."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Eventually = Callable[..., None]


def runs(herdpy: Any, name: str) -> Mapping[str, Any]:
    told: Mapping[str, Any] = json.loads(herdpy.ok("--json", "runs", name))
    return told


def began(path: Path) -> list[str]:
    """What runs wrote into a file, a line each."""
    return path.read_text().splitlines() if path.exists() else []


def declare(herdpy: Any, name: str, script: str, *lines: str) -> None:
    command = json.dumps(["sh", "-c", script])
    herdpy.declare(name, "\n".join(['type = "timer"', f"command = {command}", *lines]))


def test_an_interval_does_not_drift(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    declare(herdpy, "tick", f"date +%s.%N >>{ticks}", 'every = "500ms"', "auto-start = true")
    herdpy.start()
    eventually(lambda: len(began(ticks)) >= 7)
    past = runs(herdpy, "tick")["past"]
    steps = [(run["due"] - past[0]["due"]) / 0.5 for run in past]
    assert all(abs(step - round(step)) < 0.02 for step in steps), steps
    assert len({round(step) for step in steps}) == len(steps), "nothing is due twice"
    assert all(run["began"] >= run["due"] - 0.001 for run in past), "none begins before its time"
    details = herdpy.status("tick")["details"]
    assert "it exited with 0 after" in details["last run"]
    assert details["next run"]


def test_runs_are_told_and_logged(herdpy: Any, eventually: Eventually) -> None:
    declare(herdpy, "nightly", "echo worked; exit 3", 'cron = "0 4 1 1 *"', "auto-start = true")
    herdpy.start()
    assert herdpy.ok("trigger", "nightly") == "A run of nightly has begun.\n"
    eventually(lambda: runs(herdpy, "nightly")["past"])
    told = runs(herdpy, "nightly")
    (run,) = told["past"]
    assert (run["why"], run["reason"], run["exit-code"]) == ("triggered", "it exited with 3", 3)
    assert [time.strftime("%m-%d %H:%M", time.localtime(moment)) for moment in told["to-come"]] == ["01-01 04:00"] * 5
    assert "worked" in (herdpy.log / "nightly.log").read_text(), "its last lines are in its log before its end is told"
    own_log = herdpy.log / "herdpy.log"
    ended = 'timer-run-ended service=nightly reason="it exited with 3" code=3'
    eventually(lambda: own_log.exists() and ended in own_log.read_text())
    lines = herdpy.ok("runs", "nightly").splitlines()
    assert "triggered: it exited with 3 after" in lines[0]
    assert "04:00:00" in lines[1]
    assert "to come in" in lines[1]


def test_a_command_that_cannot_be_executed_fails_its_run_and_not_the_timer(herdpy: Any, eventually: Eventually) -> None:
    herdpy.declare("broken", 'type = "timer"\ncommand = ["/no/such/program"]\nevery = "300ms"\nauto-start = true\n')
    herdpy.start()
    eventually(lambda: len(runs(herdpy, "broken")["past"]) >= 2)
    assert runs(herdpy, "broken")["past"][0]["reason"] == (
        "/no/such/program cannot be executed: No such file or directory"
    )
    assert herdpy.status("broken")["status"] == "running"


def test_overlap_skip_leaves_a_run_out(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(herdpy, "slow", f"echo $$ >>{file}; sleep 1000", 'every = "300ms"', "auto-start = true")
    herdpy.start()
    eventually(lambda: any("left out" in run["reason"] for run in runs(herdpy, "slow")["past"]))
    assert len(began(file)) == 1
    refused = herdpy.herd("trigger", "slow")
    assert refused.returncode == 1
    assert "a run is under way since" in refused.stderr
    herdpy.ok("stop", "slow")
    (pid,) = began(file)
    assert not Path(f"/proc/{pid}").exists(), "the run outlived its timer's stop"


def test_overlap_queue_lets_one_wait(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(gate)
    declare(
        herdpy,
        "queue",
        f"echo $$ >>{file}; read line <{gate}",
        'cron = "0 4 1 1 *"',
        'overlap = "queue"',
        "auto-start = true",
    )
    herdpy.start()
    herdpy.ok("trigger", "queue")
    eventually(lambda: len(began(file)) == 1)
    assert herdpy.ok("trigger", "queue") == "A run of queue begins when the one under way has ended.\n"
    third = herdpy.herd("trigger", "queue")
    assert third.returncode == 1
    assert "one waits for its end" in third.stderr
    assert len(began(file)) == 1
    gate.write_text("go on\n")
    eventually(lambda: len(began(file)) == 2)
    gate.write_text("go on\n")
    eventually(lambda: len(runs(herdpy, "queue")["past"]) == 2)
    assert runs(herdpy, "queue")["under-way"] is None


def test_overlap_stop_old_stops_the_old_one(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(
        herdpy,
        "newest",
        f"echo $$ >>{file}; exec sleep 1000",
        'cron = "0 4 1 1 *"',
        'overlap = "stop-old"',
        "auto-start = true",
    )
    herdpy.start()
    herdpy.ok("trigger", "newest")
    eventually(lambda: len(began(file)) == 1)
    herdpy.ok("trigger", "newest")
    eventually(lambda: len(began(file)) == 2)
    (old,) = runs(herdpy, "newest")["past"]
    assert old["reason"] == "it was stopped because the next run was due (it was killed by SIGTERM)"
    first, second = began(file)
    assert not Path(f"/proc/{first}").exists()
    assert Path(f"/proc/{second}").exists()


def slow_disk(herdpy: Any, name: str) -> None:
    """Let each write of a timer's record take as long as anybody has patience for it."""
    record = herdpy.state / "timers" / f".{name}.json.new"
    record.parent.mkdir(parents=True)
    os.mkfifo(record)


def test_no_run_begins_before_the_end_of_the_last_one_is_dealt_with(
    herdpy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    file, alone = tmp_path / "began", tmp_path / "alone"
    script = f"mkdir {alone} && echo alone >>{file} || echo two at once >>{file}; sleep 3; rmdir {alone}"
    declare(herdpy, "often", script, "every = 0.1", 'overlap = "queue"', "persistent = true")
    slow_disk(herdpy, "often")
    herdpy.start()
    herdpy.ok("start", "often")
    eventually(lambda: any(run["reason"] == "it exited with 0" for run in runs(herdpy, "often")["past"]))
    herdpy.herd("trigger", "often")  # one may wait already
    eventually(lambda: len(began(file)) >= 3)
    assert began(file) == ["alone"] * 3


def test_a_run_that_is_asked_for_while_the_last_one_ends_is_not_lost(
    herdpy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    file = tmp_path / "began"
    slow_disk(herdpy, "once")
    herdpy.start()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 4))
    declare(herdpy, "once", f"echo $$ >>{file}", f"at = {at}", "persistent = true", 'overlap = "queue"')
    eventually(lambda: herdpy.herd("start", "once").returncode == 0)
    eventually(lambda: len(began(file)) == 1)
    assert herdpy.ok("trigger", "once") == "A run of once begins when the one under way has ended.\n"
    eventually(lambda: herdpy.status("once")["status"] == "stopped")
    assert len(began(file)) == 2


def test_a_run_that_takes_too_long_is_stopped_and_killed(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(
        herdpy,
        "stubborn",
        f"trap '' TERM; echo $$ >>{file}; while :; do sleep 1000; done",
        'cron = "0 4 1 1 *"',
        'max-duration = "2s"',
        "grace-period = 0.3",
        "auto-start = true",
    )
    herdpy.start()
    herdpy.ok("trigger", "stubborn")
    eventually(lambda: runs(herdpy, "stubborn")["past"])
    (run,) = runs(herdpy, "stubborn")["past"]
    assert run["reason"] == "it was stopped after 2 s, its max-duration (it was killed by SIGKILL)"
    (pid,) = began(file)
    assert not Path(f"/proc/{pid}").exists()


def test_who_ended_by_itself_while_nobody_looked_was_not_stopped(
    herdpy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    file, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo $$ >>{file}; read line <{gate}"
    declare(herdpy, "hung", script, 'cron = "0 4 1 1 *"', 'max-duration = "2s"', "auto-start = true")
    herdpy.start()
    herdpy.ok("trigger", "hung")
    eventually(lambda: began(file))
    begin, supervisor = time.monotonic(), herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    gate.write_text("go on\n")
    (pid,) = began(file)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    eventually(lambda: time.monotonic() > begin + 2)
    kill_supervisor(herdpy, eventually)
    eventually(lambda: runs(herdpy, "hung")["past"])
    assert runs(herdpy, "hung")["past"][0]["reason"] == "it exited with 0"


def kill_supervisor(herdpy: Any, eventually: Eventually) -> None:
    old = herdpy.supervisor()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: herdpy.children("herdpy.supervisor") not in ([old], []))


def test_a_run_goes_on_when_the_supervisor_is_replaced(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(gate)
    declare(herdpy, "long", f"echo $$ >>{file}; read line <{gate}; exit 7", 'cron = "0 4 1 1 *"', "auto-start = true")
    herdpy.start()
    herdpy.ok("trigger", "long")
    eventually(lambda: began(file))
    kill_supervisor(herdpy, eventually)
    assert runs(herdpy, "long")["under-way"]["why"] == "triggered"
    gate.write_text("go on\n")
    eventually(lambda: runs(herdpy, "long")["past"])
    (run,) = runs(herdpy, "long")["past"]
    assert run["reason"] == "it exited with 7"
    assert len(began(file)) == 1


def test_no_run_is_doubled_or_lost_when_supervisors_die(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(herdpy, "count", f"echo $$ >>{file}", 'cron = "0 4 1 1 *"', 'overlap = "queue"', "auto-start = true")
    herdpy.start()
    herdpy.ok("start", "count")
    asked = 0
    for round_ in range(6):
        herdpy.ok("trigger", "count")
        asked += 1
        # Each time a little later into the run: before its spawn, around it, after its end.
        time.sleep(0.004 * round_)
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        eventually(lambda wanted=asked: len(runs(herdpy, "count")["past"]) == wanted)
    assert len(began(file)) == asked


def test_a_missed_run_is_made_up_for_once(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(herdpy, "backup", f"echo $$ >>{file}", 'cron = "0 4 * * *"', "persistent = true", "auto-start = true")
    herdpy.start()
    record = herdpy.state / "timers" / "backup.json"
    eventually(record.exists)
    assert record.stat().st_mode & 0o777 == 0o600
    assert herdpy.stop() == 0
    assert began(file) == []
    kept = json.loads(record.read_text())
    assert abs(kept["last"] - time.time()) < 60
    kept["last"] -= 5 * 86400  # it was down for five days
    record.write_text(json.dumps(kept))
    herdpy.start()
    eventually(lambda: runs(herdpy, "backup")["past"])
    (run,) = runs(herdpy, "backup")["past"]
    assert run["why"] == "made up for"
    assert time.localtime(run["due"]).tm_hour == 4
    assert run["began"] - run["due"] < 86400, "of five days, the last one's run is the one made up for"
    assert "made up for, " in herdpy.ok("runs", "backup")
    assert herdpy.stop() == 0
    herdpy.start()
    assert len(runs(herdpy, "backup")["past"]) == 1, "its past is kept, and nothing made up for twice"
    assert len(began(file)) == 1


def test_a_run_too_late_for_catch_up_is_left_out(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    earlier = time.localtime(time.time() - 7200)
    declare(
        herdpy,
        "early",
        f"echo $$ >>{file}",
        f'cron = "{earlier.tm_min} {earlier.tm_hour} * * *"',
        "persistent = true",
        'catch-up = "1h"',
        "auto-start = true",
    )
    record = herdpy.state / "timers" / "early.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"last": time.time() - 86400, "past": []}))
    herdpy.start()
    eventually(lambda: runs(herdpy, "early")["past"])
    assert "too late for catch-up" in runs(herdpy, "early")["past"][0]["reason"]
    assert began(file) == []


def test_a_broken_record_is_told_and_replaced(herdpy: Any, eventually: Eventually) -> None:
    declare(herdpy, "odd", "true", 'cron = "0 4 * * *"', "persistent = true", "auto-start = true")
    record = herdpy.state / "timers" / "odd.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    herdpy.start()
    eventually(lambda: "last" in record.read_text())
    own_log = herdpy.log / "herdpy.log"
    eventually(lambda: own_log.exists() and "timer-record-not-read" in own_log.read_text())
    assert herdpy.status("odd")["status"] == "running"


def test_one_moment_and_then_it_stops(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3))
    declare(herdpy, "once", f"echo $$ >>{file}; exit 4", f"at = {at}", "auto-start = true")
    herdpy.start()
    eventually(lambda: herdpy.status("once")["status"] == "stopped")
    eventually(lambda: began(file))
    assert len(began(file)) == 1
    why = "it is not due again; its last run: it exited with 4"
    eventually(lambda: herdpy.status("once")["reason"] == why)


def test_run_at_start_runs_at_the_start_alone(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    declare(herdpy, "eager", f"echo $$ >>{file}", 'cron = "0 4 1 1 *"', "run-at-start = true", "auto-start = true")
    herdpy.start()
    eventually(lambda: len(began(file)) == 1)
    eventually(lambda: runs(herdpy, "eager")["past"])
    kill_supervisor(herdpy, eventually)
    assert runs(herdpy, "eager")["past"][0]["why"] == "at start"
    assert len(began(file)) == 1


def comes_at(herdpy: Any, name: str) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(runs(herdpy, name)["to-come"][0]))


def test_a_changed_schedule_takes_effect_when_it_is_written(
    herdpy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    file, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo $$ >>{file}; read line <{gate}"
    declare(herdpy, "edited", script, 'every = "1h"', "auto-start = true")
    herdpy.start()
    herdpy.ok("trigger", "edited")
    eventually(lambda: began(file))
    declare(herdpy, "edited", script, 'cron = "0 4 1 1 *"', "auto-start = true")
    eventually(lambda: comes_at(herdpy, "edited") == "01-01 04:00")
    assert "01-01 04:00" in herdpy.status("edited")["details"]["next run"]
    assert runs(herdpy, "edited")["under-way"]["why"] == "triggered", "a run that is under way goes on"
    kill_supervisor(herdpy, eventually)
    assert comes_at(herdpy, "edited") == "01-01 04:00"
    declare(herdpy, "edited", f"echo other >>{file}", 'cron = "0 5 2 2 *"', "auto-start = true")
    eventually(lambda: comes_at(herdpy, "edited") == "02-02 05:00")
    gate.write_text("go on\n")
    eventually(lambda: [run["reason"] for run in runs(herdpy, "edited")["past"]] == ["it exited with 0"])
    herdpy.ok("trigger", "edited")
    eventually(lambda: began(file)[1:] == ["other"])
    declare(herdpy, "edited", f"echo soon >>{file}", "every = 0.5", "auto-start = true")
    eventually(lambda: "soon" in began(file))


def test_a_schedule_that_is_changed_while_nobody_looks_makes_up_for_nothing(
    herdpy: Any, eventually: Eventually, tmp_path: Path
) -> None:
    file = tmp_path / "began"
    declare(herdpy, "edited", f"echo $$ >>{file}", 'every = "1h"', "auto-start = true")
    herdpy.start()
    assert runs(herdpy, "edited")["to-come"]
    os.kill(herdpy.supervisor(), signal.SIGSTOP)
    declare(herdpy, "edited", f"echo $$ >>{file}", 'cron = "0 4 1 1 *"', "auto-start = true")
    kill_supervisor(herdpy, eventually)
    eventually(lambda: comes_at(herdpy, "edited") == "01-01 04:00")
    assert runs(herdpy, "edited")["past"] == []
    assert began(file) == []


def test_a_stopped_timer_says_so(herdpy: Any) -> None:
    declare(herdpy, "idle", "true", "every = 3600")
    herdpy.start()
    for action in ("trigger", "runs"):
        refused = herdpy.herd(action, "idle")
        assert refused.returncode == 1
        assert "idle is stopped; start it with: herd start idle" in refused.stderr
    herdpy.ok("start", "idle")
    refused = herdpy.herd("trigger", "idle", "now")
    assert "trigger takes no arguments, and now was given" in refused.stderr


def test_a_moment_that_no_time_zone_can_tell_is_a_mistake_and_nothing_worse(
    herdpy: Any, eventually: Eventually
) -> None:
    herdpy.start()
    before = herdpy.supervisor()
    declare(herdpy, "last", "true", "at = 9999-12-31T23:59:59", 'time-zone = "America/New_York"')
    own_log = herdpy.log / "herdpy.log"
    eventually(lambda: own_log.exists() and "last.toml:3: at: no time zone can tell what moment" in own_log.read_text())
    assert herdpy.supervisor() == before
    declare(herdpy, "last", "true", "at = 9999-12-31T23:59:59")
    eventually(lambda: herdpy.herd("start", "last").returncode == 0)
    assert herdpy.status("last")["details"]["next run"].startswith("9999-12-31")


def test_a_jitter_longer_than_the_gaps_loses_no_run(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "began"
    seconds = f"seconds = {list(range(60))}, minutes = {list(range(60))}"
    declare(herdpy, "spread", f"echo $$ >>{file}", f"calendar = {{ {seconds} }}", "jitter = 20", "auto-start = true")
    herdpy.start()
    eventually(lambda: len(began(file)) >= 6)
    told = runs(herdpy, "spread")
    dues = [round(run["due"]) for run in told["past"]]
    assert dues == list(range(dues[0], dues[0] + len(dues)))
    assert told["to-come"] == sorted(told["to-come"])
