"""Virtual build machines, through the installed programs: real QEMU, real guests, what a person would see."""

import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.processes import qemus

TIME_TRAP = Path(__file__).parents[3] / "examples" / "time-trap"
BOOT = 240
"""Seconds that a boot may take when the machine is busy; mostly it is 8."""


def reaches_the_host(machines, name: str) -> bool:
    """Whether a guest comes through to a port of the host's loopback, which slirp offers as 10.0.2.2."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        attempt = f"exec 3<>/dev/tcp/10.0.2.2/{listener.getsockname()[1]}"
        return machines.herd("exec", name, "--", "timeout", "5", "bash", "-c", attempt, timeout=60).returncode == 0


def test_a_time_trap_is_cured_in_the_machine(machines):
    """The main job, end to end, as the README tells it."""
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)

    year = machines.ok("exec", "build-vm", "--", "date", "-u", "+%Y")
    assert year == "2020\n"
    project = machines.directory / "project"
    shutil.copytree(TIME_TRAP, project)
    host = subprocess.run(["make", "-C", project, "check"], capture_output=True, text=True, check=False)
    assert host.returncode != 0
    assert "certificate has expired" in host.stdout + host.stderr
    subprocess.run(["make", "-C", project, "clean"], check=True, capture_output=True)
    cured = machines.herd(
        "offload", "build-vm", "-C", str(project), "--fetch", "trap", "--", "make", "check", timeout=BOOT
    )
    assert cured.returncode == 0, cured.stdout + cured.stderr
    assert "PASS: the certificate is valid" in cured.stdout
    brought_back = subprocess.run([project / "trap"], capture_output=True, text=True, check=True)
    assert brought_back.stdout == "built Jan  1 2020\n"
    failed = machines.herd("exec", "build-vm", "--", "sh", "-c", "echo out; echo err >&2; exit 7", timeout=60)
    assert (failed.returncode, failed.stdout, failed.stderr.strip()) == (7, "out\n", "err")

    configuration = machines.ok("configuration", "build-vm").splitlines()
    assert configuration[:4] == [
        "CPU: Skylake-Client",
        "number of CPU cores: 2",
        "memory size: 512 MiB",
        "initial date: 2020-01-01T00:00:00Z",
    ]
    described = json.loads(machines.ok("--json", "configuration", "build-vm"))
    assert described["memory-size"] == 512
    assert described["command"][0] == "qemu-system-x86_64"
    status = machines.status("build-vm")
    assert status["status"] == "running"
    assert status["details"]["accelerator"].startswith(("TCG", "KVM"))
    user = "herdpy-vm" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    assert Path(f"/proc/{status['pid']}").owner() == user
    assert "rtc base=2020-01-01T00:00:00,clock=vm" in qemus(machines.state)[0]

    assert reaches_the_host(machines, "build-vm") is False

    machines.ok("stop", "build-vm")
    assert qemus(machines.state) == []
    assert list((machines.state / "machines").iterdir()) == []


def test_the_guest_agent_answers_on_the_hosts_socket(machines):
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    path = json.loads(machines.ok("--json", "configuration", "build-vm"))["guest-agent"]

    def host_name() -> str:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(BOOT)
            agent.connect(path)
            with agent.makefile("rwb") as stream:
                # As qemu-ga(8) has it: whatever was left in the line is ended, and so is what was left to be read.
                stream.write(b'\xff{"execute": "guest-sync-delimited", "arguments": {"id": 7}}\n')
                stream.write(b'{"execute": "guest-get-host-name"}\n')
                stream.flush()
                for line in stream:
                    answer = json.loads(line.rpartition(b"\xff")[2]).get("return")  # first it says what 0xFF is to it
                    if isinstance(answer, dict):
                        return str(answer["host-name"])
        raise AssertionError("the agent's port was closed")

    assert host_name() == "build-vm"
    os.kill(machines.supervisor(), signal.SIGKILL)
    assert host_name() == "build-vm"
    assert machines.status("build-vm")["status"] == "running"


def test_secrets_are_private_and_kept(machines):
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    root = machines.secrets / "build-vm"
    key = root / "etc" / "ssh" / "ssh_host_ed25519_key"
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    private = machines.state / "keys" / "build-vm" / "id_ed25519"
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    for socket_path in (machines.state / "machines" / "build-vm").iterdir():
        assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    assert private.read_text() not in machines.said() + machines.ok("configuration", "build-vm")
    machines.ok("restart", "build-vm", timeout=BOOT)
    assert key.read_bytes() == before
    assert (
        machines.ok("exec", "build-vm", "--", "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        in (root / "etc" / "ssh" / "ssh_host_ed25519_key.pub").read_text()
    )


def test_three_machines_run_side_by_side(machines):
    dates = {
        "old": ("2007-03-01", "core2duo"),
        "older": ("2010-06-01T12:00:00Z", "Westmere"),
        "new": ("2015-05-05", "Skylake-Client"),
    }
    for name, (date, _) in dates.items():
        machines.declare(name, f"date = {date}\ncpu-count = 1\nmemory-size = 256")
    machines.start()
    clients = [
        subprocess.Popen(
            [machines.client, "start", name],
            env=machines.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in dates
    ]
    for client in clients:
        output, _ = client.communicate(timeout=BOOT)
        assert client.returncode == 0, output + machines.said()
    for name, (date, model) in dates.items():
        assert machines.ok("exec", name, "--", "date", "-u", "+%F").strip() == date[:10]
        assert f"CPU: {model}\n" in machines.ok("configuration", name)
        assert machines.ok("exec", name, "--", "hostname").strip() == name


def test_a_killed_qemu_is_respawned_and_five_quick_deaths_are_enough(machines, eventually):
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    first = machines.status("build-vm")["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: machines.status("build-vm")["pid"] not in (None, first), BOOT)
    eventually(lambda: machines.status("build-vm")["status"] == "running", BOOT)
    assert machines.ok("exec", "build-vm", "--", "date", "+%Y") == "2020\n"
    assert machines.status("build-vm")["reason"] == "it was killed by SIGKILL"

    killed = {first}
    while machines.status("build-vm")["enabled"]:
        for pid in set(machines.children("qemu-system")) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    said = machines.ok("status", "build-vm")
    assert "It is disabled." in said
    assert "respawning too fast: it ended 5 times in 7 s" in said
    assert len(killed) <= 7
    assert qemus(machines.state) == []


def test_a_killed_supervisor_is_no_event_for_a_machine(machines, eventually):
    machines.declare("build-vm")
    machines.start()
    starting = subprocess.Popen(
        [machines.client, "start", "build-vm"],
        env=machines.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: machines.children("qemu-system"))
    (qemu,) = machines.children("qemu-system")
    os.kill(machines.supervisor(), signal.SIGKILL)
    starting.wait(BOOT)
    eventually(lambda: machines.status("build-vm")["status"] == "running", BOOT)
    assert machines.status("build-vm")["pid"] == qemu, "the start was not finished, but begun anew"
    os.kill(machines.supervisor(), signal.SIGKILL)
    assert machines.ok("exec", "build-vm", "--", "date", "+%Y") == "2020\n"
    assert machines.status("build-vm")["pid"] == qemu
    machines.ok("stop", "build-vm")
    assert "killed" not in machines.said().split("service-stopping")[-1]


def test_a_start_outlives_its_client(machines, eventually):
    machines.declare("build-vm")
    machines.start()
    client = subprocess.Popen(
        [machines.client, "start", "build-vm"],
        env=machines.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: machines.children("qemu-system"))
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=BOOT)
    assert client.returncode == 130
    assert "goes on" in said
    eventually(lambda: machines.status("build-vm")["status"] == "running", BOOT)


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        ("echo c > /proc/sysrq-trigger", "running", "the guest panicked"),
        ("echo b > /proc/sysrq-trigger", "running", "the guest rebooted"),
        ("echo o > /proc/sysrq-trigger", "stopped", "the guest powered itself off"),
    ],
)
def test_how_a_guest_ends_is_seen(machines, eventually, command, status, reason):
    machines.declare("build-vm")
    keys = machines.secrets / "build-vm" / "etc" / "ssh" / "authorized_keys.d"
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    (keys / "root").write_text((keys / "offloading").read_text())
    machines.ok("restart", "build-vm", timeout=BOOT)
    first = machines.status("build-vm")["pid"]
    reach = machines.reach("build-vm")
    as_root = [word.replace("offloading@", "root@") for word in reach]
    subprocess.run([*as_root, f"(sleep 0.2; {command}) >/dev/null 2>&1 &"], timeout=60, check=True)
    eventually(lambda: machines.status("build-vm")["pid"] != first, BOOT)
    eventually(lambda: machines.status("build-vm")["status"] == status, BOOT)
    assert machines.status("build-vm")["reason"] == reason


def test_the_console_is_a_shell_in_the_guest(machines):
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    with subprocess.Popen(
        [machines.client, "console", "build-vm"],
        env=machines.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as console:
        console.stdin.write(b"\necho $((6 * 7)) on $(hostname)\n")
        console.stdin.flush()
        said = b""
        while b"42 on build-vm" not in said:
            assert select.select([console.stdout], [], [], 60)[0], said
            piece = os.read(console.stdout.fileno(), 65536)
            assert piece, said
            said += piece
        console.communicate(timeout=60)
    assert "42 on build-vm" in (machines.log / "build-vm-console.log").read_text()


def test_no_qemu(machines):
    machines.declare("build-vm", 'qemu = "/nonexistent/qemu"')
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[0] == (
        "cannot start build-vm: /nonexistent/qemu cannot be executed: No such file or directory"
    )


def test_a_port_that_is_taken(machines):
    machines.declare("build-vm")
    with socket.socket() as holder:
        # An earlier test's connections may linger on the port (TIME_WAIT), as they may for QEMU, which does the same.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", machines.ports["build-vm"]))
        holder.listen()
        machines.start()
        failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    line = failed.stdout.splitlines()[0]
    assert line.startswith(
        f"cannot start build-vm: host port {machines.ports['build-vm']} is in use by PID {os.getpid()} ("
    )
    assert line.endswith(f"change port-forwardings in {machines.services}/build-vm.toml")


def test_an_image_that_is_garbage(machines):
    image = machines.directory / "disk.qcow2"
    image.write_bytes(b"garbage" * 1000)
    machines.declare("build-vm", f'image = "{image}"')
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    line = failed.stdout.splitlines()[0]
    assert line.startswith(f"cannot start build-vm: the image {image} is raw, not qcow2; change image in ")


def test_an_image_that_is_not_there(machines):
    machines.declare("build-vm", 'image = "/nonexistent/disk.qcow2"')
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    assert "there is no image /nonexistent/disk.qcow2; change image in " in failed.stdout


def test_a_guest_that_never_says_hello(machines):
    """A disk that boots into an endless loop: after the start timeout QEMU is gone, and the console's end is shown."""
    image = machines.directory / "loop.img"
    image.write_bytes(b"\xeb\xfe" + bytes(508) + b"\x55\xaa" + bytes(1024 * 1024))
    machines.declare("build-vm", f'image = "{image}"\nstart-timeout = 3')
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    lines = failed.stdout.splitlines()
    assert lines[0] == "cannot start build-vm: it was not ready after 3 s: booting"
    assert any("Booting from Hard Disk" in line for line in lines), lines
    assert qemus(machines.state) == []
    assert machines.status("build-vm")["status"] == "stopped"


