"""The verdict on KVM, on hosts made of a few files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from herdpy.qemu.accelerator import Accelerator, probe


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
    assert host(tmp_path, device=False) == Accelerator(kvm=False, reason=f"there is no {tmp_path}/kvm")


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
    assert verdict == Accelerator(kvm=False, reason=f"{tmp_path}/kvm cannot be opened: Is a directory")


def test_no_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    verdict = probe(device=str(tmp_path / "kvm"), cpuinfo=str(tmp_path / "none"), pvm_module=str(tmp_path / "none"))
    assert verdict == Accelerator(kvm=False, reason=f"{tmp_path}/none cannot be read: No such file or directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not open it")
def test_a_device_of_others(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch(mode=0o600)
    script = (
        "import os, sys; from herdpy.qemu.accelerator import probe\n"
        "os.chdir(sys.argv[1]); os.setuid(65534); print(probe(device='kvm').reason)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, cwd=Path.cwd()
    )
    assert result.stdout == "kvm cannot be opened: Permission denied\n", result.stderr
