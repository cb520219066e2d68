"""What ought not to happen, and must leave nobody waiting: requests given up, refusals of the kernel, of the keeper."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest

from herdpy import protocol

WAIT = "while [ -e $READY.held ]; do sleep 0.02; done"
LINGERING = json.dumps(
    ["sh", "-c", f"trap '{WAIT}; exit 0' TERM; : > $READY.held; : > $READY; while :; do sleep 0.02; done"]
)
"""Does not stop before the file READY.held is removed."""


def ask(herdpy, action: str, service: str, *arguments: str, patience: float = 30) -> protocol.Reply:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience)
        client.connect(str(herdpy.socket))
        client.sendall(protocol.write_command(protocol.Command(action, service, arguments, "/")))
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
    return protocol.parse_reply(reply.decode())


def in_background(*arguments) -> threading.Thread:
    thread = threading.Thread(target=ask, args=arguments)
    thread.start()
    return thread


def test_what_nobody_wants_any_more_is_not_started_after_its_stop(herdpy, tmp_path, eventually):
    ready = tmp_path / "ready"
    herdpy.declare("base", f'command = {LINGERING}\nenvironment = {{ READY = "{ready}" }}')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["base"]')
    herdpy.start()
    ask(herdpy, "start", "base")
    eventually(ready.exists)
    stop = in_background(herdpy, "stop", "base")
    eventually(lambda: herdpy.status("base")["status"] == "stopping")
    start = in_background(herdpy, "start", "top")
    eventually(lambda: herdpy.status("top")["status"] == "starting")
    assert ask(herdpy, "stop", "top").result == ["top"]
    ready.with_suffix(".held").unlink()
    stop.join()
    start.join()
    assert herdpy.status("base")["status"] == "stopped"


def test_what_is_too_long_for_the_keeper_fails_with_a_reason_and_can_be_tried_again(herdpy):
    files = [str(herdpy.directory / name) for name in ("A", "B")]
    for path in files:
        Path(path).write_text(f"{Path(path).name}={'x' * 100_000}\n")
    herdpy.declare("vast", f'command = ["sleep", "1000"]\nenvironment-files = {json.dumps(files)}\n')
    herdpy.start()
    for _ in range(2):
        reply = ask(herdpy, "start", "vast")
        assert reply.result is False
        problem = "sleep cannot be executed: its command and environment are longer than 160 KiB altogether"
        assert reply.messages[0] == f"cannot start vast: {problem}"
    assert ask(herdpy, "stop", "vast").result == []
    assert herdpy.stop() == 0


def test_a_restart_tells_of_dependents_that_do_not_come_back(herdpy, tmp_path):
    program = tmp_path / "program"
    program.symlink_to(shutil.which("sleep"))
    herdpy.declare("base", 'command = ["sleep", "1000"]')
    herdpy.declare("top", f'command = ["{program}", "1000"]\nrequirement = ["base"]')
    herdpy.start()
    herdpy.ok("start", "top")
    program.unlink()
    restarted = herdpy.herd("restart", "base")
    assert restarted.returncode == 1
    assert f"cannot start top: {program} cannot be executed" in restarted.stdout
    assert herdpy.status("base")["status"] == "running"


def test_a_respawn_limit_above_64_is_kept_to(herdpy, eventually):
    herdpy.declare("failing", 'command = ["true"]\nrespawn-limit = 70\nrespawn-interval = 1000\nrespawn-delay = 0\n')
    herdpy.start()
    herdpy.ok("start", "failing")
    eventually(lambda: not herdpy.status("failing")["enabled"])
    assert "it ended 70 times in 1000 s" in herdpy.status("failing")["reason"]


def gone(pid: int) -> bool:
    """Whether a process is no more, but perhaps for a zombie that is about to be reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def about(herdpy, service):
    """What herdpy's log says of a service, without the stamps."""
    lines = (herdpy.log / "herdpy.log").read_text().splitlines()
    words = [line.split(" ", 2)[2].split()[0] for line in lines if f" service={service} " in f"{line} "]
    return [word for word in words if word.startswith("service-")]


