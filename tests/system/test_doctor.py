"""``herd doctor`` on what is shipped: on a machine with nothing installed, and on one with everything."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.system.binfmt.debian import own_architecture, unpacked

SERVICES = Path(__file__).parents[2] / "services"
BARE = (
    *("/usr/bin/env", "unshare", "--mount", "--propagation", "private", "sh", "-c"),
    # What herdpy itself needs is not looked up; whatever else is installed is hidden.
    'mount -t tmpfs none /usr/sbin && PATH=/nonexistent && exec "$@"',
    "sh",
)

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
    for name, package in {
        "build-vm": "apt-get install qemu-system-x86",
        "libvirtd": "apt-get install libvirt-daemon-system",
        "virtlogd": "apt-get install libvirt-daemon",
        "qemu-binfmt": "apt-get install qemu-user-static",
        "qemu-guest-agent": "apt-get install qemu-guest-agent",
    }.items():
        assert any(package in lack for lack in told[name]), told[name]
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
    (tmp_path / "port").touch()
    with (shipped.services / "qemu-guest-agent.toml").open("a") as file:
        file.write(f'qemu = "{agent}"\ndevice = "{tmp_path}/port"\n')
    shipped.prefix = ("unshare", "--mount", "--propagation", "private")
    shipped.start()
    told = json.loads(shipped.ok("doctor", "--json"))
    assert {name: lacks for name, lacks in told.items() if lacks} == {}
    [line] = shipped.ok("doctor").splitlines()
    assert line.startswith("Nothing is missing for ")
