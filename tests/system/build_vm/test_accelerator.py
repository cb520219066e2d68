"""The choice between KVM and TCG, where the host's KVM is not what it seems."""

import sys
from pathlib import Path

import pytest

from herdpy.qemu.accelerator import probe

BOOT = 240
BELIEVER = str(Path(__file__).with_name("believes_in_kvm.py"))
needs_false_kvm = pytest.mark.skipif(probe().kvm, reason="this host's KVM boots guests")


@needs_false_kvm
def test_a_kvm_that_does_not_boot_the_guest_is_left_for_tcg(machines, monkeypatch):
    """As root QEMU may not open /dev/kvm here, or hangs on it: either way the start goes on with TCG and succeeds."""
    whole = machines.command()
    monkeypatch.setattr(machines, "command", lambda: [sys.executable, "-I", BELIEVER, *whole[1:]])
    machines.declare("build-vm", "start-timeout = 120")
    machines.start()
    machines.ok("start", "build-vm", timeout=BOOT)
    assert machines.ok("exec", "build-vm", "--", "date", "+%Y") == "2020\n"
    status = machines.status("build-vm")
    assert status["details"]["accelerator"] == "TCG (emulation): the guest did not start on KVM"
    assert "accelerator: TCG (emulation): the guest did not start on KVM\n" in machines.ok("configuration", "build-vm")
    assert "start-attempt-failed service=build-vm" in machines.said()


@needs_false_kvm
def test_kvm_that_is_insisted_on_fails_with_its_reason(machines):
    machines.declare("build-vm", 'accelerator = "kvm"\ncpu = "host"\nstart-timeout = 20')
    machines.start()
    failed = machines.herd("start", "build-vm", timeout=BOOT)
    assert failed.returncode == 1
    assert failed.stdout.startswith("cannot start build-vm: it "), failed.stdout
    assert "the last lines of " in failed.stdout
