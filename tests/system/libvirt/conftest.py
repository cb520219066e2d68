"""libvirt's real daemons, under a herdpy that runs as root in namespaces of its own (jail.sh)."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
JAIL = ("unshare", "--mount", "--propagation", "private", "--net", "sh", str(HERE / "jail.sh"))
PATIENCE = 60
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/{name}.img'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <serial type='pty'><log file='{console}'/></serial>
    <serial type='file'><source path='{port}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


PORTS = ("console", "port")


def log(name, port):
    """Where virtlogd writes the log of a domain's port."""
    return f"/var/log/libvirt/qemu/{name}-{port}.log"


class Host:
    """What is inside of the jail."""

    def __init__(self, herdpy, directory):
        self.herdpy = herdpy
        self.directory = directory

    def start(self):
        self.herdpy.prefix = JAIL
        self.herdpy.configure("automatic-reload = false\n")
        self.herdpy.start()

    def declare(self, virtlogd="", libvirtd=""):
        self.herdpy.declare("virtlogd", f'type = "virtlog"\n{virtlogd}')
        self.herdpy.declare("libvirtd", f'type = "libvirt"\n{libvirtd}')

    def inside(self, *command, check=True, **options):
        """Run a command in the jail, which must succeed unless told otherwise."""
        pid = str(self.herdpy.process.pid)
        completed = subprocess.run(
            ["nsenter", "--target", pid, "--mount", "--net", "--root", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            **options,
        )
        if check:
            assert completed.returncode == 0, f"{command}: {completed.stdout}{completed.stderr}\n{self.herdpy.said()}"
        return completed

    def path(self, inside):
        """A path in the jail, from outside."""
        return Path(f"/proc/{self.herdpy.process.pid}/root{inside}")

    def virsh(self, *arguments, **options):
        return self.inside("virsh", "-c", "qemu:///system", *arguments, **options)

    def as_user(self, *command, groups=()):
        """Run a command in the jail as nobody, a member of these groups."""
        ids = [self.inside("getent", "group", group).stdout.split(":")[2] for group in groups]
        drop = ("--groups", ",".join(ids)) if ids else ("--clear-groups",)
        user = ("setpriv", "--reuid", "65534", "--regid", "65534", *drop)
        return self.inside(*user, "env", "HOME=/nonexistent", *command, check=False)

    def describe(self, image, name="counter"):
        """Put the image of a domain that writes numbered lines in its place; returns a path of what describes it."""
        shutil.copy(image, self.path(f"/var/lib/libvirt/{name}.img"))
        domain = self.path(f"/run/{name}.xml")
        domain.write_text(DOMAIN.format(name=name, **{port: log(name, port) for port in PORTS}))
        return f"/run/{name}.xml"

    def boot(self, image, name="counter"):
        """Define and start such a domain; returns the paths of its two logs."""
        self.virsh("define", self.describe(image, name))
        self.virsh("start", name)
        return [self.path(log(name, port)) for port in PORTS]

    def pid(self, service):
        return self.herdpy.status(service)["pid"]

    def kill_all(self):
        """Kill whatever is left in the jail: guests outlive everything."""
        # Not the mount namespace: libvirtd gives each guest one of its own.
        namespace = os.readlink(f"/proc/{self.herdpy.process.pid}/ns/net")
        for entry in Path("/proc").iterdir():
            try:
                is_inside = entry.name.isdecimal() and os.readlink(entry / "ns" / "net") == namespace
                if is_inside and int(entry.name) != self.herdpy.process.pid and "qemu" in os.readlink(entry / "exe"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue


@pytest.fixture
def host(herdpy, tmp_path) -> Iterator[Host]:
    """A host with nothing but herdpy, which is not started yet."""
    jailed = Host(herdpy, tmp_path)
    yield jailed
    if herdpy.process is not None and herdpy.process.poll() is None:
        jailed.kill_all()


@pytest.fixture(scope="session")
def counter(tmp_path_factory) -> Path:
    """The disk image of counter.s."""
    directory = tmp_path_factory.mktemp("counter")
    made, image = directory / "counter.o", directory / "counter.img"
    subprocess.run(["as", "--32", "-o", made, HERE / "counter.s"], check=True, timeout=PATIENCE)
    command = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, made]
    subprocess.run(command, check=True, timeout=PATIENCE)
    assert image.stat().st_size == 512
    return image


def numbers_of(logs):
    """The numbers in a rotated log's files, oldest first; what has no newline yet is left out."""
    text = "".join(path.read_text() for path in logs)
    return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
