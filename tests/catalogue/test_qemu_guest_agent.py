"""The type ``qemu-guest-agent``: the values it makes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Declaration
from herdpy.catalogue.qemu_guest_agent import QemuGuestAgentConfiguration, services
from herdpy.configuration import declared_services
from herdpy.preparation.device import Device
from herdpy.preparation.directory import Directory
from herdpy.preparation.installed import Installed
from herdpy.readiness.alive import StaysAlive
from herdpy.readiness.device import HasOpen
from herdpy.readiness.endpoint import Endpoint, Listening
from herdpy.service import Readiness, Service, Step
from tests.catalogue.test_libvirt import Nowhere, facts

PORT = "/dev/virtio-ports/org.qemu.guest_agent.0"


def made(**fields: Any) -> Service:
    configuration = msgspec.convert(fields, QemuGuestAgentConfiguration)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="agent", source="/a.toml", type="qemu-guest-agent", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, facts())
    return service


def device_of(service: Service) -> list[Step]:
    return [step for step in service.prepare if isinstance(step, Device)]


def test_the_defaults() -> None:
    service = made()
    [attempt] = service.attempts
    own = "/state/guest-agent/agent"
    assert attempt.process.command == ("/usr/sbin/qemu-ga", "-m", "virtio-serial", "-p", PORT, "-t", own)
    installed, directory, device = service.prepare
    assert installed == Installed(program="/usr/sbin/qemu-ga", package="qemu-guest-agent", where="qemu in /a.toml")
    assert directory == Directory(path=own, create=True, where="state-directory in /a.toml")
    assert isinstance(device, Device)
    assert (device.path, device.patience) == (PORT, 60.0)
    assert attempt.readiness == HasOpen(path=PORT)


def test_every_field() -> None:
    service = made(
        **{
            "qemu": "/opt/qemu-ga",
            "device": "/dev/ttyS1",
            "method": "isa-serial",
            "state-directory": "/var/lib/qga",
            "blocked-commands": ["guest-exec", "guest-file-open"],
            "patience": 5,
        }
    )
    command = ("/opt/qemu-ga", "-m", "isa-serial", "-p", "/dev/ttyS1", "-t", "/var/lib/qga")
    assert service.attempts[0].process.command == (*command, "-b", "guest-exec,guest-file-open")
    assert Directory(path="/var/lib/qga", create=False, where="state-directory in /a.toml") in service.prepare
    [device] = device_of(service)
    assert isinstance(device, Device)
    assert (device.path, device.patience) == ("/dev/ttyS1", 5.0)


@pytest.mark.parametrize(
    ("method", "device", "readiness"),
    [
        ("unix-listen", "/run/qga.sock", Listening(endpoint=Endpoint("unix", "/run/qga.sock"))),
        ("vsock-listen", "3:1234", StaysAlive(seconds=0.15)),
    ],
)
def test_a_socket_is_its_own_to_make(method: str, device: str, readiness: Readiness) -> None:
    service = made(method=method, device=device)
    assert device_of(service) == []
    assert service.attempts[0].readiness == readiness


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('qemu = "qemu-ga"', "qemu: expected an absolute path"),
        ('device = "ttyS0"', "device: expected an absolute path"),
        ('method = "serial"', "method: expected one of"),
        ('method = "unix-listen"', "device: unix-listen takes the path of the socket"),
        ('method = "vsock-listen"', "device: vsock-listen takes CID:PORT"),
        ('state-directory = "run"', "state-directory: expected an absolute path"),
        ('blocked-commands = ["exec"]', "blocked-commands[0]: expected a command such as guest-exec"),
        ('blocked-commands = ["guest-exec,guest-ping"]', "blocked-commands[0]: expected a command"),
        ("patience = 0", "patience: expected"),
        ("retry = true", "retry: unknown key"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(f'type = "qemu-guest-agent"\n{line}\n')
    [mistake] = declared_services([str(tmp_path)], TYPES, facts(1000)).mistakes
    assert str(mistake).startswith(f"{tmp_path}/a.toml:")
    assert words in str(mistake)
