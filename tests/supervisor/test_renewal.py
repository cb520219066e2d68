"""A process that is made anew within itself upon a signal, and says READY=1 again: one signal at a time, whoever sends
it; and a service that had better not be stopped."""

import os
import signal
import stat
import sys

import pytest

DAEMON = f"""\
#!{sys.executable} -IS
import os, signal, socket, sys, time

PLACE = os.path.dirname(os.path.abspath(sys.argv[0]))

def ready():
    name = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(b"READY=1", "\\0" + name[1:] if name[0] == "@" else name)

def note(word):
    with open(os.path.join(PLACE, "notes"), "a") as notes:
        notes.write(word + "\\n")

busy = False

def take(number, frame):
    global busy
    if busy:
        note("killed")  # as virtlogd is, whose new image has no handler yet
        os._exit(99)
    busy = True
    note("signalled")

signal.signal(signal.SIGUSR1, take)
if "-t" not in sys.argv:  # this is no trial
    with open(os.path.join(PLACE, "log"), "a") as log:
        os.set_inheritable(log.fileno(), True)
        kept = os.dup(log.fileno())
    guest, others = os.pipe()  # of a guest, whose log that is
    os.close(others)
else:
    with open(os.path.join(PLACE, "trials"), "a") as trials:
        trials.write("1")
if "-t" not in sys.argv and os.path.exists(os.path.join(PLACE, "late")):
    open(os.path.join(PLACE, "waits"), "w").close()
    open(os.path.join(PLACE, "late")).close()  # a FIFO: until the test opens it, too
ready()
while True:
    signal.sigtimedwait([], 0.01)
    if busy and not os.path.exists(os.path.join(PLACE, "hold")):
        time.sleep(0.02)
        busy = False
        note("ready")
        ready()
"""


@pytest.fixture
def daemon(herdpy, tmp_path):
    """A herdpy with a service of type virtlog, whose program is not virtlogd; and the directory of its notes."""
    place = tmp_path / "d"
    place.mkdir()
    program = place / "virtlogd"
    program.write_text(DAEMON)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    herdpy.declare("logs", f'type = "virtlog"\nlibvirt = "{program}"\nrequirement = ["below"]\n')
    herdpy.declare("below", 'command = ["sleep", "1000"]\n')
    herdpy.declare("all", 'type = "target"\nmembers = ["logs"]\n')
    herdpy.declare("user", 'command = ["sleep", "1000"]\nrequirement = ["logs"]\n')
    herdpy.environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    herdpy.start()
    herdpy.ok("start", "user")
    return place


def notes(place):
    path = place / "notes"
    return path.read_text().split() if path.exists() else []


def test_signals_are_sent_one_after_the_other(herdpy, daemon):
    pid = herdpy.status("logs")["pid"]
    asked = [herdpy.herd_in_background("reexec", "logs") for _ in range(8)]
    assert [one.wait(60) for one in asked] == [0] * 8
    assert notes(daemon) == ["signalled", "ready"] * 8
    assert herdpy.status("logs")["pid"] == pid


def test_a_change_that_comes_before_it_is_ready_is_told_when_it_is(herdpy, daemon, eventually):
    herdpy.ok("stop", "logs", "--force")
    os.mkfifo(daemon / "late")
    with herdpy.herd_in_background("start", "logs") as client:
        eventually((daemon / "waits").exists)
        path = herdpy.services / "logs.toml"
        path.write_text(path.read_text() + "max-backups = 7\n")
        herdpy.ok("reload", "root")
        assert notes(daemon) == [], "no signal before READY"
        (daemon / "late").open("w").close()
        assert client.wait(60) == 0
    eventually(lambda: notes(daemon) == ["signalled", "ready"])


def test_the_next_supervisor_waits_for_what_the_last_one_has_begun(herdpy, daemon, eventually):
    (daemon / "hold").touch()
    asked = herdpy.herd_in_background("reexec", "logs")
    eventually(lambda: notes(daemon) == ["signalled"])
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    asked.wait(60)
    again = herdpy.herd_in_background("reexec", "logs")
    eventually(lambda: (daemon / "trials").stat().st_size == 2)
    for _ in range(5):  # it has time to be wrong
        assert herdpy.status("logs")["status"] == "running"
    assert notes(daemon) == ["signalled"]
    (daemon / "hold").unlink()
    assert again.wait(60) == 0
    assert notes(daemon) == ["signalled", "ready", "signalled", "ready"]


def test_a_process_that_ends_of_it_is_told_and_started_again(herdpy, daemon, eventually):
    (daemon / "hold").touch()
    asked = herdpy.herd_in_background("reexec", "logs")
    eventually(lambda: notes(daemon) == ["signalled"])
    os.kill(herdpy.status("logs")["pid"], signal.SIGKILL)
    assert asked.wait(60) == 1
    eventually(lambda: herdpy.status("logs")["status"] == "running")
    assert herdpy.status("logs")["last-respawns"]


def test_what_had_better_run_on_is_not_stopped_nor_what_requires_it(herdpy, daemon):
    refused = herdpy.herd("stop", "logs")
    assert refused.returncode == 1
    assert f"cannot stop logs: it writes the logs of {daemon}/log, which would end for ever; " in refused.stdout
    assert herdpy.status("user")["status"] == "running"
    herdpy.ok("start", "all")
    for other in ("below", "all"):
        refused = herdpy.herd("stop", other)
        assert f"cannot stop {other}: logs, which would be stopped with it, had better run on: it " in refused.stdout
        assert herdpy.status(other)["status"] == "running"
    said = herdpy.ok("restart", "logs")
    assert "Service logs has executed itself anew instead of being restarted: " in said
    assert notes(daemon) == ["signalled", "ready"]
    herdpy.ok("stop", "below", "--force")
    assert herdpy.status("logs")["status"] == herdpy.status("user")["status"] == "stopped"


def test_a_failed_trial_leaves_it_alone(herdpy, daemon):
    (daemon / "virtlogd").write_text("#!/bin/sh\necho it cannot run\nexit 3\n")
    for action, beginning in (("reexec", ""), ("restart", "cannot restart logs: ")):
        refused = herdpy.herd(action, "logs")
        assert refused.returncode == 1
        said = f"{beginning}it was not re-executed: {daemon}/virtlogd does not start with it: "
        assert f"{said}it cannot run" in refused.stdout + refused.stderr
    assert notes(daemon) == []
    assert herdpy.status("logs")["status"] == "running"


def test_herdpys_own_end_is_not_refused(herdpy, daemon):
    assert herdpy.stop() == 0
