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


def test_libvirtd_is_told_while_it_runs_or_restarted(busy):
    pid = busy.pid("libvirtd")
    busy.declare("max-size = 0\n", 'log-filters = "1:qemu"\nmax-workers = 30\nmax-clients = 100\n')
    said = busy.herdpy.ok("reload", "root")
    assert "~ libvirtd: is told of log-filters, max-clients, max-workers, and runs on" in said
    assert busy.pid("libvirtd") == pid
    assert admin(busy, "libvirtd", "server-threadpool-info", "libvirtd")["maxWorkers"] == "30"
    assert admin(busy, "libvirtd", "server-clients-info", "libvirtd")["nclients_max"] == "100"
    assert admin(busy, "libvirtd", "daemon-log-filters")["Logging filters"] == "1:*qemu*"
    busy.declare("max-size = 0\n", 'log-filters = "1:qemu"\nmax-workers = 30\nmax-clients = 100\novs-timeout = 9\n')
    said = busy.herdpy.ok("reload", "root")
    assert "~ libvirtd: is restarted now; guests run on" in said
    assert busy.pid("libvirtd") != pid
    assert busy.herdpy.ok("domains", "libvirtd").split() == ["1", "counter", "running"]
    assert admin(busy, "libvirtd", "server-threadpool-info", "libvirtd")["maxWorkers"] == "30"


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
