"""Declarations of libvirtd and virtlogd that are changed while guests run."""

import os

import pytest

from tests.system.libvirt.conftest import numbers_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")


@pytest.fixture
def busy(host, counter, eventually):
    """A host with a guest that writes without a pause, and its logs."""
    host.declare("max-size = 0\n")
    host.start()
    host.herdpy.ok("start", "libvirtd")
    host.logs = host.boot(counter)
    eventually(lambda: all(log.exists() and log.stat().st_size for log in host.logs))
    return host


def admin(host, daemon, *command):
    said = host.inside("virt-admin", "-c", f"{daemon}:///system", *command).stdout
    return dict(tuple(map(str.strip, line.split(":", 1))) for line in said.splitlines() if ":" in line)


LIVE = """\
log-filters = "1:qemu"
log-outputs = "2:file:/run/libvirtd.log 3:stderr"
min-workers = 6
max-workers = 30
prio-workers = 4
max-clients = 100
max-anonymous-clients = 9
admin-min-workers = 2
admin-max-workers = 7
admin-max-clients = 8
"""


def told(host):
    """What a running libvirtd says that it has been told."""
    said = {}
    for server in ("libvirtd", "admin"):
        for command in ("server-threadpool-info", "server-clients-info"):
            said |= {f"{server} {key}": value for key, value in admin(host, "libvirtd", command, server).items()}
    said |= {**admin(host, "libvirtd", "daemon-log-filters"), **admin(host, "libvirtd", "daemon-log-outputs")}
    counters = {"nWorkers", "freeWorkers", "jobQueueDepth", "nclients", "nclients_unauth"}
    return {key: value for key, value in said.items() if key.rpartition(" ")[2] not in counters}


def test_libvirtd_is_told_while_it_runs_or_restarted(busy):
    pid = busy.pid("libvirtd")
    busy.declare("max-size = 0\n", LIVE)
    said = busy.herdpy.ok("reload", "root")
    keys = sorted(line.split(" = ")[0] for line in LIVE.splitlines())
    assert f"~ libvirtd: is told of {', '.join(keys)}, and runs on" in said
    assert busy.pid("libvirtd") == pid
    wanted = {
        "Logging filters": "1:*qemu*",
        "Logging outputs": "2:file:/run/libvirtd.log 3:stderr",
        "libvirtd minWorkers": "6",
        "libvirtd maxWorkers": "30",
        "libvirtd prioWorkers": "4",
        "libvirtd nclients_max": "100",
        "libvirtd nclients_unauth_max": "9",
        "admin minWorkers": "2",
        "admin maxWorkers": "7",
        "admin prioWorkers": "0",
        "admin nclients_max": "8",
        "admin nclients_unauth_max": "0",
    }
    assert told(busy) == wanted
    assert busy.path("/run/libvirtd.log").exists()

    # Only libvirtd itself can tell that it cannot open a file. Nothing is left of what it is told along with that.
    placed = (busy.herdpy.state / "libvirt" / "libvirtd.conf").read_text()
    busy.declare(
        "max-size = 0\n", LIVE.replace("/run/libvirtd.log", "/no/such/x").replace("30", "40").replace("= 8", "= 9")
    )
    refused = busy.herdpy.herd("reload", "root")
    assert refused.returncode == 1
    assert "libvirtd stays as it is: libvirtd does not take its new settings: " in refused.stdout
    assert "/no/such/x" in refused.stdout
    assert told(busy) == wanted
    # Nor when all is taken, but the file for the next start cannot be written.
    busy.declare("max-size = 0\n", LIVE.replace("30", "40").replace("= 8", "= 9").replace("1:qemu", "1:util"))
    (busy.herdpy.state / "libvirt").rename(busy.herdpy.state / "aside")
    (busy.herdpy.state / "libvirt").touch()
    refused = busy.herdpy.herd("reload", "root")
    assert "libvirtd stays as it is: cannot write " in refused.stdout
    assert told(busy) == wanted
    (busy.herdpy.state / "libvirt").unlink()
    (busy.herdpy.state / "aside").rename(busy.herdpy.state / "libvirt")
    assert (busy.herdpy.state / "libvirt" / "libvirtd.conf").read_text() == placed

    # What takes a restart is tried beforehand: a wrong file does not take down the one that runs.
    busy.declare("max-size = 0\n", LIVE.replace("/run/libvirtd.log", "/no/such/x") + "ovs-timeout = 9\n")
    refused = busy.herdpy.herd("reload", "root")
    assert (
        "libvirtd stays as it is: it was not restarted: /usr/sbin/libvirtd does not start with it: " in refused.stdout
    )
    assert "/no/such/x" in refused.stdout
    assert busy.pid("libvirtd") == pid
    assert told(busy) == wanted
    assert sorted(path.name for path in (busy.herdpy.state / "libvirt").iterdir()) == ["libvirtd.conf", "virtlogd.conf"]

    busy.declare("max-size = 0\n", f"{LIVE}ovs-timeout = 9\n")
    said = busy.herdpy.ok("reload", "root")
    assert "~ libvirtd: is restarted now; guests run on" in said
    assert busy.pid("libvirtd") != pid
    assert busy.herdpy.ok("domains", "libvirtd").split() == ["1", "counter", "running"]
    assert told(busy) == wanted


def test_virtlogd_executes_itself_anew_and_a_mistake_leaves_it_alone(busy):
    pid = busy.pid("virtlogd")
    busy.declare("max-size = 0\nmax-backups = 7\nmax-clients = 100\nadmin-max-clients = 9\n")
    said = busy.herdpy.ok("reload", "root")
    assert "~ virtlogd: executes itself anew" in said
    assert admin(busy, "virtlogd", "server-clients-info", "virtlogd")["nclients_max"] == "100"
    assert admin(busy, "virtlogd", "server-clients-info", "admin")["nclients_max"] == "9"
    placed = (busy.herdpy.state / "libvirt" / "virtlogd.conf").read_text()
    assert "max_backups = 7\n" in placed

    busy.declare("max-backups = 33\n")
    refused = busy.herdpy.herd("reload", "root")
    assert f"{busy.herdpy.services}/virtlogd.toml:2: max-backups: expected a whole number" in refused.stdout
    # What only virtlogd itself can tell it is asked before the one that runs has to take it.
    busy.declare('log-outputs = "3:file:/no/such/directory/virtlogd.log"\n')
    refused = busy.herdpy.herd("reload", "root")
    assert "virtlogd stays as it is: it was not re-executed: /usr/sbin/virtlogd does not " in refused.stdout
    assert "/no/such/directory/virtlogd.log" in refused.stdout
    assert (busy.herdpy.state / "libvirt" / "virtlogd.conf").read_text() == placed
    assert busy.pid("virtlogd") == pid
    busy.virsh("destroy", "counter")
    for log in busy.logs:
        numbers = numbers_of([log])
        assert numbers == list(range(len(numbers)))