def test_a_respawn_at_once_whose_program_is_gone_by_then_is_told_as_any_other(herdpy, tmp_path, eventually):
    """The old process is released by the very request that cannot be carried out."""
    program = tmp_path / "program"
    program.symlink_to(shutil.which("sleep"))
    herdpy.declare("one", f'command = ["{program}", "1000"]\nrespawn-delay = 0\nrespawn-limit = 2')
    herdpy.start()
    herdpy.ok("start", "one")
    program.unlink()
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)
    eventually(lambda: not herdpy.status("one")["enabled"])
    assert herdpy.status("one")["pid"] is None
    assert herdpy.status("one")["reason"].endswith(f"{program} cannot be executed: No such file or directory")
    assert about(herdpy, "one") == [
        "service-starting",
        "service-started",
        "service-exited",
        "service-respawning",
        "service-failed-to-start",
        "service-disabled",
    ]
    program.symlink_to(shutil.which("sleep"))
    herdpy.ok("start", "one")


def test_what_waits_for_what_is_left_before_it_is_respawned_at_once_can_be_stopped(herdpy, tmp_path, eventually):
    ready = tmp_path / "ready"
    stubborn = f"trap '' TERM; echo $$ > {ready}; while [ ! -e {tmp_path}/over ]; do sleep 0.02; done"
    script = 'setsid sh -c "$STUBBORN" & exec sleep 1000'
    more = f"respawn-delay = 0\ngrace-period = 600\nenvironment = {{ STUBBORN = {json.dumps(stubborn)} }}"
    herdpy.declare("one", f"command = {json.dumps(['sh', '-c', script])}\n{more}")
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: ready.exists() and ready.read_text())
    stray = int(ready.read_text())
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)
    eventually(lambda: str(herdpy.status("one")["stage"]).startswith("waiting for what is left of it: "))
    assert herdpy.status("one")["status"] == "starting"
    stop = herdpy.herd_in_background("stop", "one")
    eventually(lambda: "command action=stop service=one" in (herdpy.log / "herdpy.log").read_text())
    (tmp_path / "over").touch()
    assert stop.wait(60) == 0
    assert herdpy.status("one")["status"] == "stopped"
    assert gone(stray)
    assert about(herdpy, "one").count("service-started") == 1


def test_a_shutdown_that_is_gone_on_with_is_in_no_hurry(herdpy, tmp_path, eventually):
    """It was asked for once; only a second time says that graceful ways are to be left out."""
    ready = tmp_path / "ready"
    herdpy.declare("base", f'command = {LINGERING}\nenvironment = {{ READY = "{ready}" }}')
    herdpy.start()
    herdpy.ok("start", "base")
    eventually(ready.exists)
    supervisor = herdpy.supervisor()
    herdpy.process.send_signal(signal.SIGTERM)
    eventually(lambda: herdpy.status("base")["status"] == "stopping")
    os.kill(supervisor, signal.SIGKILL)
    ready.with_suffix(".held").unlink()
    assert herdpy.process.wait(60) == 0
    assert "supervisor-back" in herdpy.said()
    assert "shutdown-hurries" not in herdpy.said()


@pytest.mark.skipif(os.geteuid() != 0, reason="spawns a process that it may not signal then")
def test_a_process_that_may_not_be_signalled_is_told_and_harms_nobody_else(herdpy, eventually):
    """As with ``sudo``: an ordinary user's herdpy cannot end what became root's (kill(2), EPERM)."""
    herdpy.declare("foreign", 'command = ["sleep", "1000"]\nuser = "nobody"')
    herdpy.declare("own", 'command = ["sleep", "1000"]')
    command = ["setpriv", "--bounding-set=-kill", *herdpy.command()]
    herdpy.command = lambda: command
    herdpy.start()
    herdpy.ok("start", "own")
    herdpy.ok("start", "foreign")
    supervisor = herdpy.supervisor()
    pid = herdpy.status("foreign")["pid"]
    try:
        for _ in range(2):
            refused = herdpy.herd("stop", "foreign")
            assert refused.returncode == 1
            assert "cannot stop foreign: cannot send signal 15" in refused.stdout
            assert herdpy.status("foreign")["status"] == "running"
            assert herdpy.status("foreign")["pid"] == pid
        assert herdpy.supervisor() == supervisor
        assert herdpy.stop() == 0  # where it has a cgroup, that ends it all the same
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_only_a_stopped_start_wanted_does_not_bring_back_what_was_stopped(herdpy, tmp_path, eventually):
    """Only for top was middle to be started, which requires base; base is stopped, and top no longer wanted."""
    herdpy.declare("base", f'command = {LINGERING}\nenvironment = {{ READY = "{tmp_path}/ready" }}')
    herdpy.declare("middle", 'command = ["sleep", "1000"]\nrequirement = ["base"]')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["middle"]')
    herdpy.start()
    ask(herdpy, "start", "base")
    eventually((tmp_path / "ready").exists)
    stop = in_background(herdpy, "stop", "base")
    eventually(lambda: herdpy.status("base")["status"] == "stopping")
    start = in_background(herdpy, "start", "top")
    eventually(lambda: herdpy.status("middle")["status"] == "starting")
    ask(herdpy, "stop", "top")
    (tmp_path / "ready.held").unlink()
    stop.join()
    start.join()
    eventually(lambda: herdpy.status("middle")["status"] != "starting")
    assert [herdpy.status(name)["status"] for name in ("base", "middle", "top")] == ["stopped"] * 3


