"""The verdict on KVM, on hosts made of a few files."""

import grp
import os
import pwd
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from herdpy.qemu.accelerator import FIRMWARE, Accelerator, Virtualized, probe


def host(tmp_path: Path, *, device: bool = True, flags: str = "fpu vmx sse", pvm: bool = False) -> Accelerator:
    if device:
        (tmp_path / "kvm").touch(mode=0o600)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvmx flags\t: vnmi svm\nflags\t\t: {flags}\nbugs\t\t: vmx\n\n")
    if pvm:
        (tmp_path / "kvm_pvm").mkdir()
    return probe(device=str(tmp_path / "kvm"), cpuinfo=str(tmp_path / "cpuinfo"), pvm_module=str(tmp_path / "kvm_pvm"))


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_kvm_where_the_device_opens_and_the_processor_virtualizes(tmp_path: Path, flag: str) -> None:
    assert host(tmp_path, flags=f"fpu {flag} sse") == Accelerator(
        kvm=True, reason=f"{tmp_path}/kvm opens and the processor has {flag}"
    )


def test_no_device(tmp_path: Path) -> None:
    assert host(tmp_path, device=False) == Accelerator(
        kvm=False, reason=f"there is no {tmp_path}/kvm", advice="modprobe kvm_intel"
    )
    assert host(tmp_path, device=False, flags="svm").advice == "modprobe kvm_amd"
    assert host(tmp_path, device=False, flags="fpu").advice == FIRMWARE


def test_a_processor_without_the_flags(tmp_path: Path) -> None:
    verdict = host(tmp_path, flags="fpu vmxx hypervisor")
    assert not verdict.kvm
    assert verdict.reason == f"the processor shows neither vmx nor svm in {tmp_path}/cpuinfo"


def test_pvm_is_no_kvm_even_with_the_flags(tmp_path: Path) -> None:
    verdict = host(tmp_path, pvm=True)
    assert not verdict.kvm
    assert "PVM" in verdict.reason


def test_a_device_that_does_not_open_for_writing(tmp_path: Path) -> None:
    (tmp_path / "kvm").mkdir()
    verdict = host(tmp_path, device=False)
    assert (verdict.kvm, verdict.reason) == (False, f"{tmp_path}/kvm cannot be opened: Is a directory")


def test_no_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    verdict = probe(device=str(tmp_path / "kvm"), cpuinfo=str(tmp_path / "none"), pvm_module=str(tmp_path / "none"))
    assert verdict == Accelerator(kvm=False, reason=f"{tmp_path}/none cannot be read: No such file or directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not open it")
def test_a_device_of_others(tmp_path: Path) -> None:
    host(tmp_path)
    tmp_path.chmod(0o711)
    script = (
        "import os, sys; from herdpy.qemu.accelerator import probe\n"
        "os.chdir(sys.argv[1]); os.setuid(65534); "
        "verdict = probe(device='kvm', cpuinfo='cpuinfo', pvm_module='none'); print(verdict.reason, verdict.advice)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, cwd=Path.cwd()
    )
    reason, advice = "kvm cannot be opened: Permission denied", "chgrp kvm kvm && chmod g+rw kvm && adduser nobody kvm"
    assert result.stdout == f"{reason} {advice}, then start herdpy anew\n", result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's herdpy runs QEMU as another user")
def test_a_device_that_the_user_who_runs_qemu_may_not_open(tmp_path: Path) -> None:
    host(tmp_path)
    where = {
        "device": str(tmp_path / "kvm"),
        "cpuinfo": str(tmp_path / "cpuinfo"),
        "pvm_module": str(tmp_path / "none"),
    }
    device, nobody = tmp_path / "kvm", pwd.getpwnam("nobody")
    assert probe(**where).kvm
    verdict = probe(**where, user="nobody")
    assert (verdict.kvm, verdict.reason) == (False, f"{device} cannot be opened by nobody, as whom QEMU runs")
    os.chown(device, 0, grp.getgrnam("tty").gr_gid)
    device.chmod(0o660)
    assert probe(**where, user="nobody").advice == "adduser nobody tty, then start herdpy anew"
    os.chown(device, 0, nobody.pw_gid)
    assert probe(**where, user="nobody").kvm
    device.chmod(0o640)
    assert not probe(**where, user="nobody").kvm
    assert probe(**where, user="yet-to-be-made").kvm


def test_what_the_doctor_says(tmp_path: Path) -> None:
    host(tmp_path, flags="vmx")
    look = Virtualized(
        is_wanted=False,
        user=None,
        where="accelerator in vm.toml",
        device=str(tmp_path / "kvm"),
        cpuinfo=str(tmp_path / "cpuinfo"),
        pvm_module=str(tmp_path / "kvm_pvm"),
    )
    assert look.lack() is None
    (tmp_path / "kvm_pvm").mkdir()
    assert look.lack() == (
        "it is emulated (TCG), several times slower than with KVM: this host's KVM is PVM, which boots no ordinary "
        'kernel; nothing can be done about it here; to be told no more, set accelerator in vm.toml to "tcg"'
    )
    (tmp_path / "kvm").unlink()
    assert look.lack() == (
        f"it is emulated (TCG), several times slower than with KVM: there is no {tmp_path}/kvm; modprobe kvm_intel"
    )
    assert msgspec.structs.replace(look, is_wanted=True).lack() == (
        f"it cannot run on KVM, as it is declared to: there is no {tmp_path}/kvm; modprobe kvm_intel; "
        'or set accelerator in vm.toml to "auto"'
    )
