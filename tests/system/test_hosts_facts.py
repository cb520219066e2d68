"""Mounts, and what holds of the whole host: in namespaces of their own, so that the host notices nothing."""

import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")


@pytest.fixture
def jailed(herdpy):
    """A herdpy whose mounts and network are its own; its network has only lo, and that is down."""
    herdpy.prefix = ("unshare", "--mount", "--propagation", "private", "--net")
    return herdpy


def inside(herdpy, *command):
    """Run a command where herdpy runs."""
    pid = str(herdpy.process.pid)
    return subprocess.run(
        ["nsenter", "--target", pid, "--mount", "--net", "--root", *command], capture_output=True, text=True, timeout=60
    )


def mounted(herdpy, directory):
    return inside(herdpy, "findmnt", "-n", "-o", "FSTYPE,OPTIONS", "--mountpoint", str(directory)).stdout


def tmpfs(directory, more=""):
    return f'type = "mount"\nfile-system = "tmpfs"\nmount-point = "{directory}"\n{more}'


def test_a_file_system_is_mounted_while_the_service_runs(jailed, tmp_path):
    jailed.declare(
        "scratch", tmpfs(tmp_path / "scratch", 'options = ["size=1m", "noexec"]\ncreate-mount-point = true\n')
    )
    needs = f'command = ["sleep", "1000"]\nrequirement = ["file-system-{tmp_path}/scratch"]\n'
    jailed.declare("needs", needs)
    jailed.start()
    jailed.ok("start", "needs")
    assert "tmpfs" in mounted(jailed, tmp_path / "scratch")
    assert "noexec" in mounted(jailed, tmp_path / "scratch")
    assert jailed.status("scratch")["details"]["mount"] == "mounted"
    os.kill(jailed.supervisor(), 9)
    jailed.ok("stop", "scratch")
    assert mounted(jailed, tmp_path / "scratch") == ""
    assert jailed.status("needs")["status"] == "stopped"


def test_a_file_system_in_use_stays_and_the_service_goes_on_running(jailed, tmp_path):
    (tmp_path / "busy").mkdir()
    jailed.declare("busy", tmpfs(tmp_path / "busy"))
    jailed.declare("user", f'command = ["sleep", "1000"]\ndirectory = "{tmp_path}/busy"\nrespawn = false\n')
    jailed.start()
    jailed.ok("start", "busy")
    jailed.ok("start", "user")
    refused = jailed.herd("stop", "busy")
    assert refused.returncode == 1
    assert f"Service busy might have failed to stop: {tmp_path}/busy cannot be unmounted: " in refused.stdout
    assert f"target is busy; see who uses it: fuser -vm {tmp_path}/busy" in refused.stdout
    assert jailed.status("busy")["status"] == "running"
    jailed.ok("stop", "user")
    jailed.ok("stop", "busy")
    assert mounted(jailed, tmp_path / "busy") == ""


def test_what_was_mounted_before_is_left_there(jailed, tmp_path):
    (tmp_path / "old").mkdir()
    jailed.declare("old", tmpfs(tmp_path / "old"))
    jailed.start()
    assert inside(jailed, "mount", "-t", "tmpfs", "none", str(tmp_path / "old")).returncode == 0
    jailed.ok("start", "old")
    assert jailed.status("old")["details"]["mount"] == "was there already, and stays there"
    jailed.ok("stop", "old")
    assert "tmpfs" in mounted(jailed, tmp_path / "old")
    assert inside(jailed, "umount", str(tmp_path / "old")).returncode == 0


