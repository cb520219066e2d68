"""``herd doctor`` on what is shipped: on a machine with nothing installed, and on one with everything."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.system.binfmt.debian import own_architecture, unpacked
from tests.system.libvirt.conftest import JAIL

SERVICES = Path(__file__).parents[2] / "services"
BARE = (
    *("/usr/bin/env", "unshare", "--mount", "--propagation", "private", "sh", "-c"),
    # What herdpy itself needs is not looked up; whatever else is installed is hidden.
    "mount -t tmpfs none /usr/sbin && mkdir -p /usr/sbin/bin /usr/sbin/dev/shm && ln -s /proc/self/fd /usr/sbin/dev && "
    "cp -a /dev/null /dev/urandom /dev/tty /usr/sbin/dev && "
    "find /usr/bin -name 'python3*' -exec cp -a {} /usr/sbin/bin ';' && "
    "mount --bind /usr/sbin/dev /dev && mount --bind /usr/sbin/bin /usr/bin && "
    'PATH=/nonexistent && exec "$@"',
    "sh",
)
EMULATED = "it is emulated (TCG), several times slower than with KVM:"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")


@pytest.fixture
def shipped(herdpy):
    """A herdpy with the shipped declarations, not started yet."""
    for path in SERVICES.glob("*.toml"):
        shutil.copy(path, herdpy.services)
    return herdpy


def test_with_nothing_installed_every_package_is_named(shipped):
    shipped.prefix = BARE
    shipped.start()
    told = json.loads(shipped.ok("doctor", "--json"))
    assert set(told) == {path.stem for path in SERVICES.glob("*.toml")}
    for name, package in (
        ("build-vm", "apt-get install qemu-system-x86"),
        ("libvirtd", "apt-get install libvirt-daemon-system"),
        ("libvirtd", "apt-get install qemu-system-x86"),
        ("virtlogd", "apt-get install libvirt-daemon"),
        ("qemu-binfmt", "apt-get install qemu-user-static"),
        ("qemu-guest-agent", "apt-get install qemu-guest-agent"),
    ):
        assert any(package in lack for lack in told[name]), told[name]
    for name in ("build-vm", "hurd-vm"):
        assert any(lack.startswith(f"{EMULATED} there is no /dev/kvm; ") for lack in told[name]), told[name]
        assert "not installed: there is no ssh-keygen in the PATH; apt-get install openssh-client" in told[name]
    assert any(lack.startswith(f"there is no image {shipped.state}/hurd/hurd.img; ") for lack in told["hurd-vm"])
    assert told["loopback"] == []
    refused = shipped.herd("start", "virtlogd")
    assert (
        "cannot start virtlogd: not installed: there is no /usr/sbin/virtlogd; apt-get install libvirt-daemon, or "
        in (refused.stdout)
    )
    assert "apt-get install libvirt-daemon" in shipped.status("virtlogd")["reason"]


def test_with_everything_nothing_is_missing(shipped, tmp_path):
    emulators = unpacked("qemu-user-static", own_architecture()) / "usr" / "bin"
    agent = unpacked("qemu-guest-agent", own_architecture()) / "usr" / "sbin" / "qemu-ga"
    with (shipped.services / "qemu-binfmt.toml").open("a") as file:
        file.write(f'platforms = ["m68k", "alpha"]\nqemu = "{emulators}"\n')
    for name in ("build-vm", "hurd-vm"):  # where there is KVM nothing is said; and here one is content without
        with (shipped.services / f"{name}.toml").open("a") as file:
            file.write('accelerator = "tcg"\n')
    image = shipped.state / "hurd" / "hurd.img"
    image.parent.mkdir(parents=True)
    image.touch()
    (tmp_path / "port").touch()
    with (shipped.services / "qemu-guest-agent.toml").open("a") as file:
        file.write(f'qemu = "{agent}"\ndevice = "{tmp_path}/port"\n')
    shipped.prefix = JAIL  # where libvirt's daemons find nothing of the host, and their user
    shipped.start()
    told = json.loads(shipped.ok("doctor", "--json"))
    assert {name: lacks for name, lacks in told.items() if lacks} == {}
    [line] = shipped.ok("doctor").splitlines()
    assert line.startswith("Nothing is missing for ")
    # And it is true: the one that needs most starts.
    shipped.ok("start", "libvirtd")
    assert shipped.ok("domains", "libvirtd") == "No domain runs.\n"
