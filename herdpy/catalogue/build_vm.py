"""Virtual build machines: a guest whose clock and processor stand in the past, for software that today has broken."""

import datetime
import os
import shlex
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import (
    Common,
    Declaration,
    ServiceType,
    as_service,
    name_problem,
    path_mistakes,
    rotation_facts,
)
from herdpy.catalogue.facts import HostFacts
from herdpy.qemu.command_line import Boot, Disk, Forwarding, Machine, Rooms, command_line
from herdpy.qemu.guix import WriteDeclaration
from herdpy.qemu.image import KERNEL_ARGUMENTS, LINKS, BuildImage, PruneImages, Recipe, key, parse_size
from herdpy.qemu.image import Image as GuestImage
from herdpy.qemu.preparation import CheckImage, CheckPorts, ClearRooms, EnsureUser, KeepDisk, MakeRooms
from herdpy.qemu.qmp import Powerdown, Watch
from herdpy.qemu.secrets import HOST_KEYS, AwaitSSH, FillSecrets, SendSecrets, SendSecretsOverTCP, ssh_command
from herdpy.service import Action, Attempt, Fact, Port, Process, Reach, Service, Step, Stop, plain

GUEST_USER = "herdpy-vm"
"""The system user that QEMU runs as when herdpy is root."""

SSH_PORT = 22
SECRETS_PORT = 1004
"""Ports in the guest; 1004 is Guix's secret-service port."""

KVM_PATIENCE = 60.0
"""Seconds until a guest that is silent on KVM is tried on TCG instead; one that boots there says hello within 5."""

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

START_TIMEOUT = 300.0
"""Seconds from QEMU's start until the guest must have taken its secrets."""

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


