"""What the types of virtual machines share: from a machine as one wants it to the service that runs it."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from herdpy.catalogue.common import Common, Declaration, as_service, file_to_change, path_mistakes, rotation_facts
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.installed import InPath
from herdpy.qemu.accelerator import Virtualized
from herdpy.qemu.command_line import VNC_PORTS, Machine, Rooms, command_line
from herdpy.qemu.guix import WriteDeclaration
from herdpy.qemu.life_sign import LifeSign
from herdpy.qemu.network import Forwarding, host_port
from herdpy.qemu.preparation import CheckImage, CheckPorts, CheckScreen, ClearRooms, EnsureUser, MakeRooms
from herdpy.qemu.qmp import Powerdown, Watch
from herdpy.qemu.secrets import (
    HOST_KEYS,
    AwaitSSH,
    FillSecrets,
    SecretFiles,
    SendSecrets,
    SendSecretsOverTCP,
    ssh_command,
)
from herdpy.service import Action, Attempt, Fact, Process, Reach, Service, Step, Stop, plain

GUEST_USER = "herdpy-vm"
"""The system user that QEMU runs as when herdpy is root."""

SECRETS_PORT = 1004
"""The port of the guest's secret service, as Guix has it."""

KVM_PATIENCE = 60.0
"""Seconds until a guest that has given no sign of life on KVM is tried on TCG instead; one that boots there gives one
within 5."""

START_TIMEOUT = 300.0
"""Seconds from QEMU's start until the guest must have taken its secrets."""


