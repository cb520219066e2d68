"""Childhurds: GNU/Hurd in a virtual machine, one or many."""

import os
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import Declaration, ServiceType, file_to_change
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.machine import (
    SECRETS_PORT,
    Access,
    MachineConfiguration,
    guest_user,
    machine_service,
    memory_fact,
    paths_mistakes,
    rooms_of,
    secrets_mistakes,
)
from herdpy.qemu.command_line import VNC, Disk, Machine
from herdpy.qemu.guix_image import BuildHurdImage
from herdpy.qemu.image import parse_size
from herdpy.qemu.network import Forwarding, forwardings_in, host_port, rtl8139_network
from herdpy.qemu.preparation import CheckImage
from herdpy.service import Caution, Fact, Service, Step, plain

SSH_PORTS = (2222, 22)
"""Where a guest's SSH server may listen: Guix's does at the first, Debian's at the second."""

CHILDHURD_DIRECTORY = "/etc/childhurd"
"""The specification's directory of secrets."""

LARGEST_ID = 49
"""Beyond it, the port for VNC would be no port."""

WHERE_IMAGES_ARE = (
    "put an image of Debian GNU/Hurd there (https://www.debian.org/ports/hurd/ says where to get one, and the how-to"
    ' "Run GNU/Hurd" the rest)'
)