class VirtualBuildMachine(Common, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A virtual build machine. The fields down to ``systems`` are the specification's, and so are their defaults."""

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
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """``auto``: KVM where it boots a guest, else TCG."""
    network: Literal["restricted", "open"] = "restricted"
    """Whether the guest may reach the host and the world; forwarded ports work either way."""
    persistent: bool = False
    """Whether the disk keeps what the guest writes."""
    image_format: Literal["qcow2", "raw"] | None = None
    """Of an image of one's own; None means by its name: raw for ``.img`` and ``.raw``, else qcow2."""
    secrets: Literal["virtio", "tcp", "none"] | None = None
    """How the guest takes its secrets; None means virtio for the image that is built, tcp for one of one's own.
    ``none``: it takes none, and is ready when SSH answers."""
    secret_root: str | None = None
    """The tree that is copied into the guest; None means NAME in the directory of secrets."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if self.name is not None and (problem := name_problem(self.name)):
            yield "name", f"{self.name!r}: {problem}"
        if isinstance(self.image, str):
            yield from path_mistakes("image", self.image)
        else:
            if parse_size(self.image.size) is None:
                yield "image.size", f"expected bytes, or a number with K, M, G or T, got {self.image.size!r}"
            if self.image_format is not None:
                yield (
                    "image-format",
                    "says nothing about an image that herdpy builds; it goes with the path of your own",
                )
        if self.secret_root is not None:
            yield from path_mistakes("secret-root", self.secret_root)
        ports = [forward.host for forward in self.port_forwardings]
        for index, port in enumerate(ports):
            if port in ports[:index]:
                yield f"port-forwardings[{index}].host", f"port {port} of the host is forwarded twice"
        if self.secrets == "tcp" and self.host_port(SECRETS_PORT) is None:
            yield "secrets", f"over tcp they need a port forwarded to port {SECRETS_PORT} of the guest"
        if self.secrets == "none" and self.host_port(SSH_PORT) is None:
            yield (
                "secrets",
                f"without them readiness is SSH's, which needs a port forwarded to port {SSH_PORT} of the guest",
            )

    def host_port(self, guest: int) -> int | None:
        """The port of the host that leads to a port of the guest."""
        return next((forward.host for forward in self.port_forwardings if forward.guest == guest), None)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """A virtual build machine is one service."""
    wanted: VirtualBuildMachine = declaration.configuration
    name = wanted.name or declaration.name
    user = GUEST_USER if facts.is_root else None
    directories = facts.directories
    rooms = Rooms(
        directory=os.path.join(directories.state, "machines", name),
        console_log=os.path.join(directories.log, f"{name}-console.log"),
    )
    keys = os.path.join(directories.state, "keys", name)
    secret_root = wanted.secret_root or os.path.join(directories.secrets, name)
    ssh_port = wanted.host_port(SSH_PORT)
    ports = tuple(Port(port=forward.host) for forward in wanted.port_forwardings)
    disk, boot, image_steps = _disk(wanted, name, declaration.source, user, facts)
    accelerators = _accelerators(wanted, facts)
    machines = tuple(_machine(wanted, name, accelerator, disk, boot, rooms) for accelerator, _ in accelerators)
    timeout = wanted.start_timeout or START_TIMEOUT

    prepare: tuple[Step, ...] = (
        CheckPorts(ports=ports, where=f"port-forwardings in {_file_to_change(declaration.source, facts)}"),
        *(() if user is None else (EnsureUser(user=user),)),
        *image_steps,
        FillSecrets(
            root=secret_root,
            keys_directory=keys,
            name=name,
            guix=facts.guix,
            ssh_port=ssh_port,
            # A guest that takes no secrets has host keys of its own: the public halves in the root are enough.
            host_keys=() if wanted.secrets == "none" else HOST_KEYS,
        ),
        *_guix_steps(wanted, name, keys, secret_root, facts),
    )
    attempts = tuple(
        Attempt(
            process=Process(command=command_line(machine), environment={"TMPDIR": rooms.directory}, user=user),
            prepare=(MakeRooms(rooms=rooms, user=user),),
            readiness=_readiness(wanted, rooms, secret_root),
            timeout=timeout if machine is machines[-1] else min(timeout, KVM_PATIENCE),
            details=(("accelerator", why),),
        )
        for machine, (_, why) in zip(machines, accelerators, strict=True)
    )
    return (
        as_service(
            declaration,
            provision=tuple(dict.fromkeys((name, *wanted.provision))),
            documentation=TYPE.documentation,
            prepare=prepare,
            attempts=attempts,
            aftermath=(ClearRooms(rooms=rooms),),
            companion=Watch(path=rooms.events),
            takes_arguments=True,
            stop=Stop(graceful=Powerdown(path=rooms.monitor), grace_period=wanted.grace_period),
            ports=ports,
            facts=(
                *_hardware_facts(machines[0], accelerators[0][1]),
                Fact("image", "image", *_image_fact(wanted)),
                Fact("disk", "disk", disk.path, disk.path),
                Fact(
                    "port-forwardings",
                    "forwarded ports",
                    [{"host": forward.host, "guest": forward.guest} for forward in wanted.port_forwardings],
                    ", ".join(f"127.0.0.1:{forward.host} -> {forward.guest}" for forward in wanted.port_forwardings)
                    or "none",
                ),
                Fact("network", "network", wanted.network, NETWORKS[wanted.network]),
                plain("systems", "systems", wanted.systems or (facts.system,)),
                Fact("console", "console", rooms.console, f"herd console {name}"),
                plain("console-log", "console log", rooms.console_log),
                plain("secret-root", "secrets", secret_root),
                plain("log-file", "log", wanted.log_file or facts.log_file(name)),
                *rotation_facts(wanted),
                plain("user", "QEMU runs as", user or facts.user),
                Fact("command", "command line", attempts[0].process.command, shlex.join(attempts[0].process.command)),
            ),
            actions=_actions(wanted, facts),
            reach=Reach(
                ssh=ssh_command(keys, name, ssh_port) if ssh_port is not None else (),
                console=rooms.console,
                console_log=rooms.console_log,
            ),
        ),
    )


def _file_to_change(source: str, facts: HostFacts) -> str:
    """What was shipped is not edited, for the next version replaces it, but overridden in the administrator's layer."""
    directory, file = os.path.split(source)
    if directory.endswith("/share/herdpy/services"):
        return os.path.join(facts.directories.configuration, "services", file)
    return source


def model_of(date: datetime.datetime) -> str:
    """The processor model that was new, or nearly so, at a date."""
    return next((model for year, model in CPU_MODELS if date.year >= year), CPU_MODELS[-1][1])


def _machine(
    wanted: VirtualBuildMachine, name: str, accelerator: str, disk: Disk, boot: Boot | None, rooms: Rooms
) -> Machine:
    date = _utc(wanted.date)
    return Machine(
        name=name,
        qemu=wanted.qemu,
        accelerator=accelerator,
        cpu=wanted.cpu or model_of(date),
        cpu_count=wanted.cpu_count,
        memory_size=wanted.memory_size,
        date=date,
        disk=disk,
        boot=boot,
        forwardings=tuple(Forwarding(host=forward.host, guest=forward.guest) for forward in wanted.port_forwardings),
        open_network=wanted.network == "open",
        rooms=rooms,
    )


def _hardware_facts(machine: Machine, accelerator: str) -> tuple[Fact, ...]:
    """What ``herd configuration`` shows on Guix System, in its order and words, and the accelerator."""
    date = machine.date.strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        plain("cpu", "CPU", machine.cpu),
        plain("cpu-count", "number of CPU cores", machine.cpu_count),
        Fact("memory-size", "memory size", machine.memory_size, f"{machine.memory_size} MiB"),
        plain("date", "initial date", date),
        Fact("accelerator", "accelerator", accelerator, accelerator, detail="accelerator"),
    )


