"""Daemons that fork, and say by a PID file which process remains: real ones, whole, half-hearted and wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.processes import with_word
from tests.system.daemons import failed_start, is_waiting, program, replace_supervisor, toml

DAEMON = """
import os, signal, socket, sys, time

# A daemon of the old kind: it forks twice, and writes the number of the process that remains, once it can.
path, delay, writes = sys.argv[1], float(sys.argv[2]), sys.argv[3]
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
time.sleep(delay)
while not os.path.isdir(os.path.dirname(path)):
    time.sleep(0.01)
with open(path, "w") as file:
    file.write(writes.replace("PID", str(os.getpid())))
print("daemon", os.getpid(), "writes", writes.strip(), flush=True)
signal.signal(signal.SIGUSR1, lambda number, frame: print("reloaded", flush=True))
while True:
    signal.pause()
"""


@pytest.fixture
def port():
    return str(free_port())


@pytest.fixture
def pid_file(tmp_path):
    return tmp_path / "daemon" / "a.pid"


def forking(directory, path, delay=0.0, writes="PID\n", more=""):
    return toml([*program(directory, DAEMON), str(path), str(delay), writes], f'ready.pid-file = "{path}"\n{more}')


def test_a_daemon_that_forks_is_ready_when_its_pid_file_is_there(herdpy, tmp_path, pid_file, eventually):
    """The directory appears only after the process that herdpy started is gone."""
    herdpy.declare("a", forking(tmp_path, pid_file, 0.2, more="respawn-delay = 0"))
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: is_waiting(herdpy, f"waiting for its PID file: {pid_file} is not there"))
    pid_file.parent.mkdir()
    assert starting.wait(60) == 0
    pid = int(pid_file.read_text())
    status = herdpy.status("a")
    assert (status["status"], status["pid"]) == ("running", pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: herdpy.status("a")["last-respawns"] and herdpy.status("a")["status"] == "running")
    assert herdpy.status("a")["pid"] == int(pid_file.read_text())
    pid = herdpy.status("a")["pid"]
    herdpy.ok("stop", "a")
    assert not Path(f"/proc/{pid}").exists()
    assert not pid_file.exists()


@pytest.mark.parametrize("ended", [False, True], ids=["while it waits", "when it runs"])
def test_a_daemon_that_forks_survives_the_supervisor(herdpy, tmp_path, pid_file, eventually, ended):
    herdpy.declare("a", forking(tmp_path, pid_file, 0.3))
    herdpy.start()
    if not ended:
        starting = herdpy.herd_in_background("start", "a")
        eventually(lambda: is_waiting(herdpy, "is not there"))
        replace_supervisor(herdpy, eventually)
        pid_file.parent.mkdir()
        eventually(lambda: herdpy.status("a")["status"] == "running")
        starting.wait(60)
    else:
        pid_file.parent.mkdir()
        herdpy.ok("start", "a")
        replace_supervisor(herdpy, eventually)
    pid = int(pid_file.read_text())
    status = herdpy.status("a")
    assert (status["status"], status["pid"]) == ("running", pid)
    assert status["last-respawns"] == []
    herdpy.ok("stop", "a")
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_that_ends_before_it_wrote_its_pid_is_not_waited_for(herdpy, pid_file):
    herdpy.declare("a", f'command = ["sh", "-c", "sleep 0.2 &"]\nready.pid-file = "{pid_file}"\n')
    herdpy.start()
    refused = herdpy.herd("start", "a", timeout=60)
    assert refused.returncode == 1
    assert "cannot start a: it exited with 0 and left no process behind\n" in refused.stdout


def test_a_pid_file_that_names_no_process_of_the_service(herdpy, tmp_path, pid_file):
    pid_file.parent.mkdir()
    herdpy.declare("a", forking(tmp_path, pid_file, writes=f"{os.getpid()}\n", more="start-timeout = 20"))
    herdpy.declare("b", forking(tmp_path, pid_file, writes="garbage\n", more="start-timeout = 2"))
    herdpy.declare("c", forking(tmp_path, pid_file, writes="1\n", more="start-timeout = 2"))
    herdpy.start()
    first, *more = failed_start(herdpy)
    whose = f"process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()}) is not one of the service's"
    assert first == f"cannot start a: its PID file {pid_file} holds {os.getpid()}: {whose}"
    assert any("daemon" in line for line in more)
    assert os.getpid() == int(pid_file.read_text())
    pid_file.unlink()
    waited = "it was not ready after 2 s: waiting for its PID file:"
    assert failed_start(herdpy, "b")[0] == f"cannot start b: {waited} {pid_file} holds no process's number"
    pid_file.unlink()
    expected = f"cannot start c: {waited} {pid_file} holds 1, which is no process of a service"
    assert failed_start(herdpy, "c")[0] == expected


def test_a_daemon_that_never_writes_its_pid_file(herdpy, tmp_path, pid_file, eventually):
    herdpy.declare("a", forking(tmp_path, pid_file, 1000, more="start-timeout = 1"))
    herdpy.start()
    lines = failed_start(herdpy)
    waited = "it was not ready after 1 s: waiting for its PID file:"
    assert lines[0] == f"cannot start a: {waited} {pid_file} is not there"
    assert herdpy.status("a")["reason"] in lines[0]
    eventually(lambda: not with_word(str(pid_file)))


def test_a_first_process_that_fails_is_a_failed_start_at_once(herdpy, pid_file):
    herdpy.declare("a", toml(["sh", "-c", "echo no configuration; exit 3"], f'ready.pid-file = "{pid_file}"'))
    herdpy.start()
    lines = failed_start(herdpy)
    assert lines[0] == "cannot start a: it exited with 3 before it was ready"
    assert "no configuration" in "\n".join(lines)


def test_a_stale_pid_file_is_removed_and_another_s_is_not(herdpy, tmp_path, pid_file):
    pid_file.parent.mkdir()
    herdpy.declare("a", forking(tmp_path, pid_file, 0.2))
    herdpy.start()
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    pid_file.write_text(f"{gone.pid}\n")
    herdpy.ok("start", "a")
    assert herdpy.status("a")["pid"] == int(pid_file.read_text()) != gone.pid
    herdpy.ok("stop", "a")
    with subprocess.Popen(["sleep", "1000"]) as other:
        pid_file.write_text(f"{other.pid}\n")
        said = f"{pid_file} is the PID file of PID {other.pid} (sleep), which herdpy did not start; stop that first"
        assert failed_start(herdpy)[0] == f"cannot start a: {said}"
        assert other.poll() is None
        other.kill()
    assert pid_file.read_text() == f"{other.pid}\n"


def test_a_pid_file_of_a_daemon_that_stays_in_the_foreground(herdpy, pid_file):
    pid_file.parent.mkdir()
    herdpy.declare("a", toml(["sh", "-c", f"echo $$ > {pid_file}; exec sleep 1000"], f'ready.pid-file = "{pid_file}"'))
    herdpy.start()
    herdpy.ok("start", "a")
    assert herdpy.status("a")["pid"] == int(pid_file.read_text())


SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def privilege_separation():
    """The directory that Debian's sshd wants to be there, and that its unit makes."""
    path = Path("/run/sshd")
    is_ours = not path.exists()
    path.mkdir(mode=0o755, exist_ok=True)
    yield
    if is_ours:
        path.rmdir()


@pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="there is no sshd, or no root to run it")
@pytest.mark.usefixtures("privilege_separation")
def test_a_real_sshd(herdpy, tmp_path, port):
    """It forks, writes its PID file, listens."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pid_file = tmp_path / "sshd.pid"
    configuration = tmp_path / "sshd_config"
    configuration.write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile {pid_file}\n")
    herdpy.declare(
        "sshd",
        toml(
            [SSHD, "-f", str(configuration)], f'ready = {{ pid-file = "{pid_file}", listens = "tcp:127.0.0.1:{port}" }}'
        )
        + f'health = {{ tcp = "127.0.0.1:{port}", interval = 0.1 }}\nreload-signal = "HUP"\n',
    )
    herdpy.start()
    herdpy.ok("start", "sshd")
    assert herdpy.status("sshd")["pid"] == int(pid_file.read_text())
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        assert connection.recv(100).startswith(b"SSH-2.0")
    herdpy.ok("stop", "sshd")
    assert not pid_file.exists()


def test_a_start_that_is_stopped_while_it_waits_leaves_nothing(herdpy, tmp_path, pid_file, eventually):
    herdpy.declare("a", forking(tmp_path, pid_file, 1000))
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: is_waiting(herdpy, "is not there") and with_word(str(pid_file)))
    herdpy.ok("stop", "a")
    assert starting.wait(60) == 1
    assert herdpy.status("a")["status"] == "stopped"
    eventually(lambda: not with_word(str(pid_file)))


def test_two_hundred_of_them_at_once(herdpy, tmp_path, eventually):
    """More than a user may have inotify instances (fs.inotify.max_user_instances is 128)."""
    directory = tmp_path / "daemons"
    directory.mkdir()
    for number in range(200):
        path = directory / f"{number}.pid"
        script = f"setsid sleep 1000 & echo $! > {path}"
        herdpy.declare(
            f"a{number}",
            toml(["sh", "-c", script], f'ready.pid-file = "{path}"\nauto-start = true\nstart-timeout = 60'),
        )
    herdpy.start()

    def all_run():
        listed = json.loads(herdpy.ok("--json", "status"))
        return sum(service["status"] == "running" and service["pid"] is not None for service in listed) == 200

    eventually(all_run)
    for number in (0, 199):
        assert herdpy.status(f"a{number}")["pid"] == int((directory / f"{number}.pid").read_text())
    assert herdpy.stop() == 0
    assert list(directory.iterdir()) == []
