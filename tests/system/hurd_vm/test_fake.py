"""What of a childhurd does not concern QEMU: ports, names, files, and herdpy's own death. A stand-in has the ports."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.processes import lives
from tests.system.hurd_vm import guests
from tests.system.hurd_vm.failing import failure

FAKE = Path(__file__).with_name("fake_qemu.py")
BELIEVER = Path(__file__).parent.parent / "build_vm" / "believes_in_kvm.py"


@pytest.fixture
def fake(childhurds) -> str:
    """A stand-in for QEMU where QEMU's user can execute it."""
    path = childhurds.directory / "qemu-system-fake"
    shutil.copy(FAKE, path)
    path.chmod(0o755)
    return str(path)


def declare(childhurds, fake: str, text: str = "", name: str = "hurd-vm", kind: str = "hurd-vm") -> None:
    childhurds.disk.write_bytes(guests.boot_sector(b"\xf4"))
    childhurds.declare(
        name,
        f'type = "{kind}"\nqemu = "{fake}"\nimage = "{childhurds.disk}"\n'
        f'secret-root = "{childhurds.secrets / name}"\n{text}\n',
    )


def log_of(childhurds, name: str) -> str:
    return (childhurds.log / f"{name}.log").read_text()


@pytest.mark.parametrize(
    ("name", "kind", "text"), [("hurd-vm", "hurd-vm", ""), ("vm", "virtual-build-machine", 'secrets = "tcp"')]
)
def test_a_guest_that_has_its_secrets_outlives_its_supervisor(childhurds, fake, eventually, name, kind, text):
    """It serves them once. And no file's name can have the next supervisor know less than this one."""
    root = childhurds.secrets / name
    root.mkdir(parents=True)
    odd = os.fsencode(root) + b"/\xff\x1b[2J\n"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.chmod(odd, 0o640)
    declare(childhurds, fake, f"{text}\nstart-timeout = 60", name, kind)
    childhurds.start()
    client = childhurds.herd_in_background("start", name)
    eventually(lambda: "fake guest: took" in log_of(childhurds, name))
    pid = childhurds.children("qemu-system-fake")
    first = childhurds.supervisor()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not lives(first) and childhurds.status(name)["status"] == "starting")
    assert client.poll() is None
    (qemu,) = pid
    os.kill(qemu, signal.SIGUSR1)
    assert client.wait(60) == 0, childhurds.said()
    status = childhurds.status(name)
    assert (status["status"], status["pid"]) == ("running", qemu)
    assert f"sent to the guest of PID {qemu} " in status["details"]["secrets"]
    assert log_of(childhurds, name).count("fake guest: took") == 1
    assert "note-refused" not in childhurds.said()

    described = json.loads(childhurds.ok("--json", "configuration", name))["secret-files"]
    assert described[0] == {"name": "etc/ssh/authorized_keys.d/offloading", "mode": "0644"}
    assert described[-1] == {"name": r"\xff\x1b[2J\n", "mode": "0640"}
    assert r"\xff\x1b[2J\n 0640" in childhurds.ok("configuration", name)
    childhurds.ok("stop", name)


def test_without_secrets_ssh_is_readiness(childhurds, fake, eventually):
    forward = "hostfwd=tcp:127.0.0.1:10022-:2222"
    declare(childhurds, fake, f'secrets = "none"\nnet-options = ["-netdev", "user,id=n,{forward}"]')
    childhurds.start()
    client = childhurds.herd_in_background("start", "hurd-vm")
    eventually(lambda: childhurds.status("hurd-vm")["stage"] == "waiting for the guest's SSH server")
    eventually(lambda: "waiting for SIGUSR1" in log_of(childhurds, "hurd-vm"))
    assert client.poll() is None
    (qemu,) = childhurds.children("qemu-system-fake")
    os.kill(qemu, signal.SIGUSR1)
    assert client.wait(60) == 0, childhurds.said()
    assert childhurds.status("childhurd")["pid"] == qemu
    assert "took" not in log_of(childhurds, "hurd-vm")


