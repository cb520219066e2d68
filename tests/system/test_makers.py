"""Services made when asked: ``herd spawn transient``, ``herd schedule timer``."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Eventually = Callable[..., None]


def names(herdpy: Any) -> set[str]:
    return {service["provides"][0] for service in json.loads(herdpy.ok("--json", "status"))}


def kill_supervisor(herdpy: Any, eventually: Eventually) -> None:
    old = herdpy.supervisor()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: herdpy.children("herdpy.supervisor") not in ([old], []))


def test_the_makers_are_there_for_whoever_asks(herdpy: Any) -> None:
    herdpy.start()
    assert names(herdpy) == {"root"}, "who never asks never sees them"
    assert "Run commands in the background" in herdpy.ok("doc", "transient")
    assert "spawn" in herdpy.ok("doc", "transient", "list-actions")
    assert "schedule" in herdpy.ok("doc", "timer", "list-actions")


def test_spawn_runs_a_command_with_what_it_is_given(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    herdpy.start()
    script = "pwd; echo $A-$B; read line <gate"
    os.mkfifo(tmp_path / "gate")
    options = ("--name=mine", "-d", ".", "-E", "A=1", "--environment=B=2", "--log-file=mine.log")
    told = herdpy.herd("spawn", "transient", *options, "--", "sh", "-c", script, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"Service mine has been started: sh -c '{script}'\n"
    output = tmp_path / "mine.log"
    eventually(lambda: output.exists() and "1-2" in output.read_text())
    assert str(tmp_path) in (tmp_path / "mine.log").read_text()
    assert "It is transient, running since" in herdpy.ok("status", "mine")
    (tmp_path / "gate").write_text("go on\n")
    eventually(lambda: "mine" not in names(herdpy))


def test_spawn_answers_the_name_it_chose(herdpy: Any) -> None:
    herdpy.start()
    first = json.loads(herdpy.ok("--json", "spawn", "transient", "--", "sleep", "1000"))
    second = json.loads(herdpy.ok("--json", "spawn", "transient", "--", "sleep", "1000"))
    assert (first["result"], second["result"]) == (["transient-sleep"], ["transient-sleep-2"])
    herdpy.ok("stop", "transient")
    assert names(herdpy) == {"root", "transient"}, "the stop of their maker stops them, and they are gone"


def test_a_restart_that_would_be_the_end_of_what_was_made_is_refused(herdpy: Any) -> None:
    herdpy.start()
    herdpy.ok("schedule", "timer", "in", "1h", "-N", "later", "--", "echo", "important")
    refused = herdpy.herd("restart", "timer")
    assert refused.returncode == 1
    why = "later would be stopped with it; it is transient, and a stop would be its end"
    assert f"cannot restart timer: {why}" in refused.stdout + refused.stderr
    assert herdpy.status("later")["status"] == "running"
    for name in ("one", "other"):
        herdpy.ok("spawn", "transient", "-N", name, "--", "sleep", "1000")
    refused = herdpy.herd("restart", "transient")
    assert "one, other would be stopped with it; they are transient" in refused.stdout + refused.stderr
    herdpy.ok("stop", "transient")
    herdpy.ok("restart", "transient")


def test_spawned_services_outlive_the_supervisor(herdpy: Any, eventually: Eventually) -> None:
    herdpy.start()
    herdpy.ok("spawn", "transient", "-N", "kept", "--", "sleep", "1000")
    before = herdpy.children("sleep")
    assert len(before) == 1
    kill_supervisor(herdpy, eventually)
    assert herdpy.status("kept")["status"] == "running"
    assert herdpy.children("sleep") == before
    herdpy.ok("stop", "kept")
    assert "kept" not in names(herdpy)


def test_what_cannot_be_spawned_is_said_and_leaves_nothing(herdpy: Any) -> None:
    herdpy.declare("there", 'command = ["sleep", "1000"]')
    herdpy.start()
    for arguments, problem in (
        (("--", "/no/such"), "/no/such cannot be executed: No such file or directory"),
        (("--name=there", "--", "true"), "there is a service there already"),
        (("--name=timer", "--", "true"), "there is a service timer already"),
        (("--name=root", "--", "true"), "root is a name of herdpy itself"),
        (("--name=a:b", "--", "true"), "a service's name is made of"),
        (("--user=no-such-user", "--", "true"), "no-such-user"),
        (("-E", "A=B"), "the command is missing"),
        (("make", "--", "true"), "'make': it takes options"),
    ):
        refused = herdpy.herd("spawn", "transient", *arguments)
        assert refused.returncode == 1
        assert problem in refused.stderr, arguments
        assert "Traceback" not in refused.stderr
    assert names(herdpy) - {"timer"} == {"root", "there", "transient"}


def test_schedule_runs_once_and_is_gone(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    herdpy.start()
    begin = time.time()
    told = herdpy.ok("schedule", "timer", "in", "1s", "-N", "soon", "--", "sh", "-c", f"date +%s.%N >>{file}")
    assert told.startswith("Service soon runs at ")
    assert herdpy.status("soon")["details"]["next run"]
    eventually(lambda: "soon" not in names(herdpy))
    (ran,) = file.read_text().split()
    assert 1 <= float(ran) - begin < 30


def test_what_is_scheduled_for_now_runs_at_once(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    herdpy.start()
    for number, duration in enumerate(("0 seconds", "1ms"), 1):
        herdpy.ok("schedule", "timer", "in", duration, "-N", "soon", "--", "sh", "-c", f"echo ran >>{file}")
        eventually(lambda: "soon" not in names(herdpy))
        assert file.read_text() == "ran\n" * number


def test_what_is_scheduled_is_kept_by_the_next_supervisor(herdpy: Any, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    herdpy.start()
    herdpy.ok("schedule", "timer", "in", "2s", "-N", "soon", "--", "sh", "-c", f"echo ran >>{file}")
    herdpy.ok("schedule", "timer", "at", "04:00", "-N", "night", "--", "true")
    kill_supervisor(herdpy, eventually)
    assert (
        time.strftime("%H:%M", time.localtime(json.loads(herdpy.ok("--json", "runs", "night"))["to-come"][0]))
        == "04:00"
    )
    eventually(lambda: "soon" not in names(herdpy))
    assert file.read_text() == "ran\n"
    herdpy.ok("trigger", "night")
    herdpy.ok("stop", "timer")
    assert "night" not in names(herdpy)


def test_what_cannot_be_scheduled_is_said(herdpy: Any) -> None:
    only_root = None if os.geteuid() == 0 else "only root can "
    no_user, no_group = only_root or "there is no user nobodyy", only_root or "there is no group nobodyy"
    herdpy.start()
    for arguments, problem in (
        (("--", "true"), "it takes a time: at TIME, or in DURATION"),
        (("at", "25:00", "--", "true"), "'25:00' is no time"),
        (("at", "2020-01-01T07:00", "--", "true"), "has passed"),
        (("in", "soon", "--", "true"), "'soon' is no duration"),
        (("in", "-5", "minutes", "--", "true"), "'-5 minutes' is no duration"),
        (("at", "07:00"), "the command is missing"),
        (("in", "1h", "--user=nobodyy", "--", "true"), no_user),
        (("in", "1h", "--group=nobodyy", "--", "true"), no_group),
        (("in", "1h", "--", "/no/such"), "/no/such cannot be executed: No such file or directory"),
        (("in", "1h", "--", "no-such"), "no-such cannot be executed: it is not in /"),
    ):
        refused = herdpy.herd("schedule", "timer", *arguments)
        assert refused.returncode == 1
        assert problem in refused.stderr, arguments
    assert names(herdpy) == {"root", "timer"}
