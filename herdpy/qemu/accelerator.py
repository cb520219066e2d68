"""Whether a guest can run on KVM here, and if not, why not."""

import os

import msgspec


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on this host's KVM."""

    kvm: bool
    """False means TCG: QEMU's own translator, slower but always there."""
    reason: str
    """Why, in words, to be shown to a person."""


def probe(
    *, device: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo", pvm_module: str = "/sys/module/kvm_pvm"
) -> Accelerator:
    """Find out whether KVM here can boot an ordinary kernel.

    A device that opens is not enough. On a host whose KVM is PVM (the module ``kvm_pvm``, a hypervisor for hosts that
    are guests themselves) KVM_CREATE_VM works, but any kernel that does not know PVM runs in KVM's instruction emulator
    and dies there; QEMU's own fallback (``accel=kvm:tcg``) does not notice. Hardware virtualization shows as ``vmx``
    (Intel) or ``svm`` (AMD) among the flags of proc_cpuinfo(5).

    Args:
        device, cpuinfo, pvm_module: where to look.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Accelerator(kvm=False, reason=f"there is no {device}")
    except OSError as error:
        return Accelerator(kvm=False, reason=f"{device} cannot be opened: {error.strerror}")
    if os.path.exists(pvm_module):
        return Accelerator(kvm=False, reason="this host's KVM is PVM, which boots no ordinary kernel")
    try:
        flags = _processor_flags(cpuinfo)
    except OSError as error:
        return Accelerator(kvm=False, reason=f"{cpuinfo} cannot be read: {error.strerror}")
    for flag in ("vmx", "svm"):
        if flag in flags:
            return Accelerator(kvm=True, reason=f"{device} opens and the processor has {flag}")
    return Accelerator(kvm=False, reason=f"the processor shows neither vmx nor svm in {cpuinfo}")


def _processor_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor; empty where there are none (other architectures call them otherwise)."""
    with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    return frozenset()