def test_the_specifications_examples_run_as_they_are_written(childhurds, fake, eventually):
    """But for who stands in for QEMU, and where the secrets are: /etc is not ours here."""
    image = childhurds.state / "hurd" / "hurd.img"
    image.parent.mkdir(mode=0o755)
    kept = childhurds.directory / "kept.img"
    for path in (image, kept):
        path.write_bytes(guests.boot_sector(b"\xf4"))
        path.chmod(0o666)
    ours = f'type = "hurd-vm"\nqemu = "{fake}"\nsecret-root = "{childhurds.secrets}"\n'
    file = childhurds.declare("hurd-vm", f"{ours}disk-size = {5000 * 2**20}\nmemory-size = 1024\n")
    childhurds.start()
    commands = []
    for number in range(2):
        client = childhurds.herd_in_background("start", "hurd-vm")
        eventually(lambda: childhurds.children("qemu-system-fake"))
        eventually(lambda: "waiting for SIGUSR1" in log_of(childhurds, "hurd-vm"))
        os.kill(*childhurds.children("qemu-system-fake"), signal.SIGUSR1)
        assert client.wait(60) == 0, childhurds.said()
        commands.append(childhurds.ok("configuration", "childhurd"))
        if number == 0:
            childhurds.ok("stop", "childhurd")
            (childhurds.log / "hurd-vm.log").rename(childhurds.log / "first.log")
            file.write_text(f'{ours}image = "{kept}"\noptions = []\n')
            childhurds.ok("reload", "root")
    larger, stateful = commands
    assert "memory size: 1024 MiB\n" in larger
    assert f"image: {image} (volatile)\n" in larger
    assert "disk size: 5242880000\n" in larger
    assert f"image: {kept} (kept)\n" in stateful
    assert "options: none\n" in stateful
    assert "--snapshot" not in stateful
    os.kill(*childhurds.children("qemu-system-fake"), signal.SIGKILL)  # it sees no power button


def test_one_of_several_tells_what_it_is_made_of_before_it_ever_ran(childhurds, fake):
    declare(childhurds, fake, 'instances = [1, 2]\nid = "%d"', "several")
    path = childhurds.services / "several.toml"
    path.write_text(path.read_text().replace("/secrets/several", "/secrets/%i"))
    childhurds.start()
    shown = childhurds.ok("configuration", "childhurd2")
    assert "id: 2\n" in shown
    assert "127.0.0.1:13004 -> 1004, 127.0.0.1:12022 -> 2222, 127.0.0.1:17900 -> 5900\n" in shown
    assert f"secrets: {childhurds.secrets}/2\n" in shown
    assert "secret files: none yet: it is made when the service starts\n" in shown
    root = childhurds.secrets / "2"
    root.mkdir(parents=True)
    (root / "word").write_text("never shown")
    (root / "word").chmod(0o600)
    assert "secret files: word 0600\n" in childhurds.ok("configuration", "childhurd2")
    described = json.loads(childhurds.ok("--json", "configuration", "hurd-vm2"))
    assert described["id"] == 2
    assert described["secret-files"] == [{"name": "word", "mode": "0600"}]
    assert "never shown" not in json.dumps(described)


def test_two_with_one_id_are_refused_naming_both(childhurds, fake):
    for name in ("one", "two"):
        declare(childhurds, fake, "id = 3", name)
    checked = childhurds.run(str(BIN / "herdpy"), "check", f"--services={childhurds.services}")
    assert checked.returncode == 2
    for line in checked.stderr.splitlines():
        assert f"{childhurds.services}/two.toml" in line
        assert f"{childhurds.services}/one.toml" in line
    assert "hurd-vm3 claims host port 13022 (tcp), and so does hurd-vm3 (" in checked.stderr


