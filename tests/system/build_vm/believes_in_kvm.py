"""herdpy on a host whose KVM seems fine: the real programs, with only the verdict on /dev/kvm changed."""

import sys

from herdpy import command, keeper
from herdpy.catalogue import facts
from herdpy.qemu.accelerator import Accelerator
from herdpy.supervisor.__main__ import main as supervise


def believe(**_: str) -> Accelerator:
    return Accelerator(kvm=True, reason="somebody said so")


def run(options: keeper.Options) -> int:
    options.supervisor = [sys.executable, "-I", __file__, "--supervisor"]
    return real_run(options)


if sys.argv[1:2] == ["--supervisor"]:
    facts.probe = believe
    supervise(sys.argv[2:])
else:
    real_run, keeper.run = keeper.run, run
    sys.exit(command.main(sys.argv[1:]))