@pytest.mark.parametrize("directory", ["state/images", "state/machines", "state/keys"])
def test_a_state_directory_that_cannot_be_written(machines, directory):
    blocked = machines.directory / directory
    blocked.unlink(missing_ok=True)
    blocked.write_text("a file where a directory should be")
    machines.declare("build-vm")
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    line = failed.stdout.splitlines()[0]
    assert line.startswith("cannot start build-vm: ")
    assert str(blocked) in line
    assert "Traceback" not in failed.stdout + failed.stderr


def test_further_options_for_qemu(machines):
    machines.declare("build-vm")
    machines.start()
    machines.ok("start", "build-vm", "--", "-uuid", "11111111-2222-3333-4444-555555555555", timeout=BOOT)
    (line,) = qemus(machines.state)
    assert "-uuid 11111111-2222-3333-4444-555555555555" in line
    assert machines.ok("start", "build-vm") == "Service build-vm is already running.\n"


def test_a_persistent_disk_keeps_what_was_written_and_an_open_network_is_open(machines):
    machines.declare("build-vm", 'persistent = true\nnetwork = "open"')
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    machines.ok("exec", "build-vm", "--", "sh", "-c", "echo kept > note; sync")
    assert reaches_the_host(machines, "build-vm") is True
    machines.ok("restart", "build-vm", timeout=BOOT)
    assert machines.ok("exec", "build-vm", "--", "cat", "note") == "kept\n"
