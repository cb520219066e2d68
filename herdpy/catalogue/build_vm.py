"""Virtual build machines: a guest whose clock and processor stand in the past, for software that today has broken."""

import datetime
import os
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import Declaration, ServiceType, file_to_change, name_problem
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
from herdpy.qemu.command_line import Boot, Disk, Machine
from herdpy.qemu.image import KERNEL_ARGUMENTS, LINKS, BuildImage, PruneImages, Recipe, key, parse_size
from herdpy.qemu.image import Image as GuestImage
from herdpy.qemu.network import Forwarding, host_port, virtio_network
from herdpy.qemu.preparation import CheckImage, KeepDisk
from herdpy.service import Action, Fact, Service, Step, plain

SSH_PORT = 22
"""In the guest."""

CPU_MODELS = (
    (2015, "Skylake-Client"),
    (2014, "Broadwell"),
    (2013, "Haswell"),
    (2012, "IvyBridge"),
    (2011, "SandyBridge"),
    (2010, "Westmere"),
    (2008, "Nehalem"),
    (2006, "core2duo"),
)
"""The processor model of a year, newest first, by the year it came out; before the first there is nothing older."""

NETWORKS = {
    "restricted": "cut off; only forwarded ports lead in",
    "open": "the guest reaches the host and what the host reaches",
}

START_OF_TIME = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What the image that herdpy builds is made of."""

    suite: str = "bookworm"
    """The Debian suite."""
    size: int | str = "10G"
    """Of the virtual disk: bytes, or a number with K, M, G or T (powers of 1024)."""
    packages: tuple[str, ...] = ()
    """Debian packages beyond build-essential and what the machine itself needs."""


class Forward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TCP port of the host's loopback that leads to one of the guest."""

    host: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """The port of 127.0.0.1."""
    guest: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """The port of the guest: 22 is SSH's, 1004 that of Guix's secret service."""