@contextmanager
def stranger(childhurds, ports: range) -> Iterator[int]:
    """Someone who listens on ports of herdpy's loopback."""
    program = (
        "import socket, sys\n"
        f"held = [socket.create_server(('127.0.0.1', port)) for port in range({ports.start}, {ports.stop})]\n"
        "print('listening', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with childhurds.beside("python3", "-c", program) as process:
        assert process.stdout.readline() == b"listening\n"
        yield process.pid
        process.stdin.close()


def test_a_stranger_on_a_port_is_named(childhurds, fake):
    declare(childhurds, fake)
    childhurds.start()
    with stranger(childhurds, range(10022, 10023)) as pid:
        line = failure(childhurds)[0]
    assert re.fullmatch(
        rf"cannot start hurd-vm: host port 10022 is in use by PID {pid} \(python3[^)]*\);"
        rf" change id, or net-options, in {childhurds.services}/hurd-vm\.toml",
        line,
    ), line


def test_a_screen_that_has_no_port_left_is_told_in_the_first_line(childhurds, fake):
    declare(childhurds, fake)
    childhurds.start()
    with stranger(childhurds, range(5900, 6000)):
        assert failure(childhurds)[0] == (
            "cannot start hurd-vm: there is no port for its screen (VNC): 127.0.0.1:5900 to 5999 are all in use; end"
            " one of those that listen there"
        )


@pytest.mark.parametrize("where", ["image", "key"])
def test_a_fifo_is_not_waited_for(childhurds, fake, where):
    declare(childhurds, fake)
    key = childhurds.secrets / "hurd-vm" / "etc/ssh/authorized_keys.d/offloading"
    path = childhurds.disk if where == "image" else key
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    childhurds.start()
    said = f"the image {path} is a FIFO; change image in" if where == "image" else f"it is no regular file: {path}; put"
    assert said in failure(childhurds)[0]


def test_more_than_the_guest_would_take_is_refused_naming_it(childhurds, fake):
    declare(childhurds, fake)
    root = childhurds.secrets / "hurd-vm"
    root.mkdir(parents=True)
    with (root / "disk.img").open("wb") as file:
        file.truncate(3 << 30)
    childhurds.start()
    assert failure(childhurds)[0] == (
        f"cannot start hurd-vm: cannot send {root} to the guest: its files are 3072 MiB, and may be 1024; the largest"
        " is disk.img (3072 MiB); change that, or secret-root"
    )


def test_a_file_that_cannot_be_read_is_told_whatever_its_name(childhurds, fake):
    declare(childhurds, fake, "start-timeout = 60")
    root = childhurds.secrets / "hurd-vm"
    root.mkdir(parents=True)
    # What is at address 0 nobody reads, not even root.
    os.symlink(b"/proc/self/mem", os.fsencode(root) + b"/\xff\x1b[2J")
    childhurds.start()
    line = failure(childhurds)[0]
    assert f"cannot read the guest's secrets: Input/output error: {root}/\\udcff\\x1b[2J; check who" in line
    assert childhurds.status("hurd-vm")["reason"] in line
    assert "note-refused" not in childhurds.said()


def test_a_guest_that_is_silent_on_kvm_is_tried_on_tcg(childhurds, fake, eventually, monkeypatch):
    whole = childhurds.command()
    program = whole.index(str(BIN / "herdpy"))
    believer = [sys.executable, "-I", str(BELIEVER)]
    monkeypatch.setattr(childhurds, "command", lambda: [*whole[:program], *believer, *whole[program + 1 :]])
    declare(childhurds, fake, "start-timeout = 8")
    childhurds.start()
    client = childhurds.herd_in_background("start", "hurd-vm")
    eventually(lambda: "waiting for SIGUSR1" in log_of(childhurds, "hurd-vm"))
    os.kill(*childhurds.children("qemu-system-fake"), signal.SIGUSR1)
    assert client.wait(60) == 0, childhurds.said()
    assert "start-attempt-failed service=hurd-vm" in childhurds.said()
    said = "TCG (emulation): the guest did not start on KVM"
    assert childhurds.status("hurd-vm")["details"]["accelerator"] == said
