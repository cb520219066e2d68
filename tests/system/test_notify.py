"""What a process says of itself through NOTIFY_SOCKET (sd_notify(3)), and what comes of it: real processes."""

import getpass
import json
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.system.daemons import failed_start, program, replace_supervisor, toml

SPEAKER = """
import os, signal, socket, sys

# It says what it is told to say, on orders that come through a socket of the test's.
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text, os.environ["NOTIFY_SOCKET"])

orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
orders.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID") == str(os.getpid()), flush=True)
while True:
    order, _, text = orders.recv(8192).partition(b" ")
    if order == b"say":
        say(text)
    elif order == b"exit":
        os._exit(int(text))
    elif order == b"child":  # it lives until it has been heard
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            say(text)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                os.close(reading)
                notify.connect(os.environ["NOTIFY_SOCKET"])
                socket.send_fds(notify, [b"BARRIER=1"], [writing])
            os._exit(0)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        os.waitpid(pid, 0)
        print("heard", text, flush=True)
    elif order == b"bequeath":  # a child is to be the main process, and this one ends
        pid = os.fork()
        if pid:
            say(b"MAINPID=%d" % pid)
            os._exit(0)
"""


class Speaker:
    """A service that says what it is told to say."""

    def __init__(self, herdpy, directory, eventually) -> None:
        self.herdpy, self.directory, self.eventually = herdpy, directory, eventually
        self.orders = directory / "orders"

    def declare(self, more: str = "", *arguments: str, ready: bool = True) -> None:
        command = [*program(self.directory, SPEAKER), str(self.orders), *arguments]
        self.herdpy.declare("a", toml(command, f"{more}\nready.notify = {json.dumps(ready)}"))

    def order(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(text.encode(), str(self.orders))

    def begin(self) -> subprocess.Popen[bytes]:
        """Have it started, in the background, as far as it takes orders."""
        client = self.herdpy.herd_in_background("start", "a")
        self.eventually(lambda: self.orders.exists() and self.log())
        return client

    def start(self) -> int:
        """Have it started, and say that it is ready; returns its PID."""
        client = self.begin()
        self.order("say READY=1")
        assert client.wait(60) == 0, self.herdpy.said()
        return self.herdpy.status("a")["pid"]

    def log(self) -> str:
        path = self.herdpy.log / "a.log"
        return path.read_text() if path.exists() else ""

    def shows(self, key: str, value: object) -> None:
        self.eventually(lambda: self.herdpy.status("a")[key] == value)

    def shows_status(self, text: str | None) -> None:
        self.eventually(lambda: self.herdpy.status("a")["details"].get("status") == text)


@pytest.fixture
def speaker(herdpy, tmp_path, eventually):
    return Speaker(herdpy, tmp_path, eventually)


def test_its_status_is_shown_and_outlives_the_supervisor_but_not_the_process(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    speaker.start()
    speaker.order("say STATUS=warm\x1b[31m\nNONSENSE\n=x\nSTATUS=all is w\u00e9ll")
    speaker.shows_status("all is w\u00e9ll")
    replace_supervisor(herdpy, eventually)
    speaker.shows_status("all is w\u00e9ll")
    herdpy.ok("stop", "a")
    speaker.shows_status(None)
    assert list((herdpy.state / "notify").iterdir()) == []


def test_what_is_said_while_there_is_no_supervisor_is_heard_by_the_next(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    client = speaker.begin()
    for _ in range(3):  # the keeper takes longer each time to begin the next one
        replace_supervisor(herdpy, eventually)
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    speaker.order("say STATUS=unheard")
    speaker.order("say READY=1")
    speaker.shows("status", "running")
    speaker.shows_status("unheard")
    client.wait(60)  # whatever it says: it asks four supervisors, and there were five


def test_only_who_asks_has_a_socket_and_nobody_has_herdpy_s_own(herdpy, tmp_path, eventually):
    herdpy.environment |= {"NOTIFY_SOCKET": "/run/of-the-init", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    herdpy.declare(
        "plain", toml(["sh", "-c", f"env > {tmp_path}/env.new; mv {tmp_path}/env.new {tmp_path}/env; sleep 9"])
    )
    herdpy.start()
    herdpy.ok("start", "plain")
    eventually((tmp_path / "env").exists)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & {
        line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()
    }


def test_the_socket_is_its_user_s_alone(herdpy, eventually):
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    herdpy.declare("a", toml(["sleep", "9"], f'user = "{user}"\nready.notify = true'))
    herdpy.start()
    client = herdpy.herd_in_background("start", "a")
    path = herdpy.state / "notify" / "a"
    eventually(path.exists)
    seen = path.stat()
    assert stat.S_ISSOCK(seen.st_mode)
    assert stat.S_IMODE(seen.st_mode) == 0o600
    assert seen.st_uid == pwd.getpwnam(user).pw_uid
    herdpy.ok("stop", "a")
    assert client.wait(60) == 1
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_daemon_that_changes_its_user_by_itself_can_be_heard(herdpy, tmp_path):
    text = """
import os, socket, time
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
    for parent in [herdpy.directory, *herdpy.directory.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    command = program(tmp_path, text)
    herdpy.declare("heard", toml(command, 'notify-user = "nobody"\nready.notify = true'))
    herdpy.declare("unheard", toml(command, "ready.notify = true\nrespawn = false"))
    herdpy.start()
    herdpy.ok("start", "heard")
    lines = failed_start(herdpy, "unheard")
    assert lines[0] == "cannot start unheard: it exited with 1 before it was ready"
    assert any("PermissionError" in line for line in lines), "the socket is its user's alone"


def test_a_child_is_not_listened_to_unless_that_is_said(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    client = speaker.begin()
    for _ in range(3):
        speaker.order("child READY=1")
    eventually(lambda: speaker.log().count("heard") == 3)
    assert herdpy.status("a")["status"] == "starting"
    assert herdpy.said().count("notification-ignored service=a") in (1, 2), "once, on stderr and in the file"
    speaker.order("say READY=1")
    assert client.wait(60) == 0


def test_a_child_is_listened_to_if_that_is_said(herdpy, speaker):
    speaker.declare('notify-access = "all"')
    herdpy.start()
    client = speaker.begin()
    speaker.order("child READY=1")
    assert client.wait(60) == 0, herdpy.said()


def test_a_stranger_is_not_listened_to(herdpy, speaker, eventually):
    speaker.declare('notify-access = "all"')
    herdpy.start()
    client = speaker.begin()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1", str(herdpy.state / "notify" / "a"))
    eventually(lambda: "notification-ignored service=a" in herdpy.said())
    assert herdpy.status("a")["status"] == "starting"
    speaker.order("say READY=1")
    assert client.wait(60) == 0


def test_the_main_process_is_the_one_that_it_names(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    first = speaker.start()
    speaker.order("bequeath")
    eventually(lambda: herdpy.status("a")["pid"] not in (first, None))
    heir = herdpy.status("a")["pid"]
    eventually(lambda: not Path(f"/proc/{first}").exists())
    replace_supervisor(herdpy, eventually)
    status = herdpy.status("a")
    assert (status["status"], status["pid"], status["last-respawns"]) == ("running", heir, [])
    speaker.order("say STATUS=the heir speaks")
    speaker.shows_status("the heir speaks")
    os.kill(heir, signal.SIGKILL)
    eventually(lambda: herdpy.status("a")["last-respawns"])
    assert herdpy.status("a")["reason"] == "it was killed by SIGKILL"


def test_a_process_that_is_none_of_its_own_is_not_its_main_process(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    pid = speaker.start()
    speaker.order(f"say MAINPID={os.getpid()}")
    speaker.order("say MAINPID=-1\nSTATUS=still here")
    speaker.shows_status("still here")
    assert herdpy.status("a")["pid"] == pid
    assert f"MAINPID={os.getpid()}" in herdpy.said()


def test_a_reload_is_shown_while_it_lasts(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    speaker.start()
    speaker.order("say RELOADING=1")
    speaker.shows("stage", "reloading")
    replace_supervisor(herdpy, eventually)
    speaker.shows("stage", "reloading")
    speaker.order("say READY=1")
    speaker.shows("stage", None)
    assert herdpy.status("a")["status"] == "running"


def test_the_error_that_it_names_is_told(herdpy, speaker):
    speaker.declare("respawn = false")
    herdpy.start()
    client = speaker.begin()
    speaker.order("say STATUS=no database\nERRNO=13")
    speaker.order("exit 3")
    assert client.wait(60) == 1
    assert herdpy.status("a")["reason"] == "it exited with 3 (Permission denied) before it was ready"
    lines: list[str] = []
    speaker.orders.unlink()
    starting = threading.Thread(target=lambda: lines.extend(failed_start(herdpy)))
    starting.start()
    speaker.eventually(speaker.orders.exists)
    speaker.eventually(lambda: speaker.log().count("\n") == 2)
    speaker.order("say STATUS=no database\nERRNO=2")
    speaker.order("exit 4")
    starting.join()
    assert lines[:2] == [
        "cannot start a: it exited with 4 (No such file or directory) before it was ready",
        "its last status: no database",
    ]


def test_it_may_ask_for_more_time_to_start(herdpy, speaker):
    speaker.declare("start-timeout = 1.5")
    herdpy.start()
    client = speaker.begin()
    speaker.order("say EXTEND_TIMEOUT_USEC=60000000")
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(2)
    speaker.order("say READY=1")
    assert client.wait(60) == 0


def test_it_may_ask_for_more_time_to_stop(herdpy, speaker, eventually):
    speaker.declare("grace-period = 1.5", "stubborn")
    herdpy.start()
    speaker.start()
    client = herdpy.herd_in_background("stop", "a")
    speaker.shows("status", "stopping")
    speaker.order("say EXTEND_TIMEOUT_USEC=60000000")
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(2)
    speaker.order("exit 0")
    assert client.wait(60) == 0
    assert "grace-period-over" not in herdpy.said()


def test_it_is_told_of_its_watchdog_and_can_pull_the_trigger_itself(herdpy, speaker, eventually):
    speaker.declare("watchdog = 300")
    herdpy.start()
    pid = speaker.start()
    assert "300000000 True" in speaker.log()
    speaker.order("say WATCHDOG=trigger")
    eventually(lambda: herdpy.status("a")["pid"] not in (pid, None))
    status = herdpy.status("a")
    assert status["reason"] == "it triggered its watchdog"
    assert len(status["startup-failures"]) == 1


def test_it_can_change_its_watchdog(herdpy, speaker, eventually):
    speaker.declare("watchdog = 300")
    herdpy.start()
    pid = speaker.start()
    speaker.order("say WATCHDOG_USEC=200000")
    replace_supervisor(herdpy, eventually)
    eventually(lambda: herdpy.status("a")["pid"] not in (pid, None))
    assert herdpy.status("a")["reason"] == "it did not say WATCHDOG=1 for 0.2 s"


def test_one_that_says_that_it_stops_has_to_end(herdpy, speaker, eventually):
    speaker.declare("grace-period = 0.3\nrespawn = false", "stubborn")
    herdpy.start()
    speaker.start()
    speaker.order("say STOPPING=1")
    speaker.shows("status", "stopped")
    assert herdpy.status("a")["reason"] == "it said STOPPING=1, and did not end"


def test_what_it_passes_along_is_closed(herdpy, speaker):
    """So is a barrier answered (sd_notify_barrier(3)), and a descriptor store refused."""
    speaker.declare('notify-access = "all"')
    herdpy.start()
    speaker.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(herdpy.state / "notify" / "a"))
        for text in (b"BARRIER=1", b"FDSTORE=1\nFDNAME=x"):
            reading, writing = os.pipe()
            socket.send_fds(stranger, [text], [writing] * 200)
            os.close(writing)
            assert select.select([reading], [], [], 30)[0] == [reading]
            assert os.read(reading, 1) == b""
            os.close(reading)


def test_what_is_too_long_or_senseless_changes_nothing(herdpy, speaker, eventually):
    speaker.declare()
    herdpy.start()
    pid = speaker.start()
    speaker.order("say STATUS=" + "x" * 5000)
    for text in (
        "",
        "\0\0",
        "WATCHDOG_USEC=-1",
        "ERRNO=x",
        "EXTEND_TIMEOUT_USEC=" + "9" * 60,
        "MAINPID=",
        "=",
        "READY=2",
    ):
        speaker.order(f"say {text}")
    speaker.order("say STATUS=unmoved")
    speaker.shows_status("unmoved")
    assert herdpy.status("a")["pid"] == pid
    assert "more than 4096 bytes" in herdpy.said()
    assert "crashed" not in herdpy.said()


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is not installed")
def test_systemd_notify_is_understood(herdpy, eventually):
    script = "systemd-notify --ready --status='says systemd-notify'; exec sleep 1000"
    herdpy.declare("a", toml(["sh", "-c", script], 'notify-access = "all"\nready.notify = true'))
    herdpy.start()
    herdpy.ok("start", "a")
    eventually(lambda: herdpy.status("a")["details"] == {"status": "says systemd-notify"})


def test_a_socket_whose_path_is_too_long_is_a_failed_start_that_says_so(herdpy):
    name = "x" * 100
    herdpy.declare(name, toml(["sleep", "9"], "ready.notify = true"))
    herdpy.start()
    first = failed_start(herdpy, name)[0]
    assert "its notification socket cannot be made" in first
    assert "give herdpy a shorter state directory, or the service a shorter name" in first
