"""The real guest agent, on a terminal in the place of a serial port, and on a socket."""

import json
import os
import select
import socket
import time
import tty
from pathlib import Path

import pytest

from tests.system.binfmt.debian import own_architecture, unpacked

PATIENCE = 60


@pytest.fixture(scope="session")
def agent() -> Path:
    return unpacked("qemu-guest-agent", own_architecture()) / "usr" / "sbin" / "qemu-ga"


@pytest.fixture
def port():
    """(the host's end, the path of the guest's) of a serial port."""
    host, guest = os.openpty()
    tty.setraw(guest)
    yield host, os.ttyname(guest)
    os.close(host)
    os.close(guest)


def declare(herdpy, agent: Path, more: str) -> None:
    herdpy.declare("agent", f'type = "qemu-guest-agent"\nqemu = "{agent}"\n{more}')


def ask(host: int) -> str:
    """Ask for the guest's name, as a host does: first whatever was left in the line is ended."""
    os.write(
        host, b'\xff{"execute": "guest-sync-delimited", "arguments": {"id": 7}}\n{"execute": "guest-get-host-name"}\n'
    )
    said, end = b"", time.monotonic() + PATIENCE
    while b"host-name" not in said or not said.endswith(b"\n"):
        assert select.select([host], [], [], end - time.monotonic())[0], said
        said += os.read(host, 4096)
    name: str = json.loads(said.splitlines()[-1])["return"]["host-name"]
    return name


def test_it_answers_the_host_by_a_serial_port(herdpy, agent, port):
    host, guest = port
    declare(herdpy, agent, f'method = "isa-serial"\ndevice = "{guest}"\n')
    herdpy.start()
    herdpy.ok("start", "agent")
    assert ask(host) == os.uname().nodename
    pid = herdpy.status("agent")["pid"]
    os.kill(herdpy.supervisor(), 9)
    assert herdpy.status("agent")["pid"] == pid
    assert ask(host) == os.uname().nodename
    herdpy.ok("stop", "agent")


def test_it_waits_for_its_device(herdpy, agent, port, eventually, tmp_path):
    _, guest = port
    device = tmp_path / "ports" / "org.qemu.guest_agent.0"
    declare(herdpy, agent, f'method = "isa-serial"\ndevice = "{device}"\n')
    herdpy.start()
    starting = herdpy.herd_in_background("start", "agent")
    eventually(lambda: (herdpy.status("agent")["stage"] or "").startswith(f"waiting for {device}; its host gives"))
    assert starting.poll() is None
    assert herdpy.children("qemu-ga") == []
    device.parent.mkdir()
    device.symlink_to(guest)
    assert starting.wait(PATIENCE) == 0
    assert herdpy.status("agent")["status"] == "running"


def test_one_whose_device_does_not_come_waits_on_and_so_does_one_whose_device_goes(
    herdpy, agent, port, eventually, tmp_path
):
    _, guest = port
    device = tmp_path / "port"
    declare(
        herdpy,
        agent,
        f'method = "isa-serial"\ndevice = "{device}"\npatience = 0.1\nrespawn-limit = 3\nrespawn-interval = 60\n',
    )
    herdpy.declare("later", 'command = ["sleep", "1000"]\nafter = ["agent"]\nwants = ["agent"]\n')
    herdpy.start()

    def waits():
        status = herdpy.status("agent")
        stage = status["stage"] or ""
        return status["status"] == "starting" and stage.startswith(f"waiting for {device}; its host gives a guest one")

    refused = herdpy.herd("start", "agent")
    assert refused.returncode == 1
    told = (
        f"Service agent has not started yet: there has been no {device} for 0.1 s, and it waits on; its host gives a "
    )
    assert told in refused.stdout
    assert waits()
    assert told in herdpy.herd("start", "agent").stdout
    # Nothing that comes after it waits for ever, too.
    herdpy.ok("start", "later")
    # Nor does it matter which supervisor waits.
    os.kill(herdpy.supervisor(), 9)
    eventually(waits)
    device.symlink_to(guest)
    eventually(lambda: herdpy.status("agent")["status"] == "running")
    device.unlink()
    os.kill(herdpy.status("agent")["pid"], 9)
    eventually(waits)
    assert herdpy.status("agent")["enabled"]
    device.symlink_to(guest)
    eventually(lambda: herdpy.status("agent")["status"] == "running")
    device.unlink()
    os.kill(herdpy.status("agent")["pid"], 9)
    eventually(waits)
    herdpy.ok("stop", "agent")
    assert herdpy.status("agent")["status"] == "stopped"


def test_one_that_ends_at_once_at_a_vsock_has_failed(herdpy, tmp_path):
    script = tmp_path / "qemu-ga"
    script.write_text("#!/bin/sh\nread _ </dev/null\necho failed to initialize guest agent channel >&2\nexit 1\n")
    script.chmod(0o755)
    declare(herdpy, script, 'method = "vsock-listen"\ndevice = "1:1234"\nrespawn = false\n')
    herdpy.start()
    refused = herdpy.herd("start", "agent")
    assert refused.returncode == 1
    assert "cannot start agent: it exited with 1 before it was ready" in refused.stdout
    assert "failed to initialize guest agent channel" in refused.stdout


def test_a_missing_state_directory_is_a_failure(herdpy, agent, port, tmp_path):
    _, guest = port
    declare(herdpy, agent, f'method = "isa-serial"\ndevice = "{guest}"\nstate-directory = "{tmp_path}/gone"\n')
    herdpy.start()
    refused = herdpy.herd("start", "agent")
    assert refused.returncode == 1
    assert (
        f"cannot start agent: there is no directory {tmp_path}/gone; make it, or set state-directory in "
        in refused.stdout
    )


def test_one_that_ends_with_0_before_it_is_ready_has_failed(herdpy, port, tmp_path):
    _, guest = port
    script = tmp_path / "qemu-ga"
    script.write_text("#!/bin/sh\necho failed to load persistent state >&2\n")
    script.chmod(0o755)
    declare(herdpy, script, f'method = "isa-serial"\ndevice = "{guest}"\nrespawn = false\n')
    herdpy.start()
    refused = herdpy.herd("start", "agent")
    assert refused.returncode == 1
    assert "failed to load persistent state" in refused.stdout


def test_it_listens_at_a_socket(herdpy, agent, tmp_path):
    path = tmp_path / "qga.sock"
    declare(herdpy, agent, f'method = "unix-listen"\ndevice = "{path}"\nblocked-commands = ["guest-exec"]\n')
    herdpy.start()
    herdpy.ok("start", "agent")
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(PATIENCE)
        host.connect(str(path))
        assert ask(host.fileno()) == os.uname().nodename
        host.sendall(b'{"execute": "guest-exec", "arguments": {"path": "true"}}\n')
        assert "disabled" in json.loads(host.recv(4096))["error"]["desc"]


def test_one_that_is_not_installed_says_how_to_get_it(herdpy, tmp_path):
    declare(herdpy, tmp_path / "none", "")
    herdpy.start()
    refused = herdpy.herd("start", "agent")
    assert "not installed: there is no " in refused.stdout
    assert "apt-get install qemu-guest-agent" in herdpy.status("agent")["reason"]