def test_something_else_on_the_mount_point_is_refused(jailed, tmp_path):
    (tmp_path / "other").mkdir()
    jailed.declare("other", tmpfs(tmp_path / "other"))
    jailed.start()
    assert inside(jailed, "mount", "-t", "proc", "proc", str(tmp_path / "other")).returncode == 0
    refused = jailed.herd("start", "other")
    assert f"cannot start other: proc (proc) is mounted on {tmp_path}/other already" in refused.stdout
    assert inside(jailed, "umount", str(tmp_path / "other")).returncode == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "there is no directory {0}/gone; make it, or set create-mount-point = true"),
        ('options = ["nonsense"]\ncreate-mount-point = true\n', "none cannot be mounted on {0}/gone: "),
    ],
)
def test_a_mount_that_fails_says_why_in_one_line(jailed, tmp_path, more, said):
    jailed.declare("gone", tmpfs(tmp_path / "gone", more))
    jailed.start()
    refused = jailed.herd("start", "gone")
    assert refused.returncode == 1
    assert f"cannot start gone: {said.format(tmp_path)}" in refused.stdout


def test_the_reason_of_a_failure_is_told_not_where_else_to_look(jailed, tmp_path):
    jailed.declare("gone", f'type = "mount"\nfile-system = "nosuchfs"\nmount-point = "{tmp_path}"\n')
    jailed.start()
    refused = jailed.herd("start", "gone")
    assert f"cannot start gone: none cannot be mounted on {tmp_path}: special device none does not" in refused.stdout
    assert "dmesg" not in refused.stdout


def test_a_mount_point_that_is_a_symlink_is_mounted_once_and_unmounted(jailed, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    jailed.declare("link", tmpfs(tmp_path / "link"))
    jailed.start()
    jailed.ok("start", "link")
    assert mounted(jailed, tmp_path / "real").count("tmpfs") == 1
    jailed.ok("stop", "link")
    assert mounted(jailed, tmp_path / "real") == ""


@pytest.fixture
def slow_mount(jailed, tmp_path):
    """Lets mount(8) go on long after it has mounted, and write its PID."""
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "mount"
    slow.write_text(f'#!/bin/sh\n{shutil.which("mount")} "$@"\necho $$ > {tmp_path}/slow\nexec sleep 1000\n')
    slow.chmod(0o755)
    jailed.environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    return tmp_path / "slow"


def test_a_start_that_is_stopped_leaves_no_mount(jailed, eventually, tmp_path, slow_mount):
    (tmp_path / "slow-one").mkdir()
    jailed.declare("slow-one", tmpfs(tmp_path / "slow-one"))
    jailed.start()
    starting = jailed.herd_in_background("start", "slow-one")
    eventually(slow_mount.exists)
    assert "tmpfs" in mounted(jailed, tmp_path / "slow-one")
    jailed.ok("stop", "slow-one")
    assert starting.wait(60) == 1
    assert mounted(jailed, tmp_path / "slow-one") == ""


def test_what_a_killed_supervisor_has_mounted_is_unmounted_at_the_stop(jailed, eventually, tmp_path, slow_mount):
    (tmp_path / "slow-one").mkdir()
    jailed.declare("slow-one", tmpfs(tmp_path / "slow-one"))
    jailed.start()
    starting = jailed.herd_in_background("start", "slow-one")
    eventually(slow_mount.exists)
    os.kill(jailed.supervisor(), 9)
    assert starting.wait(60) == 0
    assert jailed.status("slow-one")["details"]["mount"] == "mounted"
    jailed.ok("stop", "slow-one")
    assert mounted(jailed, tmp_path / "slow-one") == ""


def test_a_bind_mount_is_there_only_when_its_directory_is_bound(jailed, tmp_path):
    for name in ("source", "bound"):
        (tmp_path / name).mkdir()
    text = 'type = "mount"\nfile-system = "none"\noptions = ["bind"]\nunmount = false\n'
    jailed.declare("bound", f'{text}device = "{tmp_path}/source"\nmount-point = "{tmp_path}/bound"\n')
    jailed.start()
    assert inside(jailed, "mount", "-t", "tmpfs", "foreign", str(tmp_path / "bound")).returncode == 0
    refused = jailed.herd("start", "bound")
    assert f"cannot start bound: foreign (tmpfs) is mounted on {tmp_path}/bound already" in refused.stdout
    assert inside(jailed, "umount", str(tmp_path / "bound")).returncode == 0
    for _ in range(2):
        jailed.ok("start", "bound")
        jailed.ok("stop", "bound")


def test_what_is_to_be_read_only_is_not_there_when_it_is_writable(jailed, tmp_path):
    (tmp_path / "old").mkdir()
    jailed.declare("old", tmpfs(tmp_path / "old", 'options = ["ro"]\nunmount = false\n'))
    jailed.start()
    assert inside(jailed, "mount", "-t", "tmpfs", "none", str(tmp_path / "old")).returncode == 0
    refused = jailed.herd("start", "old")
    assert f"none (tmpfs, writable) is mounted on {tmp_path}/old already; unmount it" in refused.stdout
    assert inside(jailed, "umount", str(tmp_path / "old")).returncode == 0
    for _ in range(2):
        jailed.ok("start", "old")
        jailed.ok("stop", "old")


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="this host has no loop devices")
def test_an_image_and_a_symlink_to_it_are_known_again(jailed, tmp_path):
    image, link = tmp_path / "image", tmp_path / "link"
    with image.open("wb") as file:
        file.truncate(4 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=60)
    link.symlink_to(image)
    for device in (image, link):
        where = tmp_path / f"{device.name}-mounted"
        text = f'type = "mount"\ndevice = "{device}"\nmount-point = "{where}"\ncreate-mount-point = true\n'
        jailed.declare(device.name, f'{text}file-system = "auto"\noptions = ["loop"]\nunmount = false\n')
    jailed.start()
    for name in ("image", "link"):
        for _ in range(2):
            jailed.ok("start", name)
            jailed.ok("stop", name)
        assert inside(jailed, "umount", f"{tmp_path}/{name}-mounted").returncode == 0


