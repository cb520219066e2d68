"""Whether a guest can run on KVM here, and if not, why not."""

import grp
import os
import pwd
import stat

import msgspec

DEVICE = "/dev/kvm"
CPUINFO = "/proc/cpuinfo"
PVM_MODULE = "/sys/module/kvm_pvm"
MODULES = {"vmx": "kvm_intel", "svm": "kvm_amd"}
"""The kernel's module for each flag that tells of hardware virtualization: Intel's, AMD's."""
FIRMWARE = (
    "switch on virtualization (Intel VT-x, AMD-V) in the firmware, or, if this host is a virtual machine, let its own"
    " host pass it on"
)
"""What to do when the processor shows no such flag."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on this host's KVM."""

    kvm: bool
    """False means TCG: QEMU's own translator, slower but always there."""
    reason: str
    """Why, in words, to be shown to a person."""
    advice: str = ""
    """What to do, if something can be done, so that there is KVM."""


def probe(
    *, device: str = DEVICE, cpuinfo: str = CPUINFO, pvm_module: str = PVM_MODULE, user: str | None = None
) -> Accelerator:
    """Find out whether KVM here can boot an ordinary kernel.

    A device that opens is not enough. On a host whose KVM is PVM (the module ``kvm_pvm``, a hypervisor for hosts that
    are guests themselves) KVM_CREATE_VM works, but any kernel that does not know PVM runs in KVM's instruction emulator
    and dies there; QEMU's own fallback (``accel=kvm:tcg``) does not notice. Hardware virtualization shows as ``vmx``
    (Intel) or ``svm`` (AMD) among the flags of proc_cpuinfo(5).

    Args:
        device, cpuinfo, pvm_module: where to look.
        user: who QEMU will run as, and must be able to open the device, too; None means: as we do.
    """
    try:
        flag: str | None = next((flag for flag in MODULES if flag in _processor_flags(cpuinfo)), None)
        unread = None
    except OSError as error:
        flag, unread = None, f"{cpuinfo} cannot be read: {error.strerror}"
    advice = FIRMWARE if flag is None else f"modprobe {MODULES[flag]}"
    if not os.path.exists(device):
        return Accelerator(kvm=False, reason=f"there is no {device}", advice=advice)
    # Before the permission, which would not help.
    if os.path.exists(pvm_module):
        return Accelerator(kvm=False, reason="this host's KVM is PVM, which boots no ordinary kernel")
    if unread is not None:
        return Accelerator(kvm=False, reason=unread)
    if flag is None:
        reason = f"the processor shows neither vmx nor svm in {cpuinfo}"
        return Accelerator(kvm=False, reason=reason, advice=FIRMWARE)
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        reason = f"{device} cannot be opened: {error.strerror}"
        is_refused = isinstance(error, PermissionError)
        return Accelerator(kvm=False, reason=reason, advice=_admission(device, _own_name()) if is_refused else advice)
    if user is not None and not _may_open(device, user):
        reason = f"{device} cannot be opened by {user}, as whom QEMU runs"
        return Accelerator(kvm=False, reason=reason, advice=_admission(device, user))
    return Accelerator(kvm=True, reason=f"{device} opens and the processor has {flag}")


class Virtualized(msgspec.Struct, frozen=True, kw_only=True):
    """A foresight: whether a machine has KVM, as far as one can tell without trying."""

    is_wanted: bool
    """Whether it is not to run without."""
    user: str | None
    """Who QEMU runs as; None means: as herdpy."""
    where: str
    """Where that is declared: ``accelerator in /etc/herdpy/services/build-vm.toml``."""
    device: str = DEVICE
    cpuinfo: str = CPUINFO
    pvm_module: str = PVM_MODULE

    def lack(self) -> str | None:
        """Why it has none, what becomes of it then, and what to do."""
        verdict = probe(device=self.device, cpuinfo=self.cpuinfo, pvm_module=self.pvm_module, user=self.user)
        if verdict.kvm:
            return None
        if self.is_wanted:
            advice = f'{verdict.advice}; or set {self.where} to "auto"' if verdict.advice else f"change {self.where}"
            return f"it cannot run on KVM, as it is declared to: {verdict.reason}; {advice}"
        advice = verdict.advice or f'nothing can be done about it here; to be told no more, set {self.where} to "tcg"'
        return f"it is emulated (TCG), several times slower than with KVM: {verdict.reason}; {advice}"


def _admission(device: str, user: str) -> str:
    """What lets a user open a device."""
    try:
        seen = os.stat(device)
    except OSError:
        return f"see who may enter the directories that {device} is in"
    try:
        group = grp.getgrgid(seen.st_gid).gr_name
    except KeyError:
        group = "root"
    if group == "root" or not stat.S_IMODE(seen.st_mode) & 0o020:
        return f"chgrp kvm {device} && chmod g+rw {device} && adduser {user} kvm, then start herdpy anew"
    return f"adduser {user} {group}, then start herdpy anew"


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"UID {os.geteuid()}"


def _may_open(device: str, user: str) -> bool:
    """Whether a user may read and write a file, from its mode and owner; with an access control list (acl(5)), which
    may say otherwise, it is taken for granted. So it is of a user who is yet to be made, as a member of group kvm."""
    seen = os.stat(device)
    mode = stat.S_IMODE(seen.st_mode)
    if mode & 0o006 == 0o006 or "system.posix_acl_access" in os.listxattr(device):
        return True
    try:
        entry = pwd.getpwnam(user)
        groups = os.getgrouplist(user, entry.pw_gid)
    except KeyError:
        return True
    is_owner, is_member = entry.pw_uid == seen.st_uid, seen.st_gid in groups
    return (is_owner and mode & 0o600 == 0o600) or (is_member and mode & 0o060 == 0o060)


def _processor_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor; empty where there are none (other architectures call them otherwise)."""
    with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    return frozenset()