def test_words_that_an_action_does_not_take_are_refused_and_nothing_is_done(herdpy):
    herdpy.declare("service", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "service")
    pid = herdpy.status("service")["pid"]
    for words, but in ((("stop", "service", "--forc"), " but --force"), (("restart", "service", "now"), "")):
        refused = herdpy.herd(*words)
        assert refused.returncode == 1
        told = f"cannot {words[0]} service: it takes no arguments{but}, and {words[-1]} was given\n"
        assert (refused.stdout, refused.stderr) == (told, "")
    assert herdpy.herd("stop", "root", "service").returncode == 1
    assert herdpy.status("service")["pid"] == pid


def test_a_respawn_is_no_sooner_because_the_supervisor_was_replaced(herdpy, tmp_path, eventually):
    """It waits for what is left of its delay, of which an hour may be left, and no more."""
    stamps = tmp_path / "stamps"
    script = f"date +%s.%N >> {stamps}; [ $(wc -l < {stamps}) -gt 1 ] && exec sleep 1000; exit 1"
    herdpy.declare("slow", f"command = {json.dumps(['sh', '-c', script])}\nrespawn-delay = 3.0")
    herdpy.start()
    herdpy.ok("start", "slow")
    eventually(lambda: herdpy.status("slow")["status"] == "starting")
    for _ in range(2):
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        assert herdpy.status("slow")["status"] == "starting"
    eventually(lambda: herdpy.status("slow")["status"] == "running")
    first, second = map(float, stamps.read_text().split())
    assert second - first >= 2.9


def test_what_has_no_process_is_not_said_to_be_respawned_nor_to_have_a_log(herdpy):
    herdpy.declare("all", 'type = "target"')
    herdpy.start()
    herdpy.ok("start", "all")
    text = herdpy.ok("status", "all")
    assert "It is running since" in text
    assert "espawned" not in text
    assert "Log file" not in text
    refused = herdpy.herd("log", "all")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "herd: error: all has no process of its own, and so no log\n"


def test_what_is_respawned_waits_for_what_it_requires_however_often_that_fails_first(herdpy, tmp_path, eventually):
    (tmp_path / "works").touch()
    ready = 'ready = { log-line = "up" }\nrespawn-delay = 0.2\nrespawn-interval = 0.1\n'
    script = f"[ -e {tmp_path}/works ] || {{ echo >>{tmp_path}/failed; exit 1; }}; echo up; exec sleep 1000"
    herdpy.declare("base", f"command = {json.dumps(['sh', '-c', script])}\n{ready}")
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["base"]\n')
    herdpy.start()
    herdpy.ok("start", "top")
    (tmp_path / "works").unlink()
    for name in ("base", "top"):
        os.kill(herdpy.status(name)["pid"], signal.SIGKILL)
    eventually(lambda: (tmp_path / "failed").exists() and len((tmp_path / "failed").read_text()) > 3)
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    (tmp_path / "works").touch()
    eventually(lambda: herdpy.status("top")["status"] == "running")
    (tmp_path / "works").unlink()
    for name in ("base", "top"):
        os.kill(herdpy.status(name)["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    herdpy.ok("disable", "base")
    eventually(lambda: herdpy.status("base")["status"] == "stopped")
    assert herdpy.status("top")["reason"] == "base, which it requires, could not be started"