def test_loopback_is_brought_up(jailed):
    jailed.declare("loopback", 'type = "host"\nstate = "loopback"\n')
    jailed.start()
    jailed.ok("start", "loopback")
    assert "LOOPBACK,UP" in inside(jailed, "ip", "link", "show", "lo").stdout
    assert "127.0.0.1/8" in inside(jailed, "ip", "address", "show", "lo").stdout


def test_networking_is_there_as_soon_as_an_interface_has_an_address(jailed, eventually):
    jailed.declare("networking", 'type = "host"\nstate = "networking"\npatience = 50.0\n')
    jailed.start()
    starting = jailed.herd_in_background("start", "networking")
    eventually(lambda: jailed.status("networking")["stage"] == "waiting for a network interface other than lo")
    assert inside(jailed, "ip", "link", "add", "there", "type", "veth", "peer", "name", "back").returncode == 0
    for end in ("there", "back"):
        assert inside(jailed, "ip", "link", "set", end, "up").returncode == 0
    assert inside(jailed, "ip", "address", "add", "192.0.2.7/24", "dev", "there").returncode == 0
    assert starting.wait(60) == 0
    assert jailed.status("networking")["details"]["network"] == "there 192.0.2.7"


def test_networking_says_that_there_is_only_lo_or_fails(jailed):
    jailed.declare("patient", 'type = "host"\nstate = "networking"\npatience = 0.1\n')
    jailed.declare("strict", 'type = "host"\nstate = "networking"\npatience = 0.1\nmandatory = true\n')
    jailed.start()
    jailed.ok("start", "patient")
    reason = "no interface other than lo has had an address for 0.1 s"
    assert jailed.status("patient")["details"]["network"] == reason
    refused = jailed.herd("start", "strict")
    assert f"cannot start strict: {reason}; see: ip address" in refused.stdout


def test_udev_and_user_processes_hold_here(jailed):
    jailed.declare("udev", 'type = "host"\nstate = "udev"\n')
    jailed.declare("user-processes", 'type = "host"\nstate = "user-processes"\nrequirement = ["udev"]\n')
    jailed.start()
    jailed.ok("start", "user-processes")
    assert jailed.status("udev")["status"] == "running"