class MachineConfiguration(Common, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The fields that both types of virtual machines have, in the same sense."""

    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """``auto``: KVM where it boots a guest, else TCG."""
    image_format: Literal["qcow2", "raw"] | None = None
    """Of an image of one's own; None means by its name: raw for ``.img`` and ``.raw``, else qcow2."""

    def format_of(self, image: str) -> str:
        """The format of an image of one's own."""
        return self.image_format or ("raw" if image.endswith((".img", ".raw")) else "qcow2")


def paths_mistakes(**paths: str | None) -> Iterator[tuple[str, str]]:
    """The mistakes of paths, by the names of their fields; those that are None are none."""
    for name, path in paths.items():
        if path is not None:
            yield from path_mistakes(name.replace("_", "-"), path)


def secrets_mistakes(key: str, secrets: str, forwardings: Iterable[Forwarding]) -> Iterator[tuple[str, str]]:
    """The mistake of secrets that would go over TCP, by what is said or by default, when no port leads there."""
    if secrets == "tcp" and host_port(forwardings, SECRETS_PORT) is None:
        yield (
            key,
            f"its secrets go over tcp, and no port is forwarded to the guest's {SECRETS_PORT}; add it, or set"
            ' secrets = "none"',
        )


def memory_fact(memory_size: int) -> Fact:
    """The guest's memory, in MiB, for ``herd configuration``."""
    return Fact("memory-size", "memory size", memory_size, f"{memory_size} MiB")


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How one gets into a guest: its ports, its secrets, and who may build there."""

    forwardings: tuple[Forwarding, ...]
    forwardings_key: str
    """The key of the declaration that they come from."""
    ssh_port: int | None
    """The host's; None: no SSH."""
    secrets_port: int | None
    secrets: Literal["virtio", "tcp", "none"]
    secret_root: str
    needs_root: bool = True
    """Whether the guest is not started when its secret root can neither be found nor made."""
    systems: tuple[str, ...]
    """What it builds for."""
    offloading: bool = True
    """Whether a Guix of the host is to offload builds to it, and to trust what it has built."""

    def readiness(self, rooms: Rooms) -> SendSecrets | SendSecretsOverTCP | AwaitSSH | None:
        """What tells that the guest is ready."""
        match self.secrets:
            case "virtio":
                return SendSecrets(rooms.secrets, self.secret_root)
            case "tcp" if self.secrets_port is not None:
                return SendSecretsOverTCP(self.secrets_port, self.secret_root, self.ssh_port)
        return None if self.ssh_port is None else AwaitSSH(self.ssh_port)


def rooms_of(name: str, facts: HostFacts) -> Rooms:
    """Where a machine of this name keeps its sockets and files."""
    return Rooms(
        directory=os.path.join(facts.directories.state, "machines", name),
        console_log=os.path.join(facts.directories.log, f"{name}-console.log"),
    )


def guest_user(facts: HostFacts) -> str | None:
    """Who QEMU runs as; None means: as herdpy."""
    return GUEST_USER if facts.is_root else None


def accelerators(wanted: str, facts: HostFacts) -> tuple[tuple[str, str], ...]:
    """The accelerators to try, best first, each with what a person is told of it."""
    reason = facts.accelerator.reason
    if wanted == "kvm":
        return (("kvm", "KVM, as the declaration says"),)
    if wanted == "tcg":
        return (("tcg", "TCG (emulation), as the declaration says"),)
    if facts.accelerator.kvm:
        return (("kvm", f"KVM: {reason}"), ("tcg", "TCG (emulation): the guest did not start on KVM"))
    return (("tcg", f"TCG (emulation): {reason}"),)


def machine_service(
    declaration: Declaration,
    facts: HostFacts,
    machine: Machine,
    access: Access,
    *,
    provision: Sequence[str],
    documentation: str,
    image_steps: tuple[Step, ...],
    own_facts: tuple[Fact, ...],
    actions: tuple[Action, ...] = (),
) -> Service:
    """The service that runs a machine.

    Args:
        machine: its accelerator is left open.
        provision: its names, the first of which is the machine's; the declaration's further names are added.
        image_steps: what has to be done for the disk, and the kernel, to be there.
        own_facts: what ``herd configuration`` shows first.
    """
    wanted: MachineConfiguration = declaration.configuration
    name, rooms, user = machine.name, machine.rooms, guest_user(facts)
    ports = tuple(one.port for one in access.forwardings)
    ways = accelerators(wanted.accelerator, facts)
    timeout = wanted.start_timeout or START_TIMEOUT
    readiness = access.readiness(rooms)
    attempts = tuple(
        Attempt(
            process=Process(
                command=command_line(msgspec.structs.replace(machine, accelerator=way)),
                environment={"TMPDIR": rooms.directory},
                user=user,
            ),
            prepare=(MakeRooms(rooms=rooms, user=user, holds_writes=machine.disk.volatile is True),),
            readiness=readiness
            if readiness is None or way == ways[-1][0]
            else LifeSign(
                readiness=readiness,
                console_log=rooms.console_log,
                monitor=rooms.monitor,
                patience=min(timeout, KVM_PATIENCE),
            ),
            timeout=timeout,
            details=(("accelerator", why),),
        )
        for way, why in ways
    )
    file = file_to_change(declaration.source, facts)
    where = f"{access.forwardings_key} in {file}"
    keys = os.path.join(facts.directories.state, "keys", name)
    return as_service(
        declaration,
        provision=tuple(dict.fromkeys((*provision, *wanted.provision))),
        documentation=documentation,
        prepare=(
            CheckPorts(ports=ports, where=where),
            *((CheckScreen(first=VNC_PORTS[0], last=VNC_PORTS[1]),) if machine.kind == "pc" else ()),
            *(() if user is None else (EnsureUser(user=user),)),
            *image_steps,
            *_secrets_steps(machine, access, keys, facts),
        ),
        attempts=attempts,
        aftermath=(ClearRooms(rooms=rooms),),
        companion=Watch(path=rooms.events, has_screen=machine.kind == "pc"),
        takes_arguments=True,
        # GNU/Hurd does not know the power button: only for the sake of what it has written is it worth a try.
        stop=Stop(
            graceful=None if machine.kind == "pc" and machine.disk.volatile else Powerdown(path=rooms.monitor),
            grace_period=wanted.grace_period,
        ),
        ports=ports,
        foresights=(
            InPath(program="ssh-keygen", package="openssh-client"),
            *(InPath(program="qemu-img", package="qemu-utils") for step in image_steps if isinstance(step, CheckImage)),
            *(() if wanted.accelerator == "tcg" else (_virtualized(wanted.accelerator, user, file),)),
        ),
        facts=(
            *own_facts,
            Fact("accelerator", "accelerator", ways[0][1], ways[0][1], detail="accelerator"),
            Fact(
                "port-forwardings",
                "forwarded ports",
                [{"host": one.host, "guest": one.guest} for one in access.forwardings],
                ", ".join(map(str, access.forwardings)) or "none",
            ),
            Fact("console", "console", rooms.console, f"herd console {name}"),
            plain("console-log", "console log", rooms.console_log),
            *([plain("guest-agent", "guest agent's socket", rooms.agent)] if machine.kind == "virtio" else []),
            plain("secret-root", "secrets", access.secret_root),
            Fact("secret-files", "secret files", None, "not known", look=SecretFiles(access.secret_root)),
            plain("log-file", "log", wanted.log_file or facts.log_file(name)),
            *rotation_facts(wanted),
            plain("user", "QEMU runs as", user or facts.user),
            Fact("command", "command line", attempts[0].process.command, shlex.join(attempts[0].process.command)),
        ),
        actions=actions,
        reach=Reach(
            ssh=() if access.ssh_port is None else ssh_command(keys, name, access.ssh_port),
            console=rooms.console,
            console_log=rooms.console_log,
        ),
    )


def _virtualized(wanted: str, user: str | None, file: str) -> Virtualized:
    return Virtualized(is_wanted=wanted == "kvm", user=user, where=f"accelerator in {file}")


def _secrets_steps(machine: Machine, access: Access, keys: str, facts: HostFacts) -> tuple[Step, ...]:
    fill = FillSecrets(
        root=access.secret_root,
        keys_directory=keys,
        name=machine.name,
        guix=facts.guix,
        ssh_port=access.ssh_port,
        # A guest that takes no secrets has host keys of its own: the public halves in the root are enough.
        host_keys=() if access.secrets == "none" else HOST_KEYS,
        needs_root=access.needs_root,
        is_trusted=access.offloading,
    )
    if facts.guix is None or access.ssh_port is None or not access.offloading:
        return (fill,)
    return (
        fill,
        WriteDeclaration(
            path=os.path.join(facts.directories.state, "guix", f"{machine.name}.scm"),
            name=machine.name,
            port=access.ssh_port,
            root=access.secret_root,
            keys_directory=keys,
            systems=access.systems,
            control_socket=facts.directories.socket,
            guix=True,
            parallel_builds=machine.cpu_count,
        ),
    )