def _accelerators(wanted: VirtualBuildMachine, facts: HostFacts) -> tuple[tuple[str, str], ...]:
    """The accelerators to try, best first, each with what a person is told of it."""
    reason = facts.accelerator.reason
    if wanted.accelerator == "kvm":
        return (("kvm", "KVM, as the declaration says"),)
    if wanted.accelerator == "tcg":
        return (("tcg", "TCG (emulation), as the declaration says"),)
    if facts.accelerator.kvm:
        return (("kvm", f"KVM: {reason}"), ("tcg", "TCG (emulation): the guest did not start on KVM"))
    return (("tcg", f"TCG (emulation): {reason}"),)


def _readiness(wanted: VirtualBuildMachine, rooms: Rooms, secret_root: str) -> Step | None:
    match wanted.secrets or ("virtio" if isinstance(wanted.image, Image) else "tcp"):
        case "virtio":
            return SendSecrets(rooms.secrets, secret_root)
        case "tcp" if (port := wanted.host_port(SECRETS_PORT)) is not None:
            return SendSecretsOverTCP(port, secret_root)
    ssh_port = wanted.host_port(SSH_PORT)
    return None if ssh_port is None else AwaitSSH(ssh_port)


def _disk(
    wanted: VirtualBuildMachine, name: str, source: str, user: str | None, facts: HostFacts
) -> tuple[Disk, Boot | None, tuple[Step, ...]]:
    """The disk, the kernel when QEMU is to load one, and what has to be done for both to be there."""
    if isinstance(wanted.image, str):
        form = wanted.image_format or ("raw" if wanted.image.endswith((".img", ".raw")) else "qcow2")
        check = CheckImage(path=wanted.image, format=form, user=user, where=f"image in {source}")
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


def _guix_steps(
    wanted: VirtualBuildMachine, name: str, keys: str, secret_root: str, facts: HostFacts
) -> tuple[Step, ...]:
    """What lets Guix offload builds to the machine, where Guix is."""
    ssh_port = wanted.host_port(SSH_PORT)
    if facts.guix is None or ssh_port is None:
        return ()
    return (
        WriteDeclaration(
            path=os.path.join(facts.directories.state, "guix", f"{name}.scm"),
            name=name,
            port=ssh_port,
            root=secret_root,
            keys_directory=keys,
            systems=wanted.systems or (facts.system,),
            control_socket=facts.directories.socket,
            guix=True,
            parallel_builds=wanted.cpu_count,
        ),
    )


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
