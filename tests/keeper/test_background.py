"""``herdpy --background``, through the installed program."""

import errno
import os
import signal
import subprocess

import pytest

from tests.processes import programs


@pytest.fixture
def command(herdpy):
    return [*(word for word in herdpy.command() if word != "--pid"), "--background", f"--pid={herdpy.directory}/pid"]


def run(command, herdpy):
    return subprocess.run(command, capture_output=True, text=True, env=herdpy.environment, timeout=60, check=False)


def test_it_returns_when_the_socket_answers(herdpy, command, eventually):
    herdpy.declare("sleeper", 'command = ["sleep", "1000"]')
    completed = run(command, herdpy)
    assert (completed.returncode, completed.stdout, completed.stderr.count("Traceback")) == (0, "", 0), completed
    pid = int((herdpy.directory / "pid").read_text())
    try:
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        assert herdpy.ok("start", "sleeper") == "Service sleeper has been started.\n"
    finally:
        herdpy.ok("stop", "root")
    assert not herdpy.socket.exists(), "herd stop root came back too early"
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (herdpy.directory / "pid").exists()


def test_what_is_wrong_with_a_log_is_in_its_own_from_then_on(herdpy, command, eventually):
    log = herdpy.log / "ticker.log"
    herdpy.declare("ticker", 'command = ["sh", "-c", "while sleep 0.05; do echo tick; done"]')
    assert run(command, herdpy).returncode == 0
    pid = int((herdpy.directory / "pid").read_text())
    own = herdpy.log / "herdpy.log"
    heir = None
    try:
        for program in programs(pid).values():  # none has the pipe to who started herdpy, which nobody reads
            eventually(lambda program=program: not has_dead_pipe(program))
        herdpy.ok("start", "ticker")
        eventually(log.exists)
        log.unlink()
        log.mkdir()
        eventually(lambda: f"logger: cannot write {log}: Is a directory" in own.read_text())
        log.rmdir()
        eventually(lambda: f"logger: can write {log} again" in own.read_text())
        assert own.read_text().count(f"cannot write {log}") == 1
        heir = programs(pid)["supervisor"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "supervisor" in programs(heir) and os.readlink(f"/proc/{heir}/fd/2") == "/dev/null")
    finally:
        herdpy.ok("stop", "root")
    eventually(lambda: not os.path.exists(f"/proc/{heir or pid}"))


def has_dead_pipe(pid):
    """Whether a process has a pipe that nobody reads (fifo(7), ENXIO)."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(entry.path).startswith("pipe:"):
                os.close(os.open(entry.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
    return False


def test_what_keeps_it_from_starting_is_told_before_it_returns(herdpy, command):
    herdpy.declare("wrong", "x = 1")
    completed = run(command, herdpy)
    assert completed.returncode == 2
    assert "wrong.toml:1: type: missing" in completed.stderr
    assert not herdpy.socket.exists()


@pytest.mark.parametrize("background", [["--background"], []])
@pytest.mark.parametrize("name", ["nowhere/pid", "."])
def test_a_pid_file_that_cannot_be_written_keeps_it_from_starting(herdpy, command, background, name):
    path = herdpy.directory / name
    completed = run([*command[:-2], *background, f"--pid={path}"], herdpy)
    problem = "it is a directory" if name == "." else "No such file or directory"
    said = f"herdpy: cannot write the PID file {path}: {problem}\n"
    assert (completed.returncode, completed.stderr) == (1, said)
    assert not herdpy.socket.exists()
    assert not (herdpy.state / "lock").exists()


def test_standard_output_is_not_there_for_a_pid(herdpy, command):
    completed = run([*command[:-1], "--pid"], herdpy)
    assert completed.returncode == 1
    assert "--background" in completed.stderr
