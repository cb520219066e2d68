"""A guest from its boot to its power-off, as QEMU's neighbour sees it: secrets, SSH, the agent, the power button."""

import base64
import compileall
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import IO, Any

import pytest

from herdpy.qemu.image import KERNEL_ARGUMENTS, Image
from tests.ports import free_port

PATIENCE = 240.0
"""Seconds until a test gives up on a guest; under emulation on a busy machine, many times what it takes."""

needs_qemu = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("qemu-system-x86_64", "ssh", "ssh-keygen")),
    reason="qemu-system-x86 or openssh-client is not installed",
)


class Guest:
    """A running guest and its sockets."""

    def __init__(self, image: Image, directory: Path, cpus: int = 2) -> None:
        self.directory = directory
        self.port = free_port()
        ports = [("secrets", "org.herdpy.secrets.0"), ("agent", "org.qemu.guest_agent.0")]
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,thread=multi"),
                *("-cpu", "Nehalem", "-smp", str(cpus), "-m", "512M", "-nodefaults", "-no-user-config"),
                *("-display", "none", "-no-reboot", "-rtc", "base=2020-01-01T00:00:00,clock=vm"),
                *("-device", "pvpanic-pci", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
                *("-qmp", f"unix:{directory}/qmp,server=on,wait=off", "-serial", f"file:{directory}/console.log"),
                *(
                    word
                    for name, port in ports
                    for word in (
                        *("-chardev", f"socket,id={name},path={directory}/{name},server=on,wait=off"),
                        *("-device", f"virtserialport,chardev={name},name={port}"),
                    )
                ),
                *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
                *("-device", "virtio-net-pci,netdev=net0,romfile="),
                *("-drive", f"if=none,id=disk0,file={image.disk},format=qcow2,snapshot=on,cache=unsafe"),
                *("-device", "virtio-blk-pci,drive=disk0", "-kernel", image.kernel, "-initrd", image.initrd),
                *("-append", f"{KERNEL_ARGUMENTS} herdpy.hostname=build-vm"),
            ],
            env={**os.environ, "TMPDIR": str(directory)},
            stdin=subprocess.DEVNULL,
            stderr=(directory / "qemu.log").open("w"),
        )

    def said(self) -> str:
        """The console and QEMU's own words, for messages of failed tests."""
        logs = [self.directory / "console.log", self.directory / "qemu.log"]
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs if log.exists())

    def connect(self, name: str) -> socket.socket:
        """A connection to one of its sockets, as soon as QEMU has made it."""
        end = time.monotonic() + PATIENCE
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.directory / name))
            except OSError:
                connection.close()
                assert self.process.poll() is None, self.said()
                assert time.monotonic() < end, self.said()
                time.sleep(0.02)
            else:
                return connection

    def ask(self, connection: socket.socket, request: bytes, answer: bytes, *, every: float = PATIENCE) -> str:
        """Send a request, again after so many seconds, until a line begins with ``answer``; return the line."""
        end = time.monotonic() + PATIENCE
        connection.settimeout(every)
        received = b""
        connection.sendall(request)
        while time.monotonic() < end:
            assert self.process.poll() is None, self.said()
            try:
                received += connection.recv(4096)
            except TimeoutError:
                connection.sendall(request)
            for line in received.split(b"\n")[:-1]:
                if line.startswith(answer):
                    return line.decode()
        raise AssertionError(f"no {answer!r} within {PATIENCE} s, only {received!r}\n{self.said()}")

    def ssh(self, command: str, user: str = "offloading", stdin: IO[bytes] | None = None) -> str:
        """What a command prints in the guest."""
        options = [
            *("-F", "/dev/null", "-i", str(self.directory / "client"), "-p", str(self.port)),
            *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"),
        ]
        completed = subprocess.run(
            ["ssh", *options, f"{user}@127.0.0.1", command],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert completed.returncode == 0, f"{command}: {completed.stdout}{completed.stderr}\n{self.said()}"
        return completed.stdout.strip()

    def command(self, command: str) -> None:
        """A QMP command (QEMU QMP Reference Manual)."""
        with self.connect("qmp") as connection, connection.makefile("rw") as stream:
            for line in ("qmp_capabilities", command):
                print(json.dumps({"execute": line}), file=stream, flush=True)
                while "return" not in (answer := json.loads(stream.readline())):
                    assert "error" not in answer, answer


@pytest.fixture
def guest(guest_image: Image, tmp_path: Path) -> Iterator[Guest]:
    booted = Guest(guest_image, tmp_path)
    yield booted
    booted.process.kill()
    booted.process.wait()


def secrets(directory: Path, port: int) -> bytes:
    """Keys made for one guest, as the message that carries them."""
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    host_key = " ".join((directory / "host.pub").read_text().split()[:2])
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    files = [
        ("/etc/ssh/ssh_host_ed25519_key", (directory / "host").read_bytes(), 0o100600),
        ("/etc/ssh/authorized_keys.d/offloading", (directory / "client.pub").read_bytes(), 0o100644),
        ("/etc/ssh/authorized_keys.d/root", (directory / "client.pub").read_bytes(), 0o100644),
    ]
    listed = " ".join(f'("{name}" {len(contents)} {mode})' for name, contents, mode in files)
    return f"(secrets (version 0) (files ({listed})))".encode() + b"".join(contents for _, contents, _ in files)


def session(nonce: str, message: bytes) -> bytes:
    encoded = base64.b64encode(message).decode()
    data = "".join(f"data {encoded[start : start + 76]}\n" for start in range(0, len(encoded), 76))
    return f"\nbegin {nonce} {hashlib.sha256(message).hexdigest()}\n{data}end {nonce}\n".encode()


@needs_qemu
def test_a_guest_from_boot_to_power_off(guest: Guest) -> None:
    message = secrets(guest.directory, guest.port)

    # A host that goes away in the middle of a line leaves nothing behind.
    with guest.connect("secrets") as port:
        guest.ask(port, b"\nhello first\n", b"ready first", every=1)
        port.sendall(session("first", message)[:300])
    with guest.connect("secrets") as port:
        guest.ask(port, b"\nhello second\n", b"ready second", every=1)
        assert guest.ask(port, session("second", message), b"installed second") == "installed second 3"
        # SSH is there now, not soon.
        user, uid, home, name, date, language, path, gcc = guest.ssh(
            "id -un; id -u; stat -c %a ~; hostname; date +%F; echo $LANG; echo ${PATH%%:*}; gcc -dumpversion"
        ).split("\n")
        assert (user, uid, home, name) == ("offloading", "1000", "700", "build-vm")
        assert (date, language, path) == ("2020-01-01", "C.UTF-8", "/usr/local/sbin")
        assert gcc
        # A supervisor that was killed before it read the answer begins anew.
        assert guest.ask(port, b"\nhello third\n", b"ready third")
        assert guest.ask(port, session("third", message), b"installed third")
    with guest.connect("secrets") as port:
        assert guest.ask(port, b"\nhello fourth\n", b"ready fourth", every=2)

    # What only root sees: keys that nobody else reads, modules, a disk that can be written, a /tmp with room.
    mode, modules, room, cpus = guest.ssh(
        "stat -c %a /etc/ssh/ssh_host_ed25519_key; ls /sys/module | grep -c pvpanic; "
        "df --output=avail -BG /tmp | tail -n 1; nproc",
        "root",
    ).split("\n")
    assert (mode, cpus) == ("600", "2")
    assert int(modules) >= 1
    assert int(room.strip("G ")) >= 8

    # No password opens anything, and the offloading user cannot become root.
    assert "no" in guest.ssh("/usr/sbin/sshd -T | grep -i '^passwordauthentication'", "root")
    assert guest.ssh("command -v sudo || echo none") == "none"

    with guest.connect("agent") as agent:
        guest.ask(agent, b'\xff{"execute": "guest-sync", "arguments": {"id": 7}}\n', b'{"return": 7}', every=5)
        answer = guest.ask(agent, b'{"execute": "guest-get-host-name"}\n', b'{"return": {')
        assert json.loads(answer)["return"]["host-name"] == "build-vm"

    # Nobody holds the host's end of the port for secrets now: waiting for somebody must cost next to nothing.
    receiver = "$(cd /proc; grep -l ^/usr/bin/perl [0-9]*/cmdline | cut -d/ -f1)"
    ticks = f"cut -d' ' -f14,15 /proc/{receiver}/stat | tr ' ' +"
    assert int(guest.ssh(f"a=$({ticks}); sleep 3; b=$({ticks}); echo $(((b) - (a)))", "root")) < 15

    begun = time.monotonic()
    guest.command("system_powerdown")
    assert guest.process.wait(60) == 0, guest.said()
    assert time.monotonic() - begun < 60, "systemd waits 90 s for what does not end"


@needs_qemu
def test_a_panic_is_seen_and_ends_the_guest(guest: Guest) -> None:
    message = secrets(guest.directory, guest.port)
    with guest.connect("secrets") as port:
        guest.ask(port, b"\nhello n\n", b"ready n", every=1)
        guest.ask(port, session("n", message), b"installed n")
    with guest.connect("qmp") as connection, connection.makefile("rw") as stream:
        print('{"execute": "qmp_capabilities"}', file=stream, flush=True)
        connection.settimeout(PATIENCE)
        panic = "(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &"
        guest.ssh(panic, "root")
        events: list[Any] = []
        for line in stream:
            events.append(json.loads(line).get("event"))
            if "SHUTDOWN" in events:
                break
    assert "GUEST_PANICKED" in events
    guest.process.wait(60)


def python_for_a_guest(directory: Path) -> Path:
    """This interpreter, herdpy and what it needs, as an archive to be unpacked in / of a guest: /opt/bin/python3."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    root = directory / "opt"
    library = root / "lib" / stdlib.name
    unwanted = (
        *("test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "turtle*", "config-*", "unittest", "xmlrpc"),
        *("wsgiref", "curses", "dbm", "sqlite3", "xml", "distutils", "venv", "pydoc*", "__pycache__", "*.a"),
        *("_tkinter*", "_curses*", "_sqlite3*", "_dbm*", "_gdbm*", "_test*", "_xx*", "_codecs_*", "nis*", "readline*"),
    )
    shutil.copytree(stdlib, library, ignore=shutil.ignore_patterns(*unwanted, "site-packages", "dist-packages"))
    # Debian's Python has these elsewhere.
    modules = Path(sysconfig.get_config_var("DESTSHARED"))
    shutil.copytree(modules, library / "lib-dynload", ignore=shutil.ignore_patterns(*unwanted), dirs_exist_ok=True)
    import_all = (
        "import herdpy.supervisor.__main__, psutil, structlog, cronsim, inotify_simple, sys; print(*sys.modules)"
    )
    names = subprocess.run(
        [sys.executable, "-c", import_all], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"__main__"}:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        origin = Path(found.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, library / name, ignore=shutil.ignore_patterns(*unwanted))
        else:
            shutil.copy(origin, library)
    # To compile takes long under emulation.
    compileall.compile_dir(library, quiet=1, stripdir=directory, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    (root / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), root / "bin" / "python3")
    for name in ("herd", "herdpy"):
        shutil.copy(Path(__file__).parents[2] / "bin" / name, root / "bin")
    objects = [root / "bin" / "python3", *root.rglob("*.so")]
    needed = subprocess.run(["ldd", *objects], capture_output=True, text=True).stdout
    for path in {line.split()[2] for line in needed.splitlines() if " => /" in line}:
        if not Path(path).name.startswith(("libc.", "libm.", "libpthread.", "libdl.", "librt.")):
            shutil.copy(path, root / "lib")
    archive = directory / "opt.tar.gz"
    subprocess.run(
        ["tar", "--owner=0", "--group=0", "-C", directory, "-I", "gzip -1", "-cf", archive, "opt"], check=True
    )
    return archive


@needs_qemu
def test_herdpy_in_a_guest_runs_the_agent_at_a_virtio_serial_port(guest: Guest, tmp_path: Path) -> None:
    archive = python_for_a_guest(tmp_path / "python")
    message = secrets(guest.directory, guest.port)
    with guest.connect("secrets") as port:
        guest.ask(port, b"\nhello n\n", b"ready n", every=1)
        guest.ask(port, session("n", message), b"installed n")
    with archive.open("rb") as content:
        guest.ssh("tar -xz -C /", "root", content)
    herdpy = "LD_LIBRARY_PATH=/opt/lib /opt/bin/python3 -I /opt/bin/herdpy --services=/etc/services.d --socket=/run/s/s"
    herd = "HERDPY_SOCKET=/run/s/s LD_LIBRARY_PATH=/opt/lib /opt/bin/herd"
    # The guest's own agent goes, and leaves the port to herdpy's. There is no udev to link it by its name.
    guest.ssh(
        r"printf '#!/bin/busybox sh\nexec sleep 1000000\n' >/usr/lib/herdpy/guest-agent; "
        "busybox killall qemu-ga; while busybox pidof qemu-ga; do :; done; "
        "[ ! -e /dev/virtio-ports ] && mkdir /etc/services.d && "
        f"echo 'type = \"qemu-guest-agent\"' >/etc/services.d/agent.toml && {herdpy} --background",
        "root",
    )
    with guest.connect("agent") as agent:
        assert "Service agent has been started." in guest.ssh(f"{herd} start agent", "root")
        guest.ask(agent, b'\xff{"execute": "guest-sync", "arguments": {"id": 7}}\n', b'{"return": 7}', every=5)
        answer = guest.ask(agent, b'{"execute": "guest-get-host-name"}\n', b'{"return": {')
        assert json.loads(answer)["return"]["host-name"] == "build-vm"
        assert json.loads(guest.ssh(f"{herd} --json status agent", "root"))["status"] == "running"
    guest.ssh(f"{herd} stop root", "root")
