"""Childhurds, through the installed programs. GNU/Hurd's user land cannot be had: guests.py says what stands in."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.processes import qemus
from tests.system.hurd_vm import guests
from tests.system.hurd_vm.failing import BOOT, failure

ODD = 'a "quoted" näme/with spaces'


def test_a_childhurd_from_start_to_stop(childhurds):
    root = childhurds.secrets / "hurd-vm"
    planted = {"etc/odd": (b"\0\xff", 0o640), ODD: (b"text\n", 0o600), "etc/much": (os.urandom(50_000_000), 0o644)}
    for name, (contents, mode) in planted.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
        path.chmod(mode)
    outside = childhurds.directory / "outside"
    outside.write_text("by a link")
    (root / "etc" / "link").symlink_to(outside)
    childhurds.linux()
    childhurds.start()
    childhurds.ok("start", "hurd-vm", timeout=BOOT)
    assert childhurds.status("childhurd")["status"] == "running"

    checksums = childhurds.execute("childhurd", "sha256sum", f"/{ODD}", "/etc/odd", "/etc/much", "/etc/link")
    expected = subprocess.run(
        ["sha256sum", root / ODD, root / "etc/odd", root / "etc/much", outside], capture_output=True, check=True
    )
    assert [line.split()[0] for line in checksums.splitlines()] == [
        line.split()[0].lstrip(b"\\") for line in expected.stdout.splitlines()
    ]
    sent = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert "etc/ssh/ssh_host_ecdsa_key" in sent
    modes = childhurds.execute("hurd-vm", "stat", "-c", "%a", *(f"/{name}" for name in sent)).split()
    assert [int(mode, 8) for mode in modes] == [stat.S_IMODE((root / name).stat().st_mode) for name in sent]
    scanned = childhurds.inside("ssh-keyscan", "-t", "ed25519", "-p", "10022", "127.0.0.1").stdout.split()
    assert scanned[2] == (root / "etc/ssh/ssh_host_ed25519_key.pub").read_bytes().split()[1]

    status = childhurds.status("hurd-vm")
    assert status["details"]["vnc"] == "127.0.0.1:5900"
    assert childhurds.greeting(5900).startswith(b"RFB 003.008")
    assert childhurds.greeting(15900).startswith(b"RFB of the g")
    shown = childhurds.ok("configuration", "childhurd")
    assert "memory size: 512 MiB\n" in shown
    assert "screen (VNC): 127.0.0.1:5900\n" in shown
    assert "127.0.0.1:11004 -> 1004, 127.0.0.1:10022 -> 2222, 127.0.0.1:15900 -> 5900\n" in shown
    assert "etc/odd 0640" in shown
    described = json.loads(childhurds.ok("--json", "configuration", "hurd-vm"))
    assert described["id"] is None
    assert described["port-forwardings"][1] == {"host": 10022, "guest": 2222}
    assert "rtl8139,netdev=net0" in described["command"]
    assert "guest: ready" in (childhurds.log / "hurd-vm-console.log").read_text(errors="replace")
    with subprocess.Popen(
        [str(BIN / "herd"), "console", "hurd-vm"],
        env=childhurds.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as console:
        said, _ = console.communicate("\necho $((6 * 7)) on $(uname -s)\n", timeout=60)
    assert "42 on Linux" in said

    project = childhurds.directory / "project"
    project.mkdir()
    (project / "source").write_text("a word")
    offloaded = childhurds.inside(
        *(str(BIN / "herd"), "offload", "childhurd", "-C", str(project), "--fetch", "built"),
        *("--", "sh", "-c", "tr a-z A-Z < source > built"),
    )
    assert offloaded.returncode == 0, offloaded
    assert (project / "built").read_text() == "A WORD"

    childhurds.ok("stop", "childhurd")
    assert qemus(childhurds.state) == []
    assert list((childhurds.state / "machines").iterdir()) == []


def test_several_at_once_beside_the_build_machine(childhurds, guest_image):
    images = childhurds.state / "images"
    images.symlink_to(Path(guest_image.directory).parent)
    childhurds.declare(
        "build-vm",
        'type = "virtual-build-machine"\ncpu-count = 1\nmemory-size = 256\n'
        "port-forwardings = [{ host = 9022, guest = 22 }]\n"
        f'secret-root = "{childhurds.secrets}/build-vm"\n',
    )
    childhurds.linux()
    childhurds.linux(
        name="several", text='instances = [1, 2]\nid = "%d"\nmemory-size = 256', root=f"{childhurds.secrets}/%i"
    )
    childhurds.start()
    names = {"build-vm": None, "childhurd": 10022, "childhurd1": 11022, "childhurd2": 12022}
    clients = [childhurds.herd_in_background("start", name) for name in names]
    assert [client.wait(BOOT) for client in clients] == [0, 0, 0, 0], childhurds.said()
    screens = set()
    for name, port in names.items():
        boot = childhurds.execute(name, "cat", "/proc/sys/kernel/random/boot_id")
        assert len(boot) == 37
        if port is None:
            continue
        directory = childhurds.secrets / {"childhurd": "hurd-vm"}.get(name, name[-1])
        scanned = childhurds.inside("ssh-keyscan", "-t", "ed25519", "-p", str(port), "127.0.0.1").stdout.split()
        assert scanned[2] == (directory / "etc/ssh/ssh_host_ed25519_key.pub").read_bytes().split()[1]
        screens.add(childhurds.status(name)["details"]["vnc"])
    assert screens == {"127.0.0.1:5900", "127.0.0.1:5901", "127.0.0.1:5902"}
    childhurds.ok("start", "several")
    childhurds.ok("stop", "several")
    assert childhurds.status("childhurd2")["status"] == "stopped"
    assert childhurds.status("childhurd")["status"] == "running"


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ("wrong", 'what answers at 127.0.0.1:11004 is no secret service: it said "(hello (world 0))"; check that'),
        ("none", "it was not ready after 40 s: booting"),
        ("half", "it was not ready after 40 s: booting"),
        ("dies", "the guest powered itself off"),
        ("reboots", "the guest rebooted"),
    ],
)
def test_a_guest_that_does_not_take_its_secrets(childhurds, hello, reason):
    (childhurds.secrets / "hurd-vm" / "etc").mkdir(parents=True)
    (childhurds.secrets / "hurd-vm" / "etc" / "much").write_bytes(bytes(5_000_000))
    childhurds.linux(hello, text="respawn = false\nstart-timeout = 40" if hello in ("none", "half") else "")
    childhurds.start()
    lines = failure(childhurds)
    assert reason in lines[0]
    # It is the secret service that failed, and not the boot that took too long.
    assert f"guest: up, hello={hello}" in (childhurds.log / "hurd-vm-console.log").read_text(errors="replace")


def test_what_it_writes_is_kept_and_its_reboot_is_a_respawn(childhurds, eventually):
    """A stateful childhurd, with no options; GNU/Hurd cannot be had, but any disk that counts its boots will do."""
    childhurds.disk.write_bytes(guests.COUNTING)
    childhurds.disk.chmod(0o666)
    childhurds.declare(
        "hurd-vm",
        f'type = "hurd-vm"\nimage = "{childhurds.disk}"\noptions = []\nsecret-root = "{childhurds.secrets}"\n'
        'net-options = []\nsecrets = "none"\n',
    )
    childhurds.start()
    childhurds.ok("start", "hurd-vm", timeout=BOOT)
    console = childhurds.log / "hurd-vm-console.log"

    def has_booted(number: int) -> bool:
        return f"B{number}\n".encode() in console.read_bytes() and childhurds.status("hurd-vm")["status"] == "stopped"

    eventually(lambda: has_booted(2), BOOT)
    said = (childhurds.log / "herdpy.log").read_text()
    assert said.count("the guest rebooted") == 1, said
    assert said.count("service-respawning") == 1
    assert childhurds.status("hurd-vm")["reason"] == "the guest powered itself off"
    assert b"B1\n" in Path(f"{console}.1").read_bytes()
    childhurds.ok("start", "childhurd", timeout=BOOT)
    eventually(lambda: has_booted(3), BOOT)
    assert childhurds.disk.read_bytes()[512] == 3


def test_no_image(childhurds):
    childhurds.declare("hurd-vm", f'type = "hurd-vm"\nsecret-root = "{childhurds.secrets}"\n')
    childhurds.start()
    line = failure(childhurds)[0]
    assert line.startswith(f"cannot start hurd-vm: there is no image {childhurds.state}/hurd/hurd.img; put an image of")
    assert "https://www.debian.org/ports/hurd/" in line
    assert line.endswith(f"or change image in {childhurds.services}/hurd-vm.toml")


def test_an_image_that_is_a_directory(childhurds):
    childhurds.declare(
        "hurd-vm", f'type = "hurd-vm"\nimage = "{childhurds.directory}"\nsecret-root = "{childhurds.secrets}"\n'
    )
    childhurds.start()
    line = failure(childhurds)[0]
    assert line.startswith(f"cannot start hurd-vm: the image {childhurds.directory} is a directory; change image in ")


def test_an_image_to_be_kept_that_cannot_be_written(childhurds):
    childhurds.disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1024 * 1024))
    childhurds.declare(
        "hurd-vm",
        f'type = "hurd-vm"\nimage = "{childhurds.disk}"\noptions = []\nsecret-root = "{childhurds.secrets}"\n',
    )
    childhurds.disk.chmod(0o444)
    childhurds.start()
    who = " by herdpy-vm" if os.geteuid() == 0 else ""
    fault = f"the image {childhurds.disk} cannot be written{who}; change who owns it, or image in"
    assert failure(childhurds)[0].startswith(f"cannot start hurd-vm: {fault}")


def test_no_room_for_what_is_thrown_away(childhurds):
    room = childhurds.state / "machines"
    room.mkdir(mode=0o711)
    childhurds.environment["ROOM"] = str(room)
    childhurds.linux()
    childhurds.start()
    line = failure(childhurds)[0]
    assert line.startswith("cannot start hurd-vm: there is no room for what the guest writes: the file system of")
    assert " 16 KiB left" in line


def test_a_secret_that_nobody_can_read(childhurds):
    root = childhurds.secrets / "hurd-vm"
    root.mkdir(parents=True)
    # Root is refused no file, not even here as an ordinary user in a namespace; but what is at address 0 nobody reads.
    (root / "closed").symlink_to("/proc/self/mem")
    childhurds.linux()
    childhurds.start()
    assert failure(childhurds)[0].startswith(
        f"cannot start hurd-vm: cannot read the guest's secrets: Input/output error: {root}/closed; check who may read"
    )


def test_gnu_mach_boots_with_its_console_in_the_log_and_is_respawned(childhurds, eventually):
    """GNU's own kernel, and a first task that says a word to it; a network is nothing without the Hurd."""
    task = childhurds.directory / "task"
    task.write_bytes(guests.mach_task(b"a task of GNU Mach's is there\n"))
    task.chmod(0o644)
    childhurds.childhurd(
        guests.gnu_mach(),
        Path(f"{task} task $(task-create) $(task-resume)"),
        arguments="console=com0",
        text='net-options = []\nsecrets = "none"',
    )
    childhurds.start()
    childhurds.ok("start", "hurd-vm", timeout=BOOT)
    log = childhurds.log / "hurd-vm-console.log"

    def has_booted() -> bool:
        said = log.read_bytes()
        return b"GNU Mach 1.8" in said and b"a task of GNU Mach's is there" in said

    eventually(has_booted, BOOT)
    first = childhurds.status("childhurd")["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: childhurds.status("hurd-vm")["pid"] not in (None, first), BOOT)
    eventually(has_booted, BOOT)
    assert childhurds.status("hurd-vm")["reason"] == "it was killed by SIGKILL"
    childhurds.ok("stop", "childhurd")
    assert qemus(childhurds.state) == []
