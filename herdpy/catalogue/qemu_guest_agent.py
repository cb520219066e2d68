"""The type ``qemu-guest-agent``: the agent by which a host asks things of the guest that it runs in."""

import os
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import (
    Common,
    Declaration,
    ServiceType,
    as_service,
    file_to_change,
    path_mistakes,
    rotation_facts,
)
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.device import Device
from herdpy.preparation.directory import Directory
from herdpy.preparation.installed import Installed
from herdpy.readiness.alive import StaysAlive
from herdpy.readiness.device import HasOpen
from herdpy.readiness.endpoint import Endpoint, Listening
from herdpy.service import Attempt, Fact, Process, Readiness, Service, Step, Stop, plain

PACKAGE = "qemu-guest-agent"
DEVICES = {"virtio-serial": "/dev/virtio-ports/org.qemu.guest_agent.0", "isa-serial": "/dev/ttyS0"}
"""What the agent opens when it is told of nothing else (qemu-ga(8))."""
ADVICE = {
    "virtio-serial": (
        "its host gives a guest one by: -chardev socket,path=PATH,server=on,wait=off,id=qga0 -device virtio-serial "
        "-device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"
    ),
    "isa-serial": "its host gives a guest one by: -serial unix:PATH,server=on,wait=off",
}
TIME_TO_FAIL = 0.15
"""Seconds: it ends within a tenth of that when it cannot open its channel."""
START_TIMEOUT = 30.0
"""Seconds; an idle host takes 10 ms."""
LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path (unix(7))."""


class QemuGuestAgentConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``qemu-guest-agent``."""

    qemu: str = "/usr/sbin/qemu-ga"
    """The path of qemu-ga."""
    device: str = ""
    """The device by which it talks to the host; for ``unix-listen`` the path of the socket that it makes, for
    ``vsock-listen`` CID:PORT. Empty: ``/dev/virtio-ports/org.qemu.guest_agent.0``, of ``isa-serial`` ``/dev/ttyS0``."""
    method: Literal["virtio-serial", "isa-serial", "unix-listen", "vsock-listen"] = "virtio-serial"
    """What the device is."""
    state_directory: str | None = None
    """Where it keeps what it must know after a restart, such as which numbers it has given to open files; it must be
    there. None means one in herdpy's own state directory, which is made."""
    blocked_commands: tuple[str, ...] = ()
    """Commands that it does not carry out: ``["guest-exec", "guest-file-open"]``."""
    patience: Annotated[float, msgspec.Meta(gt=0, le=31536000)] = 60.0
    """Seconds after which ``herd start`` says that there is no device. The service waits on, and starts when it
    comes."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from path_mistakes("qemu", self.qemu)
        if self.state_directory is not None:
            yield from path_mistakes("state-directory", self.state_directory)
        if self.method == "vsock-listen":
            cid, _, port = self.device.partition(":")
            if not all(number.isascii() and number.isdecimal() and len(number) < 11 for number in (cid, port)):
                yield "device", f"vsock-listen takes CID:PORT, such as 3:1234, got {self.device!r}"
        elif self.device:
            yield from path_mistakes("device", self.device)
            if self.method == "unix-listen" and len(os.fsencode(self.device)) > LONGEST_SOCKET:
                yield "device", f"a Unix socket's path has {LONGEST_SOCKET} bytes at most"
        elif self.method == "unix-listen":
            yield "device", "unix-listen takes the path of the socket, such as /run/qga.sock"
        for index, command in enumerate(self.blocked_commands):
            if not command.startswith("guest-") or not _COMMAND_CHARACTERS.issuperset(command):
                yield f"blocked-commands[{index}]", f"expected a command such as guest-exec, got {command!r}"


_COMMAND_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs qemu-ga."""
    configuration: QemuGuestAgentConfiguration = declaration.configuration
    device = configuration.device or DEVICES[configuration.method]
    own_state = os.path.join(facts.directories.state, "guest-agent", declaration.name)
    state = configuration.state_directory or own_state
    blocked = ("-b", ",".join(configuration.blocked_commands)) if configuration.blocked_commands else ()
    return (
        as_service(
            declaration,
            documentation="Let the host ask things of this guest: qemu-ga.",
            prepare=tuple(_preparation(declaration, facts, device, state)),
            attempts=(
                Attempt(
                    process=Process(
                        command=(configuration.qemu, "-m", configuration.method, "-p", device, "-t", state, *blocked)
                    ),
                    readiness=_readiness(configuration.method, device),
                    timeout=configuration.start_timeout or START_TIMEOUT,
                ),
            ),
            stop=Stop(grace_period=configuration.grace_period),
            facts=tuple(_facts(declaration, facts, device, state)),
        ),
    )


def _preparation(declaration: Declaration, facts: HostFacts, device: str, state: str) -> Iterator[Step]:
    configuration: QemuGuestAgentConfiguration = declaration.configuration
    source = file_to_change(declaration.source, facts)
    yield Installed(program=configuration.qemu, package=PACKAGE, where=f"qemu in {source}")
    # Without it qemu-ga ends with 0.
    is_own = configuration.state_directory is None
    yield Directory(path=state, create=is_own, where=f"state-directory in {source}")
    if configuration.method in DEVICES:
        yield Device(path=device, patience=configuration.patience, advice=ADVICE[configuration.method])


def _readiness(method: str, device: str) -> Readiness:
    if method in DEVICES:
        return HasOpen(path=device)
    if method == "unix-listen":
        return Listening(endpoint=Endpoint("unix", device))
    return StaysAlive(seconds=TIME_TO_FAIL)  # the kernel lists no sockets of the kind in /proc


def _facts(declaration: Declaration, facts: HostFacts, device: str, state: str) -> Iterator[Fact]:
    configuration: QemuGuestAgentConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield plain("qemu", "qemu", configuration.qemu)
    yield plain("device", "device", device)
    yield plain("method", "method", configuration.method)
    yield plain("state-directory", "state-directory", state)
    yield plain("blocked-commands", "blocked-commands", configuration.blocked_commands)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


TYPE = ServiceType(
    name="qemu-guest-agent",
    configuration=QemuGuestAgentConfiguration,
    services=services,
    documentation="Runs QEMU's guest agent in a guest, by which its host asks things of it.",
)
