"""What an init system hears of herdpy (sd_notify(3)), and the socket that it may pass (sd_listen_fds(3)): the test is
the init system here; tests/system/systemd/ has the real one.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Herdpy, wait_until

WATCHDOG = 4.0
"""Seconds."""


class Init:
    """The ears of an init system."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)
        self.heard: list[tuple[int, dict[str, str]]] = []

    def hear(self) -> tuple[int, dict[str, str]]:
        """(who said it, what) of the next message."""
        data, ancillary, _, _ = self.socket.recvmsg(4096, 64)
        pid = int.from_bytes(ancillary[0][2][:4], "little")  # struct ucred begins with it (unix(7))
        said = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.heard.append((pid, said))
        return pid, said

    def until(self, found: Callable[[dict[str, str]], bool]) -> tuple[int, dict[str, str]]:
        """The next message that is such a one."""
        while True:
            pid, said = self.hear()
            if found(said):
                return pid, said


@pytest.fixture
def init(herdpy: Herdpy, tmp_path: Path) -> Iterator[Init]:
    ears = Init(tmp_path / "notify")
    herdpy.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    yield ears
    ears.socket.close()


@pytest.fixture
def watching(herdpy: Herdpy, init: Init) -> Init:
    herdpy.environment |= {"WATCHDOG_USEC": str(round(WATCHDOG * 1e6))}
    return init


