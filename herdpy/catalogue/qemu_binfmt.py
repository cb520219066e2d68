"""The type ``qemu-binfmt``: programs of other platforms run as if they were the host's own, by QEMU."""

import os
from collections.abc import Iterator

from herdpy.binfmt import table
from herdpy.binfmt.change import PlatformsChange
from herdpy.binfmt.entry import IN_ORDER, LONGEST_LINE, Entry, entry_of
from herdpy.binfmt.following import Follow
from herdpy.binfmt.platforms import PLATFORMS, family_of
from herdpy.binfmt.registration import Interpreters, KernelTable, Register, Unregister
from herdpy.binfmt.telling import LookUp, ShowPlatforms, unknown
from herdpy.catalogue.common import (
    Common,
    Declaration,
    ServiceType,
    Unsuitable,
    as_service,
    file_to_change,
    path_mistakes,
)
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.mounting import Mount
from herdpy.service import Action, Caution, Service, Stop, plain

PLACE = "{platform}"


class QemuBinfmtConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``qemu-binfmt``."""

    platforms: tuple[str, ...] = ()
    """The platforms whose programs the kernel runs by QEMU while the service runs: ``["arm", "aarch64"]``. Those of the
    host's own family are refused, for the host would run its own programs by them. ``herd platforms NAME`` shows
    all."""
    qemu: str = "/usr/bin"
    """The directory of the emulators, which are called ``qemu-PLATFORM-static`` there; or, with ``{platform}`` in it,
    the path of each: ``"/opt/qemu/bin/qemu-{platform}"``. They must be static to be of use in a chroot. One that is
    replaced is registered anew."""
    flags: str = "FP"
    """The kernel's flags: F, by which programs run in any chroot or container, and P, by which they see their name as
    it was given; besides, if you like, O, by which QEMU is given the open program, which need not be readable; and C,
    by which set-user-ID programs have their owner's rights (and so does the emulator: for trusted programs only)."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        for index, name in enumerate(self.platforms):
            if name not in PLATFORMS:
                yield f"platforms[{index}]", unknown(name)
            elif name in self.platforms[:index]:
                yield f"platforms[{index}]", f"{name} is there twice"
        yield from path_mistakes("qemu", self.qemu)
        if ":" in self.qemu or "\n" in self.qemu or len(self.qemu) > LONGEST_LINE // 2:
            yield (
                "qemu",
                f"the kernel's table takes no path with a colon or a newline in it, or longer, got {self.qemu!r}",
            )
        wrong = sorted({flag for flag in self.flags if flag not in IN_ORDER})
        if wrong or len(set(self.flags)) != len(self.flags) or not {"F", "P"} <= set(self.flags):
            yield "flags", f"expected F and P, and O or C besides, each once, got {self.flags!r}"


def entries(configuration: QemuBinfmtConfiguration, names: Iterator[str] | tuple[str, ...]) -> tuple[Entry, ...]:
    """The entries of platforms, as this declaration would have them."""
    qemu = configuration.qemu
    path = qemu if PLACE in qemu else os.path.join(qemu, f"qemu-{PLACE}-static")
    return tuple(entry_of(PLATFORMS[name], path.replace(PLACE, name), configuration.flags) for name in names)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service without a process."""
    configuration: QemuBinfmtConfiguration = declaration.configuration
    machine = facts.system.removesuffix("-linux")
    own = family_of(machine)
    for index, name in enumerate(configuration.platforms):
        if PLATFORMS[name].family == own:
            problem = f"this host ({machine}) is of {name}'s own family, {own}, and would run its own programs by QEMU"
            raise Unsuitable(f"platforms[{index}]", f"{problem}; leave it out")
    wanted = entries(configuration, configuration.platforms)
    everything = entries(configuration, tuple(PLATFORMS))
    unregister = Unregister(entries=wanted)
    return (
        as_service(
            declaration,
            documentation="Run programs of other platforms by QEMU.",
            prepare=(
                Interpreters(
                    paths=tuple(entry.interpreter for entry in wanted),
                    known=tuple(entry.interpreter for entry in everything),
                    where=f"qemu in {file_to_change(declaration.source, facts)}",
                ),
                KernelTable(),
                Mount(
                    device="binfmt_misc",
                    mount_point=table.DIRECTORY,
                    file_system="binfmt_misc",
                    options=(),
                    create_mount_point=False,
                ),
                Register(entries=wanted),
            ),
            attendant=Follow(entries=wanted),
            stop=Stop(graceful=unregister),
            aftermath=(unregister,),
            on_change=PlatformsChange(entries=wanted),
            cautions=() if wanted else (Caution("platforms", "is empty: no platform's programs are run"),),
            actions=(
                Action(
                    name="platforms",
                    documentation="Show every platform: whether it is registered, and whether its emulator is there.",
                    operation=ShowPlatforms(entries=everything, own_family=own),
                    right="read",
                ),
                Action(
                    name="lookup",
                    documentation="Show what is known of the platforms named.",
                    operation=LookUp(entries=everything),
                    right="read",
                ),
            ),
            facts=(
                plain("type", "type", declaration.type),
                plain("platforms", "platforms", configuration.platforms),
                plain("qemu", "qemu", configuration.qemu),
                plain("flags", "flags", configuration.flags),
                plain("source", "source", declaration.source),
            ),
        ),
    )


TYPE = ServiceType(
    name="qemu-binfmt",
    configuration=QemuBinfmtConfiguration,
    services=services,
    documentation="Has the kernel run programs of other platforms by QEMU, in chroots and containers too.",
)