class HurdVM(MachineConfiguration, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A childhurd. The fields from ``os`` to ``secret-root``, and their defaults, are the specification's."""

    os: str | None = None
    """A file whose value is the operating system that Guix builds the image from, anew when this file itself has
    changed (not what it loads); None means Guix's ``%hurd-vm-operating-system``."""
    qemu: str = "qemu-system-x86_64"
    """The QEMU program."""
    image: str | None = None
    """The path of a disk image; None means the one that Guix builds, or without Guix ``hurd/hurd.img`` in the state
    directory."""
    disk_size: int | str = "guess"
    """Of the image that Guix builds: bytes, a number with K, M, G or T (powers of 1024), or ``"guess"``."""
    memory_size: Annotated[int, msgspec.Meta(ge=16)] = 512
    """The guest's memory, in MiB."""
    options: tuple[str, ...] = ("--snapshot",)
    """Further options of QEMU's. Without ``--snapshot`` the image keeps what the guest writes."""
    id: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """A number that makes it one of several: its names are ``hurd-vmN`` and ``childhurdN``, its ports 1000·N higher."""
    net_options: tuple[str, ...] | None = None
    """QEMU's options for the network; None means an RTL8139 with ports of 127.0.0.1 that lead to the guest's secret
    service (11004 to 1004), SSH (10022 to 2222) and VNC (15900 to 5900)."""
    offloading: bool = True
    """Whether Guix offloads builds for ``i586-gnu`` to it, and trusts what it has built; nothing without Guix."""
    secret_root: str | None = None
    """The tree that is copied into the guest; None means ``/etc/childhurd``, with an id ``/etc/childhurdN``; as an
    ordinary user ``childhurd`` or ``childhurdN`` in the directory of secrets."""
    secrets: Literal["tcp", "none"] = "tcp"
    """How the guest takes its secrets: by Guix's secret service; or, with ``none``, not at all: it is ready when SSH
    answers, or at once if no port leads there."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from paths_mistakes(os=self.os, image=self.image, secret_root=self.secret_root)
        if self.disk_size != "guess" and parse_size(self.disk_size) is None:
            yield "disk-size", f'expected bytes, a number with K, M, G or T, or "guess", got {self.disk_size!r}'
        if self.net_options is None and self.id is not None and self.id > LARGEST_ID:
            yield "id", f"its ports would be beyond 65535; without net-options expected at most {LARGEST_ID}"
            return
        try:
            forwardings = self.forwardings
        except ValueError as error:
            yield "net-options", f"expected hostfwd=tcp:ADDRESS:PORT-ADDRESS:PORT, got {error}"
            return
        yield from secrets_mistakes("net-options", self.secrets, forwardings)

    @property
    def forwardings(self) -> tuple[Forwarding, ...]:
        """The ports of the host that lead to the guest.

        Raises:
            ValueError: ``net-options`` has one that cannot be understood.
        """
        if self.net_options is not None:
            return forwardings_in(self.net_options)
        higher = 1000 * (self.id or 0)
        return tuple(
            Forwarding(host=host + higher, guest=guest)
            for host, guest in ((11004, SECRETS_PORT), (10022, 2222), (15900, 5900))
        )

    @property
    def is_volatile(self) -> bool:
        """Whether what the guest writes is thrown away at its end."""
        return "--snapshot" in self.options or "-snapshot" in self.options


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """A childhurd is one service."""
    wanted: HurdVM = declaration.configuration
    number = "" if wanted.id is None else str(wanted.id)
    name, other_name = f"hurd-vm{number}", f"childhurd{number}"
    disk, image_steps, cautions = _disk(wanted, name, declaration.source, facts)
    machine = Machine(
        name=name,
        qemu=wanted.qemu,
        memory_size=wanted.memory_size,
        disk=disk,
        network=rtl8139_network(wanted.forwardings) if wanted.net_options is None else wanted.net_options,
        rooms=rooms_of(name, facts),
        kind="pc",
        options=wanted.options,
    )
    default_root = (
        f"{CHILDHURD_DIRECTORY}{number}" if facts.is_root else os.path.join(facts.directories.secrets, other_name)
    )
    access = Access(
        forwardings=wanted.forwardings,
        forwardings_key="id, or net-options,",
        ssh_port=host_port(wanted.forwardings, *SSH_PORTS),
        secrets_port=host_port(wanted.forwardings, SECRETS_PORT),
        secrets=wanted.secrets,
        secret_root=wanted.secret_root or default_root,
        needs_root=False,
        systems=("i586-gnu",),
        offloading=wanted.offloading,
    )
    kept = "volatile" if wanted.is_volatile else "kept"
    service = machine_service(
        declaration,
        facts,
        machine,
        access,
        # An instance's group knows it by the declaration's name.
        provision=(name, other_name, declaration.name),
        documentation=TYPE.documentation,
        image_steps=image_steps,
        own_facts=(
            memory_fact(machine.memory_size),
            Fact("image", "image", disk.path, f"{disk.path} ({kept})"),
            plain("disk-size", "disk size", wanted.disk_size),
            Fact("options", "options", list(wanted.options), " ".join(wanted.options) or "none"),
            Fact("id", "id", wanted.id, number or "none"),
            Fact("vnc", "screen (VNC)", None, f"from {VNC.partition(':')[0]}:5900 on, when it runs", detail="vnc"),
            Fact("offloading", "offloading", wanted.offloading, _offloading(wanted, facts)),
        ),
    )
    return (msgspec.structs.replace(service, cautions=cautions),)


def _disk(
    wanted: HurdVM, name: str, source: str, facts: HostFacts
) -> tuple[Disk, tuple[Step, ...], tuple[Caution, ...]]:
    """The disk, what has to be done for it to be there, and what has no effect on it."""
    volatile = True if wanted.is_volatile else None
    if wanted.image is None and facts.guix is not None:
        path = os.path.join(facts.directories.state, "guix", f"{name}.qcow2")
        size = wanted.disk_size if wanted.disk_size == "guess" else str(parse_size(wanted.disk_size))
        step = BuildHurdImage(guix=facts.guix, os=wanted.os, size=size, offloading=wanted.offloading, link=path)
        return Disk(path=path, format="qcow2", volatile=volatile, bus="ide"), (step,), ()
    path = wanted.image or os.path.join(facts.directories.state, "hurd", "hurd.img")
    form = wanted.format_of(path)
    where = f"image in {file_to_change(source, facts)}"
    check = CheckImage(
        path=path,
        format=form,
        user=guest_user(facts),
        where=where,
        absent=f"{WHERE_IMAGES_ARE}, or change {where}",
        boots=not {"-kernel", "--kernel"} & set(wanted.options),
        written=not wanted.is_volatile,
    )
    reason = "has no effect on an image that is there" if wanted.image else "has no effect without Guix"
    cautions = tuple(
        Caution(key, reason)
        for key, has_effect in (("os", wanted.os is None), ("disk-size", wanted.disk_size == "guess"))
        if not has_effect
    )
    return Disk(path=path, format=form, volatile=volatile, bus="ide"), (check,), cautions


def _offloading(wanted: HurdVM, facts: HostFacts) -> str:
    if not wanted.offloading:
        return "no"
    return "yes, for i586-gnu" if facts.guix else "yes, but this host has no Guix"


TYPE = ServiceType(
    name="hurd-vm",
    configuration=HurdVM,
    services=services,
    documentation="Run GNU/Hurd in a virtual machine: a childhurd.",
)