class VirtualBuildMachine(MachineConfiguration, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A virtual build machine. The fields from ``name`` to ``systems``, and their defaults, are the specification's."""

    name: str | None = None
    """The service's name; None means that of the file."""
    image: str | Image = Image()
    """What the image that is built is made of, or the path of a disk image of one's own."""
    qemu: str = "qemu-system-x86_64"
    """The QEMU program."""
    cpu: str | None = None
    """A model that ``qemu-system-x86_64 -cpu help`` lists; None means the one that matches the date."""
    cpu_count: Annotated[int, msgspec.Meta(ge=1, le=255)] = 4
    """How many processors the guest has."""
    memory_size: Annotated[int, msgspec.Meta(ge=64)] = 2048
    """The guest's memory, in MiB."""
    date: datetime.datetime = START_OF_TIME
    """What the guest's clock says when it starts: a date, or a date and time; UTC when it names no offset."""
    port_forwardings: tuple[Forward, ...] = (
        Forward(host=11022, guest=SSH_PORT),
        Forward(host=11004, guest=SECRETS_PORT),
    )
    """TCP ports of the host's loopback that lead to the guest."""
    systems: tuple[str, ...] | None = None
    """System types it builds for, such as ``x86_64-linux``; None means the host's own."""
    network: Literal["restricted", "open"] = "restricted"
    """Whether the guest may reach the host and the world; forwarded ports work either way."""
    persistent: bool = False
    """Whether the disk keeps what the guest writes."""
    secrets: Literal["virtio", "tcp", "none"] | None = None
    """How the guest takes its secrets; None means virtio for the image that is built, tcp for one of one's own.
    ``none``: it takes none, and is ready when SSH answers."""
    secret_root: str | None = None
    """The tree that is copied into the guest; None means NAME in the directory of secrets."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if self.name is not None and (problem := name_problem(self.name)):
            yield "name", f"{self.name!r}: {problem}"
        yield from paths_mistakes(
            image=self.image if isinstance(self.image, str) else None, secret_root=self.secret_root
        )
        if not isinstance(self.image, str):
            if parse_size(self.image.size) is None:
                yield "image.size", f"expected bytes, or a number with K, M, G or T, got {self.image.size!r}"
            if self.image_format is not None:
                yield (
                    "image-format",
                    "says nothing about an image that herdpy builds; it goes with the path of your own",
                )
        ports = [forward.host for forward in self.port_forwardings]
        for index, port in enumerate(ports):
            if port in ports[:index]:
                yield f"port-forwardings[{index}].host", f"port {port} of the host is forwarded twice"
        yield from secrets_mistakes("secrets", self.way_of_secrets, self.forwardings)
        if self.secrets == "none" and host_port(self.forwardings, SSH_PORT) is None:
            yield (
                "secrets",
                f"without them readiness is SSH's, which needs a port forwarded to port {SSH_PORT} of the guest",
            )

    @property
    def way_of_secrets(self) -> Literal["virtio", "tcp", "none"]:
        """How the guest takes its secrets, said or not."""
        return self.secrets or ("tcp" if isinstance(self.image, str) else "virtio")

    @property
    def forwardings(self) -> tuple[Forwarding, ...]:
        """The forwardings as QEMU takes them."""
        return tuple(Forwarding(host=one.host, guest=one.guest) for one in self.port_forwardings)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """A virtual build machine is one service."""
    wanted: VirtualBuildMachine = declaration.configuration
    name = wanted.name or declaration.name
    disk, boot, image_steps = _disk(wanted, name, declaration.source, facts)
    date = _utc(wanted.date)
    machine = Machine(
        name=name,
        qemu=wanted.qemu,
        cpu=wanted.cpu or model_of(date),
        cpu_count=wanted.cpu_count,
        memory_size=wanted.memory_size,
        date=date,
        disk=disk,
        boot=boot,
        network=virtio_network(wanted.forwardings, is_open=wanted.network == "open"),
        rooms=rooms_of(name, facts),
    )
    access = Access(
        forwardings=wanted.forwardings,
        forwardings_key="port-forwardings",
        ssh_port=host_port(wanted.forwardings, SSH_PORT),
        secrets_port=host_port(wanted.forwardings, SECRETS_PORT),
        secrets=wanted.way_of_secrets,
        secret_root=wanted.secret_root or os.path.join(facts.directories.secrets, name),
        systems=wanted.systems or (facts.system,),
    )
    return (
        machine_service(
            declaration,
            facts,
            machine,
            access,
            provision=(name,),
            documentation=TYPE.documentation,
            image_steps=image_steps,
            own_facts=(
                # What ``herd configuration`` shows on Guix System, in its order and words, comes first.
                plain("cpu", "CPU", machine.cpu),
                plain("cpu-count", "number of CPU cores", machine.cpu_count),
                memory_fact(machine.memory_size),
                plain("date", "initial date", date.strftime("%Y-%m-%dT%H:%M:%SZ")),
                Fact("image", "image", *_image_fact(wanted)),
                Fact("disk", "disk", disk.path, disk.path),
                Fact("network", "network", wanted.network, NETWORKS[wanted.network]),
                plain("systems", "systems", access.systems),
            ),
            actions=_actions(wanted, facts),
        ),
    )


def model_of(date: datetime.datetime) -> str:
    """The processor model that was new, or nearly so, at a date."""
    return next((model for year, model in CPU_MODELS if date.year >= year), CPU_MODELS[-1][1])


def _disk(
    wanted: VirtualBuildMachine, name: str, source: str, facts: HostFacts
) -> tuple[Disk, Boot | None, tuple[Step, ...]]:
    """The disk, the kernel when QEMU is to load one, and what has to be done for both to be there."""
    user = guest_user(facts)
    if isinstance(wanted.image, str):
        form = wanted.format_of(wanted.image)
        check = CheckImage(path=wanted.image, format=form, user=user, where=f"image in {file_to_change(source, facts)}")
        return Disk(path=wanted.image, format=form, volatile=not wanted.persistent), None, (check,)
    recipe = Recipe(
        suite=wanted.image.suite,
        size=parse_size(wanted.image.size) or Recipe().size,
        packages=wanted.image.packages,
    )
    images = os.path.join(facts.directories.state, "images")
    directory = os.path.join(images, key(recipe))
    steps: tuple[Step, ...] = (BuildImage(recipe=recipe, directory=images, link=os.path.join(images, LINKS, name)),)
    if wanted.persistent:
        kept = os.path.join(facts.directories.state, "disks", name)
        steps += (KeepDisk(source=directory, target=kept, user=user),)
        directory = kept
    files = GuestImage(directory)
    boot = Boot(kernel=files.kernel, initrd=files.initrd, arguments=f"{KERNEL_ARGUMENTS} herdpy.hostname={name}")
    return Disk(path=files.disk, format="qcow2", volatile=not wanted.persistent), boot, steps


def _actions(wanted: VirtualBuildMachine, facts: HostFacts) -> tuple[Action, ...]:
    if isinstance(wanted.image, str):
        return ()
    prune = PruneImages(os.path.join(facts.directories.state, "images"))
    return (Action(name="prune", documentation="Remove built images that no machine uses.", operation=prune),)


def _image_fact(wanted: VirtualBuildMachine) -> tuple[object, str]:
    image = wanted.image
    kept = "kept" if wanted.persistent else "volatile"
    if isinstance(image, str):
        return image, f"{image} ({kept})"
    more = f" with {', '.join(image.packages)}" if image.packages else ""
    value = {"suite": image.suite, "size": image.size, "packages": list(image.packages)}
    return value, f"Debian {image.suite}{more}, disk of {image.size} ({kept})"


def _utc(date: datetime.datetime) -> datetime.datetime:
    return date.replace(tzinfo=datetime.UTC) if date.tzinfo is None else date.astimezone(datetime.UTC)


TYPE = ServiceType(
    name="virtual-build-machine",
    configuration=VirtualBuildMachine,
    services=services,
    documentation="Run a virtual build machine whose clock and processor stand in the past.",
)
