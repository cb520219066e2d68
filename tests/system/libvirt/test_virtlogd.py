"""virtlogd: it is replaced without a line of a guest's log lost, and not stopped while one depends on it."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.system.libvirt.conftest import numbers_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")

TIMES = 100


def settled(log):
    """The files of a rotated log, oldest first."""
    older = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: int(path.suffix[1:]), reverse=True)
    return [*older, log]


def test_no_line_is_lost_while_everything_around_it_is_replaced(host, counter, eventually):
    """The guest writes without a pause; virtlogd executes itself a hundred times, and is the same process still."""
    # It rotates, and yet nothing of it is old enough to go, however slow the host is.
    host.declare('max-size = "4M"\nmax-backups = 32\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    logs = host.boot(counter)
    eventually(lambda: all(log.exists() and log.stat().st_size for log in logs))
    pid = host.pid("virtlogd")
    for time in range(TIMES):
        if time == 20:
            os.kill(host.herdpy.supervisor(), signal.SIGKILL)
        if time == 30:
            [logger] = host.herdpy.children("herdpy/logger/__main__.py")
            os.kill(logger, signal.SIGKILL)
        if time == 40:
            host.herdpy.ok("restart", "libvirtd")
        if time == 50:
            os.kill(host.pid("libvirtd"), signal.SIGKILL)
        if time == 60:
            asked = [host.herdpy.herd_in_background("reexec", "virtlogd") for _ in range(5)]
            assert [one.wait(60) for one in asked] == [0] * 5
        if time == 70:  # a supervisor that is killed in the middle of it, and one that is asked at once
            asked = host.herdpy.herd_in_background("reexec", "virtlogd")
            os.kill(host.herdpy.supervisor(), signal.SIGKILL)
            asked.wait(60)
        if time == 75:  # herdpy's own programs become others, in the middle of it and then by themselves
            asked = host.herdpy.herd_in_background("reexec", "virtlogd")
            host.herdpy.ok("upgrade", "root")
            host.herdpy.ok("upgrade", "root", "keeper")
            asked.wait(60)
        if time == 85:
            names = [log.name for log in logs]
            supervisor = host.herdpy.supervisor()
            host.herdpy.process.kill()
            host.herdpy.let_succeed(supervisor)
            logs = [host.path(f"/var/log/libvirt/qemu/{name}") for name in names]
            host.herdpy.ok("upgrade", "root", "keeper")
        said = host.herdpy.ok("reexec", "virtlogd")
        assert said == f"Service virtlogd has executed itself anew, as PID {pid} still.\n"
    eventually(lambda: host.herdpy.status("libvirtd")["status"] == "running")
    host.virsh("destroy", "counter")
    assert host.pid("virtlogd") == pid
    for log in logs:
        numbers = numbers_of(settled(log))
        missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        assert numbers == list(range(len(numbers))), f"{log}: of {numbers[-1] + 1} lines, {missing[:10]} are missing"
        assert len(numbers) > 1000


def test_it_is_not_stopped_while_it_writes_a_guests_log_unless_one_insists(host, counter, eventually):
    # Its own log is no guest's, though it be known by a link, or renamed by logrotate.
    host.declare('log-outputs = "1:file:/var/run/own/virtlogd.log"\n')
    host.start()
    host.path("/run/own").mkdir()
    host.herdpy.ok("start", "libvirtd")
    assert host.path("/run/own/virtlogd.log").exists()
    host.herdpy.ok("stop", "virtlogd")
    host.herdpy.ok("start", "libvirtd")
    host.path("/run/own/virtlogd.log").rename(host.path("/run/own/virtlogd.log.1"))
    host.herdpy.ok("stop", "virtlogd")
    host.herdpy.ok("start", "libvirtd")
    console, _ = host.boot(counter)
    eventually(lambda: console.exists() and console.stat().st_size)
    pid = host.pid("virtlogd")
    refused = host.herdpy.herd("stop", "virtlogd")
    assert refused.returncode == 1
    assert "cannot stop virtlogd: it writes the logs of counter, which would end for ever; " in refused.stdout
    assert "herd stop virtlogd --force" in refused.stdout
    # What requires it has not been stopped either.
    assert host.herdpy.status("libvirtd")["status"] == "running"
    assert host.pid("virtlogd") == pid

    said = host.herdpy.ok("restart", "virtlogd")
    assert "Service virtlogd has executed itself anew instead of being restarted: the logs of counter " in said
    assert host.pid("virtlogd") == pid

    host.virsh("destroy", "counter")
    said = host.herdpy.ok("restart", "virtlogd")
    assert "Service virtlogd has been started." in said
    assert host.pid("virtlogd") != pid

    host.virsh("start", "counter")
    assert host.herdpy.herd("stop", "virtlogd").returncode == 1
    host.herdpy.ok("stop", "virtlogd", "--force")
    assert host.herdpy.status("virtlogd")["status"] == "stopped"


def test_a_program_that_is_replaced_on_disk_is_executed(host, counter, eventually, tmp_path):
    program = tmp_path / "virtlogd"
    shutil.copy("/usr/sbin/virtlogd", program)
    host.declare(f'libvirt = "{program}"\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    console, _ = host.boot(counter)
    eventually(lambda: console.exists() and console.stat().st_size)
    pid = host.pid("virtlogd")

    def runs(path):
        return os.stat(f"/proc/{pid}/exe").st_ino == path.stat().st_ino

    def replace(source):
        beside = tmp_path / "virtlogd.dpkg-new"
        shutil.copy(source, beside)
        beside.rename(program)

    replace("/usr/sbin/virtlogd")
    assert not runs(program)
    eventually(lambda: runs(program))
    # One that cannot run is not executed: the logs would be lost.
    before = os.stat(f"/proc/{pid}/exe").st_ino
    replace("/bin/false")
    eventually(lambda: "new program" in host.herdpy.status("virtlogd")["details"])
    assert "it was not re-executed: " in host.herdpy.status("virtlogd")["details"]["new program"]
    refused = host.herdpy.herd("reexec", "virtlogd")
    assert refused.returncode == 1
    assert f"{program} does not start with it: it ended with 1" in refused.stdout + refused.stderr
    assert os.stat(f"/proc/{pid}/exe").st_ino == before
    # An upgrade that came while no supervisor was there.
    os.kill(host.herdpy.supervisor(), signal.SIGKILL)
    replace("/usr/sbin/virtlogd")
    eventually(lambda: runs(program))
    assert host.pid("virtlogd") == pid
    eventually(lambda: "new program" not in host.herdpy.status("virtlogd")["details"])
    size = console.stat().st_size
    eventually(lambda: console.stat().st_size > size)


def test_logs_that_ended_with_a_virtlogd_are_told(host, counter, eventually):
    host.declare()
    host.start()
    host.herdpy.ok("start", "libvirtd")
    console, _ = host.boot(counter)
    eventually(lambda: console.exists() and console.stat().st_size)
    assert "lost logs" not in host.herdpy.status("virtlogd")["details"]
    os.kill(host.pid("virtlogd"), signal.SIGKILL)
    eventually(lambda: "lost logs" in host.herdpy.status("virtlogd")["details"])
    assert host.herdpy.status("virtlogd")["details"]["lost logs"] == (
        "counter: the logs ended with the last virtlogd, and begin at each guest's next start"
    )


def test_a_state_directory_in_run_is_none_the_worse_for_the_trial(host):
    host.herdpy.state = Path("/run/herdpy-state")
    host.declare()
    host.start()
    host.herdpy.ok("start", "virtlogd")
    assert "has executed itself anew" in host.herdpy.ok("reexec", "virtlogd")


def test_it_is_protected(host):
    host.declare()
    host.start()
    host.herdpy.ok("start", "virtlogd")
    pid = host.pid("virtlogd")
    with open("/proc/self/status") as status:
        [capabilities] = [int(line.split()[1], 16) for line in status if line.startswith("CapEff:")]
    is_able = capabilities >> 24 & 1  # CAP_SYS_RESOURCE; some containers' root does not have it
    with open(f"/proc/{pid}/oom_score_adj") as score:
        assert score.read().strip() == ("-900" if is_able else Path("/proc/self/oom_score_adj").read_text().strip())
    with open(f"/proc/{pid}/limits") as limits:
        assert ("Max open files            16384                16384" in limits.read()) == is_able


def test_a_key_that_the_installed_libvirt_does_not_know_is_told(host, tmp_path):
    """virtlogd ignores it without a word; its lens, which comes with it, knows that."""
    whole = Path("/usr/share/augeas/lenses/virtlogd.aug").read_text()
    lens = tmp_path / "lenses" / "virtlogd.aug"
    lens.parent.mkdir()
    lens.write_text(whole.replace('| int_entry "max_backups"', ""))
    host.herdpy.environment["AUGEAS_LENS_LIB"] = str(lens.parent)
    host.declare("max-backups = 7\n")
    host.start()
    host.herdpy.ok("start", "virtlogd")
    [told] = host.herdpy.status("virtlogd")["details"]["ignored"].splitlines()
    assert told == "max_backups = 7: this libvirt's lens does not know it"
    lens.write_text(whole)
    host.herdpy.ok("reexec", "virtlogd")
    assert "ignored" not in host.herdpy.status("virtlogd")["details"]
    lens.write_text("no lens\n")
    host.herdpy.ok("reexec", "virtlogd")
    assert "ignored" not in host.herdpy.status("virtlogd")["details"]
