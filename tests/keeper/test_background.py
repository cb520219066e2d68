"""``herdpy --background``, through the installed program."""

import os
import subprocess

import pytest


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


def test_what_keeps_it_from_starting_is_told_before_it_returns(herdpy, command):
    herdpy.declare("wrong", "x = 1")
    completed = run(command, herdpy)
    assert completed.returncode == 2
    assert "wrong.toml:1: type: missing" in completed.stderr
    assert not herdpy.socket.exists()


def test_standard_output_is_not_there_for_a_pid(herdpy, command):
    completed = run([*command[:-1], "--pid"], herdpy)
    assert completed.returncode == 1
    assert "--background" in completed.stderr