def test_it_hears_of_the_start_a_reload_and_the_end_from_the_main_process(herdpy: Herdpy, init: Init) -> None:
    herdpy.declare("web", 'command = ["sleep", "1000"]\nauto-start = true\n')
    herdpy.start()
    assert herdpy.process is not None
    assert init.until(lambda said: said.get("READY") == "1")[0] == herdpy.process.pid
    init.until(lambda said: said.get("STATUS") == "1 of 1 services run")
    herdpy.declare("bad", 'command = ["/nonexistent"]\nauto-start = true\n')
    herdpy.herd("reload", "root")
    _, said = init.until(lambda said: said.get("RELOADING") == "1")
    assert int(said["MONOTONIC_USEC"]) > 0
    init.until(lambda said: said.get("READY") == "1")
    # A reload waits for no start, and without a watchdog nobody wakes up for the status alone: the next one tells it.
    wait_until(lambda: herdpy.status("bad")["failing"])
    herdpy.declare("other", 'command = ["sleep", "1000"]\n')
    herdpy.ok("reload", "root")
    init.until(lambda said: said.get("STATUS") == "1 of 3 services run; failed: bad" and said.get("READY") == "1")
    environment = Path(f"/proc/{herdpy.status('web')['pid']}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environment
    assert herdpy.stop() == 0
    _, said = init.until(lambda said: said.get("STOPPING") == "1")
    assert 90e6 < int(said["EXTEND_TIMEOUT_USEC"]) < 120e6
    assert {pid for pid, _ in init.heard} == {herdpy.process.pid}
    assert not any("WATCHDOG" in said for _, said in init.heard)


def test_a_supervisor_that_hangs_is_replaced_and_services_do_not_notice(herdpy: Herdpy, watching: Init) -> None:
    herdpy.declare("web", 'command = ["sleep", "1000"]\n')
    herdpy.start()
    herdpy.ok("start", "web")
    watching.until(lambda said: said.get("WATCHDOG") == "1")
    hung, web = herdpy.supervisor(), herdpy.status("web")["pid"]
    os.kill(hung, signal.SIGSTOP)
    # Whoever asks meanwhile is answered by the next one.
    assert herdpy.status("web")["pid"] == web
    assert herdpy.supervisor() != hung
    assert f"the supervisor (PID {hung}) has said nothing for {WATCHDOG / 2:g} s: killing it" in herdpy.said()
    watching.until(lambda said: said.get("READY") == "1")
    watching.until(lambda said: said.get("WATCHDOG") == "1")


def test_a_supervisor_that_stood_still_together_with_the_keeper_is_left_alone(herdpy: Herdpy, watching: Init) -> None:
    herdpy.start()
    assert herdpy.process is not None
    watching.until(lambda said: said.get("WATCHDOG") == "1")
    keeper, supervisor = herdpy.process.pid, herdpy.supervisor()
    for pid in (keeper, supervisor):
        os.kill(pid, signal.SIGSTOP)
    watching.socket.settimeout(WATCHDOG)  # longer than a supervisor may be silent
    with pytest.raises(TimeoutError):
        while True:
            watching.hear()
    watching.socket.settimeout(PATIENCE)
    os.kill(keeper, signal.SIGCONT)
    # When it sleeps again, it has seen how late it is.
    wait_until(lambda: Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[0] == "S")
    os.kill(supervisor, signal.SIGCONT)
    for _ in range(4):
        watching.until(lambda said: said.get("WATCHDOG") == "1")
    assert herdpy.supervisor() == supervisor
    assert "killing it" not in herdpy.said()


def test_the_beat_is_as_seldom_as_it_may_be_and_a_killed_supervisor_leaves_no_gap(
    herdpy: Herdpy, watching: Init
) -> None:
    herdpy.start()
    watching.until(lambda said: said.get("WATCHDOG") == "1")
    begin, last, beats = time.monotonic(), time.monotonic(), 0
    while last < begin + 2 * WATCHDOG:
        watching.until(lambda said: said.get("WATCHDOG") == "1")
        now = time.monotonic()
        assert now - last < WATCHDOG, "so systemd would have ended it"
        last, beats = now, beats + 1
        if beats == 2:
            os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert beats < 2 * 4 + 4


def test_a_keeper_that_takes_over_goes_on_telling(herdpy: Herdpy, watching: Init) -> None:
    herdpy.start()
    assert herdpy.process is not None
    watching.until(lambda said: said.get("WATCHDOG") == "1")
    heir = herdpy.supervisor()
    herdpy.process.kill()
    herdpy.process.wait()
    pid, _ = watching.until(lambda said: said.get("READY") == "1")
    assert pid == heir
    assert watching.until(lambda said: said.get("WATCHDOG") == "1")[0] == heir
    # What the init system then starts in its place tells it whom to mind, and ends.
    again = subprocess.run(herdpy.command(), env=herdpy.environment, capture_output=True, text=True, timeout=PATIENCE)
    assert again.returncode == 1
    assert f"another herdpy runs in {herdpy.state}: PID {heir}; " in again.stderr
    _, said = watching.until(lambda said: "MAINPID" in said)
    assert said == {"MAINPID": str(heir), "READY": "1"}
    herdpy.ok("stop", "root")


def test_the_control_socket_may_be_the_init_systems(herdpy: Herdpy) -> None:
    herdpy.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(herdpy.socket))
        listening.listen()
        # A client that came before there was a herdpy waits, and is answered.
        early = subprocess.Popen(
            [BIN / "herd", "status", "root"], env=herdpy.environment, stdout=subprocess.PIPE, text=True
        )
        script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null'
        herdpy.prefix = ("sh", "-c", script, "sh")
        herdpy.process = subprocess.Popen(
            herdpy.command(), stdin=listening.fileno(), stdout=subprocess.PIPE, text=True, env=herdpy.environment
        )
        assert herdpy.process.stdout is not None
        assert herdpy.process.stdout.readline().strip() == str(herdpy.process.pid)
        assert early.communicate(timeout=PATIENCE)[0] == "Started:\n + root\n"
        herdpy.ok("stop", "root")
        assert herdpy.process.wait(PATIENCE) == 0
        assert herdpy.socket.exists()
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(herdpy.socket))
    herdpy.socket.unlink()


@pytest.mark.parametrize("kind", ["another", "datagram"])
def test_any_other_socket_is_refused_in_one_line(herdpy: Herdpy, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other" if kind == "another" else herdpy.socket
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "another" else socket.SOCK_DGRAM) as passed:
        passed.bind(str(path))
        if kind == "another":
            passed.listen()
        script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null'
        herdpy.prefix = ("sh", "-c", script, "sh")
        refused = subprocess.run(
            herdpy.command(), stdin=passed.fileno(), env=herdpy.environment, capture_output=True, text=True, timeout=60
        )
    assert refused.returncode == 1
    assert refused.stderr == (
        f"herdpy: the socket {path} is not the control socket, {herdpy.socket}; change ListenStream= of its unit, or "
        "--socket\n"
    )
